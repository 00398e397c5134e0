"""More schedules against the promise: who was late, alone, or reloaded at the wrong moment (see test_lease_attacks)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.effects import HoldLease
from agent.core.ids import Member, NodeName, ViewId, VipName
from agent.core.inputs import DrainRequested, HardwareKnown, JoinRequested, LeaveRequested, Received
from agent.core.install import DRIFT, Vote, waits
from agent.core.lease import Lease
from agent.core.messages import Leave, Lost
from agent.core.settings import Timing
from agent.core.view import View
from tests.core.cluster import holders, running, vips
from tests.core.test_attacks import SPECS, V, join
from tests.core.test_lease import LEASE, TIMING, answering, host
from tests.core.test_lease_attacks import SLOW, exact_kernels, made, reload

__all__ = ["exact_kernels"]

PATIENT = Timing(mature=5.0)


@pytest.mark.parametrize("sleep", [0.385, 0.7, 1.5])
def test_who_wakes_alone_does_not_answer_beside_one_that_woke_before(sleep: float) -> None:
    """b sleeps, a is alone with everything and falls asleep just before b wakes, who takes over; then a wakes."""
    world = made("ab", timing=PATIENT, until=8.0)
    world.pause(host(world, "b"))
    world.run(9.0)
    assert len(host(world, "a").answers(world.now)) == 6
    world.pause(host(world, "a"))
    world.run(9.001)
    world.resume(host(world, "b"))
    world.run(9.0 + sleep)
    world.resume(host(world, "a"))
    world.run(12.0)
    assert sum(map(len, answering(world).values())) == 6


@pytest.mark.parametrize("sleep", [0.37, 0.38, 0.39])
def test_two_that_wake_do_not_answer_beside_the_third(sleep: float) -> None:
    """The same with two that assure each other that nothing has happened."""
    world = made("abc", timing=PATIENT, until=8.0)
    world.pause(host(world, "c"))
    world.run(9.03)
    for name in "ab":
        world.pause(host(world, name))
    world.run(9.0305)
    world.resume(host(world, "c"))
    world.run(9.03 + sleep)
    for name in "ab":
        world.resume(host(world, name))
    world.run(12.0)
    assert sum(map(len, answering(world).values())) == 6


def test_who_sleeps_at_its_start_has_not_looked_around() -> None:
    """b is stopped right after its first step for longer than `mature`; as it wakes, a is late, with a lease."""
    world = made("ab", timing=PATIENT, until=8.0)
    world.crash(host(world, "b"))
    world.run(9.0)
    world.start(host(world, "b"))
    world.pause(host(world, "b"))
    world.run(15.05)
    world.pause(host(world, "a"))
    world.resume(host(world, "b"))
    world.run(15.05 + 0.3)
    world.resume(host(world, "a"))
    world.run(20.0)
    assert sum(map(len, answering(world).values())) == 6


def test_a_goodbye_to_an_earlier_view_says_nothing_of_what_was_taken_since() -> None:
    """What c sends to b comes late: its Leave arrives when c is a member again, with a lease that others renew."""
    world = made("abcde", quorum=True, until=4.0)
    b, c = host(world, "b"), host(world, "c")
    assert c.node is not None
    left = c.node.membership.view
    assert left is not None
    world.network.cut.add(("c", "b"))
    world.feed(c, LeaveRequested(stop=False))
    world.run(4.02)
    assert not c.node.membership.active
    world.feed(c, JoinRequested())
    world.run(4.25)
    for one in world.hosts.values():
        assert one.node is not None
        assert one.node.membership.view is not None
        assert len(one.node.membership.view.members) == 5
    for other in "abde":
        world.feed(host(world, other), DrainRequested(True))
    world.run(4.3)
    assert len(c.answers(world.now)) == 6
    world.pause(c)
    host(world, "a").guarded = True
    world.crash(host(world, "a"))
    world.feed(b, Received(c.node.me, Leave(left.id)))
    world.run(6.0)
    assert sum(map(len, answering(world).values())) == 6


def test_nor_does_a_goodbye_that_others_have_outlived() -> None:
    """a knows that b left the view of epoch 1; c was in one with b since, waits for it, and cannot say more yet."""
    a, b, c = (Member(NodeName(name), 1) for name in "abc")
    with_b = View(ViewId(1, a), (a, b, c)), View(ViewId(2, b), (b, c))
    now_on = View(ViewId(3, a), (a, c))
    of_a = join(a, bound=2.0, lost=(Lost(b, 0.0, 0.0),), old_view=with_b[0])
    of_c = join(c, bound=2.0, old_view=with_b[1])
    rests = dict(waits(now_on, {a: Vote(of_a, 1.0), c: Vote(of_c, 1.0)}, {"t": SPECS}, 1.0))
    assert rests.get(V) == 2.0 * (1 + DRIFT)
    of_c = replace(of_c, old_view=with_b[0])
    assert waits(now_on, {a: Vote(of_a, 1.0), c: Vote(of_c, 1.0)}, {"t": SPECS}, 1.0) == ()


def test_what_was_leased_for_long_runs_on_when_its_node_leaves_and_comes_back() -> None:
    world = made("abc", quorum=True, lease=2.7, timing=SLOW, until=8.0)
    for one in world.hosts.values():
        reload(world, one, lease_bound=LEASE, timing=replace(SLOW, failure_timeout=0.4))
    world.run(8.02)
    c = host(world, "c")
    world.feed(c, LeaveRequested(stop=False))
    world.run(8.05)
    assert c.node is not None
    assert not c.node.membership.active
    world.feed(c, JoinRequested())
    world.run(8.2)
    for other in "ab":
        world.feed(host(world, other), DrainRequested(True))
    world.run(8.3)
    assert len(c.answers(world.now)) == 6
    world.pause(c)
    world.run(12.0)
    assert sum(map(len, answering(world).values())) == 6


def test_a_shorter_lease_does_not_make_the_kernel_forget_a_longer_one() -> None:
    lease = Lease(2.7, 0.1)
    lease.extend(10.0, 10.0, clear=True)
    lease.configure(LEASE, 0.1)
    lease.drop(10.1)
    assert lease.extend(10.3, 10.2, clear=True)[0] == HoldLease(10.2 + LEASE, fresh=True)
    assert lease.lapse(10.6)
    assert not lease.in_force(10.6)
    assert not lease.silent(10.6)
    assert lease.remaining(10.6) == 12.7 - 10.6
    assert lease.silent(12.7)


def test_a_vip_that_only_the_lost_node_knew_is_waited_for_when_a_reload_names_it() -> None:
    """c has been told of a seventh VIP first, holds it and hangs; the others go on without it, then hear of the VIP."""
    world = made("abc", quorum=True, until=4.0)
    reload(world, host(world, "c"), vips=vips(7))
    world.run(4.7)
    assert len(answering(world)) == 7
    world.network.cut.add(("c", "a"))
    world.run(5.0)
    world.pause(host(world, "c"))
    world.feed(host(world, "a"), HardwareKnown(("02:00:00:00:00:01",)))
    world.run(5.15)
    node = host(world, "a").node
    assert node is not None
    assert node.membership.view is not None
    assert len(node.membership.view.members) == 2
    for name in "ab":
        reload(world, host(world, name), vips=vips(7))
    world.run(8.0)
    assert len(answering(world)) == 7


def test_who_leaves_and_comes_back_does_not_vote_before_the_longest_lease_that_it_knew_is_over() -> None:
    """It may have acknowledged that, and will not say so any more."""
    world = made("abc", quorum=True, lease=2.7, timing=SLOW, until=8.0)
    for one in world.hosts.values():
        reload(world, one, lease_bound=LEASE, timing=replace(SLOW, failure_timeout=0.4))
    world.run(8.05)
    c = host(world, "c")
    world.feed(c, LeaveRequested(stop=False))
    world.run(8.1)
    world.feed(c, JoinRequested())
    world.run(10.0)
    assert c.node is not None
    assert not c.node.serving.voting
    world.run(11.5)
    assert c.node.serving.voting
    assert sum(map(len, answering(world).values())) == 6


def test_the_lease_of_one_that_was_heard_outside_the_view_is_waited_for() -> None:
    """b sleeps, a takes everything and sleeps itself as b wakes, is up for two heartbeats, and sleeps on."""
    world = made("ab", lease=1.0, until=5.0)
    a, b = host(world, "a"), host(world, "b")
    world.pause(b)
    world.run(6.4)
    assert len(a.answers(world.now)) == 6
    world.pause(a)
    world.run(6.41)
    world.resume(b)
    world.run(6.75)
    world.resume(a)
    world.run(6.95)
    assert len(a.answers(world.now)) == 6
    world.pause(a)
    world.run(9.5)
    assert len(b.answers(world.now)) == 6


@pytest.mark.parametrize("pause", [0.0, 0.0005, 0.002, 1.0])
def test_an_address_that_gets_another_name_by_rolling_reloads_is_never_up_under_both(pause: float) -> None:
    world = made("abc", until=3.0)
    # Under its new name it belongs to c, which does not have it at first.
    web = replace(vips(6)[0], name=VipName("web"), nodes=(NodeName("c"),))
    assert vips(6)[0].name in host(world, "a").up
    fewer, renamed = vips(6)[1:], (web, *vips(6)[1:])
    for name in "cab":
        host(world, name).busy_until = world.now + 0.05  # the kernel takes its time over the removal
        reload(world, host(world, name), vips=fewer)
        world.run(world.now + pause)
        reload(world, host(world, name), vips=renamed)
        world.run(world.now + 2.0)
    assert all(len(names) == 1 for names in holders(world).values())
    assert set(holders(world)) == {vip.name for vip in renamed}


def test_who_slept_as_it_began_reads_what_came_before_it_serves() -> None:
    """a starts while b and c sleep, and sleeps as they wake: the first that it reads is from d, which starts, too."""
    world = made("abcd", until=4.0)
    late, last = host(world, "a"), host(world, "d")
    world.crash(last)
    world.crash(late)
    world.run(5.0)
    for name in "bc":
        world.pause(host(world, name))
    world.start(late)
    world.run(5.31)
    world.pause(late)
    world.start(last)
    world.run(5.311)
    for name in "bc":
        world.resume(host(world, name))
    world.run(5.5)
    world.resume(late)
    world.run(8.0)
    assert sum(map(len, answering(world).values())) == 6


def test_what_waits_for_a_lease_only_is_not_offered_to_others() -> None:
    """b's heartbeat, when a has died and its lease still runs: b takes a's VIPs in a moment, and nobody else may."""
    world = made("ab", lease=1.0, until=4.0)
    a, b = host(world, "a"), host(world, "b")
    world.crash(a)
    world.run(4.55)
    assert b.node is not None
    assert set(b.node.serving.waiting.values()) == {"lease"}
    assert b.node.serving.uncovered(b.node.membership.peers) == ()
    world.run(6.0)
    assert len(b.answers(world.now)) == 6


def test_what_a_node_covers_that_does_not_hear_us_is_not_acquired() -> None:
    """c hears nobody and takes everything; a and b, who hear it, go on without it and leave it what it had."""
    world, _ = running(["a", "b", "c"], timing=TIMING)
    of_c = set(host(world, "c").up)
    world.network.cut |= {("a", "c"), ("b", "c")}
    world.run(world.now + 5.0)
    assert of_c
    assert {name for vip, names in holders(world).items() if vip in of_c for name in names} == {"c"}


def test_a_lease_is_waited_for_by_the_faster_clock() -> None:
    """The holder's clock is slow by 500 ppm, that of who waits is as much too fast: 30 ms in half a minute."""
    long = 30.0
    world = made("ab", lease=long, until=35.0)
    holder, other = host(world, "a"), host(world, "b")
    for one, rate in ((holder, 1 - 5e-4), (other, 1 + 5e-4)):
        one.offset += world.now * (one.rate - rate)
        one.rate = rate
    world.run(36.0)
    assert holder.node is not None
    lease, before = holder.node.lease, holder.node.lease.deadline()
    while lease.deadline() == before:
        world.run(world.now + 1e-3)
    # Just renewed: the heartbeat from which the lease counts is the last that the other will have heard.
    world.pause(holder)
    world.run(world.now + long + 2.0)
    assert len(other.answers(world.now)) == 6
