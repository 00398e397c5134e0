"""A real agent in a lab that is scraped: how long each answer takes, and how late that makes the agent's loop."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from agent.lab import formation, network
from agent.lab.lab import HTTP_PORT, Lab, down, shield
from agent.lab.plan import generate

PERIOD = 0.7
"""Seconds from one scrape to the next: an exposition is served again for half a second."""

ASK = 0.002
"""Seconds between two questions whether the loop turns."""

LAG = re.compile(r'^molehill_event_loop_lag_seconds_bucket\{.*?le="([^"]+)".*?\} (\S+)', re.MULTILINE)


class Phase(NamedTuple):
    name: str
    seconds: list[float]
    """Of each scrape, as curl has it."""
    size: int
    lag: float
    """Upper bound of the latest timer that the agent itself has measured: ten a second."""
    timers: int
    """How many it has measured."""
    slowest: float
    """Seconds: the slowest answer of `/-/healthy`, asked all the time: the loop's delay, both ends' system calls and
    what else the machine does."""

    def __str__(self) -> str:
        times = [1e3 * one for one in self.seconds]
        took = f"{statistics.median(times):.1f} ms, longest {max(times):.1f}" if times else "none made"
        return (
            f"{self.name}: {len(times)} scrapes of {self.size / 1e3:.0f} kB: {took}; latest of {self.timers} timers at "
            f"most {1e3 * self.lag:g} ms late; slowest of all other answers {1e3 * self.slowest:.1f} ms"
        )


@contextlib.contextmanager
def running(nodes: int, vips: int) -> Iterator[str]:
    """Address of the first agent of a formed cluster; gone at the end."""
    name = f"s{os.getpid() % 1_000_000}"
    network.require_tools()
    shield(-10)
    down(name)
    try:
        lab = Lab.create(generate(name, nodes, vips, network.free_management_network()))
        formation.wait_formed(lab, timeout=120)
        yield lab.plan.node("www1").management
    finally:
        down(name)


def measure(nodes: int, vips: int, runs: int, formats: dict[str, str]) -> Iterator[Phase]:
    """First as long without scrapes, then with those of each format."""
    with running(nodes, vips) as host:
        url = f"http://{host}:{HTTP_PORT}/metrics"
        time.sleep(5.0)  # announcements are repeated
        for name, accept in {"none": "", **formats}.items():
            before = _timers(url)
            with _asking(host) as answers:
                found = [_scrape(url, accept) for _ in _paced(runs) if accept]
            after = _timers(url)
            late = {bound: after[bound] - before[bound] for bound in after}
            count = late[float("inf")]
            yield Phase(
                name,
                [seconds for seconds, _ in found],
                found[-1][1] if found else 0,
                min(bound for bound, timers in late.items() if timers == count),
                count,
                max(answers()),
            )


def _paced(runs: int) -> Iterator[int]:
    begun = time.monotonic()
    for number in range(runs):
        yield number
        time.sleep(max(0.0, begun + (number + 1) * PERIOD - time.monotonic()))


def _scrape(url: str, accept: str) -> tuple[float, int]:
    """Seconds and bytes, by a program of its own: this one's threads wait for each other."""
    form = ("-o", "/dev/null", "-w", "%{time_total} %{size_download} %{http_code}")
    done = subprocess.run(
        ["curl", "-sS", "-H", f"Accept: {accept}", *form, url], capture_output=True, text=True, check=True, timeout=30
    )
    seconds, size, code = done.stdout.split()
    assert code == "200", done.stdout
    return float(seconds), int(size)


def _timers(url: str) -> dict[float, int]:
    """How many of the agent's timers were at most so late, since it started."""
    done = subprocess.run(["curl", "-sS", url], capture_output=True, text=True, check=True, timeout=30)
    time.sleep(PERIOD)  # the next scrape is a fresh one
    return {float(bound): int(float(count)) for bound, count in LAG.findall(done.stdout)}


@contextlib.contextmanager
def _asking(host: str) -> Iterator[Callable[[], list[float]]]:
    """Asks for signs of life all the time; gives the seconds that each answer took, afterwards."""
    found: list[float] = []
    done = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection(host, HTTP_PORT, timeout=30)
        while not done.wait(ASK):
            begun = time.perf_counter()
            connection.request("GET", "/-/healthy")
            connection.getresponse().read()
            found.append(time.perf_counter() - begun)
        connection.close()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield lambda: found
    finally:
        done.set()
        asking.join()
