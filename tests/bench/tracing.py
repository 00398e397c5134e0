"""Whether tracing slows a fail-over down: two labs, one with and one without, which lose a host in turn.

    python -m tests.bench.tracing [--runs 20] [--vips 10] [--control] [--json]

Measured from the decision (the first survivor has installed the view) to the last frame of the first announcements:
by the agents' recorded events, and by a capture at the client; and what of it was processor time of the agents, which
other processes do not delay. Two labs of the same program differ by a tenth for as
long as they live (which core, which pages, which phase of the heartbeats), so that after every few runs both are made
anew, the other one first. `--control` measures what is left of that: neither lab traces. Needs root; 10 s a run.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.lab import arp, formation, network
from agent.lab.lab import Lab, down, molehill, node_directory, now, shield
from agent.lab.plan import Host, Plan, generate, with_arguments
from tests.exporters.collector import Collector, collector

NODES = 3
TARGET = 1.05
BLOCK = 4
"""Runs of each kind before both labs are made anew."""


@dataclass(frozen=True, slots=True)
class Run:
    traced: bool
    moved: int
    events: float
    """Seconds from the decision to the last frame, by recorded events."""
    capture: float
    """The same to the last frame's arrival at the client."""
    processor: float
    """Seconds of processor time that both survivors' loops spent on installing the view, acquiring and announcing."""


def record_of(lab_directory: Path, node: str) -> Path:
    return node_directory(lab_directory, node) / "record.jsonl"


def recorded(plan: Plan, host: Host, directory: Path) -> list[str]:
    """The agent's command line, recording."""
    line = molehill(plan, host, directory)
    place = line.index("agent")
    line[place] = "tests.bench.recorded"
    return ["env", f"MOLEHILL_RECORD={record_of(directory, host.name)}", *line]


def wait(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        select.select([], [], [], 0.005)


def shares(lab: Lab) -> dict[str, set[str]]:
    held: dict[str, set[str]] = {node.name: set() for node in lab.plan.nodes}
    for address, nodes in lab.holders().items():
        for node in nodes:
            held[node].add(address)
    return held


def balanced(lab: Lab) -> bool:
    sizes = [len(held) for held in shares(lab).values()]
    return max(sizes) - min(sizes) <= 1 and sum(sizes) == len(list(lab.plan.addresses()))


@contextmanager
def made(name: str, vips: int, receiver: Collector | None) -> Iterator[tuple[Lab, arp.Capture]]:
    down(name)
    plan = generate(name, NODES, vips, network.free_management_network())
    settings = ["mature=200ms", "balance.interval=10m"]
    if receiver is not None:
        settings.append(f"tracing.endpoint=http://{plan.host_address()}:{receiver.port}")
    arguments = [part for text in settings for part in ("--set", text)]
    try:
        lab = Lab.create(with_arguments(plan, *arguments), recorded)
        formation.wait_formed(lab, timeout=60)
        lab.ask(plan.nodes[0].name, "balance")
        with arp.Capture(lab.plan) as capture:
            yield lab, capture
    finally:
        down(name)


def events_since(lab: Lab, nodes: list[str], since: float) -> tuple[float, float, float]:
    """When the first of these nodes installed the view without the lost one, the last first announcement, the cost."""
    lines = [json.loads(line) for node in nodes for line in record_of(lab.directory, node).read_text().splitlines()]
    new = [line for line in lines if line["at"] >= since]
    decided = min(line["at"] for line in new if line.get("view") == NODES - 1)
    cost = sum(line["cpu"] for line in new if line.get("view") == NODES - 1 and line["at"] < decided + 1.0)
    return (
        decided,
        max(line["at"] for line in new if line.get("frame") == "acquire" and line["at"] < decided + 1.0),
        cost,
    )


def failover(lab: Lab, capture: arp.Capture, number: int, traced: bool) -> Run:
    wait(lambda: balanced(lab), "balanced before the run")
    node = lab.plan.nodes[number % NODES].name
    others = [other.name for other in lab.plan.nodes if other.name != node]
    mine = shares(lab)[node]
    capture.frames()
    since = lab.lose(node)
    wait(lambda: mine <= set().union(*(shares(lab)[other] for other in others)), "taken over")
    select.select([], [], [], 0.5)
    decided, last, cost = events_since(lab, others, since)
    seen = [frame.at for frame in capture.frames() if frame.node in others and frame.address in mine]
    run = Run(traced, len(mine), last - decided, max(seen) - decided, cost)
    lab.reboot(node)
    formation.wait_formed(lab, timeout=60)
    lab.ask(others[0], "balance")
    wait(lambda: balanced(lab), "balanced after the run")
    settled = now() + 1.5
    wait(lambda: now() > settled, "")
    return run


def measure(runs: int, vips: int, say: Callable[[str], None], control: bool) -> tuple[list[Run], int]:
    """All runs, and how many spans arrived. `control`: the lab that counts as traced is not."""
    if os.geteuid() != 0:
        raise SystemExit("needs root: it makes network namespaces")
    found: list[Run] = []
    shield(-10)
    with collector("0.0.0.0") as receiver:
        for first in range(0, runs, BLOCK):
            with ExitStack() as stack:
                kinds = (False, True) if first // BLOCK % 2 else (True, False)
                labs = [
                    (
                        stack.enter_context(made(mark(traced), vips, receiver if traced and not control else None)),
                        traced,
                    )
                    for traced in kinds
                ]
                for number in range(first, min(runs, first + BLOCK)):
                    for (lab, capture), traced in labs if number % 2 else labs[::-1]:
                        run = failover(lab, capture, number, traced)
                        found.append(run)
                        word = "on " if traced else "off"
                        figures = ", ".join(f"{one * 1e3:6.2f}" for one in (run.events, run.capture, run.processor))
                        say(f"{number + 1:3} tracing {word} {run.moved} VIPs: {figures} ms (events, capture, cpu)")
        return found, len(receiver.all())


def mark(traced: bool) -> str:
    return f"b{'on' if traced else 'off'}{os.getpid() % 10_000}"


def summary(runs: list[Run], spans: int) -> dict[str, object]:
    result: dict[str, object] = {"runs": len(runs) // 2, "spans": spans, "target": TARGET}
    for measure in ("events", "capture", "processor"):
        on, off = (
            statistics.median(getattr(run, measure) for run in runs if run.traced is traced) for traced in (True, False)
        )
        result[measure] = {"on_median_ms": on * 1e3, "off_median_ms": off * 1e3, "ratio": on / off}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--vips", type=int, default=10)
    parser.add_argument("--control", action="store_true", help="tracing off in both labs: what chance makes of it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    runs, spans = measure(args.runs, args.vips, lambda text: print(text, file=sys.stderr, flush=True), args.control)
    result = summary(runs, spans)
    if args.json:
        print(json.dumps({"summary": result, "runs": [asdict(run) for run in runs]}, indent=1))
        return 0
    for name in ("events", "capture", "processor"):
        one = result[name]
        assert isinstance(one, dict)
        print(
            f"decision to last frame, {name}: tracing on {one['on_median_ms']:.2f} ms, off "
            f"{one['off_median_ms']:.2f} ms (medians of {args.runs}), ratio {one['ratio']:.3f}, target {TARGET}"
        )
    print(f"{spans} spans arrived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
