"""Faults of the agent alone: it dies or hangs, with or without its guard, while the machine lives on.

An asker on the client's segment sends an ARP question for every VIP concerned each 2 ms and keeps whatever claims one
of them, answers and announcements alike, with the kernel's arrival times. What is counted is what the segment saw, not
what interfaces carry: a fenced address may still be there, silent.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from agent.lab.arp import Capture, Seen, question
from agent.lab.lab import Lab, now
from agent.lab.plan import LabError, Plan
from tests.bench.scenarios import SETTLE, TAKE_OVER_SECONDS, Bench, Trial, back, seen_by_client, victim, watch_on
from tests.bench.system import wait_holders

PERIOD = 0.002
WINDOW = 0.02
"""Seconds: ten questions."""
WOKEN = 2.0
"""Seconds watched after SIGCONT."""
HANG = 1.5
"""Seconds that the agent does not run."""


class Asker:
    """Asks who has the addresses, from its making on; `frames` after the end."""

    def __init__(self, plan: Plan, addresses: list[str]) -> None:
        wanted = set(addresses)
        self._questions = [
            (interface, question(address))
            for vip in plan.vips
            for interface, address, _ in vip.addresses
            if address in wanted
        ]
        self._addresses = wanted
        self._capture = Capture(plan)
        self._over = threading.Event()
        self.frames: list[Seen] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._capture.close()

    def _run(self) -> None:
        while not self._over.wait(PERIOD):
            for interface, frame in self._questions:
                self._capture.send(interface, frame)
            self.frames += [frame for frame in self._capture.frames() if frame.address in self._addresses]


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


def answered_by_two(frames: list[Seen]) -> tuple[float, int]:
    """Longest time in which two nodes claimed one address in turns, in seconds, and how many claims came in between.

    A claim counts that lies between two of another node which are at most `WINDOW` apart. A move, and a later move
    back, have none.
    """
    longest, count = 0.0, 0
    for address in {frame.address for frame in frames}:
        claims = sorted((f.at, f.node) for f in frames if f.address == address)
        began: float | None = None
        for number, (at, node) in enumerate(claims):
            before = next((t for t, other in reversed(claims[:number]) if other != node and at - t <= WINDOW), None)
            after = next((t for t, other in claims[number + 1 :] if other != node), None)
            if before is None or after is None or after - before > WINDOW:
                began = None
                continue
            began = before if began is None else began
            longest, count = max(longest, after - began), count + 1
    return longest, count


def silent_for(frames: list[Seen], old: str, since: float) -> float:
    """The shortest time between the old holder's last claim and another's first, in seconds; negative: it was late."""
    gaps = []
    for address in {frame.address for frame in frames}:
        new = min((f.at for f in frames if f.address == address and f.node != old and f.at >= since), default=None)
        last = max((f.at for f in frames if f.address == address and f.node == old), default=None)
        if new is not None and last is not None:
            # What it claims when it has been given the address again is a new story.
            last = max((f.at for f in frames if f.address == address and f.node == old and f.at < new), default=last)
            gaps.append(new - last)
    return min(gaps, default=float("inf"))


def _tell(lab: Lab, frames: list[Seen], since: float) -> None:
    """Every change of the claimant, and the agents' last lines: what a promise that broke looked like."""
    for address in sorted({frame.address for frame in frames}):
        claims = sorted((f.at, f.node, f.kind) for f in frames if f.address == address)
        turns = [one for last, one in zip([(0.0, "", ""), *claims], claims, strict=False) if one[1] != last[1]]
        told = ", ".join(f"{(at - since) * 1e3:.1f} {node} {kind}" for at, node, kind in turns[:40])
        print(f"{address}: {told}", file=sys.stderr)
    began = datetime.fromtimestamp(time.time() - now() + since, UTC)
    for node in lab.plan.nodes:
        print(f"--- {node.name}; times are ms after the fault", file=sys.stderr)
        for line in lab.log(node.name).read_text(errors="replace").splitlines():
            found = re.match(r"time=(\S+) level=\w+ (.*)", line)
            if found and (at := datetime.fromisoformat(found[1])) >= began:
                print(f"{(at - began).total_seconds() * 1e3:8.1f} {found[2][:150]}", file=sys.stderr)
    sys.stderr.flush()


@contextmanager
def _fault(bench: Bench, number: int, title: str, trials: list[Trial]) -> Iterator[tuple[str, int, int]]:
    """The body does it and, after the take-over, undoes it."""
    node, _others, hit = victim(bench, number)
    agent, guard = pids(bench.lab, node)
    with Asker(bench.lab.plan, hit) as asker:
        since = now()
        yield node, agent, guard
        until = now()
    trial = seen_by_client(bench, title, node, since, hit)
    trial.held_twice, count = answered_by_two(asker.frames)
    if count:
        _tell(bench.lab, asker.frames, since)
    silence = silent_for(asker.frames, node, since)
    trial.details |= {"silent_before": silence, "claims_between": count, "watched": until - since}
    trials.append(trial)


def kill(bench: Bench, number: int, *, both: bool = False) -> list[Trial]:
    """SIGKILL of the agent; `both`: of its guard in the same instant."""
    trials: list[Trial] = []
    title = "SIGKILL, guard too" if both else "SIGKILL"
    with _fault(bench, number, title, trials) as (node, agent, guard):
        if both:
            os.kill(guard, signal.SIGKILL)
        os.kill(agent, signal.SIGKILL)
        _taken_over(bench, node)
    bench.lab.reboot(node)
    back(bench)
    return trials


def hang(bench: Bench, number: int, *, both: bool = False) -> list[Trial]:
    """SIGSTOP of the agent for 1.5 s, and SIGCONT; `both`: of its guard too."""
    trials: list[Trial] = []
    title = "SIGSTOP, guard too" if both else "SIGSTOP"
    with _fault(bench, number, title, trials) as (node, agent, guard):
        if both:
            os.kill(guard, signal.SIGSTOP)
        os.kill(agent, signal.SIGSTOP)
        try:
            _taken_over(bench, node)
            watch_on(HANG)
        finally:
            os.kill(agent, signal.SIGCONT)
            if both:
                os.kill(guard, signal.SIGCONT)
        watch_on(WOKEN)
    back(bench)
    return trials


def _taken_over(bench: Bench, node: str) -> None:
    others = [other.name for other in bench.lab.plan.nodes if other.name != node]
    addresses = [address for _, address in bench.lab.plan.addresses()]
    wait_holders(bench.lab, addresses, others, TAKE_OVER_SECONDS)
    watch_on(SETTLE)


FENCING = {
    "kill": kill,
    "kill-both": lambda bench, number: kill(bench, number, both=True),
    "hang": hang,
    "hang-both": lambda bench, number: hang(bench, number, both=True),
}
