"""Cutting and putting together, and what a hostile or lossy network makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ids import Member, NodeName
from agent.engines.embedded.fragments import (
    AGE_MAX,
    BYTES_MAX,
    CHUNK_COST,
    FRAGMENTS_MAX,
    PARTIAL_MAX,
    Part,
    Reassembly,
    split,
)
from agent.engines.embedded.rejections import Reason, Rejected

ALICE = Member(NodeName("alice"), 1)
BOB = Member(NodeName("bob"), 1)


@settings(deadline=None)
@given(payload=st.binary(min_size=101, max_size=2000), random=st.randoms(use_true_random=False))
def test_any_order_and_duplicates_give_the_message_once(payload: bytes, random: object) -> None:
    chunks = split(payload, 100)
    arrivals = [*range(len(chunks)), *range(len(chunks))]
    random.shuffle(arrivals)  # type: ignore[attr-defined]
    reassembly, whole = Reassembly(), []
    seen: set[int] = set()
    for position in arrivals:
        if len(seen) == len(chunks):
            break  # what comes after is the replay window's business
        seen.add(position)
        done = reassembly.add(ALICE, Part(1, position, len(chunks)), chunks[position], 0.0)
        if done is not None:
            whole.append(done)
    assert whole == [payload]
    assert (len(reassembly), reassembly.cost) == (0, 0)


def test_senders_and_lives_do_not_mix() -> None:
    reassembly = Reassembly()
    assert reassembly.add(ALICE, Part(1, 0, 2), b"a", 0.0) is None
    assert reassembly.add(BOB, Part(1, 1, 2), b"B", 0.0) is None
    assert reassembly.add(Member(ALICE.name, 2), Part(1, 1, 2), b"x", 0.0) is None
    assert reassembly.add(ALICE, Part(1, 1, 2), b"A", 0.0) == b"aA"
    assert reassembly.add(BOB, Part(1, 0, 2), b"b", 0.0) == b"bB"


def test_the_oldest_of_a_sender_gives_way_and_others_stay() -> None:
    reassembly = Reassembly()
    reassembly.add(BOB, Part(1, 0, 2), b"b", 0.0)
    for number in range(PARTIAL_MAX + 1):
        reassembly.add(ALICE, Part(number, 0, 2), b"a", 0.0)
    assert len(reassembly) == PARTIAL_MAX + 1
    assert reassembly.add(BOB, Part(1, 1, 2), b"B", 0.0) == b"bB"
    assert reassembly.add(ALICE, Part(0, 1, 2), b"A", 0.0) is None  # its first part is gone


def test_age_is_bounded() -> None:
    reassembly = Reassembly()
    reassembly.add(ALICE, Part(1, 0, 2), b"a", 10.0)
    reassembly.expire(10.0 + AGE_MAX)
    assert len(reassembly) == 1
    reassembly.expire(10.01 + AGE_MAX)
    assert (len(reassembly), reassembly.cost) == (0, 0)


def test_what_is_too_old_is_not_completed() -> None:
    reassembly = Reassembly()
    reassembly.add(ALICE, Part(1, 0, 2), b"a", 10.0)
    assert reassembly.add(ALICE, Part(1, 1, 2), b"A", 10.01 + AGE_MAX) is None
    assert len(reassembly) == 1


def test_bytes_are_bounded_over_all_senders() -> None:
    reassembly = Reassembly()
    chunk = bytes(1200)
    for sender in range(128):
        for number in range(PARTIAL_MAX):
            for position in range(100):
                reassembly.add(Member(NodeName(str(sender)), 1), Part(number, position, 2000), chunk, 0.0)
                assert reassembly.cost <= BYTES_MAX
    assert reassembly.cost > BYTES_MAX - 100 * (1200 + CHUNK_COST) * 2  # and they are used


@pytest.mark.parametrize(
    ("part", "chunk", "reason"),
    [
        (Part(1, 0, 1), b"a", Reason.MALFORMED),
        (Part(1, 0, 0), b"a", Reason.MALFORMED),
        (Part(1, 2, 2), b"a", Reason.MALFORMED),
        (Part(1, 0, 2), b"", Reason.MALFORMED),
        (Part(1, 0, FRAGMENTS_MAX + 1), b"a", Reason.LIMIT),
        (Part(7, 1, 3), b"a", Reason.MALFORMED),
    ],
)
def test_what_cannot_be_a_part_is_rejected(part: Part, chunk: bytes, reason: Reason) -> None:
    reassembly = Reassembly()
    reassembly.add(ALICE, Part(7, 0, 2), b"a", 0.0)
    with pytest.raises(Rejected) as caught:
        reassembly.add(ALICE, part, chunk, 0.0)
    assert caught.value.reason is reason
    assert len(reassembly) == 1


def test_a_forgotten_life_leaves_nothing() -> None:
    reassembly = Reassembly()
    reassembly.add(ALICE, Part(1, 0, 2), b"a", 0.0)
    reassembly.add(BOB, Part(1, 0, 2), b"b", 0.0)
    reassembly.forget(ALICE)
    assert (len(reassembly), reassembly.cost) == (1, 1 + CHUNK_COST)
