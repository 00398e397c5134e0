"""`python -m tests.bench`: outages that a client sees, in the lab. Needs root.

The method is that of reference/BASELINE.md: a probe to each VIP every millisecond (10 ms above 10 VIPs) from a client
with a normal neighbour cache; an outage is the longest gap between two answers less one period. The agents run at
nice -10; prober, echo and address watch at SCHED_FIFO. A run in which the prober itself stalled is done again and
counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.lab import network, state
from agent.lab.arp import Capture
from agent.lab.lab import Command, Lab, down, now, shield
from agent.lab.plan import Host, LabError, Plan, with_arguments
from agent.lab.probing import Probing
from tests.bench import report
from tests.bench.fencing import FENCING
from tests.bench.rivals import RIVALS
from tests.bench.scenarios import SCENARIOS, Bench, Trial, back, restore
from tests.bench.system import System
from tests.bench.systems import SYSTEMS
from tests.bench.two_holders import TWO_HOLDERS

STALL_LIMITS = {"fast": 0.005, "lan": 0.020, "quorum": 0.020}
STALL_LIMIT = 0.100
"""Seconds: a run with a longer stall of the prober says nothing about the system. The latter for those profiles whose
timers are of the order of a second."""

FAULTS = SCENARIOS | FENCING | TWO_HOLDERS | RIVALS
PROFILES = list(dict.fromkeys(profile for system in SYSTEMS.values() for profile in system.profiles))

ON_REQUEST = frozenset({"heal"})
"""Left out unless asked for: it takes 20 s and more."""

REDO_FACTOR = 3
"""So many times the wanted runs are tried before the machine is called too busy."""


class TooBusy(LabError):
    """The machine, not the system, is to blame; the cluster is whole."""


def main() -> int:
    args = _arguments()
    if args.json is not None and not args.json.parent.is_dir():
        print(f"bench: --json {args.json}: no such directory", file=sys.stderr)
        return 2
    trials: list[dict[str, Any]] = []
    redone: dict[str, int] = {}
    errors: list[str] = []
    document: dict[str, Any] = {"machine": report.machine(), "nodes": args.nodes, "vips": args.vips}
    document |= {"seed": args.seed, "fifo": args.fifo}
    # Whoever ends the benchmark ends the lab too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        network.require_tools()
        _remove_abandoned()
        shield(-10)
        for system in (SYSTEMS[name] for name in args.systems):
            # A system without any of the profiles that were asked for has others.
            for profile in [one for one in args.profiles if one in system.profiles] or system.profiles:
                _measure(system, profile, args, trials, redone, errors)
    except LabError as error:
        errors.append(str(error))
    except KeyboardInterrupt:
        errors.append("interrupted")
    rows = report.summarize(trials)
    document |= {"load_after": [round(value, 2) for value in os.getloadavg()], "summary": rows}
    document |= {"redone": redone, "errors": errors, "trials": trials}
    if args.json is not None:
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(report.markdown(rows, redone))
    print(f"\n{json.dumps(document['machine'])}\nload after: {document['load_after']}")
    for text in errors:
        print(f"bench: {text}", file=sys.stderr)
    return _verdict(rows, errors, args.check)


def _arguments() -> argparse.Namespace:
    def words(known: list[str]) -> Any:
        def parse(text: str) -> list[str]:
            chosen = [word for word in text.split(",") if word]
            for word in chosen:
                if word not in known:
                    raise argparse.ArgumentTypeError(f"{word!r}: one or more of {','.join(known)}")
            return chosen

        return parse

    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--systems", type=words(list(SYSTEMS)), default=["molehill"])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--profiles", type=words(PROFILES), default=["lan", "fast"])
    parser.add_argument(
        "--scenarios", type=words(list(FAULTS)), default=[name for name in FAULTS if name not in ON_REQUEST]
    )
    parser.add_argument("--window", type=float, default=1.5, metavar="SECONDS", help="watched after kill and hang")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--vips", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="every trial, and the summary")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments of the faults")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all nodes")
    parser.add_argument("--name", default=f"b{os.getpid()}", help="of the lab")
    parser.add_argument(
        "--fifo", action="store_true", help="run the agents at SCHED_FIFO too, as if the machine had no other work"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a promised figure is missed")
    return parser.parse_args()


def _measure(
    system: System,
    profile: str,
    args: argparse.Namespace,
    trials: list[dict[str, Any]],
    redone: dict[str, int],
    errors: list[str],
) -> None:
    """All scenarios of one profile, in one lab. What it cannot do is among the errors."""
    label = f"{system.name} {profile}"
    down(args.name)
    try:
        system.require()
        plan = system.plan(args.name, args.nodes, args.vips, profile, network.free_management_network())
        plan = with_arguments(plan, *(part for text in args.set for part in ("--set", text)))
        lab = Lab.create(plan, at_fifo(system.command) if args.fifo else system.command)
    except LabError as error:
        errors.append(f"{label}: {error}")
        return
    try:
        names = [node.name for node in plan.nodes]
        system.wait_whole(lab, names)
        with Probing(lab) as probing, Capture(plan) as capture:
            bench = Bench(system, lab, probing, capture, random.Random(args.seed), profile, args.window)
            back(bench)
            for scenario in [one for one in args.scenarios if one in system.faults]:
                try:
                    _repeat(bench, scenario, profile, args.runs, trials, redone)
                except TooBusy as error:
                    errors.append(f"{label} {scenario}: {error}")
                except LabError as error:
                    errors.append(f"{label} {scenario}: {error}")
                    _keep_logs(lab, label, scenario)
                    return
    except LabError as error:
        errors.append(f"{label}: {error}")
        _keep_logs(lab, label, "start")
    finally:
        down(args.name)


def at_fifo(command: Command) -> Command:
    """The same programs at real-time priority 1, below prober and echo."""

    def line(plan: Plan, host: Host, directory: Path) -> list[str]:
        return ["chrt", "--fifo", "1", *command(plan, host, directory)]

    return line


def _remove_abandoned() -> None:
    """Labs of benchmarks that were killed."""
    for name in state.names():
        found = re.fullmatch("b([0-9]+)", name)
        if found and not Path(f"/proc/{found[1]}").exists():
            down(name)


def _repeat(
    bench: Bench, scenario: str, profile: str, runs: int, trials: list[dict[str, Any]], redone: dict[str, int]
) -> None:
    label = f"{bench.system.name} {profile} {scenario}"
    limit = STALL_LIMITS.get(profile, STALL_LIMIT)
    good = attempts = 0
    while good < runs:
        if attempts >= runs * REDO_FACTOR:
            raise TooBusy(f"{attempts} runs, and the prober stalled in {attempts - good}: the machine is too busy")
        began = now()
        attempts += 1
        found: list[Trial] = []
        try:
            found = FAULTS[scenario](bench, attempts)
            stall = max(trial.stall for trial in found)
        except LabError:
            stall = bench.probing.recording(began, now()).worst_stall(began, now())
            if stall <= limit:
                raise
            restore(bench)
        if stall > limit:
            redone[label] = redone.get(label, 0) + 1
            print(f"{label}: prober stalled {stall * 1e3:.1f} ms, done again", file=sys.stderr, flush=True)
            continue
        good += 1
        for trial in found:
            load = round(os.getloadavg()[0], 2)
            trials.append({"system": bench.system.name, "profile": profile, "run": good, "load": load, **asdict(trial)})
            worst = max(trial.outages.values(), default=float("nan"))
            lasting = ", to the end" if trial.to_the_end else ""
            print(
                f"{label}: {trial.scenario} {good}/{runs}: {len(trial.outages)} VIPs, worst {worst * 1e3:.1f} ms, "
                f"held twice {trial.held_twice * 1e3:.1f} ms{lasting}, stall {trial.stall * 1e3:.1f} ms",
                file=sys.stderr,
                flush=True,
            )


def _keep_logs(lab: Lab, label: str, scenario: str) -> None:
    """The agents' last lines, before the lab goes."""
    for node in lab.plan.nodes:
        path = lab.log(node.name)
        if path.exists():
            tail = path.read_text(errors="replace").splitlines()[-15:]
            print(f"--- {label} {scenario}: {node.name}", *tail, sep="\n", file=sys.stderr)


def _verdict(rows: list[dict[str, Any]], errors: list[str], check: bool) -> int:
    """1: something failed, or a promise was missed: two nodes at once for a VIP, or (with --check) a figure."""
    broken = bool(errors) or not rows
    for row in rows:
        if row["held_twice"] > 0 and SYSTEMS[row["system"]].promises_one(row["scenario"], row["profile"]):
            broken = True
            print(
                f"bench: {row['system']} {row['profile']} {row['scenario']}: a VIP was on two connected nodes",
                file=sys.stderr,
            )
        if check and row["met"] is False:
            broken = True
            print(f"bench: {row['profile']} {row['scenario']}: the promised figure is missed", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
