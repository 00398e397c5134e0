"""How late the event loop runs a 10 ms timer: ordinary, at the unit's nice -10, and with `realtime: true` on top.

    python -m tests.bench.realtime [--seconds 20]

Each on an idle machine, beside one endless loop per processor, and beside those with a thread in the agent's own
process that computes for 5 ms ten times a second (as exporters do: it holds Python's lock meanwhile). Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from agent import realtime

INTERVAL = 0.01
WAYS = ("ordinary", "nice -10", "nice -10 and realtime")
BESIDE = ("nothing", "busy loops", "busy loops and a thread")


def measure(way: str, thread: bool, seconds: float) -> list[float]:
    """Lateness of each timer in seconds."""
    if way.startswith("nice"):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    if thread:
        threading.Thread(target=_compute, daemon=True).start()
    if way.endswith("realtime"):
        refused = realtime.enter()
        if refused:
            raise SystemExit("; ".join(refused))
    return asyncio.run(_late(seconds))


async def _late(seconds: float) -> list[float]:
    late = []
    end = time.monotonic() + seconds
    while (due := time.monotonic() + INTERVAL) < end:
        await asyncio.sleep(INTERVAL)
        late.append(time.monotonic() - due)
    return late


def _compute() -> None:
    while True:
        end = time.thread_time() + 0.005
        while time.thread_time() < end:
            pass
        time.sleep(0.095)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        way, beside = args.one
        print(json.dumps(measure(way, beside.endswith("thread"), args.seconds)))
        return
    print("| beside | scheduling | median | 99 % | 99.9 % | worst |\n|---|---|--:|--:|--:|--:|")
    for beside in BESIDE:
        with busy(len(os.sched_getaffinity(0)) if beside.startswith("busy") else 0):
            for way in WAYS:
                line = [sys.executable, "-m", "tests.bench.realtime", "--seconds", str(args.seconds)]
                out = subprocess.run([*line, "--one", way, beside], check=True, capture_output=True, text=True).stdout
                late = sorted(json.loads(out))
                cells = [1000 * late[min(len(late) - 1, int(part * len(late)))] for part in (0.5, 0.99, 0.999, 1)]
                print(f"| {beside} | {way} |", " | ".join(f"{cell:.2f} ms" for cell in cells), "|", flush=True)


if __name__ == "__main__":
    main()
