"""Results as numbers: medians for people, every trial for machines."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TARGETS = {
    ("host-loss", "lan"): 0.600,
    ("host-loss", "fast"): 0.080,
    ("stop (leave)", ""): 0.010,
    ("stop (SIGTERM)", ""): 0.010,
    ("balance move", ""): 0.005,
    ("SIGKILL", ""): 0.050,
    ("all SIGKILL", "lan"): 0.760,
    ("all SIGKILL", "fast"): 0.095,
    ("SIGSTOP", "lan"): 0.760,
    ("SIGSTOP", "fast"): 0.095,
    ("all SIGSTOP", "lan"): 0.760,
    ("all SIGSTOP", "fast"): 0.095,
    ("all SIGCONT", "lan"): 0.760,
    ("all SIGCONT", "fast"): 0.095,
}
"""Median of the worst VIP of each run, in seconds, that the project promises; an empty profile means all."""


KEYS = {
    "host-loss": "host-loss",
    "stop": "stop",
    "balance move": "move",
    "cluster start": "start",
    "SIGKILL": "kill",
    "SIGSTOP": "hang",
    "all SIGKILL": "kill-both",
    "started again": "kill-both",
    "all SIGSTOP": "hang-both",
    "all SIGCONT": "hang-both",
    "heal": "heal",
    "rival": "rival",
}
"""Word of the command line for each title of a trial."""


def target(system: str, scenario: str, profile: str) -> float | None:
    """Nothing is promised of others."""
    return None if system != "molehill" else TARGETS.get((scenario, profile), TARGETS.get((scenario, "")))


def machine() -> dict[str, Any]:
    """What the figures were made on."""
    root = Path(__file__).resolve().parent.parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": git("rev-parse", "--short", "HEAD"),
        "uncommitted": bool(git("status", "--porcelain")),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu": model[0] if model else platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "command": "python -m tests.bench " + " ".join(sys.argv[1:]),
    }


def summarize(trials: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per system, profile and scenario; seconds."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for trial in trials:
        groups.setdefault((trial["system"], trial["profile"], trial["scenario"]), []).append(trial)
    rows = []
    for (system, profile, scenario), members in groups.items():
        everything = [value for trial in members for value in trial["outages"].values()]
        worst = [max(trial["outages"].values()) for trial in members if trial["outages"]]
        if not everything:
            continue
        promised = target(system, scenario, profile)
        rows.append(
            {
                "system": system,
                "profile": profile,
                "scenario": scenario,
                "runs": len(members),
                "vips_hit": statistics.fmean(len(trial["outages"]) for trial in members),
                "median": statistics.median(everything),
                "min": min(everything),
                "max": max(everything),
                "worst_vip_median": statistics.median(worst),
                "target": promised,
                "met": None if promised is None else statistics.median(worst) < promised,
                "held_twice_median": statistics.median(trial["held_twice"] for trial in members),
                "held_twice": max(trial["held_twice"] for trial in members),
                "to_the_end": sum(trial["to_the_end"] for trial in members),
                "watched": statistics.median(trial["details"].get("watched", float("nan")) for trial in members),
                "disturbed": sum(trial["disturbed"] for trial in members),
                "unserved": sum(len(trial["unserved"]) for trial in members),
                "stall": max(trial["stall"] for trial in members),
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]], redone: dict[str, int]) -> str:
    """One table for all systems; times that two held an address are those of its worst VIP in each run."""
    lines = [
        "| system | profile | scenario | runs | VIPs hit | outage ms, median (min-max) | worst VIP of a run, median ms "
        "| target ms | two holders ms, median (max) | to the end of the watch "
        "| false moves | not served at end | prober stall ms (max) | redone |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        promised = "" if row["target"] is None else f"< {row['target'] * 1e3:g}" + ("" if row["met"] else " missed")
        again = redone.get(f"{row['system']} {row['profile']} {KEYS[row['scenario'].partition(' (')[0]]}", 0)
        lines.append(
            f"| {row['system']} | {row['profile']} | {row['scenario']} | {row['runs']} | {row['vips_hit']:.1f} "
            f"| {_ms(row['median'])} ({_ms(row['min'])}-{_ms(row['max'])}) "
            f"| {_ms(row['worst_vip_median'])} | {promised} "
            f"| {_ms(row['held_twice_median'])} ({_ms(row['held_twice'])}) | {_lasting(row)} "
            f"| {row['disturbed']} | {row['unserved']} "
            f"| {_ms(row['stall'])} | {again} |"
        )
    return "\n".join(lines)


def _lasting(row: dict[str, Any]) -> str:
    """In how many runs the two were there to the end, and how long the watch was; empty: nobody asked the segment."""
    if math.isnan(row["watched"]):
        return ""
    return f"{row['to_the_end']}/{row['runs']} of {row['watched']:.0f} s"


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
