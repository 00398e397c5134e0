"""Who may have a VIP, in which order of merit, and what speaks against the others.

For a VIP the members are ranked: fit ones before unfit before draining ones, and in each of the three those with a
positive weight first. Only the best rank that has an able member is considered. A member's rank is the same for all
VIPs, so that the ranks are problems of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, inf, lcm

from agent.core.ids import NodeName, VipName
from agent.core.view import Cause, Standing, VipSpec

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


def rank_of(standing: Standing) -> int:
    """Rank of a member for the VIPs that it is able to have; RANKS: it may have none."""
    if standing.leaving or not standing.serves:
        return RANKS
    tier = DRAINING if standing.draining else FIT if standing.fit else UNFIT
    return 2 * tier + (not 0 < standing.weight < inf)


def exact_weight(weight: float) -> Fraction:
    """The weight as it was written: 0.1 is a tenth, so that 0.1 and 0.3 share exactly."""
    return Fraction(str(weight))


class Roster:
    """The members as numbers and bit masks, in order of name."""

    def __init__(self, members: Sequence[Candidate], specs: Sequence[VipSpec]) -> None:
        self.members = sorted(members, key=lambda member: member.name)
        self.names = [member.name for member in self.members]
        self.index = {name: number for number, name in enumerate(self.names)}
        self.ranks = [rank_of(member.standing) for member in self.members]
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
        sharing = [rank < RANKS and rank % 2 == 0 for rank in self.ranks]
        if len({member.standing.weight for member, shares in zip(self.members, sharing, strict=True) if shares}) < 2:
            return [1] * len(sharing)
        exact = [
            exact_weight(member.standing.weight) if shares else Fraction(1)
            for member, shares in zip(self.members, sharing, strict=True)
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
