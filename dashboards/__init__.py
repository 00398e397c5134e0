"""Grafana dashboards: committed JSON, and the generator that made it (`python -m dashboards`, needs the SDK)."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

FILES = ("molehill-cluster.json", "molehill-node.json", "molehill-failover.json")
"""Each is named after the dashboard's uid, so the address in Grafana is `/d/` and this name without its ending."""


def write(directory: Path) -> list[Path]:
    """Copies the dashboards into `directory`, which is made if missing; returns the files. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name in FILES:
        with resources.as_file(resources.files(__name__) / name) as source:
            written.append(Path(shutil.copyfile(source, directory / name)))
    return written
