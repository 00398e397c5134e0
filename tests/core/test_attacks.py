"""Holes that were found by attacking the core, each as the smallest case that shows it."""

from __future__ import annotations

from dataclasses import replace

from agent.core.coordinator import Asked, decide
from agent.core.effects import Acquire
from agent.core.events import DatagramRejected, GatherStarted, OperatorAnswered, ViewInstalled
from agent.core.ids import Member, NodeName, ViewId, VipName
from agent.core.inputs import JoinRequested, LeaveRequested, Received, Reconfigured, Timer
from agent.core.install import DRIFT, Vote, tables_known, waits
from agent.core.messages import OTHERS, Decide, Heartbeat, Join, Leave, Lost, Requests
from agent.core.peers import Colour, Peers
from agent.core.plausible import EPOCH_LEAP
from agent.core.record import Record
from agent.core.settings import MEMBERS_MAX, UNSTABLE_MAX, Address, Timing, Vip
from agent.core.view import (
    Answered,
    Assigned,
    Cause,
    Entry,
    HandedOver,
    MemberState,
    Move,
    Moves,
    OperatorRequest,
    Standing,
    View,
    VipSpec,
)
from agent.core.viewlog import ViewLog
from tests.core.cluster import holders, running

A, B, C = (Member(NodeName(name), 1) for name in "abc")
OLD = View(ViewId(3, A), (A, B, C))
SPECS = (VipSpec(VipName("v"), ("10.0.0.1",)),)
V = VipName("v")


def join(member: Member, *, bound: float = 0.0, lost: tuple[Lost, ...] = (), **kwargs: object) -> Join:
    state = MemberState((), True, Standing(), "d", "t", SPECS, bound)
    return replace(Join(4, B, (B, C), (A,), (), OLD, 0, (), lost, state), **kwargs)  # type: ignore[arg-type]


def test_a_decision_by_another_than_the_coordinator_is_ignored() -> None:
    world, recorder = running(["a", "b", "c"])
    host = world.hosts[C.name]
    assert host.node is not None
    view = host.node.membership.view
    assert view is not None
    seq = host.node.membership.log.delivered + 1
    taken = Assigned(((VipName("10.0.1.1"), C.name),), Cause.REPAIR)
    world.feed(host, Received(B, Decide(view.id, (Entry(seq, taken),))))
    assert host.node.membership.log.delivered == seq - 1
    assert [event.source for _, _, event in recorder.of(DatagramRejected)] == ["b"]


def test_one_wrong_epoch_does_not_use_up_all_epochs() -> None:
    world, _ = running(["a", "b"])
    host = world.hosts[A.name]
    assert host.node is not None
    epoch = host.node.membership.epoch
    beat = Heartbeat(None, epoch + EPOCH_LEAP + 1, True, 0, 0, 0, False, (), "", "", 0.0, (), 10**6, (), Requests())
    world.feed(host, Received(B, beat))
    assert host.node.membership.epoch == epoch
    world.feed(host, Received(B, replace(beat, epoch=epoch + 1)))
    assert host.node.membership.epoch == epoch + 1


def test_a_delayed_goodbye_does_not_put_out_who_came_back() -> None:
    world, recorder = running(["a", "b", "c"])
    host = world.hosts[A.name]
    assert host.node is not None
    left = host.node.membership.view
    assert left is not None
    world.feed(world.hosts[C.name], LeaveRequested(stop=False))
    world.run(world.now + 1.0)
    world.feed(world.hosts[C.name], JoinRequested())
    world.run(world.now + 2.0)
    recorder.events.clear()
    world.feed(host, Received(C, Leave(left.id)))
    world.run(world.now + 1.0)
    assert not recorder.of(ViewInstalled)


def test_a_stop_is_not_undone_by_a_join() -> None:
    world, _ = running(["a", "b"])
    world.feed(world.hosts[B.name], LeaveRequested(stop=True))
    world.feed(world.hosts[B.name], JoinRequested())
    world.run(world.now + 2.0)
    assert world.hosts[B.name].node is None


def test_a_reload_that_changes_an_interface_only_moves_the_vip_there() -> None:
    world, _ = running(["a", "b"])
    for host in world.hosts.values():
        moved = tuple(
            replace(vip, addresses=tuple(replace(address, interface="eth1") for address in vip.addresses))
            for vip in host.settings.vips
        )
        host.settings = replace(host.settings, vips=moved)
        world.feed(host, Reconfigured(host.settings))
    world.run(world.now + 1.0)
    assert all(len(hosts) == 1 for hosts in holders(world).values())
    assert len(holders(world)) == 6
    for host in world.hosts.values():
        assert {host.defined[vip][0].interface for vip in host.up} == {"eth1"}


def test_an_addition_under_way_is_taken_back_when_a_reload_defines_it_otherwise() -> None:
    world, _ = running(["a"])
    (host,) = world.hosts.values()
    pool = host.settings.vips
    for interface in ("eth0", "eth1"):
        added = Vip(VipName("10.0.1.99"), (Address(interface, "10.0.1.99", 32, "10.0.0.0/16"),))
        host.settings = replace(host.settings, vips=(*pool, added))
        world.feed(host, Reconfigured(host.settings))
        assert host.defined[added.name][0].interface == "eth0", "it is being put up"
    world.run(world.now + 2.0)
    assert added.name in host.up
    assert host.defined[added.name][0].interface == "eth1"


def test_what_is_asked_of_a_node_that_leaves_is_answered() -> None:
    world, _ = running(["a", "b"])
    node = world.hosts[B.name].node
    assert node is not None
    node.serving.operator.append(OperatorRequest(7, "balance"))
    (answer,) = node.serving.left(5.0)
    assert isinstance(answer, OperatorAnswered)
    assert answer.number == 7
    assert answer.refused
    assert not node.serving.operator


def test_the_tail_of_a_reader_is_bounded_by_what_the_writer_may_be_ahead() -> None:
    log = ViewLog()
    for seq in range(1, 4 * UNSTABLE_MAX):
        log.receive((Entry(seq, Answered(())),))
    assert [entry.seq for entry in log.tail()] == list(range(3 * UNSTABLE_MAX, 4 * UNSTABLE_MAX))


def test_a_wait_goes_on_in_the_next_view() -> None:
    view = View(ViewId(4, B), (B,))
    vote = Vote(join(B, old_view=View(ViewId(3, B), (B,)), waits=((V, 0.8),)), at=10.0)
    assert waits(view, {B: vote}, {"t": SPECS}, 10.5) == ((V, 0.8 - 0.5),)


def test_who_was_awaited_and_did_not_join_is_waited_for() -> None:
    view = View(ViewId(4, B), (B,))
    assert waits(view, {B: Vote(join(B), at=1.0)}, {"t": SPECS}, 1.0) == ()  # no leases
    long = 2.0 * (1 + DRIFT)
    assert waits(view, {B: Vote(join(B, bound=2.0), at=1.0)}, {"t": SPECS}, 1.0) == ((OTHERS, long), (V, long))


def test_whose_departure_was_said_is_not_waited_for() -> None:
    gone = (Lost(A, 0.0, 0.0), Lost(C, 0.0, 0.0))
    view = View(ViewId(4, B), (B,))
    assert waits(view, {B: Vote(join(B, bound=2.0, lost=gone), at=1.0)}, {"t": SPECS}, 1.0) == ()


def test_ones_own_table_is_not_replaced_by_a_peers() -> None:
    other = (VipSpec(VipName("strange"), ("10.9.9.9",)),)
    liar = join(C)
    liar = replace(liar, state=replace(liar.state, specs=other))
    assert tables_known({C: Vote(liar, 0.0)}, {"t": SPECS})["t"] == SPECS


def test_names_are_remembered_up_to_the_limit_of_members() -> None:
    peers = Peers(Timing())
    for number in range(3 * MEMBERS_MAX):
        peers.hear(Member(NodeName(f"n{number:04d}"), 1), 100.0)
    assert len(peers.all()) == MEMBERS_MAX - 1
    known, _ = peers.hear(Member(NodeName("late"), 1), 101.0)
    assert known is not None  # in the place of one that is silent
    assert len(peers.all()) == MEMBERS_MAX - 1


def test_a_peer_is_red_at_the_very_moment_that_was_announced() -> None:
    peers = Peers(Timing(failure_timeout=0.3))
    for step in range(2000):
        peers.hear(A, now := 1000.0 + step * 0.0137)
        assert peers.colour(A, peers.red_at(A)) is Colour.RED
        assert now < peers.red_at(A)


def test_nothing_is_acquired_that_is_not_in_the_own_table() -> None:
    world, _ = running(["a", "b"])
    host = world.hosts[B.name]
    assert host.node is not None
    view = host.node.membership.view
    assert view is not None
    seq = host.node.membership.log.delivered + 1
    strange = Assigned(((VipName("strange"), B.name),), Cause.REPAIR)
    out = host.node.step(host.clock(world.now), Received(A, Decide(view.id, (Entry(seq, strange),))))
    assert not [o for o in out if isinstance(o, Acquire)]
    record = host.node.serving.record
    assert record is not None
    assert VipName("strange") not in record.owners


def test_a_goodbye_that_came_before_the_view_does_not_make_it_spin() -> None:
    world, recorder = running(["a", "b", "c"])
    host = world.hosts[C.name]
    assert host.node is not None
    peer = host.node.membership.peers.get(B)
    view = host.node.membership.view
    assert peer is not None
    assert view is not None
    peer.departed = view.id  # its word was overtaken by the Install
    recorder.events.clear()
    world.feed(host, Timer())
    assert host.node.deadline() > host.clock(world.now)
    assert [event.reason for _, name, event in recorder.of(GatherStarted) if name == C.name] == ["leave"]


def test_a_move_waits_for_the_hand_over_under_way_and_what_follows_waits_too() -> None:
    view = View(ViewId(3, A), (A, B, C))
    names = view.names()
    record = Record(view, SPECS, {}, dict.fromkeys(names, Standing()), dict.fromkeys(names, 1), True, {V: A.name})
    record.apply(1, Moves((Move(V, A.name, B.name, Cause.BALANCE),), timed=True))
    wishes = (OperatorRequest(1, "move", V, C.name), OperatorRequest(2, "balance"))
    asked = {B.name: Asked(Requests(operator=wishes), 1)}
    assert decide(record, asked, False, None) is None
    record.apply(2, HandedOver((Move(V, A.name, B.name, Cause.BALANCE),)))
    assert decide(record, asked, False, None) == Moves(
        (Move(V, B.name, C.name, Cause.MOVE),), timed=False, answers=((B.name, 1),)
    )


def test_what_its_owner_does_not_hold_is_not_reported_as_covered_by_its_fellows() -> None:
    world, _ = running(["a", "b"])
    a, b = world.hosts[A.name].node, world.hosts[B.name].node
    assert a is not None
    assert b is not None
    vip = sorted(world.hosts[A.name].up)[0]
    assert vip not in b.serving.uncovered(b.membership.peers)
    peer = b.membership.peers.get(A)
    assert peer is not None
    assert peer.heartbeat is not None
    peer.heartbeat = replace(peer.heartbeat, uncovered=(vip, sorted(world.hosts[B.name].up)[0]))
    assert b.serving.uncovered(b.membership.peers) == (vip,)  # and of what is ours it knows nothing
