"""R18: two that hear each other and share no view, of which neither covers a VIP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.claims import Claims
from agent.core.ids import Member, NodeName, Seq, ViewId, VipName
from agent.core.inputs import Received
from agent.core.messages import Heartbeat, Join, Requests
from agent.core.outsiders import Outsiders
from agent.core.peers import Peer
from agent.core.settings import PartitionPolicy
from agent.core.view import MemberState, Standing, View
from tests.core.cluster import running
from tests.core.test_lease import LEASE, TIMING, answering, host, leased
from tests.sim.world import Host, World

A, B, C = (Member(NodeName(name), 1) for name in "abc")
VIP = VipName("10.0.1.1")


def beat(
    sender: Member, number: int, *, uncovered: tuple[VipName, ...] = (), answers: tuple[Member, int] | None = None
) -> Heartbeat:
    """Of a view of the sender's own; it does not hear us, so that there is no merge."""
    view = View(ViewId(1, sender), (sender,))
    echoes = ((*answers, 0.0),) if answers is not None else ()
    return Heartbeat(view, 1, False, Seq(0), Seq(0), 0, True, uncovered, "", "", 0.0, (), number, echoes, Requests())


def test_the_lower_name_is_waited_for_until_it_has_answered_or_does_not_hear_us() -> None:
    claims = Claims()
    assert claims.granted(VIP, 1.0, 5, None, 2.0), "whoever has a higher name waits for us"
    assert not claims.granted(VIP, 1.0, 5, 5, 2.0), "what it answers was sent before"
    assert not claims.granted(VIP, 1.5, 7, 5, 2.0)
    assert claims.granted(VIP, 1.6, 7, 6, 2.0)
    assert claims.granted(VIP, 3.0, 9, 5, 2.0), "out of patience"
    claims.keep(set())
    assert not claims.granted(VIP, 3.0, 9, 6, 2.0), "a claim that was dropped is made anew"


NAMES = [VipName(f"10.0.1.{number}") for number in range(3)]
vips = st.lists(st.sampled_from(NAMES), unique=True).map(tuple)


def declaring(member: Member, held: tuple[VipName, ...], epoch: int) -> Peer:
    state = MemberState(held, True, Standing(), "", "", None)
    join = Join(epoch, member, (member,), (), (), None, Seq(0), (), (), state)
    return Peer(member, 0.0, 0.0, join=join, join_at=1.0)


@given(st.lists(st.tuples(st.sampled_from("acd"), st.booleans(), vips), max_size=4))
def test_outsiders_cover_what_one_of_them_covers(said: list[tuple[str, bool, tuple[VipName, ...]]]) -> None:
    peers = []
    for name, gathers, named in said:
        member = Member(NodeName(name), 1)
        serving = Peer(member, 0.0, 0.0, heartbeat=beat(member, 9, uncovered=named))
        peers.append(declaring(member, named, 2) if gathers else serving)
    beside = Outsiders(B, peers)
    for vip in NAMES:
        assert beside.cover(vip) == any((vip in named) == gathers for _, gathers, named in said)


def test_all_with_a_lower_name_have_to_answer() -> None:
    lower = [Member(NodeName(name), 1) for name in "ab"]
    beats = [beat(one, 9, answers=(C, number)) for one, number in zip(lower, (5, 4), strict=True)]
    answering = [Peer(one.view.members[0], 0.0, 0.0, heartbeat=one) for one in beats if one.view is not None]
    higher = Member(NodeName("d"), 1)
    assert Outsiders(C, [*answering, Peer(higher, 0.0, 0.0, heartbeat=beat(higher, 9))]).answered() == 4
    assert Outsiders(C, answering[:1]).answered() == 5
    assert Outsiders(C, [*answering, Peer(Member(NodeName("aa"), 1), 0.0, 0.0)]).answered() == 0
    assert Outsiders(A, answering[1:]).answered() is None


def beside(names: str, waits: str, other: str) -> tuple[World, Host, Member, tuple[VipName, ...]]:
    """`other` has died and lives again, in a view of its own that covers everything; `waits` is alone in another."""
    world, _ = running(list(names))
    here, there = host(world, waits), host(world, other)
    wanted = tuple(sorted(there.up))
    world.crash(there)
    again = Member(NodeName(other), there.incarnation + 1)
    number = 0
    assert here.node is not None
    while set(here.node.serving.waiting.values()) != {"covered"}:
        number += 1
        world.feed(here, Received(again, beat(again, number)))
        world.run(world.now + 0.01)
        assert number < 1000
    return world, here, again, wanted


def test_who_waits_claims_what_the_lower_name_does_not_cover_and_takes_it_when_that_was_heard() -> None:
    world, b, a, wanted = beside("ab", "b", "a")
    assert b.node is not None
    serving, beats = b.node.serving, b.node._beats
    world.feed(b, Received(a, beat(a, 2000, uncovered=wanted, answers=(b.node.me, beats.number))))
    assert dict(serving.waiting) == dict.fromkeys(wanted, "claim")
    assert serving.uncovered(b.node.membership.peers) == (), "its heartbeats claim them"
    before = beats.number
    while beats.number == before:
        world.run(world.now + 0.01)
    world.feed(b, Received(a, beat(a, 2001, uncovered=wanted, answers=(b.node.me, before))))
    assert set(serving.waiting.values()) == {"claim"}, "that was said before the claim"
    world.feed(b, Received(a, beat(a, 2002, uncovered=wanted, answers=(b.node.me, beats.number))))
    assert not serving.waiting
    assert set(wanted) <= serving.ownership.holdings.keys()


def test_what_the_lower_name_has_taken_meanwhile_is_left_to_it() -> None:
    world, b, a, wanted = beside("ab", "b", "a")
    assert b.node is not None
    serving, beats = b.node.serving, b.node._beats
    world.feed(b, Received(a, beat(a, 2000, uncovered=wanted)))
    before = beats.number
    while beats.number == before:
        world.run(world.now + 0.01)
    world.feed(b, Received(a, beat(a, 2001, answers=(b.node.me, beats.number))))
    assert dict(serving.waiting) == dict.fromkeys(wanted, "covered")
    assert not set(wanted) & serving.ownership.holdings.keys()
    assert serving.uncovered(b.node.membership.peers) == wanted, "and is claimed no more"


@pytest.mark.parametrize("heard", [True, False])
def test_the_lower_name_acquires_at_once(heard: bool) -> None:
    world, a, b, wanted = beside("ab", "a", "b")
    assert a.node is not None
    world.feed(a, Received(b, beat(b, 2000, uncovered=wanted, answers=(a.node.me, a.node._beats.number * heard))))
    assert set(wanted) <= a.node.serving.ownership.holdings.keys()


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_majority_asks_nobody_who_does_not_hear_it(name: str) -> None:
    """A firewall that lets nothing in: the others hear that node, and its name may be lower than theirs."""
    world, _ = leased(["a", "b", "c"], partition=PartitionPolicy.QUORUM)
    world.network.cut.update((str(other), name) for other in world.hosts if other != name)
    answered = dict.fromkeys(answering(world), world.now)
    while world.now < 8.0:
        world.run(world.now + 0.005)
        answered.update(dict.fromkeys(answering(world), world.now))
        assert world.now - min(answered.values()) < TIMING.failure_timeout + LEASE
