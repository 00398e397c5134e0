from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.ids import NodeName
from agent.core.settings import UNSTABLE_MAX
from agent.core.view import Entry, Standing, StandingChanged
from agent.core.viewlog import ViewLog


def entry(seq: int) -> Entry:
    return Entry(seq, StandingChanged(NodeName(f"n{seq}"), Standing()))


@given(st.permutations(list(range(1, 9))), st.lists(st.integers(1, 8), max_size=8))
def test_delivery_is_in_order_without_gaps_however_entries_come(order: list[int], again: list[int]) -> None:
    log = ViewLog()
    delivered = [e.seq for seq in [*again[:3], *order, *again] for e in log.receive((entry(seq),))]
    assert delivered == list(range(1, 9))
    assert log.delivered == 8


@given(st.integers(0, 10), st.integers(0, 12))
def test_the_tail_is_what_may_be_missing_elsewhere(written: int, stable: int) -> None:
    log = ViewLog()
    for seq in range(written):
        log.write(entry(seq + 1).decision)
    log.settle(min(stable, written))
    assert [e.seq for e in log.tail()] == list(range(min(stable, written) + 1, written + 1))


def test_the_writer_stops_at_the_limit_until_its_members_have_caught_up() -> None:
    log = ViewLog()
    while not log.full:
        log.write(entry(1).decision)
    assert log.delivered == UNSTABLE_MAX
    log.settle(1)
    assert not log.full


def test_entries_far_ahead_are_not_kept() -> None:
    log = ViewLog()
    assert log.receive((entry(10_000),)) == []
    assert not log._waiting
