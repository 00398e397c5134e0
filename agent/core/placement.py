"""Who should own which VIP: pure functions of agreed data, so that every member computes the same.

eligibility.py says who may have a VIP, evenness.py how to give many VIPs out most evenly with the fewest moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.core.eligibility import FIT, Candidate, Roster, exact_weight, rank_of
from agent.core.evenness import give_out, load_units
from agent.core.flow import Batch, bits
from agent.core.ids import NodeName, VipName
from agent.core.view import Cause, Move, VipSpec

__all__ = ["Candidate", "Placement", "Row", "merge_tables", "place", "plan_round", "plan_urgent", "spread"]


@dataclass(frozen=True, slots=True)
class Row:
    """One VIP's place."""

    vip: VipName
    owner: NodeName | None
    reason: str
    losers: tuple[NodeName, ...]
    """Other holders: they must release."""


@dataclass(frozen=True, slots=True)
class Placement:
    rows: tuple[Row, ...]
    """In the table's order."""

    def owners(self) -> dict[VipName, NodeName]:
        """The covered VIPs."""
        return {row.vip: row.owner for row in self.rows if row.owner is not None}

    def uncovered(self) -> tuple[VipName, ...]:
        return tuple(row.vip for row in self.rows if row.owner is None)

    def conflicts(self) -> tuple[tuple[VipName, NodeName], ...]:
        """VIP and losing holder."""
        return tuple((row.vip, loser) for row in self.rows for loser in row.losers)


def merge_tables(
    tables: Sequence[tuple[NodeName, tuple[VipSpec, ...]]],
) -> tuple[tuple[VipSpec, ...], dict[NodeName, frozenset[VipName]]]:
    """One table of all members' tables (given in agreed order), and which of its VIPs each member knows.

    A VIP's addresses and nodes are those of the first member that defines it; its `prefer` is everybody's, in order of
    first appearance, because Wackamole's Prefer is each node's own. Who gives it other addresses does not know it.
    """
    if not tables:
        return (), {}
    first = tables[0][1]
    names = frozenset(spec.name for spec in first)
    if len(names) == len(first) and all(table is first or table == first for _, table in tables):
        return first, dict.fromkeys((member for member, _ in tables), names)
    merged: dict[VipName, VipSpec] = {}
    prefer: dict[VipName, dict[NodeName, None]] = {}
    knows: dict[NodeName, frozenset[VipName]] = {}
    for member, table in tables:
        known = set()
        for spec in table:
            if merged.setdefault(spec.name, spec).addresses == spec.addresses:
                known.add(spec.name)
            prefer.setdefault(spec.name, {}).update(dict.fromkeys(spec.prefer))
        knows[member] = frozenset(known)
    return tuple(
        VipSpec(spec.name, spec.addresses, tuple(prefer[spec.name]), spec.nodes) for spec in merged.values()
    ), knows


def place(
    members: Sequence[Candidate], specs: Sequence[VipSpec], held: Mapping[VipName, Sequence[NodeName]]
) -> Placement:
    """The placement of a new view: keep what is held, give out the rest as evenly as that allows.

    A holder keeps its VIP even if it is no longer eligible: it gives it up later, by hand-over. Of several holders R13
    names one, among those of the best rank. A VIP that nobody may have has no owner.
    """
    roster = Roster(members, specs)
    draft = _Draft(roster)
    rows: list[Row | None] = []
    for position, spec in enumerate(specs):
        name = spec.name
        here = held.get(name, ())
        holders = [roster.index[node] for node in here if node in roster.index]
        able = roster.able(spec)
        if holders:
            owner, reason = (
                (holders[0], roster.keeps(spec, able, holders[0]))
                if len(holders) == 1
                else roster.wins(spec, able, sorted(set(holders)))
            )
            draft.fixed[owner] += 1
            losers = tuple(roster.names[node] for node in sorted(set(holders)) if node != owner)
            rows.append(Row(name, roster.names[owner], reason, losers))
            continue
        rank, mask = roster.candidates(able)
        if not mask:
            rows.append(Row(name, None, roster.nobody(spec), ()))
            continue
        preferred = roster.preferred(spec, mask)
        if preferred >= 0:
            draft.fixed[preferred] += 1
            rows.append(Row(name, roster.names[preferred], "preferred", ()))
            continue
        draft.leave_open(position, rank, mask, -1)
        rows.append(None)
    for position, taker, rank, only in draft.solve():
        reason = ("only eligible member" if only else "least loaded") + ("", ", unfit", ", draining")[rank // 2]
        rows[position] = Row(specs[position].name, roster.names[taker], reason, ())
    return Placement(tuple(row for row in rows if row is not None))


def plan_urgent(
    members: Sequence[Candidate], specs: Sequence[VipSpec], owners: Mapping[VipName, NodeName]
) -> tuple[Move, ...]:
    """Moves that cannot wait for a balance round, in the table's order.

    They take VIPs off members that are leaving, draining, unfit, have failed to put them up, or may no longer have
    them, where a member of a better tier exists; all others stay where they are.
    """
    return tuple(_plan(Roster(members, specs), specs, owners, balance=False).urgent)


def plan_round(
    members: Sequence[Candidate], specs: Sequence[VipSpec], owners: Mapping[VipName, NodeName], limit: int | None
) -> tuple[Move, ...]:
    """At most `limit` (None: all) of the fewest moves to the best placement.

    Best is: preferred VIPs on their nodes, then the smallest spread. Whichever of the moves are done, just the others
    are still needed. First come those that are urgent, then those to preferred nodes, then those that relieve most.
    """
    roster = Roster(members, specs)
    plan = _plan(roster, specs, owners, balance=True)
    moves = plan.urgent + plan.preferred
    if limit is None:
        return tuple(moves + plan.balance)
    limit = max(0, limit)
    if limit > len(moves):
        moves += _most_relief(roster, owners, moves, plan.balance, limit - len(moves))
    return tuple(moves[:limit])


def spread(members: Sequence[Candidate], specs: Sequence[VipSpec], owners: Mapping[VipName, NodeName]) -> float:
    """Highest minus lowest number of VIPs per weight of the members that may be given any; 0.0 with fewer than two."""
    weights = {member.name: exact_weight(member.standing.weight) for member in members if rank_of(member.standing) == 0}
    if len(weights) < 2:
        return 0.0
    count = dict.fromkeys(weights, 0)
    for spec in specs:
        owner = owners.get(spec.name)
        if owner in count:
            count[owner] += 1
    loads = [count[name] / weight for name, weight in weights.items()]
    return float(max(loads) - min(loads))


class _Draft:
    """What is settled, as counts, and what is still to be given out."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.fixed = [0] * len(roster.names)
        """VIPs per member that stay on it or are sure to come to it."""
        self._open: dict[tuple[int, int, int], list[int]] = {}

    def leave_open(self, position: int, rank: int, mask: int, home: int) -> None:
        """The VIP at this position of the table may go to any of `mask`, all of one rank; `home` has it now, or -1."""
        self._open.setdefault((rank, mask, home), []).append(position)

    def solve(self) -> list[tuple[int, int, int, bool]]:
        """Position, taker, rank, and whether it was the only choice, of each VIP left open; in the table's order."""
        solved: list[tuple[int, int, int, bool]] = []
        for rank in sorted({rank for rank, _, _ in self._open}):
            groups = [(mask, home, vips) for (at, mask, home), vips in self._open.items() if at == rank]
            nodes = list(bits(self._roster.ranked[rank]))
            batches = [Batch(mask, home, len(vips)) for mask, home, vips in groups]
            shares = give_out(nodes, self._roster.weights, self.fixed, batches)
            for (mask, home, vips), share in zip(groups, shares, strict=True):
                only = not mask & (mask - 1)
                solved += [(vip, taker, rank, only) for vip, taker in zip(vips, _deal(share, home), strict=True)]
        solved.sort()
        return solved


def _deal(share: dict[int, int], home: int) -> list[int]:
    """Takers of a batch's VIPs in the table's order: those that stay first, then by turns, so that neighbours in the
    table (mostly of one subnet) are spread."""
    dealt = [home] * share.pop(home, 0)
    left = sorted(share.items())
    while left:
        turns = min(amount for _, amount in left)
        dealt += [taker for taker, _ in left] * turns
        left = [(taker, amount - turns) for taker, amount in left if amount > turns]
    return dealt


@dataclass(frozen=True, slots=True)
class _Plan:
    """The moves that are needed, each list in the table's order."""

    urgent: list[Move]
    preferred: list[Move]
    balance: list[Move]


def _plan(roster: Roster, specs: Sequence[VipSpec], owners: Mapping[VipName, NodeName], balance: bool) -> _Plan:
    """Without `balance` every VIP stays whose holder is as good as the best tier that can have it."""
    draft = _Draft(roster)
    owner_at: dict[int, int] = {}
    urgent: set[int] = set()
    pinned: list[tuple[int, int]] = []
    for position, spec in enumerate(specs):
        owner = roster.index.get(owners.get(spec.name, NodeName("")), -1)
        if owner < 0:
            continue
        owner_at[position] = owner
        able = roster.able(spec)
        rank, mask = roster.candidates(able)
        home = owner if mask >> owner & 1 else -1
        if rank // 2 < roster.tier(able, owner):
            urgent.add(position)
        elif rank // 2 != FIT or not balance:
            draft.fixed[owner] += 1
            continue
        preferred = roster.preferred(spec, mask)
        if preferred >= 0:
            draft.fixed[preferred] += 1
            pinned.append((position, preferred))
        elif rank == 0 or home < 0:
            draft.leave_open(position, rank, mask, home)
        else:
            draft.fixed[owner] += 1
    plan = _Plan([], [], [])
    takers = {position: (taker, Cause.PREFER) for position, taker in pinned}
    takers.update((position, (taker, Cause.BALANCE)) for position, taker, _, _ in draft.solve())
    for position, (taker, cause) in sorted(takers.items()):
        if taker != (owner := owner_at[position]):
            spec, kind = specs[position], plan.preferred if cause is Cause.PREFER else plan.balance
            if position in urgent:
                cause, kind = roster.objection(spec, owner)[1], plan.urgent
            kind.append(Move(spec.name, roster.names[owner], roster.names[taker], cause))
    return plan


def _most_relief(
    roster: Roster, owners: Mapping[VipName, NodeName], before: Sequence[Move], moves: Sequence[Move], limit: int
) -> list[Move]:
    """The `limit` moves to make first: off members without weight, then each time from the widest gap in load."""
    count = dict.fromkeys(roster.names, 0)
    for owner in owners.values():
        if owner in count:
            count[owner] += 1
    unit = dict(zip(roster.names, load_units(roster.weights), strict=True))
    waiting: dict[tuple[NodeName, NodeName], list[Move]] = {}
    for move in before:
        count[move.giver] -= 1
        count[move.taker] += 1
    for move in reversed(moves):
        waiting.setdefault((move.giver, move.taker), []).append(move)
    weightless = {name for name, rank in zip(roster.names, roster.ranks, strict=True) if rank % 2}

    def relief(pair: tuple[NodeName, NodeName]) -> tuple[bool, int, tuple[NodeName, NodeName]]:
        giver, taker = pair
        return giver not in weightless, (count[taker] + 1) * unit[taker] - count[giver] * unit[giver], pair

    chosen: list[Move] = []
    while waiting and len(chosen) < limit:
        pair = min(waiting, key=relief)
        chosen.append(waiting[pair].pop())
        count[pair[0]] -= 1
        count[pair[1]] += 1
        if not waiting[pair]:
            del waiting[pair]
    return chosen
