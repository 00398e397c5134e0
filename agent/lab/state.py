"""The lab's memory: /run/molehill-lab/NAME/, so that any later command finds what an earlier one made."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agent.lab.plan import LabError, Plan
from agent.lab.processes import Process

ROOT = Path("/run/molehill-lab")


@dataclass(slots=True)
class Running:
    """Processes and faults of a lab, as last written."""

    agents: dict[str, Process] = field(default_factory=dict)
    services: dict[str, Process] = field(default_factory=dict)
    """echo, watch."""
    one_way: list[tuple[str, str]] = field(default_factory=list)
    apart: dict[str, str] = field(default_factory=dict)
    """Hosts that are not on the common segment, and why: cut, link, split."""


def directory_of(name: str) -> Path:
    return ROOT / name


def write(path: Path, value: object) -> None:
    """Atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")
    temporary.rename(path)


def read_plan(directory: Path) -> Plan:
    """Raises LabError where there is no such lab."""
    try:
        return msgspec.json.decode((directory / "plan.json").read_bytes(), type=Plan)
    except FileNotFoundError:
        others = ", ".join(names()) or "none"
        raise LabError(
            f"there is no lab {directory.name!r} (labs on this machine: {others}); `molehill lab up` makes one"
        ) from None
    except msgspec.MsgspecError as error:
        raise LabError(f"{directory}/plan.json: {error}; `molehill lab down` removes what is left") from None


def read_running(directory: Path) -> Running:
    try:
        return msgspec.json.decode((directory / "running.json").read_bytes(), type=Running)
    except FileNotFoundError:
        return Running()
    except msgspec.MsgspecError as error:
        raise LabError(f"{directory}/running.json: {error}; `molehill lab down` removes what is left") from None


def names() -> list[str]:
    if not ROOT.is_dir():
        return []
    return sorted(entry.name for entry in ROOT.iterdir() if (entry / "plan.json").exists())


def remove(name: str) -> bool:
    directory = directory_of(name)
    if not directory.exists():
        return False
    shutil.rmtree(directory)
    if not any(ROOT.iterdir()):
        ROOT.rmdir()
    return True
