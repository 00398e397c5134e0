"""Who should own which VIP: pure functions of agreed data, so that every member computes the same.

For a VIP the members are ranked: fit ones before unfit before draining ones, and in each of the three those with a
positive weight first. Only the best rank that has an able member is considered, and a member has one rank, so each rank
is a problem of its own; flow.py solves it exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, inf, lcm

from agent.core.flow import Batch, bits, give_out, load_units
from agent.core.ids import NodeName, VipName
from agent.core.view import Cause, Move, Standing, VipSpec

FIT, UNFIT, DRAINING, UNABLE = range(4)
"""Tiers of a member for a VIP, best first."""

RANKS = 6
"""Twice the tier, plus one without a positive weight."""

NAMED_MAX = 4
"""Members that one reason names."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One member of the view."""

    name: NodeName
    standing: Standing
    knows: frozenset[VipName] | None
    """VIPs that it defines as the merged table does; None: all of them."""
    old_view_size: int = 1
    """Members of the old view that it came from (R13)."""


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
    roster = _Roster(members, specs)
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
    return tuple(_plan(_Roster(members, specs), specs, owners, balance=False).urgent)


def plan_round(
    members: Sequence[Candidate], specs: Sequence[VipSpec], owners: Mapping[VipName, NodeName], limit: int | None
) -> tuple[Move, ...]:
    """At most `limit` (None: all) of the fewest moves to the best placement.

    Best is: preferred VIPs on their nodes, then the smallest spread. Whichever of the moves are done, just the others
    are still needed. First come those that are urgent, then those to preferred nodes, then those that relieve most.
    """
    roster = _Roster(members, specs)
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
    weights = {member.name: _exact(member.standing.weight) for member in members if _rank(member.standing) == 0}
    if len(weights) < 2:
        return 0.0
    count = dict.fromkeys(weights, 0)
    for spec in specs:
        owner = owners.get(spec.name)
        if owner in count:
            count[owner] += 1
    loads = [count[name] / weight for name, weight in weights.items()]
    return float(max(loads) - min(loads))


def _rank(standing: Standing) -> int:
    """Rank of a member for the VIPs that it is able to have; RANKS: it may have none."""
    if standing.leaving or not standing.serves:
        return RANKS
    tier = DRAINING if standing.draining else FIT if standing.fit else UNFIT
    return 2 * tier + (not 0 < standing.weight < inf)


def _exact(weight: float) -> Fraction:
    """The weight as it was written: 0.1 is a tenth, so that 0.1 and 0.3 share exactly."""
    return Fraction(str(weight))


class _Roster:
    """The members as numbers and bit masks, in order of name."""

    def __init__(self, members: Sequence[Candidate], specs: Sequence[VipSpec]) -> None:
        self.members = sorted(members, key=lambda member: member.name)
        self.names = [member.name for member in self.members]
        self.index = {name: number for number, name in enumerate(self.names)}
        self.ranks = [_rank(member.standing) for member in self.members]
        self.ranked = [0] * (RANKS + 1)
        for number, rank in enumerate(self.ranks):
            self.ranked[rank] |= 1 << number
        self.weights = self._weights()
        self._takes = (1 << len(self.names)) - 1 & ~self.ranked[RANKS]
        self._barred = self._bars(specs)
        self._among: dict[tuple[NodeName, ...], int] = {}
        self._candidates: dict[int, tuple[int, int]] = {}

    def _weights(self) -> list[int]:
        """Whole numbers in the proportion of the weights; 1 for who has none (it shares with its like only)."""
        exact = [
            Fraction(1) if rank % 2 or rank == RANKS else _exact(member.standing.weight)
            for rank, member in zip(self.ranks, self.members, strict=True)
        ]
        scale = lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * scale) for weight in exact]
        common = gcd(*whole) or 1
        return [weight // common for weight in whole]

    def _bars(self, specs: Sequence[VipSpec]) -> dict[VipName, int]:
        """Per VIP the members that have failed to put it up or do not know it."""
        barred: dict[VipName, int] = {}
        knowing: dict[frozenset[VipName], int] = {}
        for number, member in enumerate(self.members):
            for vip in member.standing.failed:
                barred[vip] = barred.get(vip, 0) | 1 << number
            if member.knows is not None:
                knowing[member.knows] = knowing.get(member.knows, 0) | 1 << number
        if knowing:
            names = frozenset(spec.name for spec in specs)
            for known, mask in knowing.items():
                for vip in names - known:
                    barred[vip] = barred.get(vip, 0) | mask
        return barred

    def able(self, spec: VipSpec) -> int:
        """Mask of the members that can have the VIP at all."""
        mask = self._takes
        if spec.nodes:
            among = self._among.get(spec.nodes)
            if among is None:
                among = sum(1 << self.index[name] for name in set(spec.nodes) if name in self.index)
                self._among[spec.nodes] = among
            mask &= among
        if self._barred:
            mask &= ~self._barred.get(spec.name, 0)
        return mask

    def candidates(self, able: int) -> tuple[int, int]:
        """The best rank among able members, and the mask of those of it; RANKS and 0: there are none."""
        found = self._candidates.get(able)
        if found is None:
            found = next(((rank, mask) for rank in range(RANKS) if (mask := able & self.ranked[rank])), (RANKS, 0))
            self._candidates[able] = found
        return found

    def tier(self, able: int, member: int) -> int:
        return self.ranks[member] // 2 if able >> member & 1 else UNABLE

    def preferred(self, spec: VipSpec, mask: int) -> int:
        """The first member of the mask in order of preference; -1: none."""
        return next((n for name in spec.prefer if (n := self.index.get(name, -1)) >= 0 and mask >> n & 1), -1)

    def objection(self, spec: VipSpec, member: int) -> tuple[str, Cause]:
        """What speaks against the member, and why the VIP is then moved; "" for nothing."""
        standing, knows = self.members[member].standing, self.members[member].knows
        found = "", Cause.BALANCE
        if standing.leaving:
            found = "leaving", Cause.LEAVE
        elif not standing.serves:
            found = "serves no VIPs", Cause.RELOAD
        elif knows is not None and spec.name not in knows:
            found = "does not know it", Cause.RELOAD
        elif spec.nodes and self.names[member] not in spec.nodes:
            found = "not among its nodes", Cause.RELOAD
        elif spec.name in standing.failed:
            found = "cannot put it up", Cause.UNFIT
        elif standing.draining:
            found = "draining", Cause.DRAIN
        elif not standing.fit:
            found = "unfit", Cause.UNFIT
        elif self.ranks[member] % 2:
            found = "has no weight", Cause.BALANCE
        return found

    def keeps(self, spec: VipSpec, able: int, holder: int) -> str:
        """Why a holder keeps the VIP in a new view."""
        rank, mask = self.candidates(able)
        if mask >> holder & 1 and rank == 0:
            return "held here"
        if self.tier(able, holder) == UNABLE and not mask:
            return f"held here, no eligible member: {self.objection(spec, holder)[0]}"
        why = self.objection(spec, holder)[0]
        return f"held here, no better member: {why}" if mask >> holder & 1 else f"held here until it moves: {why}"

    def wins(self, spec: VipSpec, able: int, holders: Sequence[int]) -> tuple[int, str]:
        """Which of several holders keeps the VIP (R13), and why."""
        ranks = {holder: self.ranks[holder] if able >> holder & 1 else RANKS for holder in holders}
        best = min(ranks.values())
        group = [holder for holder in holders if ranks[holder] == best]
        preferred = self.preferred(spec, sum(1 << holder for holder in group)) if best < RANKS else -1
        if len(group) == 1:
            return group[0], "holder that can serve it best" if len(holders) > 1 else "held here"
        if preferred >= 0:
            return preferred, "preferred holder"
        sizes = [self.members[holder].old_view_size for holder in group]
        largest = [holder for holder, size in zip(group, sizes, strict=True) if size == max(sizes)]
        return largest[0], "holder of the larger old view" if len(largest) == 1 else "holder with the lower name"

    def nobody(self, spec: VipSpec) -> str:
        """Why nobody may have the VIP."""
        if not self.names:
            return "no eligible member: none in the view"
        named = [f"{self.names[n]} {self.objection(spec, n)[0]}" for n in range(min(len(self.names), NAMED_MAX))]
        more = len(self.names) - len(named)
        return f"no eligible member: {', '.join(named)}" + (f" and {more} more" if more else "")


class _Draft:
    """What is settled, as counts, and what is still to be given out."""

    def __init__(self, roster: _Roster) -> None:
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


def _plan(roster: _Roster, specs: Sequence[VipSpec], owners: Mapping[VipName, NodeName], balance: bool) -> _Plan:
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
    roster: _Roster, owners: Mapping[VipName, NodeName], before: Sequence[Move], moves: Sequence[Move], limit: int
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
