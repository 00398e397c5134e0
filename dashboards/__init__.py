"""Grafana dashboards: committed JSON, and the generator that made it (`python -m dashboards`, needs the SDK)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

FILES = ("molehill-cluster.json", "molehill-node.json", "molehill-failover.json")
"""Each is named after the dashboard's uid, so the address in Grafana is `/d/` and this name without its ending."""

RUNBOOK = "https://molehill.example/runbook"
"""Stands for the page of docs/runbook.md."""


def write(directory: Path, *, runbook: str = RUNBOOK) -> list[Path]:
    """Writes the dashboards into `directory`, which is made if needed; returns their paths. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name in FILES:
        text = (files(__name__) / name).read_text(encoding="utf-8")
        target = directory / name
        target.write_text(text.replace(RUNBOOK, runbook.rstrip("/")), encoding="utf-8")
        written.append(target)
    return written
