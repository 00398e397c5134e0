"""The faults, each one trial: from a whole and balanced cluster, through the fault, and back to such a one."""

from __future__ import annotations

import random
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.lab.arp import Capture
from agent.lab.lab import Lab, now
from agent.lab.plan import LabError
from agent.lab.probing import Probing
from tests.bench.system import System, wait_balanced, wait_holders

TAKE_OVER_SECONDS = 30.0
RECOVERY_SECONDS = 90.0
"""Until a cluster is whole and balanced again: a ring of Spread may take 40 s to find another."""
VICTIM_ATTEMPTS = 5
SETTLE = 0.5
"""Seconds watched after the last VIP has its new holder: a lost announcement shows as a longer gap."""


class Bench(NamedTuple):
    """What a trial works with."""

    system: System
    lab: Lab
    probing: Probing
    capture: Capture
    random: random.Random
    profile: str
    window: float
    """Seconds watched after the whole system of a node was killed or frozen."""


@dataclass(slots=True)
class Trial:
    """One run of one scenario; all times in seconds."""

    scenario: str
    node: str
    outages: dict[str, float]
    """Per VIP address that the fault hit: as the client saw it (cluster start: from the start of the first process)."""
    unserved: list[str]
    turns: int
    """Most changes of the answering node of one address: 1 is a clean move."""
    held_twice: float
    """Longest time that two connected nodes had one address, or claimed it in turns where the segment was asked."""
    stall: float
    """The prober's own worst stall in the trial."""
    disturbed: int = 0
    """VIP addresses that came or went although the fault did not hit them: a false fail-over."""
    to_the_end: bool = False
    """Two nodes still claimed one when the watch ended."""
    details: dict[str, float] = field(default_factory=dict)


def host_loss(bench: Bench, number: int) -> list[Trial]:
    """The switch port goes down and every process of the host dies; then it boots again."""
    node, others, hit = victim(bench, number)
    bench.capture.frames()
    since = bench.lab.lose(node)
    wait_holders(bench.lab, hit, others, TAKE_OVER_SECONDS)
    watch_on(SETTLE)
    trial = seen_by_client(bench, "host-loss", node, since, hit)
    trial.details |= _takeover(bench, since, hit, others)
    bench.lab.reboot(node)
    back(bench)
    return [trial]


def stop(bench: Bench, number: int) -> list[Trial]:
    """A graceful stop, by each way that the system has."""
    trials = []
    for way in bench.system.stops():
        node, others, hit = victim(bench, number)
        since = now()
        bench.system.stop(bench.lab, node, way)
        wait_holders(bench.lab, hit, others, TAKE_OVER_SECONDS)
        watch_on(SETTLE)
        trials.append(seen_by_client(bench, f"stop ({way})", node, since, hit))
        bench.system.undo_stop(bench.lab, node, way)
        back(bench)
    return trials


def move(bench: Bench, number: int) -> list[Trial]:
    """A balance round after a node has come back empty."""
    way = bench.system.stops()[0]
    node, others, hit = victim(bench, number)
    bench.system.stop(bench.lab, node, way)
    wait_holders(bench.lab, hit, others, TAKE_OVER_SECONDS)
    bench.system.undo_stop(bench.lab, node, way)
    bench.system.wait_whole(bench.lab, _names(bench))
    watch_on(SETTLE)
    before = bench.lab.holders()
    since = now()
    bench.system.balance(bench.lab)
    wait_balanced(bench.lab, TAKE_OVER_SECONDS)
    watch_on(SETTLE)
    after = bench.lab.holders()
    moved = [address for address, nodes in after.items() if nodes != before[address]]
    if not moved:
        raise LabError("the balance round moved nothing: the cluster was balanced before it")
    return [seen_by_client(bench, "balance move", node, since, moved)]


def start(bench: Bench, number: int) -> list[Trial]:
    """All processes of the system are started at once, where none ran and no VIP was up."""
    lab = bench.lab
    for name in _names(bench):
        lab.stop_at_once(name)
    since = now()
    for name in _names(bench):
        lab.start(name)
    bench.system.wait_whole(lab, _names(bench))
    addresses = [address for _, address in lab.plan.addresses()]
    wait_holders(lab, addresses, _names(bench), TAKE_OVER_SECONDS)
    watch_on(SETTLE)
    until = now()
    trial = seen_by_client(bench, "cluster start", "all", since, addresses)
    answered = bench.probing.first_answers(since, until)
    trial.outages = {address: at - since for address, at in answered.items()}
    trial.unserved = [address for address in addresses if address not in answered]
    back(bench)
    return [trial]


SCENARIOS: dict[str, Callable[[Bench, int], list[Trial]]] = {
    "host-loss": host_loss,
    "stop": stop,
    "move": move,
    "start": start,
}


def _names(bench: Bench) -> list[str]:
    return [node.name for node in bench.lab.plan.nodes]


def victim(bench: Bench, number: int) -> tuple[str, list[str], list[str]]:
    """Each node in turn, at a random moment of the timers: the node, the others, and the addresses it has."""
    names = _names(bench)
    node = names[number % len(names)]
    for _ in range(VICTIM_ATTEMPTS):
        watch_on(bench.random.random())
        hit = [address for address, nodes in bench.lab.holders().items() if nodes == [node]]
        if hit:
            break
        # A pause of the whole machine between two trials makes a false fail-over.
        back(bench)
    else:
        raise LabError(f"{node} holds nothing before the trial, {VICTIM_ATTEMPTS} times after a balance round")
    return node, [name for name in names if name != node], hit


def seen_by_client(
    bench: Bench, scenario: str, node: str, since: float, hit: list[str], end: float | None = None
) -> Trial:
    """What the client and the address watch have from `since` until `end`; none: until now."""
    until = now() if end is None else end
    known = {address for _, address in bench.lab.plan.addresses()}
    recording = bench.probing.recording(since, until)
    outages = [one for one in bench.probing.outages(since, until, recording) if one.address in hit]
    twice = bench.lab.held_twice(since, until)
    disturbed = {one.address for one in bench.lab.changes() if since <= one.at <= until} & (known - set(hit))
    return Trial(
        scenario=scenario,
        node=node,
        outages={one.address: one.seconds for one in outages},
        unserved=[one.address for one in outages if not one.served],
        turns=max((one.turns for one in outages), default=0),
        held_twice=max((one.seconds for one in twice), default=0.0),
        stall=recording.worst_stall(since, until),
        disturbed=len(disturbed),
    )


def _takeover(bench: Bench, since: float, hit: list[str], others: list[str]) -> dict[str, float]:
    """From the first acquisition to the last, and to the last VIP's first announcement at the client."""
    wanted = set(hit)
    held = [
        change.at
        for change in bench.lab.changes()
        if change.at >= since and change.present and change.node in others and change.address in wanted
    ]
    announced: dict[str, float] = {}
    for seen in bench.capture.frames():
        if seen.node in others and seen.address in wanted and seen.gratuitous:
            announced.setdefault(seen.address, seen.at)
    details = {"first_held": min(held) - since, "all_held_within": max(held) - min(held)}
    if len(announced) == len(wanted):
        details["all_announced_within"] = max(announced.values()) - min(held)
    return details


def back(bench: Bench) -> None:
    """Whole, balanced and answered: where every trial starts."""
    bench.system.wait_whole(bench.lab, _names(bench))
    try:
        wait_balanced(bench.lab, 0.0)
    except LabError:
        bench.system.balance(bench.lab)
        wait_balanced(bench.lab, RECOVERY_SECONDS)
    bench.probing.wait_answered(RECOVERY_SECONDS, window=max(0.1, 3 * bench.probing.period))
    # The client's neighbour entries ignore changes for a second (locktime); a trial is not to start inside it.
    watch_on(1.2)


def restore(bench: Bench) -> None:
    """After a trial that failed half-way: every host boots again. Raises LabError."""
    for name in _names(bench):
        bench.lab.reboot(name)
    back(bench)


def watch_on(seconds: float) -> None:
    """The prober and the watch go on for so long; nothing is waited for."""
    select.select([], [], [], seconds)
