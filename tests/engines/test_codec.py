"""Messages survive the wire; nothing illegal does."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ids import Member, NodeName, ViewId, VipName
from agent.core.messages import Decide, Heartbeat, Install, Join, Leave, Message, Recovered
from agent.core.settings import MEMBERS_MAX, VIPS_MAX
from agent.core.view import Answered, Decision, Entry, Moves, View
from agent.engines.embedded.codec import (
    DECISION_TAGS,
    ENTRIES_MAX,
    MESSAGE_TAGS,
    NAME_MAX,
    VERSION,
    Malformed,
    decode,
    encode,
)
from tests.engines.wire_samples import big_install, calm_heartbeat, members, message, record

VIEW = View(ViewId(3, members(1)[0]), members(3))
MOVES = Moves((), True)
KINDS = (Heartbeat, Join, Install, Decide, Leave)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), most=st.integers(0, 5))
def test_a_legal_message_comes_back_equal(kind: type, seed: int, most: int) -> None:
    sent = record(Random(seed), kind, most)
    received = decode(encode(sent))
    assert received == sent
    assert type(received) is kind
    assert repr(received) == repr(sent)  # tuples stay tuples, members stay Members, enums stay enums


def test_tags_cover_every_message_and_decision() -> None:
    assert set(MESSAGE_TAGS) == set(get_args(Message))
    assert set(DECISION_TAGS) == set(get_args(Decision))
    assert len(set(MESSAGE_TAGS.values())) == len(MESSAGE_TAGS)
    assert len(set(DECISION_TAGS.values())) == len(DECISION_TAGS)


def test_the_wire_is_pinned() -> None:
    """Raise VERSION (and docs/wire.md) when this fails: old and new nodes would misread each other."""
    sent = Decide(ViewId(3, Member(NodeName("a"), 7)), (Entry(1, Answered(((NodeName("b"), 5),))),))
    expected = bytes.fromhex("020492920392a161079192019207919192a16205")
    assert encode(sent) == expected
    assert {Heartbeat: 1, Join: 2, Install: 3, Decide: 4, Leave: 5} == MESSAGE_TAGS


def refused(sent: Any) -> str:
    with pytest.raises(Malformed) as caught:
        decode(encode(sent))
    return caught.value.detail


CALM = calm_heartbeat(3)


@pytest.mark.parametrize(
    "sent",
    [
        replace(CALM, epoch=-1),
        replace(CALM, epoch=2**53 + 1),
        replace(CALM, epoch=True),
        replace(CALM, gathering=1),  # type: ignore[arg-type]
        replace(CALM, lease_bound=float("nan")),
        replace(CALM, lease_bound=float("inf")),
        replace(CALM, lease_bound=-0.1),
        replace(CALM, lease_bound=1.1e9),
        replace(CALM, uncovered=(VipName(""),)),
        replace(CALM, uncovered=(VipName("x" * (NAME_MAX + 1)),)),
        replace(CALM, uncovered=(VipName("a\nb"),)),
        replace(CALM, uncovered=(VipName("a\x1b[31m"),)),
        replace(CALM, uncovered=(VipName("a\u202eb"),)),
        replace(CALM, digest="x" * 257),
        replace(CALM, digest="\0"),
        replace(CALM, hears=(Member(NodeName("a\tb"), 1),)),
        replace(CALM, hears=(Member(NodeName("a"), -1),)),
        replace(CALM, hears=tuple(Member(NodeName("a"), index) for index in range(MEMBERS_MAX + 1))),
        replace(CALM, uncovered=tuple(VipName(str(index)) for index in range(VIPS_MAX + 1))),
        replace(CALM, view=View(VIEW.id, ())),
        replace(CALM, view=View(VIEW.id, VIEW.members[::-1])),
        replace(CALM, view=View(VIEW.id, (*VIEW.members, Member(VIEW.members[-1].name, 2**40)))),
        replace(CALM, view=View(VIEW.id, members(MEMBERS_MAX + 1))),
        Decide(VIEW.id, (Entry(0, Answered(())),)),
        Decide(VIEW.id, (Entry(1, Answered(())), Entry(3, Answered(())))),
        Decide(VIEW.id, (Entry(2, Answered(())), Entry(1, Answered(())))),
        Decide(VIEW.id, tuple(Entry(index, Answered(())) for index in range(1, ENTRIES_MAX + 2))),
        replace(big_install(3, 3), states=big_install(3, 3).states[1:]),
        replace(big_install(3, 3), sizes=(1, 1)),
        replace(big_install(3, 3), recovered=(Recovered(VIEW.id, (), (Entry(5, MOVES), Entry(5, MOVES))),)),
    ],
)  # fmt: skip
def test_what_is_beyond_the_limits_is_malformed(sent: Any) -> None:
    assert refused(sent)


def test_the_limits_themselves_pass() -> None:
    full = replace(
        CALM,
        epoch=2**53,
        lease_bound=1e9,
        view=View(VIEW.id, members(MEMBERS_MAX)),
        uncovered=tuple(VipName(f"{index:>064}") for index in range(VIPS_MAX)),
    )
    assert decode(encode(full)) == full


def test_a_join_with_a_gap_in_its_tail_is_malformed() -> None:
    join = record(Random(4), Join, 3)
    broken = replace(join, tail=(Entry(1, Answered(())), Entry(4, Answered(()))))
    assert "consecutive" in refused(broken)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes((VERSION,)),
        bytes((VERSION, 5)),
        bytes((VERSION + 1,)) + encode(Leave(VIEW.id))[1:],
        bytes((VERSION, 99)) + encode(Leave(VIEW.id))[2:],
        encode(Leave(VIEW.id)) + b"\0",
        encode(Leave(VIEW.id))[:-1],
        bytes((VERSION, 4)) + b"\xdd\xff\xff\xff\xff",
        bytes((VERSION, 1)) + b"\x91" * 100_000,
        bytes((VERSION, 4)) + msgspec.msgpack.encode([[1, ["a", 1]], [[1, [9, []]]]]),
        bytes((VERSION, 4)) + msgspec.msgpack.encode([[1, ["a", 1]], [[1, [7, [{}]]]]]),
        bytes((VERSION, 5)) + b"\x91\x92\x01\x92\xa1\xff\x01",
    ],
)
def test_broken_bytes_are_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        decode(payload)


def test_deep_nesting_inside_a_decision_is_malformed() -> None:
    payload = bytes((VERSION, 4)) + b"\x92\x92\x01\x92\xa1a\x01\x91\x92\x01\x92\x07" + b"\x91" * 100_000
    with pytest.raises(Malformed):
        decode(payload)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_every_cut_is_malformed(seed: int, data: st.DataObject) -> None:
    payload = encode(message(Random(seed), 2))
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(Malformed):
        decode(payload[:cut])
