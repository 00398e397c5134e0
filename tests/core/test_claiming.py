"""R18: two that hear each other and share no view, of which neither covers a VIP."""

from __future__ import annotations

import pytest

from agent.core.claims import Claims
from agent.core.ids import Member, NodeName, Seq, ViewId, VipName
from agent.core.inputs import Received
from agent.core.messages import Heartbeat, Requests
from agent.core.peers import Peer
from agent.core.view import View
from tests.core.cluster import running
from tests.core.test_lease import host
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


def peer(member: Member, answered: int) -> Peer:
    return Peer(member, 0.0, 0.0, heartbeat=beat(member, 9, answers=(B, answered)))


def test_the_lower_name_is_waited_for_until_it_has_answered_or_does_not_hear_us() -> None:
    claims = Claims(B)
    assert claims.granted(VIP, 1.0, 5, [peer(C, 0)], 2.0), "the higher name waits for us"
    assert not claims.granted(VIP, 1.0, 5, [peer(A, 5)], 2.0), "what it answers was sent before"
    assert not claims.granted(VIP, 1.5, 7, [peer(A, 5), peer(C, 0)], 2.0)
    assert claims.granted(VIP, 1.6, 7, [peer(A, 6), peer(C, 0)], 2.0)
    assert claims.granted(VIP, 3.0, 9, [peer(A, 5)], 2.0), "out of patience"
    claims.keep(set())
    assert not claims.granted(VIP, 3.0, 9, [peer(A, 6)], 2.0), "a claim that was dropped is made anew"


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
