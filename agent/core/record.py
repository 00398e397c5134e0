"""The agreed record of one view: equal at all members that delivered the same decisions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import assert_never

from agent.core.ids import NodeName, Seq, VipName
from agent.core.placement import Candidate
from agent.core.settings import Settings
from agent.core.view import (
    Answered,
    Assigned,
    Cause,
    Decision,
    HandedOver,
    Matured,
    Move,
    Moves,
    NeighboursShared,
    Standing,
    StandingChanged,
    View,
    VipSpec,
)


@dataclass(frozen=True, slots=True)
class HandOver:
    """A move that its giver has not confirmed yet."""

    move: Move
    since: Seq
    """The decision that began it; a confirmation by someone who has not delivered that one is about an older move."""


@dataclass(slots=True)
class Record:
    view: View
    specs: tuple[VipSpec, ...]
    knows: dict[NodeName, frozenset[VipName]]
    standings: dict[NodeName, Standing]
    sizes: dict[NodeName, int]
    mature: bool
    owners: dict[VipName, NodeName]
    handovers: dict[tuple[VipName, NodeName], HandOver] = field(default_factory=dict)
    """By VIP and giver."""
    answered: dict[NodeName, int] = field(default_factory=dict)
    neighbours: dict[NodeName, int] = field(default_factory=dict)
    """Version of each member's shared neighbour table."""
    version: int = 0
    """Counts the decisions applied."""
    planned: int = -1
    """The version in which the coordinator last found nothing to plan; not agreed data."""
    _names: frozenset[VipName] = field(init=False)

    def __post_init__(self) -> None:
        self._names = frozenset(spec.name for spec in self.specs)

    def sound(self, decision: Decision) -> Decision:
        """The decision without what it says of strangers: nobody and nothing that this view does not know is noted."""
        match decision:
            case Matured(owners=owners) | Assigned(owners=owners):
                if all(vip in self._names and owner in self.standings for vip, owner in owners):
                    return decision
                kept = tuple((vip, owner) for vip, owner in owners if vip in self._names and owner in self.standings)
                return replace(decision, owners=kept)
            case Moves(moves=moves):
                known = (move.taker in self.standings and self.owners.get(move.vip) == move.giver for move in moves)
                good = tuple(move for move, fits in zip(moves, known, strict=True) if fits)
                return decision if len(good) == len(moves) else replace(decision, moves=good)
            case HandedOver(moves=moves):
                under_way = {handover.move for handover in self.handovers.values()}
                return (
                    decision if under_way.issuperset(moves) else HandedOver(tuple(m for m in moves if m in under_way))
                )
            case StandingChanged(member=member) | NeighboursShared(member=member):
                return decision if member in self.standings else Answered(())
            case Answered():
                return decision
            case _:
                assert_never(decision)

    def apply(self, seq: Seq, decision: Decision) -> None:
        self.version += 1
        match decision:
            case Matured(owners=owners, answers=answers):
                self.mature = True
                self.owners.update(owners)
                self._answer(answers)
            case StandingChanged(member=member, standing=standing):
                self.standings[member] = standing
            case Moves(moves=moves, answers=answers):
                for move in moves:
                    if self.owners.get(move.vip) == move.giver:
                        del self.owners[move.vip]
                        self.handovers[move.vip, move.giver] = HandOver(move, seq)
                self._answer(answers)
            case HandedOver(moves=moves):
                for move in moves:
                    self.handovers.pop((move.vip, move.giver), None)
                    self.owners[move.vip] = move.taker
            case Assigned(owners=owners):
                self.owners.update(owners)
            case NeighboursShared(member=member, version=version):
                self.neighbours[member] = version
            case Answered(answers=answers):
                self._answer(answers)
            case _:
                assert_never(decision)

    def _answer(self, answers: tuple[tuple[NodeName, int], ...]) -> None:
        for name, number in answers:
            if name not in self.standings:
                continue
            self.answered[name] = max(number, self.answered.get(name, 0))

    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(
            Candidate(name, self.standings[name], self.knows.get(name), self.sizes.get(name, 1))
            for name in self.view.names()
        )

    def moving(self) -> frozenset[VipName]:
        """VIPs without owner because a hand-over is under way."""
        return frozenset(vip for vip, _ in self.handovers if vip not in self.owners)

    def uncovered(self) -> tuple[VipName, ...]:
        moving = self.moving()
        return tuple(spec.name for spec in self.specs if spec.name not in self.owners and spec.name not in moving)

    def expected(self) -> dict[VipName, NodeName]:
        """Who will own what when every hand-over under way is done."""
        moving = {vip: handover.move.taker for (vip, _), handover in self.handovers.items()}
        return moving | self.owners

    def disputed(self) -> tuple[VipName, ...]:
        """VIPs that not all members define alike."""
        names = [spec.name for spec in self.specs]
        serving = [known for name, known in self.knows.items() if self.standings[name].serves]
        return tuple(name for name in names if any(name not in known for known in serving))


def conflict_move(vip: VipName, loser: NodeName, winner: NodeName) -> Move:
    """A merge's loser gives up and says so, in the form of a hand-over to the holder that stays (R13)."""
    return Move(vip, loser, winner, Cause.MERGE)


def table_of(settings: Settings) -> tuple[tuple[VipSpec, ...], str]:
    """The VIP table as it is exchanged, and its digest."""
    specs = tuple(
        VipSpec(vip.name, tuple(address.address for address in vip.addresses), vip.prefer, vip.nodes)
        for vip in settings.vips
    )
    return specs, hashlib.blake2b(repr(specs).encode(), digest_size=8).hexdigest()
