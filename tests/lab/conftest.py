"""Labs for tests: each with a name of its own, gone at the end also when the test failed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.lab import network
from agent.lab.lab import Lab, down, node_directory
from agent.lab.plan import Host, Plan, generate

STAND_IN = Path(__file__).parent / "standin.py"
MakeLab = Callable[..., Lab]


def stand_in(plan: Plan, host: Host, directory: Path) -> list[str]:
    """Node I of n has every n-th VIP."""
    number = [node.name for node in plan.nodes].index(host.name)
    mine = [vip for index, vip in enumerate(plan.vips) if index % len(plan.nodes) == number]
    texts = ",".join(f"{address}/{length}" for vip in mine for _, address, length in vip.addresses)
    (directory / "nodes" / "members").write_text(",".join(node.name for node in plan.nodes))
    where = str(node_directory(directory, host.name))
    return [sys.executable, str(STAND_IN), host.name, where, texts, plan.interfaces[0]]


@pytest.fixture
def lab_name(request: pytest.FixtureRequest) -> Iterator[str]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    name = f"t{os.getpid() % 1_000_000}"
    down(name)
    yield name
    down(name)


@pytest.fixture
def make_lab(lab_name: str) -> MakeLab:
    def make(nodes: int = 3, vips: int = 3, *, agents: bool = False, ipv6: bool = False) -> Lab:
        plan = generate(lab_name, nodes, vips, network.free_management_network(), ipv6=ipv6)
        return Lab.create(plan, stand_in, agents=agents)

    return make
