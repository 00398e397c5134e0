"""What is worked out from records: outages and overlaps, on made-up and on hypothesis's own histories."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.lab import probe_record
from agent.lab.holding import Apart, held_twice, holders, periods
from agent.lab.probe_record import CAPACITY, Outage, Writer
from agent.lab.watch import Change

NODES = ["a", "b", "c"]
VIP = "10.0.0.9"


def write(
    path: Path, replies: list[tuple[float, int]], *, capacity: int = 1024, stalls: tuple[float, ...] = ()
) -> None:
    writer = Writer(path, 0.001, capacity)
    for number, (at, node) in enumerate(replies):
        writer.reply(at, 0, node, number)
    for end in stalls:
        writer.stall(end, 0.030)
    writer.publish(1000.0, 0)
    writer.close()


def outage(path: Path, since: float, until: float) -> Outage:
    recording = probe_record.read(path, since, until)
    return probe_record.outage(recording, 0, "v", VIP, NODES, since, until)


def test_outage_is_the_longest_gap_less_a_period_with_who_answered_before_and_after(tmp_path: Path) -> None:
    early = [(100 + number / 1000, 0) for number in range(50)]
    late = [(100.349 + number / 1000, 1) for number in range(50)]
    write(tmp_path / "r", early + late)
    seen = outage(tmp_path / "r", 100.02, 100.4)
    assert seen.seconds == pytest.approx(0.299)
    assert (seen.before, seen.after, seen.served, seen.turns) == ("a", "b", True, 1)
    assert [seen.gap_began, seen.gap_ended] == pytest.approx([100.049, 100.349])


def test_a_gap_that_began_before_the_phase_counts_from_its_last_answer(tmp_path: Path) -> None:
    write(tmp_path / "r", [(99.9, 0), (100.4, 1)])
    assert outage(tmp_path / "r", 100.0, 100.5).seconds == pytest.approx(0.499)


def test_silence_to_the_end_is_an_outage_that_is_not_served(tmp_path: Path) -> None:
    write(tmp_path / "r", [(100.0, 0), (100.001, 0)])
    seen = outage(tmp_path / "r", 100.0, 103.0)
    assert not seen.served
    assert seen.seconds == pytest.approx(2.998)
    assert (seen.before, seen.after) == ("a", "")


def test_nobody_ever_answers(tmp_path: Path) -> None:
    write(tmp_path / "r", [])
    seen = outage(tmp_path / "r", 100.0, 101.0)
    assert (seen.served, seen.before, seen.runs) == (False, "", ())


def test_two_nodes_that_answer_in_turns_are_seen(tmp_path: Path) -> None:
    write(tmp_path / "r", [(100 + number / 1000, number % 2) for number in range(100)])
    seen = outage(tmp_path / "r", 100.0, 100.1)
    assert seen.turns in (98, 99)
    assert len(seen.runs) == probe_record.RUNS_MAX
    assert seen.seconds == pytest.approx(0, abs=1e-9)


def test_probes_answered_twice_are_counted(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r", 0.001, 64)
    for sequence, node in ((1, 0), (2, 0), (2, 1), (3, 0)):
        writer.reply(100 + sequence / 1000, 0, node, sequence)
    writer.publish(101.0, 0)
    writer.close()
    assert outage(tmp_path / "r", 100.0, 100.1).doubled == 1


def test_the_ring_says_when_it_no_longer_has_the_beginning(tmp_path: Path) -> None:
    write(tmp_path / "r", [(100 + number / 1000, 0) for number in range(300)], capacity=100)
    assert not probe_record.read(tmp_path / "r", 100.0, 100.3).complete
    recent = probe_record.read(tmp_path / "r", 101.25, 101.3)
    assert recent.complete
    assert probe_record.read(tmp_path / "r", 100.0, 100.3).replies[0].times[0] >= 100.2


def test_stalls_count_where_they_touch_the_phase(tmp_path: Path) -> None:
    write(tmp_path / "r", [(100.0, 0)], stalls=(100.010, 100.500))
    recording = probe_record.read(tmp_path / "r", 100.0, 100.6)
    assert recording.worst_stall(100.0, 100.3) == pytest.approx(0.030)
    assert recording.worst_stall(100.02, 100.3) == 0.0
    assert recording.worst_stall(100.3, 100.48) == pytest.approx(0.030)


def test_a_strange_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"\0" * 256)
    with pytest.raises(ValueError, match="not a prober's record"):
        probe_record.read(tmp_path / "r", 0.0, 1.0)
    assert CAPACITY > 120 * 10_000


def change(at: float, node: str, present: bool, address: str = VIP) -> Change:
    return Change(at, node, address, present)


def test_overlap_of_two_connected_nodes_is_found_exactly() -> None:
    changes = [change(1, "a", True), change(5, "b", True), change(5.25, "a", False)]
    (found,) = held_twice(changes, [VIP], 0, 10)
    assert (found.nodes, found.since, found.until, found.seconds) == (("a", "b"), 5, 5.25, 0.25)


def test_order_decides_not_the_time_of_reading() -> None:
    """Release and acquisition read in one go have one time; in the kernel's order they do not overlap."""
    assert held_twice([change(1, "a", True), change(5, "a", False), change(5, "b", True)], [VIP], 0, 10) == []
    assert len(held_twice([change(1, "a", True), change(5, "b", True), change(5, "a", False)], [VIP], 0, 10)) == 1


def test_what_is_still_held_twice_counts_to_the_end() -> None:
    (found,) = held_twice([change(1, "a", True), change(2, "b", True)], [VIP], 0, 10)
    assert found.until == 10
    assert held_twice([change(1, "a", True), change(2, "b", True)], ["10.0.0.8"], 0, 10) == []


def test_nodes_that_are_apart_may_both_hold() -> None:
    changes = [change(1, "a", True), change(3, "b", True), change(8, "a", False)]
    cut = Apart(frozenset({"a"}), 2, 7)
    (found,) = held_twice(changes, [VIP], 0, 10, [cut])
    assert (found.since, found.until) == (7, 8)
    assert len(held_twice(changes, [VIP], 0, 10, [Apart(frozenset({"a", "b"}), 2, 7)])) == 1
    assert held_twice(changes, [VIP], 0, 10, [Apart(frozenset({"b"}), 0, 9)]) == []


HISTORY = st.lists(st.tuples(st.sampled_from(NODES), st.booleans()), max_size=30)


@settings(deadline=None)
@given(HISTORY, st.integers(0, 30), st.integers(0, 30))
def test_held_twice_agrees_with_looking_at_every_moment(history: list[tuple[str, bool]], one: int, two: int) -> None:
    """At each instant between two changes the overlap is what counting the holders says."""
    changes = [change(float(at), node, present) for at, (node, present) in enumerate(history)]
    cut = Apart(frozenset({"a"}), min(one, two), max(one, two))
    found = held_twice(changes, [VIP], 0, 31, [cut])
    for at in range(31):
        moment = at + 0.5
        now = set(holders(changes[: at + 1], VIP))
        if cut.since <= moment <= cut.until:
            now.discard("a")
        expected = {(x, y) for x in now for y in now if x < y}
        assert {twice.nodes for twice in found if twice.since <= moment <= twice.until} == expected


@settings(deadline=None)
@given(HISTORY)
def test_periods_cover_what_is_held(history: list[tuple[str, bool]]) -> None:
    changes = [change(float(at), node, present) for at, (node, present) in enumerate(history)]
    for at in range(len(history)):
        now = sorted(held.node for held in periods(changes, 99) if held.since <= at + 0.5 <= held.until)
        assert now == sorted(holders(changes[: at + 1], VIP))
