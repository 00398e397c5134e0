"""The most even way to give VIPs out, with the fewest moves.

The reachable load vectors are the integer points of a base polyhedron, where a vector within lower bounds and one
within upper bounds imply one within both (the linking property; Fujishige, Submodular Functions and Optimization). So
the narrowest window of loads follows from the smallest feasible maximum and the largest feasible minimum, each found by
itself, and flow.py is asked for the fewest moves into it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import lcm

from agent.core.flow import Batch, Flow, Window, bits, chain_to

WINDOWS_MAX = 64
"""Windows of the same best width that are searched for the fewest moves. Equal weights have one, and weights such as
1, 2, 3 a handful; past this a plan may take more moves than needed, never end less even."""

Units = Mapping[int, int]
"""Per node: what one VIP adds to its load."""


def load_units(weights: Sequence[int]) -> list[int]:
    """What one VIP adds to the load of a node of each weight, scaled to the smallest whole numbers."""
    whole = lcm(*weights)
    return [whole // weight for weight in weights]


def give_out(
    nodes: Sequence[int], weights: Sequence[int], fixed: Sequence[int], batches: Sequence[Batch]
) -> list[dict[int, int]]:
    """For each batch: how many of its VIPs each node gets.

    First the smallest difference between the highest and the lowest count / weight, then the fewest VIPs that leave
    their home. `weights` (positive whole numbers) and `fixed` (VIPs that a node holds anyhow) are indexed by node; no
    two batches are alike.
    """
    units = dict(zip(nodes, load_units([weights[node] for node in nodes]), strict=True))
    settled = any(batch.home >= 0 for batch in batches)
    even = Flow(nodes, fixed, _without_homes(batches) if settled else batches)
    fill(even, units)
    even_out(even, units)
    windows = _best_windows(units, smallest_maximum(even, units), largest_minimum(even, units))
    if not settled:
        even_out(even, units)
        even.fit(windows[0])
        return even.shares()
    fits = [_fit(nodes, units, fixed, batches, window) for window in windows]
    return min(fits, key=Flow.moved).shares()


def _fit(nodes: Sequence[int], units: Units, fixed: Sequence[int], batches: Sequence[Batch], window: Window) -> Flow:
    """The fewest moves from the homes into the window."""
    flow = Flow(nodes, fixed, batches)
    flow.settle_homes()
    fill(flow, units)
    flow.fit(window)
    return flow


def _without_homes(batches: Sequence[Batch]) -> list[Batch]:
    """One batch per set of nodes."""
    counts: dict[int, int] = {}
    for batch in batches:
        counts[batch.nodes] = counts.get(batch.nodes, 0) + batch.count
    return [Batch(nodes, -1, count) for nodes, count in counts.items()]


def _best_windows(units: Units, highest: int, lowest: int) -> list[Window]:
    """All windows [low, high] of loads of the smallest width that some way of giving out fits in.

    A window is feasible when high is not below the smallest feasible maximum (`highest`), low not above the largest
    feasible minimum (`lowest`), and each node has a whole count in it. For a given high the last two name the best
    low, and only those highs matter that let the node that holds low down go up by one.
    """
    floors = {node: highest // unit * unit for node, unit in units.items()}
    high, best, found = highest, -1, list[tuple[int, int]]()
    while True:
        node = min(floors, key=lambda node: (floors[node], node))
        current = high // units[node] * units[node]
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
        high = current + units[node]
    return [
        Window(
            {node: -(-low // unit) for node, unit in units.items()},
            {node: high // unit for node, unit in units.items()},
        )
        for low, high in found
    ]


def fill(flow: Flow, units: Units) -> None:
    """Give out what is left, the least flexible first, each batch as evenly as it can be: a good start."""
    order = sorted(range(len(flow.batches)), key=lambda number: flow.batches[number].nodes.bit_count())
    for number in order:
        if flow.left[number]:
            _pour(flow, units, number)


def _pour(flow: Flow, units: Units, number: int) -> None:
    """Raise the lowest of the batch's nodes to one level, then give the rest one by one."""
    count, takers = flow.count, list(bits(flow.batches[number].nodes))
    if (rest := flow.left[number]) > len(takers) > 1:
        whole = lcm(*(units[node] for node in takers))
        level = {node: whole // units[node] for node in takers}
        while True:
            height, width = rest + sum(count[node] for node in level), sum(level.values())
            share = {node: height * weight // width for node, weight in level.items()}
            if all(share[node] >= count[node] for node in share):
                break
            level = {node: weight for node, weight in level.items() if share[node] >= count[node]}
        for node in level:
            flow.put(number, node, share[node] - count[node])
    while flow.left[number]:
        flow.put(number, min(takers, key=lambda node: (2 * count[node] + 1) * units[node]), 1)


def even_out(flow: Flow, units: Units) -> None:
    """Bring the sum of count² / weight to its minimum: no chain of moves lowers it.

    With equal weights that is also the smallest maximum and the largest minimum (Harvey et al., Semi-matchings).
    """
    count = flow.count
    improved = True
    while improved:
        improved = False
        least = min((2 * count[node] + 1) * unit for node, unit in units.items())
        for giver in sorted(units, key=lambda node: -(2 * count[node] - 1) * units[node]):
            if (2 * count[giver] - 1) * units[giver] <= least:
                break
            while (chain := _relief(flow, units, giver)) and (amount := _worth(flow, units, giver, chain[-1])) > 0:
                flow.push(chain, min(amount, flow.room(chain)))
                improved = True


def _worth(flow: Flow, units: Units, giver: int, taker: int) -> int:
    """How many VIPs are better on the taker than on the giver, by the sum of squares."""
    gain = (2 * flow.count[giver] + 1) * units[giver] - (2 * flow.count[taker] - 1) * units[taker]
    return (gain - 1) // (2 * (units[giver] + units[taker]))


def _relief(flow: Flow, units: Units, giver: int) -> list[int]:
    """A shortest chain from the giver to the node that one more VIP burdens least; empty: nowhere to go."""
    parent = _reachable(flow, giver)
    others = [node for node in parent if node != giver]
    if not others:
        return []
    return chain_to(parent, min(others, key=lambda node: ((2 * flow.count[node] + 1) * units[node], node)))


def _reachable(flow: Flow, giver: int) -> dict[int, int]:
    """The nodes that a chain of moves from the giver can end at, each with the one before it."""
    parent, seen, queue = {giver: -1}, 1 << giver, deque((giver,))
    while queue:
        node = queue.popleft()
        reach = flow.reach(node)
        for other in bits(reach & ~seen):
            parent[other] = node
            queue.append(other)
        seen |= reach
    return parent


def _donors(flow: Flow, taker: int) -> dict[int, int]:
    """The nodes that a chain of moves to the taker can start at, each with the one after it."""
    after, queue = {taker: -1}, deque((taker,))
    while queue:
        node = queue.popleft()
        for other in flow.count:
            if other not in after and flow.reach(other) >> node & 1:
                after[other] = node
                queue.append(other)
    return after


def smallest_maximum(flow: Flow, units: Units) -> int:
    """The lowest load that the highest node can be brought to; the flow is brought there."""
    count = flow.count
    while True:
        top = max(count[node] * unit for node, unit in units.items())
        for giver in [node for node, unit in units.items() if count[node] * unit == top]:
            parent = _reachable(flow, giver)
            taker = next((node for node in parent if (count[node] + 1) * units[node] < top), -1)
            if taker < 0:
                return top
            flow.push(chain_to(parent, taker), 1)


def largest_minimum(flow: Flow, units: Units) -> int:
    """The highest load that the lowest node can be brought to; the flow is brought there."""
    count = flow.count
    while True:
        bottom = min(count[node] * unit for node, unit in units.items())
        for taker in [node for node, unit in units.items() if count[node] * unit == bottom]:
            after = _donors(flow, taker)
            giver = next((node for node in after if (count[node] - 1) * units[node] > bottom), -1)
            if giver < 0:
                return bottom
            flow.push(chain_to(after, giver)[::-1], 1)
