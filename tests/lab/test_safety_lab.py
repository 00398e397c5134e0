"""Never two, nothing left behind: real agents, kernels and guards; the client's segment is asked for every VIP."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.lab import network
from agent.lab.lab import Lab, now
from tests.bench.asker import Asker
from tests.bench.claims import answered_by_two, silent_for
from tests.bench.fencing import pids
from tests.lab.clusters import always, cluster, events, granted, held_once, members, metric, on, until

pytestmark = pytest.mark.lab

NODES = ("www1", "www2", "www3")
OLD = "www1"
"""The lowest name: it coordinates, and would win where names decide."""
OTHERS = ("www2", "www3")
ENOUGH = 100
"""Answers of the new holder: 0.2 s of them."""


@pytest.fixture
def lab(lab_name: str, request: pytest.FixtureRequest) -> Iterator[Lab]:
    with cluster(lab_name, len(NODES), 6, *getattr(request, "param", ())) as made:
        yield made


@contextmanager
def never_two(lab: Lab, old: str) -> Iterator[None]:
    """Inside, no address is claimed by two nodes in turns, and the old holder is silent before another one speaks."""
    hit = on(lab, old)
    with Asker(lab.plan, [address for _, address in lab.plan.addresses()]) as asker:
        until(lambda: all(any(f.address == each and f.node == old for f in asker.frames) for each in hit))
        since = now()
        yield
        until(lambda: all(answers(asker, address, old) >= ENOUGH for address in hit))
    assert answered_by_two(asker.frames) == (0.0, 0)
    moved = [frame for frame in asker.frames if frame.address in hit]
    assert {frame.node for frame in moved} > {old}
    assert silent_for(moved, old, since) > 0.0


def answers(asker: Asker, address: str, old: str) -> int:
    """How often another node than the old one has claimed it so far."""
    return sum(frame.address == address and frame.node != old for frame in asker.frames)


def taken_over(lab: Lab, nodes: tuple[str, ...]) -> bool:
    """Whether each address is on one of these nodes."""
    return all(len(set(nodes) & set(found)) == 1 for found in lab.holders().values())


def told(lab: Lab, node: str, kind: str, **fields: object) -> bool:
    """Whether the node's history has such an event."""
    return any(each["type"] == kind and fields.items() <= {**each["fields"]}.items() for each in events(lab, node))


def layers(lab: Lab, node: str, layer: str) -> list[bool]:
    """Each word of the node's history about this layer of its lease: whether it is active."""
    told = [each["fields"] for each in events(lab, node) if each["type"] == "lease_layer"]
    return [fields["active"] for fields in told if fields["layer"] == layer]


@pytest.mark.parametrize("guard_too", [False, True])
def test_a_killed_agent_leaves_nobody_that_answers(lab: Lab, guard_too: bool) -> None:
    agent, guard = pids(lab, OLD)
    with never_two(lab, OLD):
        if guard_too:
            os.kill(guard, signal.SIGKILL)
        os.kill(agent, signal.SIGKILL)
        until(lambda: taken_over(lab, OTHERS))
        until(lambda: guard_too or on(lab, OLD) == [])


@pytest.mark.parametrize("guard_too", [False, True])
def test_a_hanging_agent_is_silent_and_comes_back_as_one_of_three(lab: Lab, guard_too: bool) -> None:
    agent, guard = pids(lab, OLD)
    with never_two(lab, OLD):
        stopped = [agent, guard] if guard_too else [agent]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: taken_over(lab, OTHERS))
            if not guard_too:
                until(lambda: on(lab, OLD) == [])
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        until(lambda: all(members(lab, node) == list(NODES) for node in NODES))
        assert taken_over(lab, OTHERS), "nothing flaps: what was taken over stays until a balance round"
    until(lambda: metric(lab, OLD, "molehill_lease_layer_active", layer="guard") == 1.0)


@pytest.mark.parametrize("lab", [("partition=quorum",)], indirect=True)
def test_a_minority_that_the_clients_still_reach_is_silent_before_the_majority_serves(lab: Lab) -> None:
    """The split is between the nodes only: every one of them hears the client and is heard by it."""
    with never_two(lab, OLD):
        for other in OTHERS:
            lab.one_way(OLD, other)
            lab.one_way(other, OLD)
        until(lambda: taken_over(lab, OTHERS))
        until(lambda: on(lab, OLD) == [])
        until(lambda: metric(lab, OLD, "molehill_quorate") == 0.0)
        lab.heal()
        until(lambda: all(members(lab, node) == list(NODES) for node in NODES))
    until(lambda: metric(lab, OLD, "molehill_quorate") == 1.0)
    assert told(lab, OLD, "quorum_changed", quorate=False)


def nft(lab: Lab, node: str, *words: str) -> str:
    line = ["ip", "netns", "exec", lab.plan.namespace(node), "nft", *words]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def test_rules_flushed_by_hand_are_put_back(lab: Lab) -> None:
    before = nft(lab, OLD, "list", "tables")
    assert before.count("molehill_") == 3
    earlier = len(layers(lab, OLD, "fast"))
    nft(lab, OLD, "flush", "ruleset")
    until(lambda: nft(lab, OLD, "list", "tables") == before)
    until(lambda: layers(lab, OLD, "fast")[earlier:][-1:] == [True])
    agent, guard = pids(lab, OLD)
    with never_two(lab, OLD):  # and they are in force
        for pid in (guard, agent):
            os.kill(pid, signal.SIGSTOP)
        until(lambda: taken_over(lab, OTHERS))


def test_a_vip_deleted_by_hand_is_mended(lab: Lab) -> None:
    address = on(lab, OLD)[0]
    before = metric(lab, OLD, "molehill_vip_acquisitions_total", cause="repair")
    network.batch([f"addr del {address}/16 dev eth0"], lab.plan.namespace(OLD))
    until(lambda: told(lab, OLD, "vip_lost"))
    until(lambda: metric(lab, OLD, "molehill_vip_acquisitions_total", cause="repair") == before + 1)
    until(lambda: lab.holders()[address] == [OLD])


def test_a_vip_put_on_another_node_by_hand_is_not_answered_there(lab: Lab) -> None:
    """It is that person's address, so it stays; but only the holder answers, and everybody is told."""
    address = on(lab, OLD)[0]
    other = OTHERS[0]
    before = metric(lab, other, "molehill_vip_acquire_failures_total", vip=address, reason="exists_here")
    with Asker(lab.plan, [address]) as asker:
        network.batch([f"addr add {address}/16 dev eth0"], lab.plan.namespace(other))
        until(lambda: told(lab, other, "vip_acquire_failed", vip=address, reason="exists_here"))
        since = now()
        until(lambda: len([frame for frame in asker.frames if frame.at > since]) > 2 * ENOUGH)
        assert {frame.node for frame in asker.frames if frame.at > since} == {OLD}
    failures = "molehill_vip_acquire_failures_total"
    until(lambda: metric(lab, other, failures, vip=address, reason="exists_here") == before + 1)
    network.batch([f"addr del {address}/16 dev eth0"], lab.plan.namespace(other))
    until(lambda: granted(lab, OLD, "move", vip=address, node=other))
    until(lambda: on(lab, OLD).count(address) == 0 and address in on(lab, other))
    with Asker(lab.plan, [address]) as asker:
        until(lambda: len(asker.frames) > ENOUGH)
        assert {frame.node for frame in asker.frames} == {other}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_vip_put_on_another_node_by_hand_is_not_answered_there_after_its_agents_end(
    lab: Lab, number: signal.Signals
) -> None:
    address, other = on(lab, OLD)[0], OTHERS[0]
    network.batch([f"addr add {address}/16 dev eth0"], lab.plan.namespace(other))
    until(lambda: told(lab, other, "vip_acquire_failed", vip=address, reason="exists_here"))
    with Asker(lab.plan, [address]) as asker:
        guard = os.pidfd_open(pids(lab, other)[1])
        lab.kill(other, number)
        assert lab.wait_ended(other, 30)
        assert select.select([guard], [], [], 30)[0], "its guard has cleaned up"
        os.close(guard)
        heard = len(asker.frames)
        until(lambda: len(asker.frames) > heard + ENOUGH)
        lab.start(other)
        until(lambda: all(members(lab, node) == list(NODES) for node in (OLD, OTHERS[1])))
        heard = len(asker.frames)
        until(lambda: len(asker.frames) > heard + ENOUGH)
        assert {frame.node for frame in asker.frames} == {OLD}
    network.batch([f"addr del {address}/16 dev eth0"], lab.plan.namespace(other))
    until(lambda: address not in nft(lab, other, "list", "ruleset"))


def test_a_vip_put_beside_the_holders_own_is_not_answered_when_it_has_moved_on(lab: Lab) -> None:
    """With another prefix, so that what the agent takes off is not what the person has put up."""
    address = on(lab, OLD)[0]
    with Asker(lab.plan, [address]) as asker:
        network.batch([f"addr add {address}/24 dev eth0"], lab.plan.namespace(OLD))
        until(lambda: answers(asker, address, OLD) >= ENOUGH)
        assert on(lab, OLD).count(address) == 1, "the person's stays"
    assert answered_by_two(asker.frames) == (0.0, 0)
    until(lambda: told(lab, OLD, "vip_acquire_failed", vip=address, reason="exists_here"))


def test_the_guard_of_a_node_that_left_and_is_alone_stays(lab_name: str) -> None:
    """It is not stepped any more, having nothing to do; that is no hang."""
    with cluster(lab_name, 1, 1) as lab:
        guard = pids(lab, OLD)[1]
        lab.ask(OLD, "leave")
        always(lambda: pids(lab, OLD)[1] == guard, 2.0)
        lab.ask(OLD, "join")
        until(lambda: held_once(lab))
        agent, guard = pids(lab, OLD)
        os.kill(agent, signal.SIGSTOP)  # and it watches again
        until(lambda: on(lab, OLD) == [])
        os.kill(agent, signal.SIGCONT)


def test_a_guard_that_is_killed_is_replaced(lab: Lab) -> None:
    agent, guard = pids(lab, OLD)
    earlier = len(layers(lab, OLD, "guard"))
    os.kill(guard, signal.SIGKILL)
    until(lambda: layers(lab, OLD, "guard")[earlier:] == [False, True])
    assert pids(lab, OLD)[1] != guard
    with never_two(lab, OLD):
        os.kill(agent, signal.SIGKILL)
        until(lambda: taken_over(lab, OTHERS))
        until(lambda: on(lab, OLD) == [])
