"""VIPs on nodes as a flow: chains of moves, and the fewest moves into given bounds.

Everything is exact integer arithmetic on node numbers and bit masks of them. VIPs that may go to the same nodes and
come from the same node are alike: a *batch* of them is one thing with a count, and searches run on a graph of nodes,
not of VIPs. Within bounds the fewest moves are a min-cost flow with the costs -1, 0 and 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


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


def chain_to(parent: dict[int, int], end: int) -> list[int]:
    """The nodes from the start of a search (its parent is -1) to `end`."""
    chain = [end]
    while (before := parent[chain[-1]]) >= 0:
        chain.append(before)
    return chain[::-1]


class Flow:
    """A way of giving VIPs out, while it is being changed."""

    def __init__(self, nodes: Sequence[int], fixed: Sequence[int], batches: Sequence[Batch]) -> None:
        self.batches = batches
        self.count = {node: fixed[node] for node in nodes}
        """Per node: its VIPs, the fixed ones included."""
        self.left = [batch.count for batch in batches]
        """Per batch: VIPs not given out yet."""
        self._on: dict[int, dict[int, int]] = {node: {} for node in nodes}
        """Per node: number of VIPs by batch number."""
        self._reach: dict[int, int] = {}
        self._options: dict[int, tuple[int, int, int]] = {}

    def put(self, number: int, node: int, amount: int) -> None:
        """Give out so many of the batch's VIPs that are left."""
        if amount:
            self.left[number] -= amount
            self._add(number, node, amount)

    def settle_homes(self) -> None:
        """Every batch that has a home goes there."""
        for number, batch in enumerate(self.batches):
            if batch.home >= 0:
                self.put(number, batch.home, self.left[number])

    def _add(self, number: int, node: int, amount: int) -> None:
        here = self._on[node]
        self.count[node] += amount
        if number in here:
            here[number] += amount
            return
        here[number] = amount
        self._options.pop(node, None)
        if node in self._reach:
            self._reach[node] |= self.batches[number].nodes

    def _take(self, number: int, node: int, amount: int) -> None:
        here = self._on[node]
        self.count[node] -= amount
        here[number] -= amount
        if not here[number]:
            del here[number]
            self._reach.pop(node, None)
            self._options.pop(node, None)

    # Chains of moves at any cost

    def reach(self, node: int) -> int:
        """Mask of the nodes that some VIP on this one may go to; itself included if it has any."""
        reach = self._reach.get(node)
        if reach is None:
            reach = 0
            for number in self._on[node]:
                reach |= self.batches[number].nodes
            self._reach[node] = reach
        return reach

    def room(self, chain: Sequence[int]) -> int:
        """How many VIPs each step of the chain can carry."""
        return min(
            sum(amount for number, amount in self._on[node].items() if self.batches[number].nodes >> after & 1)
            for node, after in pairwise(chain)
        )

    def push(self, chain: Sequence[int], amount: int) -> None:
        """Every node of the chain gives so many VIPs to the next one."""
        for node, after in list(pairwise(chain))[::-1]:
            numbers = [number for number in self._on[node] if self.batches[number].nodes >> after & 1]
            self._carry(node, after, numbers, amount)

    def _carry(self, node: int, after: int, numbers: Sequence[int], amount: int) -> None:
        for number in numbers:
            part = min(amount, self._on[node][number])
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
                amount = min(amount, sum(self._on[node][number] for number in numbers))
            for (node, after, _), numbers in zip(steps, movable, strict=True):
                self._carry(node, after, numbers, amount)

    def _movable(self, node: int, after: int, cost: int) -> list[int]:
        """Batches on the node whose VIPs may go to the other one at this cost: 1 leaves home, -1 comes home."""
        home = {1: node, -1: after}.get(cost)
        return [
            number
            for number in self._on[node]
            if (batch := self.batches[number]).nodes >> after & 1
            and (batch.home == home if home is not None else batch.home not in (node, after))
        ]

    def _steps(self, node: int) -> tuple[int, int, int]:
        """The nodes that VIPs of this one may go to at the costs -1, 0 and 1."""
        if node in self._options:
            return self._options[node]
        back = across = away = 0
        for number in self._on[node]:
            batch = self.batches[number]
            if batch.home == node:
                away |= batch.nodes
            elif batch.home < 0:
                across |= batch.nodes
            else:
                back |= 1 << batch.home
                across |= batch.nodes & ~(1 << batch.home)
        self._options[node] = back, across & ~(1 << node), away & ~(1 << node)
        return self._options[node]

    def _cheapest(self, window: Window) -> tuple[list[tuple[int, int, int]], int] | None:
        """The cheapest chain from a node above its bound, or to one below: steps (node, next, cost) and an amount."""
        count, lower, upper = self.count, window.lower, window.upper
        excess = {node: more for node in self.count if (more := count[node] - upper[node]) > 0}
        want = {node: more for node in self.count if (more := lower[node] - count[node]) > 0}
        if not excess and not want:
            return None
        hub = max(self.count) + 1
        surplus = sum(excess.values()) - sum(want.values())
        if surplus > 0:
            want[hub] = surplus
        elif surplus < 0:
            excess[hub] = -surplus
        spare = {node: count[node] - lower[node] for node in self.count if lower[node] < count[node] <= upper[node]}
        space = {node: upper[node] - count[node] for node in self.count if lower[node] <= count[node] < upper[node]}
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
        within = [sum(1 << node for node in sources)] * (len(self.count) + 3)
        hub_mask, spare_mask = 1 << hub, sum(1 << node for node in spare)
        queue = deque(sources)
        waiting = set(queue)
        while queue:
            node = queue.popleft()
            waiting.discard(node)
            back, across, away = (0, spare_mask, 0) if node == hub else self._steps(node)
            for step, mask in ((-1, back), (0, across | hub_mask if node in space else across), (1, away)):
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
            for node, here in self._on.items()
            for number, amount in here.items()
            if self.batches[number].home not in (-1, node)
        )

    def shares(self) -> list[dict[int, int]]:
        """Per batch: how many of its VIPs are on each node."""
        shares: list[dict[int, int]] = [{} for _ in self.batches]
        for node, here in self._on.items():
            for number, amount in here.items():
                shares[number][node] = amount
        return shares
