"""Faults of the agent alone: it dies or hangs while its guard and the machine live on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.lab.lab import Lab, now
from agent.lab.plan import LabError
from tests.bench.asker import Asker
from tests.bench.claims import answered_by_two, silent_for
from tests.bench.scenarios import SETTLE, TAKE_OVER_SECONDS, Bench, Trial, back, seen_by_client, victim, watch_on
from tests.bench.system import wait_holders
from tests.bench.telling import tell

WOKEN = 2.0
"""Seconds watched after SIGCONT."""
HANG = 1.5
"""Seconds that the agent does not run."""


def guard_of(agent: int) -> int:
    """The process that guards an agent. Raises LabError."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status[1]) == agent and b"agent.guard" in line:
            return int(entry.name)
    raise LabError(f"agent {agent} has no guard")


def pids(lab: Lab, node: str) -> tuple[int, int]:
    """Agent and guard."""
    process = lab.agent(node)
    if process is None:
        raise LabError(f"no agent runs on {node}")
    return process.pid, guard_of(process.pid)


@contextmanager
def _fault(bench: Bench, number: int, title: str, trials: list[Trial]) -> Iterator[tuple[str, int]]:
    """The body does it and, after the take-over, undoes it."""
    node, _others, hit = victim(bench, number)
    agent, _guard = pids(bench.lab, node)
    with Asker(bench.lab.plan, hit) as asker:
        since = now()
        yield node, agent
        until = now()
    trial = seen_by_client(bench, title, node, since, hit)
    trial.held_twice, count = answered_by_two(asker.frames)
    if count:
        tell(bench.lab, asker.frames, since)
    silence = silent_for(asker.frames, node, since)
    trial.details |= {"silent_before": silence, "claims_between": count, "watched": until - since}
    trials.append(trial)


def kill(bench: Bench, number: int) -> list[Trial]:
    """SIGKILL of the agent."""
    trials: list[Trial] = []
    with _fault(bench, number, "SIGKILL", trials) as (node, agent):
        os.kill(agent, signal.SIGKILL)
        _taken_over(bench, node)
    bench.lab.reboot(node)
    back(bench)
    return trials


def hang(bench: Bench, number: int) -> list[Trial]:
    """SIGSTOP of the agent for 1.5 s, and SIGCONT."""
    trials: list[Trial] = []
    with _fault(bench, number, "SIGSTOP", trials) as (node, agent):
        os.kill(agent, signal.SIGSTOP)
        try:
            _taken_over(bench, node)
            watch_on(HANG)
        finally:
            os.kill(agent, signal.SIGCONT)
        watch_on(WOKEN)
    back(bench)
    return trials


def _taken_over(bench: Bench, node: str) -> None:
    others = [other.name for other in bench.lab.plan.nodes if other.name != node]
    addresses = [address for _, address in bench.lab.plan.addresses()]
    wait_holders(bench.lab, addresses, others, TAKE_OVER_SECONDS)
    watch_on(SETTLE)


FENCING = {"kill": kill, "hang": hang}
