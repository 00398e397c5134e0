"""Schedules by which somebody once broke the promise that two kernels never answer for one VIP, or that one does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.core.ids import NodeName
from agent.core.inputs import (
    FitnessChanged,
    HardwareKnown,
    JoinRequested,
    LeaseLapsed,
    LeaveRequested,
    Reconfigured,
)
from agent.core.messages import Heartbeat, Install, Join
from agent.core.settings import PartitionPolicy, Timing
from tests.core.cluster import Recorder, settings, vips
from tests.core.test_lease import LEASE, TIMING, answering, host
from tests.sim import world as sim_world
from tests.sim.world import Host, World

SLOW = Timing(mature=0.5, failure_timeout=3.0)


@pytest.fixture(autouse=True)
def exact_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lease ends early: whatever is too short shows."""
    monkeypatch.setattr(sim_world, "EARLY", 0.0)


def made(
    names: str, *, quorum: bool = False, lease: float = LEASE, timing: Timing = TIMING, until: float = 3.0
) -> World:
    """In one mature view; from here on two that answer are a failure."""
    partition = PartitionPolicy.QUORUM if quorum else PartitionPolicy.COMPONENT
    each = [replace(one, lease_bound=lease, partition=partition) for one in settings(list(names), vips(6), timing)]
    recorder = Recorder()
    recorder.never_two = True
    world = World(1, each, recorder)
    recorder.hosts = world.hosts
    for one in world.hosts.values():
        world.start(one)
    world.run(until)
    return world


def reload(world: World, one: Host, **changed: Any) -> None:
    one.settings = replace(one.settings, digest=repr(changed), **changed)
    world.feed(one, Reconfigured(one.settings))


def cut_off_as_it_installs(world: World, name: str) -> Callable[[], None]:
    """The node's next Install reaches nobody, and nothing after it: takes effect when called."""
    send = world._send

    def lossy(sender: Host, node: Any, message: Any, to: Any) -> None:
        if sender.name == name and isinstance(message, Install):
            world.network.split({name}, {str(each) for each in world.hosts})
        send(sender, node, message, to)

    def arm() -> None:
        world._send = lossy  # type: ignore[method-assign]

    return arm


def test_a_woken_node_does_not_know_when_the_other_was_alive_last() -> None:
    """b sleeps, a takes over and hangs right after a heartbeat, b wakes and throws its backlog away."""
    world = made("ab")
    world.pause(host(world, "b"))
    world.run(3.45)
    world.pause(host(world, "a"))
    world.run(3.46)
    world.resume(host(world, "b"))
    world.run(4.5)
    assert len(host(world, "b").answers(world.now)) == 6


def test_a_node_that_was_alone_looks_around_when_it_wakes() -> None:
    world = made("ab")
    world.crash(host(world, "b"))
    world.run(4.0)
    world.pause(host(world, "a"))
    world.run(4.5)
    world.start(host(world, "b"))
    world.run(9.0)
    assert len(host(world, "b").answers(world.now)) == 6, "it matured alone"
    world.resume(host(world, "a"))
    world.run(11.0)
    assert sum(map(len, answering(world).values())) == 6


@pytest.mark.parametrize("hangs", [False, True])
def test_a_lease_that_runs_longer_than_is_configured_now_is_declared(hangs: bool) -> None:
    world = made("abc", quorum=True, lease=2.7, timing=SLOW, until=8.0)
    for one in world.hosts.values():
        reload(world, one, lease_bound=LEASE, timing=replace(SLOW, failure_timeout=0.4))
    world.run(8.05)
    if hangs:
        world.pause(host(world, "c"))
    else:
        world.network.split({"c"}, {"a", "b", "c"})
    world.run(12.0)
    assert sum(map(len, answering(world).values())) == 6


def test_a_longer_lease_counts_only_what_those_acknowledge_who_know_of_it() -> None:
    world = made("abc", quorum=True)
    cut_off_as_it_installs(world, "a")()
    reload(world, host(world, "a"), lease_bound=2.7, timing=replace(TIMING, failure_timeout=3.0))
    world.run(8.0)
    assert sum(map(len, answering(world).values())) == 6


def test_a_forced_departure_undone_before_it_is_confirmed() -> None:
    world = made("a", quorum=True)
    world.feed(host(world, "a"), LeaveRequested(stop=False))
    world.feed(host(world, "a"), JoinRequested())
    world.run(5.0)
    assert len(host(world, "a").answers(world.now)) == 6


def test_who_is_behind_a_view_does_not_know_what_its_coordinator_took_in_it() -> None:
    """a installs a view with a new VIP and takes it; the others never get that Install, and suspect a early (R4)."""
    world = made("abc", quorum=True)
    world.run(3.01)
    world.network.cut.add(("a", "c"))
    arm = cut_off_as_it_installs(world, "a")
    world.run(3.26)
    arm()
    for one in world.hosts.values():
        reload(world, one, vips=vips(7))
    world.run(4.5)
    assert len(answering(world)) == 7


def test_nor_what_it_took_of_a_member_that_is_with_them() -> None:
    world = made("abc", quorum=True)
    world.run(3.01)
    world.network.cut.add(("a", "c"))
    world.run(3.26)
    cut_off_as_it_installs(world, "a")()
    silent = host(world, "c")
    silent.leased_until = world.now
    for item in (FitnessChanged(False), LeaseLapsed(), HardwareKnown(("02:00:00:00:00:01",))):
        world.feed(silent, item)
    world.run(4.5)
    assert len(answering(world)) == 6


def test_a_wrong_peer_cannot_keep_a_vip_silent_for_an_hour() -> None:
    world = made("abcde", quorum=True)
    wrong = host(world, "c").node
    assert wrong is not None
    declare = wrong.membership._declare
    hour = tuple((vip.name, 3600.0) for vip in vips(6))
    wrong.membership._declare = lambda now, missing: replace(declare(now, missing), waits=hour)
    world.crash(host(world, "b"))
    world.run(6.0)
    world.crash(host(world, "c"))
    world.run(30.0)
    assert len(answering(world)) == 6
    assert NodeName("b") not in {name for names in answering(world).values() for name in names}


def test_who_is_changing_the_view_acknowledges_nothing() -> None:
    """a hears b no more and waits from c's Join on; c, which has its Install late, hears and echoes b meanwhile."""
    world = made("abc", quorum=True)
    send, cut = world._send, world.network.cut

    def lossy(sender: Host, node: Any, message: Any, to: Any) -> None:
        """b, which is to go on as it is, hears no Join, and of each one's gather one heartbeat."""
        link = (str(sender.name), "b")
        lost = isinstance(message, Join) and link not in cut and sender.name != "b"
        if lost:
            cut.add(link)
        send(sender, node, message, to)
        if lost:
            cut.remove(link)
        elif isinstance(message, Heartbeat) and message.gathering and sender.name != "b":
            cut.add(link)

    world._send = lossy  # type: ignore[method-assign]
    world.network.slow["a", "c"] = 0.06
    cut.add(("b", "a"))
    world.run(4.5)
    world._send = send  # type: ignore[method-assign]
    world.network.heal()
    world.run(8.0)
    assert sum(map(len, answering(world).values())) == 6


def test_the_word_of_one_fellow_is_no_quorum() -> None:
    """c, d and e hear a and b no more, which hear them until they gather, and each other all the time."""
    world = made("abcde", quorum=True)
    send, few, many = world._send, {"a", "b"}, {"c", "d", "e"}

    def cut_by_gathering(sender: Host, node: Any, message: Any, to: Any) -> None:
        if isinstance(message, Join):
            world.network.split(few, few | many)
        send(sender, node, message, to)

    world._send = cut_by_gathering  # type: ignore[method-assign]
    world.network.cut |= {(one, other) for one in few for other in many}
    world.run(8.0)
    assert {name for names in answering(world).values() for name in names} == many
    assert len(answering(world)) == 6
