"""Particular flows; that all are the best is test_placement_bruteforce.py's."""

from __future__ import annotations

from agent.core.evenness import give_out
from agent.core.flow import Batch


def test_flow_with_homes_and_bounds() -> None:
    """Three homes, one of them too full, weights 1, 1, 2: the cheapest chain goes over the node in between."""
    batches = [Batch(0b011, 0, 6), Batch(0b110, 1, 2), Batch(0b100, 2, 1)]
    assert give_out([0, 1, 2], [1, 1, 2], [0, 0, 0], batches) == [{0: 3, 1: 3}, {2: 2}, {2: 1}]


def test_a_vip_comes_home_when_a_later_chain_needs_its_place() -> None:
    """The first chain gives node 0's first VIP to node 1; node 3 has nowhere else to go, so it comes back."""
    batches = [Batch(0b0011, 0, 1), Batch(0b0101, 0, 1), Batch(0b1010, 3, 1), Batch(0b1000, 3, 1)]
    assert give_out([0, 1, 2, 3], [1, 1, 1, 1], [0, 0, 0, 0], batches) == [{0: 1}, {2: 1}, {1: 1}, {3: 1}]


def test_the_cheapest_taker_is_found_first() -> None:
    """Node 0 must give two of its VIPs; node 1 is reached only by a chain of two moves, node 2 by one."""
    batches = [Batch(0b1001, 0, 3), Batch(0b1010, 3, 1), Batch(0b0101, 0, 1)]
    shares = give_out([0, 1, 2, 3], [1, 1, 1, 1], [0, 0, 0, 0], batches)
    assert shares == [{0: 2, 3: 1}, {1: 1}, {2: 1}]
