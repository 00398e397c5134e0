"""A rival in the lab: each node is a set of namespaces in which its programs see no other node and not the machine."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from agent.lab.lab import Lab
from agent.lab.plan import Host, LabError, Plan, generate
from tests.bench.rival_systems import unpacked
from tests.bench.rival_systems.boot import Software
from tests.bench.system import ANY, wait_holders

WHOLE_SECONDS = 120.0
STOP_SECONDS = 60.0


class Rival:
    """Any `Software` as a `System`: they differ in what a node is told, not in how it is run."""

    faults = ANY

    def __init__(self, software: Software) -> None:
        self._software = software
        self.name = software.name
        self.profiles: tuple[str, ...] = (software.profile,)

    def promises_one(self, scenario: str, profile: str) -> bool:
        """None of them is measured with a fencing device."""
        return False

    def require(self) -> None:
        unpacked.require(self._software)

    def plan(self, lab_name: str, nodes: int, vips: int, profile: str, management: str) -> Plan:
        return replace(generate(lab_name, nodes, vips, management), configuration="", agent_arguments=())

    def command(self, plan: Plan, host: Host, directory: Path) -> list[str]:
        """The first process of the new process namespace ends everything in it when it ends."""
        namespaces = ["--mount", "--ipc", "--uts", "--pid", "--fork", "--kill-child"]
        inside = [sys.executable, "-P", "-m", "tests.bench.rival_systems.inside", self.name, str(directory), host.name]
        return ["unshare", *namespaces, *inside]

    def wait_whole(self, lab: Lab, nodes: list[str]) -> None:
        """That each VIP is on one node is all that can be seen of every system from outside."""
        wait_holders(lab, [address for _, address in lab.plan.addresses()], nodes, WHOLE_SECONDS)

    def stops(self) -> tuple[str, ...]:
        return ("SIGTERM",)

    def stop(self, lab: Lab, node: str, way: str) -> None:
        os.kill(_first_inside(lab, node), signal.SIGTERM)

    def undo_stop(self, lab: Lab, node: str, way: str) -> None:
        if not lab.wait_ended(node, STOP_SECONDS):
            raise LabError(f"{node} has not ended {STOP_SECONDS:g} s after SIGTERM")
        lab.start(node)

    def balance(self, lab: Lab) -> None:
        """They all balance by themselves, by priorities or in rounds."""


def _first_inside(lab: Lab, node: str) -> int:
    """The first process of the node's process namespace: `unshare` itself waits outside and passes no signal on."""
    outer = lab.agent(node)
    if outer is None:
        raise LabError(f"nothing runs on {node}")
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
    if not children:
        raise LabError(f"{node} is starting or ending")
    return int(children[0])
