"""The most even way to give out VIPs, with the fewest moves.

Everything here is exact integer arithmetic on node numbers and bit masks of them; names are placement.py's business.

Three facts make it fast. VIPs that may go to the same nodes and come from the same node are alike, so a *batch* of them
is one thing with a count, and the search runs on a graph of nodes, not of VIPs. The reachable load vectors are the
integer points of a base polyhedron, where a vector within lower bounds and one within upper bounds imply one within
both (the linking property of Fujishige, Submodular Functions and Optimization, 3.5); so the best window of loads
needs no search over pairs. And within a window the fewest moves are a min-cost flow with costs -1, 0 and 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import lcm

WINDOWS_MAX = 64
"""Windows of the same best width that are searched for the fewest moves. Equal weights have one, and weights such as
1, 2, 3 a handful; past this a plan may take more moves than needed, never end less even."""


@dataclass(frozen=True, slots=True)
class Batch:
    """VIPs that are alike."""

    nodes: int
    """Bit mask of the nodes that may have them; not 0."""
    home: int
    """The node of `nodes` that has them now; -1: none, so giving them out costs the same everywhere."""
    count: int


@dataclass(frozen=True, slots=True)
class Window:
    """Bounds of each node's count of VIPs, those that it holds anyhow included."""

    lower: dict[int, int]
    upper: dict[int, int]


def bits(mask: int) -> Iterator[int]:
    """Positions of the set bits, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def load_units(weights: Sequence[int]) -> list[int]:
    """What one VIP adds to the load of a node of each weight, scaled to the smallest whole numbers."""
    whole = lcm(*weights)
    return [whole // weight for weight in weights]


def give_out(
    nodes: Sequence[int], weights: Sequence[int], fixed: Sequence[int], batches: Sequence[Batch]
) -> list[dict[int, int]]:
    """For each batch: how many of its VIPs each node gets.

    First the smallest difference between the highest and the lowest count / weight, then the fewest VIPs that leave
    their home. `weights` (positive whole numbers) and `fixed` (VIPs that a node holds anyhow) are indexed by node.
    """
    units = dict(zip(nodes, load_units([weights[node] for node in nodes]), strict=True))
    settled = any(batch.home >= 0 for batch in batches)
    even = Spread(units, fixed, _without_homes(batches) if settled else batches)
    even.fill()
    even.even_out()
    windows = _best_windows(even)
    if not settled:
        even.even_out()
        even.fit(windows[0])
        return even.shares()
    best: Spread | None = None
    for window in windows:
        spread = Spread(units, fixed, batches)
        spread.settle_homes()
        spread.fill()
        spread.fit(window)
        if best is None or spread.moved() < best.moved():
            best = spread
    assert best is not None
    return best.shares()


def _without_homes(batches: Sequence[Batch]) -> list[Batch]:
    """One batch per set of nodes."""
    counts: dict[int, int] = {}
    for batch in batches:
        counts[batch.nodes] = counts.get(batch.nodes, 0) + batch.count
    return [Batch(nodes, -1, count) for nodes, count in counts.items()]


def _best_windows(even: Spread) -> list[Window]:
    """All windows [low, high] of loads of the smallest width that some way of giving out fits in.

    A window is feasible when the upper bounds alone are (high is not below the smallest feasible maximum), the lower
    bounds alone are, and each node has a whole count in it. For a given high the last two name the best low, and only
    those highs matter that let the node that holds low down go up by one.
    """
    highest, lowest = even.smallest_maximum(), even.largest_minimum()
    floors = {node: highest // unit * unit for node, unit in even.units.items()}
    high, best, found = highest, -1, list[tuple[int, int]]()
    while True:
        node = min(floors, key=lambda node: (floors[node], node))
        current = high // even.units[node] * even.units[node]
        if current != floors[node]:
            floors[node] = current
            continue
        low = min(lowest, current)
        if best < 0 or high - low < best:
            best, found = high - low, []
        if high - low == best and len(found) < WINDOWS_MAX:
            found.append((low, high))
        if current >= lowest or high - lowest >= best:
            break
        high = current + even.units[node]
    return [
        Window(
            {node: -(-low // unit) for node, unit in even.units.items()},
            {node: high // unit for node, unit in even.units.items()},
        )
        for low, high in found
    ]


class Spread:
    """A way of giving out, being changed: which VIPs are on which node."""

    def __init__(self, units: dict[int, int], fixed: Sequence[int], batches: Sequence[Batch]) -> None:
        self.units = units
        self.batches = batches
        self.count = {node: fixed[node] for node in units}
        self.on: dict[int, dict[int, int]] = {node: {} for node in units}
        """Per node: number of VIPs by batch number."""
        self.left = [batch.count for batch in batches]
        """Per batch: VIPs not given out yet."""
        self.reach = dict.fromkeys(units, 0)
        """Per node: the nodes that some VIP on it may go to."""

    # Giving out

    def settle_homes(self) -> None:
        """Every batch that has a home goes there."""
        for number, batch in enumerate(self.batches):
            if batch.home >= 0:
                self._put(number, batch.home, self.left[number])

    def fill(self) -> None:
        """Give out what is left, the least flexible first, each batch as evenly as it can be: a good start."""
        order = sorted(range(len(self.batches)), key=lambda number: self.batches[number].nodes.bit_count())
        for number in order:
            self._pour(number)

    def _pour(self, number: int) -> None:
        """Raise the lowest of the batch's nodes to one level, then give the rest one by one."""
        units, count = self.units, self.count
        takers = list(bits(self.batches[number].nodes))
        if (rest := self.left[number]) > len(takers) > 1:
            whole = lcm(*(units[node] for node in takers))
            level = {node: whole // units[node] for node in takers}
            while True:
                height, width = rest + sum(count[node] for node in level), sum(level.values())
                share = {node: height * weight // width for node, weight in level.items()}
                if all(share[node] >= count[node] for node in share):
                    break
                level = {node: weight for node, weight in level.items() if share[node] >= count[node]}
            for node in level:
                self._put(number, node, share[node] - count[node])
        while self.left[number]:
            self._put(number, min(takers, key=lambda node: (2 * count[node] + 1) * units[node]), 1)

    def _put(self, number: int, node: int, amount: int) -> None:
        if amount:
            self.left[number] -= amount
            self._add(number, node, amount)

    def _add(self, number: int, node: int, amount: int) -> None:
        self.on[node][number] = self.on[node].get(number, 0) + amount
        self.count[node] += amount
        self.reach[node] |= self.batches[number].nodes

    def _take(self, number: int, node: int, amount: int) -> None:
        self.count[node] -= amount
        if amount < self.on[node][number]:
            self.on[node][number] -= amount
            return
        del self.on[node][number]
        self.reach[node] = 0
        for other in self.on[node]:
            self.reach[node] |= self.batches[other].nodes

    # Evenness, at any number of moves

    def even_out(self) -> None:
        """Bring the sum of count² / weight to its minimum: no chain of moves lowers it.

        With equal weights that is also the smallest maximum and the largest minimum (Harvey et al., Semi-matchings).
        """
        improved = True
        while improved:
            improved = False
            least = min((2 * self.count[node] + 1) * unit for node, unit in self.units.items())
            for giver in sorted(self.units, key=lambda node: -(2 * self.count[node] - 1) * self.units[node]):
                if (2 * self.count[giver] - 1) * self.units[giver] <= least:
                    break
                while (path := self._relief(giver)) and (amount := self._worth(path[0], path[-1])) > 0:
                    self._push(path, min(amount, self._room(path)))
                    improved = True

    def _worth(self, giver: int, taker: int) -> int:
        """How many VIPs are better on the taker than on the giver, by the sum of squares."""
        gain = (2 * self.count[giver] + 1) * self.units[giver] - (2 * self.count[taker] - 1) * self.units[taker]
        return (gain - 1) // (2 * (self.units[giver] + self.units[taker]))

    def _relief(self, giver: int) -> list[int]:
        """A shortest chain from the giver to the node that one more VIP burdens least; empty: nowhere to go."""
        parent = self._reachable(giver)
        if len(parent) < 2:
            return []
        taker = min(parent, key=lambda node: ((2 * self.count[node] + 1) * self.units[node], node == giver, node))
        return _chain(parent, taker) if taker != giver else []

    def _reachable(self, giver: int) -> dict[int, int]:
        """The nodes that a chain of moves from the giver can end at, each with the one before it."""
        parent, seen, queue = {giver: -1}, 1 << giver, deque((giver,))
        while queue:
            node = queue.popleft()
            for other in bits(self.reach[node] & ~seen):
                parent[other] = node
                queue.append(other)
            seen |= self.reach[node]
        return parent

    def _donors(self, taker: int) -> dict[int, int]:
        """The nodes that a chain of moves to the taker can start at, each with the one after it."""
        after, queue = {taker: -1}, deque((taker,))
        while queue:
            node = queue.popleft()
            for other, reach in self.reach.items():
                if other not in after and reach >> node & 1:
                    after[other] = node
                    queue.append(other)
        return after

    def smallest_maximum(self) -> int:
        """The lowest load that the highest node can be brought to. Changes the spread."""
        while True:
            units, count = self.units, self.count
            top = max(count[node] * unit for node, unit in units.items())
            for giver in [node for node, unit in units.items() if count[node] * unit == top]:
                parent = self._reachable(giver)
                taker = next((node for node in parent if (count[node] + 1) * units[node] < top), -1)
                if taker < 0:
                    return top
                self._push(_chain(parent, taker), 1)

    def largest_minimum(self) -> int:
        """The highest load that the lowest node can be brought to. Changes the spread."""
        while True:
            units, count = self.units, self.count
            bottom = min(count[node] * unit for node, unit in units.items())
            for taker in [node for node, unit in units.items() if count[node] * unit == bottom]:
                after = self._donors(taker)
                giver = next((node for node in after if (count[node] - 1) * units[node] > bottom), -1)
                if giver < 0:
                    return bottom
                self._push(_chain(after, giver)[::-1], 1)

    def _room(self, path: Sequence[int]) -> int:
        """How many VIPs each step of the chain can carry."""
        return min(
            sum(amount for number, amount in self.on[node].items() if self.batches[number].nodes >> after & 1)
            for node, after in pairwise(path)
        )

    def _push(self, path: Sequence[int], amount: int) -> None:
        """Every node of the chain gives so many VIPs to the next one."""
        steps = [
            (node, after, [number for number in self.on[node] if self.batches[number].nodes >> after & 1])
            for node, after in pairwise(path)
        ]
        for node, after, numbers in steps:
            self._carry(node, after, numbers, amount)

    def _carry(self, node: int, after: int, numbers: Sequence[int], amount: int) -> None:
        for number in numbers:
            part = min(amount, self.on[node][number])
            self._take(number, node, part)
            self._add(number, after, part)
            amount -= part
            if not amount:
                return

    # Fewest moves

    def fit(self, window: Window) -> None:
        """Bring every count into the window with the fewest VIPs away from home: successive cheapest chains.

        The start must be the cheapest for its counts (everything at home is). Exact because nodes within the window
        trade through a hub at no cost, which makes it an ordinary min-cost flow without negative costs at the start.
        A chain is missing only when nothing is out of bounds: the window is feasible.
        """
        while chain := self._cheapest(window):
            steps, amount = chain
            movable = [self._movable(*step) for step in steps]
            for (node, _, _), numbers in zip(steps, movable, strict=True):
                amount = min(amount, sum(self.on[node][number] for number in numbers))
            for (node, after, _), numbers in zip(steps, movable, strict=True):
                self._carry(node, after, numbers, amount)

    def _movable(self, node: int, after: int, cost: int) -> list[int]:
        """Batches on the node whose VIPs may go to the other one at this cost: 1 leaves home, -1 comes home."""
        home = {1: node, -1: after}.get(cost)
        return [
            number
            for number in self.on[node]
            if (batch := self.batches[number]).nodes >> after & 1
            and (batch.home == home if home is not None else batch.home not in (node, after))
        ]

    def _steps(self, node: int) -> tuple[int, int, int]:
        """The nodes that VIPs of this one may go to at the costs -1, 0 and 1."""
        back = across = away = 0
        for number in self.on[node]:
            batch = self.batches[number]
            if batch.home == node:
                away |= batch.nodes
            elif batch.home < 0:
                across |= batch.nodes
            else:
                back |= 1 << batch.home
                across |= batch.nodes & ~(1 << batch.home)
        return back, across & ~(1 << node), away & ~(1 << node)

    def _cheapest(self, window: Window) -> tuple[list[tuple[int, int, int]], int] | None:
        """The cheapest chain from a node above its bound, or to one below: steps (node, next, cost) and an amount."""
        count, lower, upper = self.count, window.lower, window.upper
        excess = {node: more for node in self.units if (more := count[node] - upper[node]) > 0}
        want = {node: more for node in self.units if (more := lower[node] - count[node]) > 0}
        if not excess and not want:
            return None
        hub = max(self.units) + 1
        surplus = sum(excess.values()) - sum(want.values())
        if surplus > 0:
            want[hub] = surplus
        elif surplus < 0:
            excess[hub] = -surplus
        spare = {node: count[node] - lower[node] for node in self.units if lower[node] < count[node] <= upper[node]}
        space = {node: upper[node] - count[node] for node in self.units if lower[node] <= count[node] < upper[node]}
        cost, parent = self._search(hub, excess, spare, space)
        sink = min((node for node in want if node in cost), key=lambda node: (cost[node], node), default=None)
        if sink is None:
            return None
        amount, node, steps = want[sink], sink, list[tuple[int, int, int]]()
        while node in parent:
            before, step = parent[node]
            if before == hub:
                amount = min(amount, spare[node])
            elif node == hub:
                amount = min(amount, space[before])
            else:
                steps.append((before, node, step))
            node = before
        return steps, min(amount, excess[node])

    def _search(
        self, hub: int, sources: dict[int, int], spare: dict[int, int], space: dict[int, int]
    ) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
        """Cheapest cost of a chain from any source to each node, and the step by which it comes.

        Bellman and Ford's search; `within[cost]` is the mask of nodes that are reached at that cost or less, so that
        a node that is no news is passed over without being looked at.
        """
        cost: dict[int, int] = dict.fromkeys(sources, 0)
        parent: dict[int, tuple[int, int]] = {}
        within = [sum(1 << node for node in sources)] * (len(self.units) + 3)
        hub_mask, spare_mask = 1 << hub, sum(1 << node for node in spare)
        queue = deque(sources)
        waiting = set(queue)
        options: dict[int, tuple[int, int, int]] = {hub: (0, spare_mask, 0)}
        while queue:
            node = queue.popleft()
            waiting.discard(node)
            if node not in options:
                back, across, away = self._steps(node)
                options[node] = back, across | hub_mask if node in space else across, away
            for step, mask in zip((-1, 0, 1), options[node], strict=True):
                total = cost[node] + step
                for after in bits(mask & ~within[total]):
                    cost[after] = total
                    parent[after] = node, step
                    for level in range(total, len(within)):
                        if within[level] >> after & 1:
                            break
                        within[level] |= 1 << after
                    if after not in waiting:
                        waiting.add(after)
                        queue.append(after)
        return cost, parent

    # Result

    def moved(self) -> int:
        """VIPs that are not at the home of their batch."""
        return sum(
            amount
            for node, here in self.on.items()
            for number, amount in here.items()
            if self.batches[number].home not in (-1, node)
        )

    def shares(self) -> list[dict[int, int]]:
        """Per batch: how many of its VIPs are on each node."""
        shares: list[dict[int, int]] = [{} for _ in self.batches]
        for node, here in self.on.items():
            for number, amount in here.items():
                shares[number][node] = amount
        return shares


def _chain(parent: dict[int, int], end: int) -> list[int]:
    """The nodes from the start of a search to `end`."""
    chain = [end]
    while (before := parent[chain[-1]]) >= 0:
        chain.append(before)
    return chain[::-1]
