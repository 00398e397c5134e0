"""What a node of a rival system consists of: pure data, worked out before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent.lab.plan import Host, Plan


@dataclass(frozen=True, slots=True)
class File:
    """Written anew at each start; its directories are made."""

    path: str
    text: str
    mode: int = 0o644
    owner: str = "root"


@dataclass(frozen=True, slots=True)
class Directory:
    path: str
    owner: str = "root"


@dataclass(frozen=True, slots=True)
class Program:
    """Stays in the foreground."""

    line: tuple[str, ...]
    ready: tuple[str, ...] = ()
    """A command that succeeds once it serves; the next program waits for that. Empty: nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Boot:
    programs: tuple[Program, ...]
    """In the order of their start."""
    files: tuple[File, ...] = ()
    directories: tuple[Directory, ...] = ()
    users: tuple[tuple[str, str], ...] = ()
    """User and group that the programs change to; made where the machine has none."""


class Software(Protocol):
    """A rival as it is installed and configured."""

    name: str
    profile: str
    """Its one configuration, in a word."""
    programs: tuple[str, ...]
    """Absolute paths."""
    origin: str
    """Where to get the programs, as the end of a sentence."""

    def boot(self, plan: Plan, host: Host) -> Boot:
        """All that one node is told. Reads nothing."""


def own_address(plan: Plan, host: Host) -> str:
    """The address by which the nodes know each other."""
    return next(text.partition("/")[0] for port in host.ports for text in port.addresses if "." in text)


def places(plan: Plan, host: Host) -> list[tuple[str, str, int]]:
    """For each VIP its interface, its address, and how far the host is from its first place: 0 is first.

    The first place of VIP i is node i modulo the number of nodes, the next one node's the second, and so on.
    """
    count = len(plan.nodes)
    number = plan.nodes.index(host)
    found = []
    for index, vip in enumerate(plan.vips):
        interface, address, _ = vip.addresses[0]
        found.append((interface, address, (number - index) % count))
    return found
