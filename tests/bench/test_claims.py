import time

from agent.lab.arp import Seen
from tests.bench.claims import answered_by_two, in_turns, silent_for, stretches

LONG = 60.0
"""Seconds that two nodes answer in turns, as those of a system without fencing do."""


def claims(*pairs: tuple[float, str], address: str = "10.0.0.1") -> list[Seen]:
    return [Seen(at, "eth0", "reply", address, f"mac-{node}", node, False, False) for at, node in pairs]


def turns(seconds: float, began: float = 0.0) -> list[tuple[float, str]]:
    """Two that answer a question each 2 ms."""
    rounds = int(seconds / 0.002)
    return [(began + n * 0.002 + shift, node) for n in range(rounds) for shift, node in ((0.0, "a"), (0.0003, "b"))]


def test_a_minute_of_two_that_answer_is_counted_at_once() -> None:
    """60,000 frames: looking at all earlier ones for each of them took 14 s."""
    frames = claims(*turns(LONG))
    began = time.process_time()
    (whole,) = stretches(frames)
    assert silent_for(frames, "a", 0.0) < 0.002
    assert time.process_time() - began < 2.0
    assert LONG - 0.01 < whole.until - whole.since < LONG


def test_an_asker_that_stalls_does_not_shorten_the_sum() -> None:
    frames = claims(*turns(1.0), *turns(1.0, began=1.1))
    assert len(stretches(frames)) == 2
    assert 0.99 < answered_by_two(frames)[0] < 1.0
    assert 1.98 < in_turns(stretches(frames)) < 2.0


def test_the_sum_is_of_the_worst_address_not_of_all() -> None:
    frames = claims(*turns(1.0)) + claims(*turns(0.5), address="10.0.0.2")
    assert 0.99 < in_turns(stretches(frames)) < 1.0


def test_three_that_answer_are_as_bad_as_two() -> None:
    third = [(at + 0.0001, "c") for at, node in turns(1.0) if node == "b"]
    (whole,) = stretches(claims(*turns(1.0), *third))
    assert 0.99 < whole.until - whole.since < 1.01


def test_a_stranger_is_no_node() -> None:
    assert stretches(claims(*[(at, node if node == "a" else "") for at, node in turns(1.0)])) == []


def test_two_stretches_keep_their_own_times() -> None:
    first, second = stretches(claims(*turns(0.1), *[(0.1 + n * 0.002, "b") for n in range(500)], *turns(0.1, 1.1)))
    assert first.until < 0.11
    assert second.since > 1.09
