"""Prometheus rules, their promtool tests, and examples of configurations: data, and the verb that writes it out.

The files are complete as they are. Only the addresses in `runbook_url` and `dashboard_url` are placeholders.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

RUNBOOK = "https://molehill.example/runbook"
"""Stands for the page of docs/runbook.md; an alert's section follows after `#`."""

WRITTEN = (".rules.yml", ".test.yml", ".example.yml")

DASHBOARDS = "https://molehill.example/grafana"
"""Stands for Grafana's root; `/d/molehill-cluster` and the like follow."""


def write(directory: Path, *, runbook: str = RUNBOOK, dashboards: str = DASHBOARDS) -> list[Path]:
    """Writes all files below `directory`, which is made if needed; returns their paths. OSError: cannot be written."""
    written = []
    for source, name in _sources(files(__name__), Path()):
        text = source.read_text(encoding="utf-8")
        text = text.replace(RUNBOOK, runbook.rstrip("/")).replace(DASHBOARDS, dashboards.rstrip("/"))
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        written.append(target)
    return written


def _sources(folder: Traversable, name: Path) -> list[tuple[Traversable, Path]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _sources(entry, name / entry.name)
        elif entry.name.endswith(WRITTEN):
            found.append((entry, name / entry.name))
    return found
