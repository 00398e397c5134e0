"""Who of two that hear each other and share no view takes a VIP that neither covers (R18).

They cannot merge yet: a member of one is silent, or one of them has just woken. Each may wait for the other to cover
the VIP, say in its heartbeat that it does not, and take the other's word for the same; both would acquire. So the lower
name acquires at once, and the other one *claims* first: its heartbeats count the VIP as covered, and it acquires when
the lower one has answered such a heartbeat and still does not cover it. Whoever is told of a claim takes nothing
against it. Under `partition: quorum` nothing is claimed: of two views one at most may serve.
"""

from __future__ import annotations

from collections.abc import Set

from agent.core.ids import VipName


class Claims:
    """Per VIP the number of the last heartbeat before the claim, and when it was made."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: dict[VipName, tuple[int, float]] = {}

    def granted(self, vip: VipName, now: float, spoken: int, answered: int | None, patience: float) -> bool:
        """Whether this node may take it now, which no outsider covers; if not, the claim is made.

        `spoken`: number of this node's newest heartbeat; `answered`: of the newest that all outsiders with a lower name
        have answered, None if there are none. After `patience` seconds without an answer such an outsider does not
        hear this node: it could not be told of anything else either.
        """
        if answered is None:
            return True
        number, at = self._made.setdefault(vip, (spoken, now))
        return now >= at + patience or answered > number

    def keep(self, vips: Set[VipName]) -> None:
        """Only these are still claimed: all others were taken, or are covered, or are not this node's any more."""
        self._made = {vip: made for vip, made in self._made.items() if vip in vips}
