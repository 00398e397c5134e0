"""What is measured: this program here, others in `rival_systems`."""

from __future__ import annotations

import select
import signal
import time
from pathlib import Path
from typing import Protocol

from agent.lab import formation, lab
from agent.lab.lab import Lab
from agent.lab.plan import Host, LabError, Plan, generate, with_arguments

POLL = 0.005
BALANCE_INTERVAL = "10m"
"""Rounds come only when the benchmark asks for one, so that what moves is what was asked for."""
QUORUM = "quorum"
"""The profile `lan` with `partition: quorum`."""
ANY = frozenset({"host-loss", "stop", "start", "kill-both", "hang-both", "heal"})
"""Scenarios that every system has: they need nothing but its processes."""


class System(Protocol):
    """A fail-over system in a lab. Every method raises LabError when the system does not do it in time."""

    name: str
    profiles: tuple[str, ...]
    """Its configurations."""
    faults: frozenset[str]
    """The scenarios that make sense for it, as the command line calls them."""

    def promises_one(self, scenario: str, profile: str) -> bool:
        """Whether two nodes that claim one address break a promise, in a trial of that title."""

    def require(self) -> None:
        """Its programs are there; if not, the LabError says where to get them."""

    def plan(self, lab_name: str, nodes: int, vips: int, profile: str, management: str) -> Plan:
        """The network, and what the system's programs are told."""

    def command(self, plan: Plan, host: Host, directory: Path) -> list[str]:
        """The program of one node."""

    def wait_whole(self, lab: Lab, nodes: list[str]) -> None:
        """Until these nodes are one group that holds every VIP exactly once."""

    def stops(self) -> tuple[str, ...]:
        """The ways of a graceful stop."""

    def stop(self, lab: Lab, node: str, way: str) -> None:
        """Asks for a graceful stop; need not wait for its end."""

    def undo_stop(self, lab: Lab, node: str, way: str) -> None:
        """Brings the node back."""

    def balance(self, lab: Lab) -> None:
        """Asks for a balance round now."""


class Molehill:
    """This program, with its own lab configuration."""

    name = "molehill"
    profiles: tuple[str, ...] = ("lan", "fast", "wan", QUORUM)
    faults: frozenset[str] = ANY | {"kill", "hang", "move", "rival"}

    def promises_one(self, scenario: str, profile: str) -> bool:
        """Parts of a split cluster serve each for itself, and for the time of a merge both, but for a quorum."""
        return scenario != "heal" or profile == QUORUM

    def require(self) -> None:
        """It is this program."""

    def plan(self, lab_name: str, nodes: int, vips: int, profile: str, management: str) -> Plan:
        split = "quorum" if profile == QUORUM else "component"
        plan = generate(lab_name, nodes, vips, management, profile="lan" if profile == QUORUM else profile)
        return with_arguments(plan, "--set", f"balance.interval={BALANCE_INTERVAL}", "--set", f"partition={split}")

    def command(self, plan: Plan, host: Host, directory: Path) -> list[str]:
        return lab.molehill(plan, host, directory)

    def wait_whole(self, lab: Lab, nodes: list[str]) -> None:
        formation.wait_formed(lab, nodes)

    def stops(self) -> tuple[str, ...]:
        return "leave", "SIGTERM"

    def stop(self, lab: Lab, node: str, way: str) -> None:
        if way == "leave":
            lab.ask(node, "leave", timeout=30.0)
        else:
            lab.kill(node, signal.SIGTERM)

    def undo_stop(self, lab: Lab, node: str, way: str) -> None:
        if way == "leave":
            lab.ask(node, "join", timeout=30.0)
            return
        if not lab.wait_ended(node, 10.0):
            raise LabError(f"{node} has not ended 10 s after SIGTERM")
        lab.start(node)

    def balance(self, lab: Lab) -> None:
        lab.ask(lab.plan.nodes[0].name, "balance", timeout=30.0)


def wait_holders(lab: Lab, addresses: list[str], nodes: list[str], timeout: float) -> None:
    """Until each address is on exactly one of the nodes."""
    deadline = time.monotonic() + timeout
    while True:
        holders = lab.holders()
        if all(len([node for node in holders[address] if node in nodes]) == 1 for address in addresses):
            return
        if time.monotonic() > deadline:
            raise LabError(
                f"{len(addresses)} addresses are not on exactly one of {', '.join(nodes)} after {timeout:g} s"
            )
        select.select([], [], [], POLL)


def loads(lab: Lab) -> dict[str, int]:
    """How many VIP addresses each node has."""
    found = {node.name: 0 for node in lab.plan.nodes}
    for nodes in lab.holders().values():
        for node in nodes:
            found[node] += 1
    return found


def wait_balanced(lab: Lab, timeout: float) -> None:
    """Until no node has more than one address more than another, and each address is on one node."""
    deadline = time.monotonic() + timeout
    while True:
        counts = loads(lab)
        if max(counts.values()) - min(counts.values()) <= 1 and all(len(who) == 1 for who in lab.holders().values()):
            return
        if time.monotonic() > deadline:
            raise LabError(f"not balanced after {timeout:g} s: {counts}")
        select.select([], [], [], POLL)
