"""The fast lease and the quorum, in scenarios that are spelled out (DESIGN 4 and 5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.effects import Announce, HoldLease, Occasion
from agent.core.events import LeaseLost, LeaseTaken, QuorumChanged, StateChanged, VipAcquired, VipReleased
from agent.core.ids import Member, NodeName, VipName
from agent.core.inputs import Fenced, LeaseLapsed, RivalSeen, Timer
from agent.core.lease import Lease
from agent.core.ownership import Phase
from agent.core.settings import PartitionPolicy, Settings, Timing
from agent.core.view import Cause
from tests.core.cluster import Recorder, settings, vips
from tests.sim.world import Host, World

A, B = Member(NodeName("a"), 1), Member(NodeName("b"), 1)
TIMING = Timing(mature=0.5)
LEASE = 0.36


def leased(
    names: list[str], *, partition: PartitionPolicy = PartitionPolicy.COMPONENT, **more: object
) -> tuple[World, Recorder]:
    """In one mature view under leases, every VIP held once."""
    each = [
        replace(one, lease_bound=LEASE, partition=partition, **more)  # type: ignore[arg-type]
        for one in settings(names, vips(6), TIMING)
    ]
    return started(each)


def started(each: list[Settings]) -> tuple[World, Recorder]:
    recorder = Recorder()
    recorder.never_two = True
    world = World(1, each, recorder)
    recorder.hosts = world.hosts
    for host in world.hosts.values():
        world.start(host)
    world.run(3.0)
    return world, recorder


def host(world: World, name: str) -> Host:
    return world.hosts[NodeName(name)]


def answering(world: World) -> dict[VipName, list[str]]:
    found: dict[VipName, list[str]] = {}
    for one in world.hosts.values():
        for vip in one.answers(world.now):
            found.setdefault(vip, []).append(one.name)
    return found


# The lease itself.


def test_it_counts_from_the_sending_of_what_was_acknowledged() -> None:
    lease = Lease(LEASE, 0.1)
    lease.acknowledged(A, 10.0)
    lease.acknowledged(B, 10.1)
    out = lease.extend(10.2, lease.any_of(False, 10.19), clear=True)
    assert out == [HoldLease(10.1 + LEASE, fresh=True), LeaseTaken(10.2, 10.1 + LEASE)]


def test_one_fellow_is_enough_and_none_needs_none() -> None:
    lease = Lease(LEASE, 0.1)
    assert lease.any_of(False, 10.0) == float("-inf")
    assert lease.any_of(True, 10.0) == 10.0


def test_a_quorum_is_as_old_as_the_last_vote_that_makes_it_up() -> None:
    lease = Lease(LEASE, 0.1)
    votes = {NodeName(name): 1 for name in ("me", "a", "b", "c", "d")}
    lease.acknowledged(A, 10.0)
    assert lease.quorum_of(votes, NodeName("me"), 3, 11.0) == float("-inf")
    lease.acknowledged(B, 9.0)
    assert lease.quorum_of(votes, NodeName("me"), 3, 11.0) == 9.0
    assert lease.quorum_of(votes, NodeName("me"), 2, 11.0) == 10.0
    assert lease.quorum_of(votes, NodeName("me"), 1, 11.0) == 11.0


def test_what_lapsed_needs_a_heartbeat_sent_since() -> None:
    lease = Lease(LEASE, 0.1)
    lease.extend(10.0, 10.0, clear=True)
    assert lease.lapse(10.0 + LEASE) == [LeaseLost(10.0 + LEASE, "fast")]
    assert lease.extend(10.37, 10.3, clear=True) == []  # sent before it lapsed
    assert lease.extend(10.5, 10.45, clear=False) == []  # something is still being taken off
    assert lease.extend(10.5, 10.45, clear=True)[0] == HoldLease(10.45 + LEASE, fresh=True)


def test_acknowledgements_that_come_together_need_one_renewal() -> None:
    lease = Lease(LEASE, 0.1)
    lease.extend(10.0, 10.0, clear=True)
    assert lease.extend(10.02, 10.02, clear=True) == []
    assert lease.extend(10.03, 10.03, clear=True) == [HoldLease(10.03 + LEASE, fresh=False)]


def test_the_kernels_word_ends_it() -> None:
    lease = Lease(LEASE, 0.1)
    lease.extend(10.0, 10.0, clear=True)
    assert lease.in_force(10.1)
    assert lease.lost(10.1) == [LeaseLost(10.1, "fast")]
    assert not lease.in_force(10.1)
    assert lease.lost(10.2) == []


# Nodes.


def test_a_calm_cluster_never_loses_a_lease() -> None:
    world, recorder = leased(["a", "b", "c"])
    world.run(20.0)
    assert not recorder.of(LeaseLost)
    assert {vip: len(names) for vip, names in answering(world).items()} == {vip.name: 1 for vip in vips(6)}


def test_the_last_node_standing_goes_on_without_a_gap() -> None:
    """Nobody is left to acknowledge anything: what it held is answered all the time."""
    world, recorder = leased(["a", "b"])
    own = set(host(world, "b").up)
    world.crash(host(world, "a"))
    while world.now < 5.0:
        world.run(world.now + 0.005)
        assert own <= host(world, "b").answers(world.now)
    assert not [entry for entry in recorder.of(LeaseLost) if entry[1] == "b"]
    assert len(host(world, "b").up) == 6


def test_who_is_heard_by_nobody_is_silent_before_the_others_take_over() -> None:
    """It hears them all: only the missing acknowledgements tell it."""
    world, recorder = leased(["a", "b", "c"])
    since = world.now
    for other in ("a", "b"):
        world.network.cut.add(("c", other))
    world.run(since + 1.0)
    (lost,) = [at for at, name, _ in recorder.of(LeaseLost) if name == "c"]
    taken = [at for at, name, _ in recorder.of(VipAcquired) if at > since and name != "c"]
    assert len(taken) == 2
    assert lost < min(taken)
    assert {vip: len(names) for vip, names in answering(world).items()} == {vip.name: 1 for vip in vips(6)}
    assert not host(world, "c").answers(world.now)


def test_a_lapse_inside_a_view_is_mended_and_announced_again() -> None:
    world, recorder = leased(["a", "b", "c"])
    one = host(world, "b")
    held = set(one.up)
    one.leased_until = world.now
    before = len(recorder.events)
    world.run(world.now + 0.5)
    new = [event for _, name, event in recorder.events[before:] if name == "b"]
    assert [type(event) for event in new if isinstance(event, LeaseLost | LeaseTaken | VipReleased)] == [
        LeaseLost,
        LeaseTaken,
    ]
    assert one.answers(world.now) == held


def test_the_word_of_the_kernel_makes_it_announce_again() -> None:
    world, _ = leased(["a", "b", "c"])
    one = host(world, "b")
    assert one.node is not None
    one.node.step(one.clock(world.now), LeaseLapsed())
    one.leased_until = world.now
    heard: list[object] = []
    world.observer.after = lambda who, now, item, outputs: heard.extend(outputs) if who is one else None  # type: ignore[method-assign]
    world.run(world.now + 0.4)
    (taken,) = [number for number, output in enumerate(heard) if isinstance(output, HoldLease) and output.fresh]
    assert any(isinstance(o, Announce) and o.occasion is Occasion.REPEAT for o in heard[taken:])


def test_a_minority_lets_go_and_is_silent_first() -> None:
    world, recorder = leased(["a", "b", "c"], partition=PartitionPolicy.QUORUM)
    assert sum(map(len, answering(world).values())) == 6
    world.network.split({"c"}, {"a", "b", "c"})
    while world.now < 6.0:  # the recorder fails at the first VIP that two answer for
        world.run(world.now + 0.01)
    assert not host(world, "c").up
    assert {vip: len(names) for vip, names in answering(world).items()} == {vip.name: 1 for vip in vips(6)}
    (told,) = [event for _, name, event in recorder.of(QuorumChanged) if name == "c" and not event.quorate][-1:]  # type: ignore[attr-defined]
    assert isinstance(told, QuorumChanged)
    assert (told.votes, told.needed) == (1, 2)
    released = [event for _, name, event in recorder.of(VipReleased) if name == "c"]
    assert {event.cause for event in released if isinstance(event, VipReleased)} <= {Cause.QUORUM, Cause.LEASE}


def test_two_of_four_serve_nobody_and_a_second_vote_decides() -> None:
    for votes, expected in ((), 0), (((NodeName("a"), 2),), 6):
        world, _ = leased(["a", "b", "c", "d"], partition=PartitionPolicy.QUORUM, votes=votes)
        world.network.split({"c", "d"}, {"a", "b", "c", "d"})
        world.run(8.0)
        assert len(answering(world)) == expected


@pytest.mark.parametrize("age", [0.1, 0.3])
def test_a_restarted_voter_does_not_vote_while_a_lease_may_run_that_it_acknowledged(age: float) -> None:
    """b acknowledged a's lease, forgets it by a restart, and would make a quorum with c while a goes on answering."""
    each = [
        replace(one, lease_bound=2.0, partition=PartitionPolicy.QUORUM)
        for one in settings(["a", "b", "c"], vips(6), TIMING)
    ]
    world, _ = started(each)
    world.crash(host(world, "c"))
    world.run(world.now + 3.0)
    assert set(host(world, "a").up) | set(host(world, "b").up) == {vip.name for vip in vips(6)}
    world.network.split({"a"}, {"a", "b", "c"})
    world.crash(host(world, "b"))
    world.run(world.now + age)
    world.start(host(world, "b"))
    world.start(host(world, "c"))
    began = world.now
    world.run(began + 1.5)
    node = host(world, "b").node
    assert node is not None
    assert node.serving.record is not None
    assert set(node.serving.record.view.names()) == {"b", "c"}
    assert not node.serving.quorate
    world.run(began + 5.0)
    assert node.serving.quorate
    assert len(answering(world)) == 6


def test_whoever_was_fenced_by_its_guard_comes_back_by_itself() -> None:
    world, _ = leased(["a", "b", "c"])
    for one in world.hosts.values():
        one.guarded = world.guards = True
    hung = host(world, "b")
    world.pause(hung)
    world.run(world.now + 1.0)
    assert not hung.up
    assert len(answering(world)) == 6
    world.resume(hung)
    world.run(world.now + 8.0)
    assert hung.node is not None
    assert hung.node.membership.view is not None
    assert len(hung.node.membership.view.members) == 3
    assert len(hung.answers(world.now)) == 2
    assert sum(map(len, answering(world).values())) == 6


def test_fenced_while_away_is_nothing() -> None:
    world, _ = leased(["a", "b"])
    node = host(world, "b").node
    assert node is not None
    node.membership.leave()
    out = node.step(host(world, "b").clock(world.now), Fenced())
    assert [type(output) for output in out] == [StateChanged]


def test_a_rival_gets_what_yields_and_the_vip_moves() -> None:
    world, recorder = leased(["a", "b", "c"])
    one = host(world, "b")
    vip = sorted(one.up)[0]
    world.feed(one, RivalSeen(vip, "02:00:00:00:00:99"))
    world.run(world.now + 0.2)
    assert vip not in one.up
    assert [name for name in ("a", "c") if vip in host(world, name).answers(world.now)]
    (event,) = [event for _, _, event in recorder.of(VipReleased) if event.vip == vip]  # type: ignore[attr-defined]
    assert isinstance(event, VipReleased)
    assert event.cause is Cause.CONFLICT


def test_nothing_is_announced_while_the_lease_is_over() -> None:
    """The address is there still; what is said of it now would lead clients astray."""
    world, _ = leased(["a", "b"])
    one = host(world, "b")
    node = one.node
    assert node is not None
    assert any(holding.phase is Phase.HELD for holding in node.serving.ownership.holdings.values())
    late = one.clock(world.now) + LEASE + 0.02
    out = node.step(late, Timer())
    assert any(isinstance(output, LeaseLost) for output in out)
    for holding in node.serving.ownership.holdings.values():
        holding.announce_at = late
    assert not [output for output in node.step(late + 0.001, Timer()) if isinstance(output, Announce)]
