"""Names of the things that the group agrees about."""

from __future__ import annotations

from typing import NamedTuple, NewType

VipName = NewType("VipName", str)
"""A VIP's name: unique in the cluster; by default its first address without prefix."""

NodeName = NewType("NodeName", str)
"""A node's configured name."""

Seq = int
"""Position of a decision in its view's log; the first decision of a view is 1, 0 is "none"."""


class Member(NamedTuple):
    """A node in one of its lives: a restarted agent is a different member (SWIM's *incarnation*)."""

    name: NodeName
    incarnation: int

    def __str__(self) -> str:
        return f"{self.name}#{self.incarnation}"


class ViewId(NamedTuple):
    """Identity of an installed view (Totem's ring id, Spread's membership id).

    The coordinator's incarnation is part of it, so that no two views ever share an id, whatever was forgotten
    in a restart.
    """

    epoch: int
    coordinator: Member

    def __str__(self) -> str:
        return f"{self.epoch}-{self.coordinator.name}-{self.coordinator.incarnation}"
