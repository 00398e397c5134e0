"""Scenarios in virtual time; every step is checked against the invariants of the simulator as well."""

from __future__ import annotations

from agent.core.effects import Occasion
from agent.core.events import (
    Announced,
    ConfigDiffers,
    Excluded,
    Stalled,
    ViewInstalled,
    VipAcquired,
    VipAcquireFailed,
    VipReleased,
)
from agent.core.ids import NodeName
from agent.core.inputs import (
    BalanceRequested,
    DrainRequested,
    LeaveRequested,
    MoveRequested,
    NeighboursRead,
    Reconfigured,
    VipsUnable,
)
from agent.core.settings import Timing
from agent.core.view import Cause, NeighbourEntry, ViewCause
from tests.core.cluster import cluster, holders, other_table, running, settings, vips

A, B, C, D = NodeName("a"), NodeName("b"), NodeName("c"), NodeName("d")


def test_a_lost_node_is_covered_after_detection_plus_two_round_trips() -> None:
    world, recorder = running(["a", "b", "c"])
    lost = sorted(vip for vip, hosts in holders(world).items() if hosts == [A])
    died = world.now
    world.crash(world.hosts[A])
    world.hosts[A].up.clear()
    world.run(died + 1.0)
    acquired = [(at, event) for at, _, event in recorder.of(VipAcquired)]
    assert sorted(event.vip for _, event in acquired) == lost
    assert {event.cause for _, event in acquired} == {Cause.FAILOVER}
    # Detection takes one failure timeout from the last sign; agreement and netlink (simulated: 2 ms) are the rest.
    assert max(at for at, _ in acquired) - died < 0.4 + 0.01
    views = recorder.of(ViewInstalled)
    assert len(views) == 2
    assert {event.cause for _, _, event in views} == {ViewCause.DISCONNECT}


def test_two_that_start_at_once_without_the_third_are_one_view_when_the_wait_for_it_is_over() -> None:
    timing = Timing(failure_timeout=0.3, mature=0.3)
    world, recorder = cluster(["a", "b", "c"], timing=timing)
    world.crash(world.hosts[A])
    world.run(2.0)
    first = {}
    for _, name, event in recorder.of(ViewInstalled):
        assert isinstance(event, ViewInstalled)
        first.setdefault(name, event.view.names())
    assert first == {B: (B, C), C: (B, C)}
    assert all(len(names) == 1 for names in holders(world).values())


def test_who_was_not_lost_keeps_what_it_has() -> None:
    world, recorder = running(["a", "b", "c"])
    before = holders(world)
    world.crash(world.hosts[C])
    world.hosts[C].up.clear()
    world.run(world.now + 1.0)
    assert not recorder.of(VipReleased)
    after = holders(world)
    assert all(after[vip] == hosts for vip, hosts in before.items() if hosts != [C])


def test_a_departure_hands_over_before_it_says_goodbye() -> None:
    world, recorder = running(["a", "b", "c"])
    given = sorted(vip for vip, hosts in holders(world).items() if hosts == [B])
    asked = world.now
    world.feed(world.hosts[B], LeaveRequested(stop=True))
    world.run(asked + 1.0)
    released = {event.vip: at for at, _, event in recorder.of(VipReleased)}
    acquired = {event.vip: at for at, _, event in recorder.of(VipAcquired)}
    assert sorted(released) == sorted(acquired) == given
    assert all(released[vip] < acquired[vip] < asked + 0.015 for vip in given)
    assert {event.cause for _, _, event in recorder.of(VipAcquired)} == {Cause.LEAVE}
    assert world.hosts[B].node is None
    assert {event.cause for _, name, event in recorder.of(ViewInstalled)} == {ViewCause.LEAVE}


def test_the_last_node_leaves_and_drops_everything() -> None:
    world, _ = running(["a"])
    world.feed(world.hosts[A], LeaveRequested(stop=True))
    world.run(world.now + 0.1)
    assert world.hosts[A].node is None
    assert not world.hosts[A].up


def test_a_partition_covers_both_sides_and_its_end_is_decided_within_two_failure_timeouts() -> None:
    world, recorder = running(["a", "b", "c", "d"])
    world.network.split({"a", "b"}, set(world.hosts))
    world.run(world.now + 2.0)
    assert all(len(hosts) == 2 for hosts in holders(world).values())
    recorder.events.clear()
    healed = world.now
    world.network.heal()
    world.run(healed + 0.8)
    assert all(len(hosts) == 1 for hosts in holders(world).values())
    assert {event.cause for _, _, event in recorder.of(ViewInstalled)} == {ViewCause.MERGE}
    # Each VIP is announced by the node that keeps it: once on the Install, once more when the loser let go.
    for vip, hosts in holders(world).items():
        said = [
            (at, event.occasion)
            for at, name, event in recorder.of(Announced)
            if name == hosts[0] and vip in event.vips and event.occasion is Occasion.MERGE
        ]
        let_go = [at for at, _, event in recorder.of(VipReleased) if event.vip == vip]
        assert len(said) >= 2
        assert len(let_go) == 1
        assert max(at for at, _ in said) >= let_go[0]


def test_a_rejoined_node_gets_its_share_by_timed_hand_overs() -> None:
    world, recorder = running(["a", "b"])
    world.crash(world.hosts[B])
    world.hosts[B].up.clear()
    world.run(world.now + 1.0)
    recorder.events.clear()
    world.start(world.hosts[B])
    back = world.now
    world.run(back + 3.0)
    assert not recorder.of(VipAcquired)  # balance waits for its interval
    world.run(back + 6.0)
    acquired = recorder.of(VipAcquired)
    assert len(acquired) == 3
    assert {event.cause for _, _, event in acquired} == {Cause.BALANCE}
    released = {event.vip: at for at, _, event in recorder.of(VipReleased)}
    assert all(released[event.vip] < at for at, _, event in acquired)


def test_a_permanently_one_way_link_does_not_churn_views() -> None:
    world, recorder = running(["a", "b", "c"])
    world.network.cut.add(("a", "c"))
    world.run(world.now + 60.0)
    views = len(recorder.of(ViewInstalled))
    assert views <= 12, f"{views} installations in a minute"
    assert len(recorder.of(VipAcquired)) <= 6
    recorder.events.clear()
    world.run(world.now + 60.0)
    assert not recorder.of(ViewInstalled)


def test_non_transitive_hearing_does_not_churn_views() -> None:
    world, recorder = running(["a", "b", "c", "d"])
    world.network.cut |= {("a", "d"), ("d", "a")}
    world.run(world.now + 10.0)
    recorder.events.clear()
    world.run(world.now + 60.0)
    assert not recorder.of(ViewInstalled)


def test_who_was_excluded_lets_go_as_soon_as_it_hears_so() -> None:
    world, recorder = running(["a", "b", "c"])
    world.network.cut = {("c", "a"), ("c", "b")}  # it hears, but is not heard
    world.run(world.now + 0.7)
    assert [name for _, name, _ in recorder.of(Excluded)] == [C]
    assert not world.hosts[C].up


def test_a_paused_node_yields_when_it_wakes() -> None:
    world, recorder = running(["a", "b"])
    world.pause(world.hosts[A])
    world.run(world.now + 2.0)
    assert all(B in hosts for hosts in holders(world).values())
    world.resume(world.hosts[A])
    world.run(world.now + 0.05)
    assert not world.hosts[A].up
    (stall,) = [event for _, name, event in recorder.of(Stalled) if name == A]
    assert stall.yielded
    assert 1.9 < stall.seconds < 2.2


def test_a_node_that_is_alone_does_not_yield_after_a_pause() -> None:
    world, recorder = running(["a"])
    world.pause(world.hosts[A])
    world.run(world.now + 2.0)
    world.resume(world.hosts[A])
    world.run(world.now + 1.0)
    assert len(world.hosts[A].up) == 6
    assert not recorder.of(VipReleased)


def test_a_clock_that_jumps_forward_is_a_stall_and_heals() -> None:
    world, recorder = running(["a", "b", "c"])
    host = world.hosts[A]
    host.offset += 100.0
    host.armed = float("inf")
    world.run(world.now + 3.0)
    assert recorder.of(Stalled)
    assert all(len(hosts) == 1 for hosts in holders(world).values())
    assert len(holders(world)) == 6


def test_different_vip_lists_are_shown_and_served_by_those_who_know_them() -> None:
    pool = vips(6)
    plain = settings(["a", "b"], pool)
    world, recorder = cluster(["a", "b"], changed={"b": other_table(plain[1], pool[:4])})
    world.run(3.0)
    held = holders(world)
    assert sorted(held) == sorted(vip.name for vip in pool)
    assert held[pool[4].name] == held[pool[5].name] == [A]
    told = [(name, event.members, event.vips) for _, name, event in recorder.of(ConfigDiffers)]
    assert (A, (B,), (pool[4].name, pool[5].name)) in told
    assert (B, (A,), (pool[4].name, pool[5].name)) in told


def test_a_reload_moves_only_what_changed() -> None:
    world, recorder = running(["a", "b"])
    before = holders(world)
    more = vips(7)
    for host in world.hosts.values():
        host.settings = other_table(host.settings, more)
        world.feed(host, Reconfigured(host.settings))
    world.run(world.now + 1.0)
    after = holders(world)
    assert len(after) == 7
    assert all(after[vip] == hosts for vip, hosts in before.items())
    fewer = vips(5)
    recorder.events.clear()
    for host in world.hosts.values():
        host.settings = other_table(host.settings, fewer)
        world.feed(host, Reconfigured(host.settings))
    world.run(world.now + 1.0)
    assert sorted(holders(world)) == sorted(vip.name for vip in fewer)
    assert {event.vip for _, _, event in recorder.of(VipReleased)} == {more[5].name, more[6].name}


def test_an_address_that_cannot_be_put_up_goes_to_another_node() -> None:
    world, recorder = running(["a", "b"])
    lost = sorted(vip for vip, hosts in holders(world).items() if hosts == [A])
    world.feed(world.hosts[A], VipsUnable(tuple((vip, "interface_down") for vip in lost)))
    world.run(world.now + 0.1)
    assert all(hosts == [B] for hosts in holders(world).values())
    assert {event.cause for _, _, event in recorder.of(VipAcquired)} == {Cause.UNFIT}


def test_a_failed_acquisition_is_never_counted_as_held() -> None:
    world, recorder = cluster(["a", "b"])
    world.hosts[A].fails = 1.0
    world.run(1.5)
    assert recorder.of(VipAcquireFailed)
    assert all(hosts == [B] for hosts in holders(world).values())
    assert len(holders(world)) == 6


def test_draining_gives_everything_away_and_takes_nothing() -> None:
    world, recorder = running(["a", "b"])
    world.feed(world.hosts[A], DrainRequested(True))
    world.run(world.now + 10.0)
    assert not world.hosts[A].up
    assert {event.cause for _, _, event in recorder.of(VipAcquired)} == {Cause.DRAIN}
    world.feed(world.hosts[A], DrainRequested(False))
    world.run(world.now + 10.0)
    assert len(world.hosts[A].up) == 3


def test_a_move_and_a_round_by_order_of_a_person() -> None:
    world, recorder = running(["a", "b"])
    vip = next(vip for vip, hosts in holders(world).items() if hosts == [A])
    world.feed(world.hosts[B], MoveRequested(vip, "b"))
    world.run(world.now + 0.05)
    assert holders(world)[vip] == [B]
    world.feed(world.hosts[B], BalanceRequested())
    world.run(world.now + 0.05)
    assert sorted(len(host.up) for host in world.hosts.values()) == [3, 3]
    causes = [event.cause for _, _, event in recorder.of(VipAcquired)]
    assert causes == [Cause.MOVE, Cause.BALANCE]


def test_neighbours_are_shared_once_and_again_when_they_change() -> None:
    from agent.core.effects import LearnNeighbours

    world, _ = running(["a", "b"])
    learnt: list[LearnNeighbours] = []
    original = world._carry_out
    world._carry_out = lambda host, output: (  # type: ignore[method-assign]
        learnt.append(output) if isinstance(output, LearnNeighbours) else original(host, output)
    )
    entries = (NeighbourEntry("10.0.0.9", "02:00:00:00:00:09"),)
    for _ in range(2):
        world.feed(world.hosts[A], NeighboursRead(entries))
        world.run(world.now + 0.5)
    assert learnt == [LearnNeighbours(A, entries)]
