"""Values of the way from one view to the next, and who can be in it together."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.core.ids import Member, VipName
from agent.core.install import Vote
from agent.core.messages import Install, Lost
from agent.core.view import Entry, MemberState, View, VipSpec


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a Join says about its sender."""

    state: MemberState
    specs: tuple[VipSpec, ...]
    lost: tuple[Lost, ...]
    waits: tuple[tuple[VipName, float], ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """A view has been installed here; the node carries it out."""

    install: Install
    tables: dict[str, tuple[VipSpec, ...]]
    previous: View | None
    flush: tuple[Entry, ...]
    """To be delivered in the previous view."""
    gather_started: float
    left_by_word: frozenset[Member]
    failed_since: float | None


@dataclass(slots=True)
class Gather:
    """One epoch's attempt."""

    epoch: int
    vote: Member
    complete_by: float
    give_up_at: float
    resend_at: float
    joined: dict[Member, Vote] = field(default_factory=dict)


def hearing_each_other(members: list[Member], votes: dict[Member, Vote], me: Member) -> list[Member]:
    """Leaves out as few as needed that no two are left of which one suspects the other.

    One-way links would otherwise make the same view again and again. Out goes who is in most such pairs; of equals
    the last by name.
    """
    kept = list(members)
    while True:
        broken = {
            member: sum(other in votes[member].join.suspects or member in votes[other].join.suspects for other in kept)
            for member in kept
            if member != me
        }
        worst = max(broken, key=lambda member: (broken[member], member), default=None)
        if worst is None or broken[worst] == 0:
            return kept
        kept.remove(worst)
