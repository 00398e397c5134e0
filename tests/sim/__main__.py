"""`python -m tests.sim --seeds 5000`: many seeds on all cores; `--seed N`: replay of one with its transcript."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from tests.sim.mutants import MUTANTS, SCHEDULED, hunt
from tests.sim.run import Result, run
from tests.sim.violation import Violation

EVERY = 1000
"""Schedules between two lines that tell how far a long run has come."""


def attempt(seed: int) -> Result | tuple[int, str]:
    try:
        return run(seed)
    except Violation as violation:
        return seed, str(violation)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seed", type=int, help="replay this one and print its transcript")
    parser.add_argument("--mutants", action="store_true", help="also demand that mutants are caught")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.seed is not None:
        return replay(args.seed)
    if args.mutants and not args.seeds:
        return 1 if hunt_all(args.jobs) else 0
    started, cpu = time.monotonic(), os.times()
    failures, steps, views, acquisitions = [], 0, 0, 0
    with multiprocessing.Pool(args.jobs) as pool:
        outcomes = pool.imap_unordered(attempt, range(args.first, args.first + args.seeds), chunksize=8)
        for done, outcome in enumerate(outcomes, 1):
            if done % EVERY == 0:
                print(f"{done} schedules after {time.monotonic() - started:.0f} s", flush=True)
            if isinstance(outcome, Result):
                steps += outcome.steps
                views += outcome.views
                acquisitions += outcome.acquisitions
                continue
            failures.append(outcome)
            print(
                f"seed {outcome[0]}: {outcome[1]}\n  replay: python -m tests.sim --seed {outcome[0]}",
                flush=True,
            )
            if len(failures) >= 20:
                pool.terminate()
                break
    taken = time.monotonic() - started
    after = os.times()
    used = after.children_user + after.children_system - cpu.children_user - cpu.children_system
    print(
        f"{args.seeds - len(failures)} of {args.seeds} schedules passed: {steps} steps, {views} view installations, "
        f"{acquisitions} acquisitions; {args.seeds / taken:.1f} schedules/s on {args.jobs} processes, "
        f"{used:.0f} s of CPU time"
    )
    missed = hunt_all(args.jobs) if args.mutants else []
    return 1 if failures or missed else 0


def replay(seed: int) -> int:
    try:
        result = run(seed, keep_trace=True)
    except Violation as violation:
        print("\n".join(violation.__notes__))
        print(violation)
        return 1
    print("\n".join(result.trace))
    print(f"seed {seed} passes: {result.nodes} nodes, {result.steps} steps, {result.views} view installations")
    return 0


def hunt_all(jobs: int) -> list[str]:
    missed = []
    with multiprocessing.Pool(jobs) as pool:
        for name, found in pool.imap_unordered(hunt, [name for name in MUTANTS if name not in SCHEDULED]):
            if found is None:
                missed.append(name)
            verdict = "NOT CAUGHT" if found is None else f"caught at seed {found[0]}: {found[1]}"
            print(f"mutant {name}: {verdict}", flush=True)
    print(f"left to tests/core/test_rule_mutants.py: {', '.join(sorted(SCHEDULED))}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
