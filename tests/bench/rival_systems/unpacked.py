"""Where a rival's programs are: installed, or unpacked in a tree that a node lays over its own /usr and /etc."""

from __future__ import annotations

from pathlib import Path

from agent.lab.plan import LabError
from agent.lab.processes import PACKAGE_ROOT
from tests.bench.rival_systems.boot import Software

TREE = PACKAGE_ROOT / ".tools" / "rivals"
"""Packages are unpacked here and never installed: installing them would start them on the machine itself."""


def require(software: Software, tree: Path = TREE, machine: Path = Path("/")) -> None:
    """Raises LabError that names what is missing and where to get it."""
    missing = [
        program
        for program in software.programs
        if not any((root / program.lstrip("/")).exists() for root in (tree, machine))
    ]
    if missing:
        raise LabError(
            f"{software.name}: {', '.join(missing)} is neither installed nor in .tools/rivals; {software.origin}"
        )
