"""What a scrape costs an agent with many VIPs: its own time, and how late it makes the event loop.

python -m tests.bench.scraping [--vips 1000] [--runs 30] [--nodes 1]

First the exporters alone, in this process; then, as root, a real agent in a lab that holds the VIPs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
import time
from typing import NamedTuple

from agent.core import events as e
from agent.core.effects import Occasion
from agent.core.settings import Settings
from agent.core.view import Cause
from exporters.bus import Bus
from exporters.metrics import CACHED, Metrics
from exporters.observers import SWITCH_INTERVAL
from exporters.status import Status
from exporters.wall import Wall
from tests.exporters.events_of_every_kind import installed, settings

TICK = 0.001
"""Seconds between two looks at the clock; what is over it is the loop's delay."""

FORMATS = {"text": "text/plain", "openmetrics": "application/openmetrics-text;version=1.0.0"}


class Scrape(NamedTuple):
    seconds: float
    delay: float
    """Longest lateness of the loop while it lasted, in seconds."""
    idle: float
    """The same over as long a time right before it: what the machine adds."""
    size: int


def observed(about: Settings, loop: asyncio.AbstractEventLoop, now: list[float]) -> Metrics:
    """Metrics of a node that has acquired and announced all of its VIPs."""
    status = Status(about, Wall(time.monotonic), engine="embedded")
    metrics = Metrics(status, Bus(loop), reject_reasons=("unsealed",), timer=lambda: now[0])
    events: list[e.Event] = [installed(vips=len(about.vips))]
    for vip in about.vips:
        events.append(e.VipAcquired(20.0, vip.name, Cause.FAILOVER, started=19.99, since=19.6))
        events.append(e.ArpSent(20.0, vip.name, "eth4", "request", vip.name, Occasion.ACQUIRE, ""))
    for event in events:
        status(event)
        metrics(event)
    return metrics


async def scrape(metrics: Metrics, accept: str) -> Scrape:
    late = 0.0
    done = False

    async def watch() -> None:
        nonlocal late
        while not done:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            late = max(late, time.perf_counter() - due)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(5 * TICK)
    late = 0.0
    await asyncio.sleep(0.04)
    idle, late = late, 0.0
    begun = time.perf_counter()
    body, _ = await metrics.scrape(accept)
    took = time.perf_counter() - begun
    await asyncio.sleep(2 * TICK)
    done = True
    await watching
    return Scrape(took, late, idle, len(body))


async def measure(vips: int, runs: int) -> dict[str, list[Scrape]]:
    now = [0.0]
    metrics = observed(settings(vips=vips), asyncio.get_running_loop(), now)
    gc.collect()
    gc.freeze()  # as the agent does
    found: dict[str, list[Scrape]] = {}
    for name, accept in FORMATS.items():
        await metrics.scrape(accept)
        for _ in range(runs):
            now[0] += 2 * CACHED
            found.setdefault(name, []).append(await scrape(metrics, accept))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vips", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--nodes", type=int, default=1, help="of the lab; 0: no lab (default: %(default)s)")
    args = parser.parse_args()
    if os.geteuid() == 0:
        os.setpriority(os.PRIO_PROCESS, 0, -15)  # as in a lab's benchmark: what else runs here is not measured
    sys.setswitchinterval(SWITCH_INTERVAL)
    for name, scrapes in asyncio.run(measure(args.vips, args.runs)).items():
        times, delays = [one.seconds * 1e3 for one in scrapes], [one.delay * 1e3 for one in scrapes]
        idle = [one.idle * 1e3 for one in scrapes]
        print(
            f"{args.vips} VIPs, {name}, {scrapes[-1].size / 1e3:.0f} kB: a scrape takes "
            f"{statistics.median(times):.1f} ms "
            f"(longest {max(times):.1f}), the loop is late by {statistics.median(delays):.1f} ms "
            f"(most {max(delays):.1f}; "
            f"without a scrape {statistics.median(idle):.1f} ms, most {max(idle):.1f})"
        )
    if os.geteuid() == 0 and args.nodes:
        from tests.bench import scraping_agent

        for phase in scraping_agent.measure(args.nodes, args.vips, args.runs, FORMATS):
            print(f"agent with {args.vips} VIPs on {args.nodes} node(s), scrapes: {phase}", flush=True)


if __name__ == "__main__":
    main()
