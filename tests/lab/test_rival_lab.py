"""A rival's nodes: apart from each other and from the machine, and gone with the lab. Needs `make rivals`."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.lab import network
from agent.lab.lab import Lab, down
from agent.lab.namespaces import processes_in
from agent.lab.plan import LabError
from tests.bench import everything
from tests.bench.system import wait_balanced, wait_holders
from tests.bench.systems import SYSTEMS
from tests.lab.clusters import until

pytestmark = pytest.mark.lab

SYSTEM = SYSTEMS["keepalived"]
NODES = ["www1", "www2", "www3"]


@pytest.fixture
def lab(lab_name: str) -> Lab:
    try:
        SYSTEM.require()
    except LabError as error:
        pytest.skip(str(error))
    plan = SYSTEM.plan(lab_name, 3, 3, "", network.free_management_network())
    made = Lab.create(plan, SYSTEM.command)
    SYSTEM.wait_whole(made, NODES)
    wait_balanced(made, 60.0)
    return made


def processes(lab: Lab, node: str) -> list[int]:
    return processes_in([lab.plan.namespace(node)])


def test_a_node_has_namespaces_of_its_own_and_an_empty_run(lab: Lab) -> None:
    inside = {node: processes(lab, node)[-1] for node in NODES}
    for kind in ("mnt", "pid", "uts", "ipc"):
        found = {Path(f"/proc/{pid}/ns/{kind}").readlink() for pid in (*inside.values(), "self")}
        assert len(found) == len(NODES) + 1, kind
    assert not any(Path(f"/proc/{pid}/root/run/molehill-lab").exists() for pid in inside.values())


def test_a_killed_node_has_no_process_and_keeps_its_addresses(lab: Lab) -> None:
    """That is what the benchmark measures: nobody takes them away, while the others take them over."""
    (mine,) = [address for address, nodes in lab.holders().items() if nodes == ["www1"]]
    everything.kill(lab, "www1")
    until(lambda: processes(lab, "www1") == [])
    wait_holders(lab, [mine], NODES[1:], 30.0)
    assert "www1" in lab.holders()[mine]


def test_a_frozen_node_goes_on_where_it_was(lab: Lab) -> None:
    frozen = everything.freeze(lab, "www1")
    assert sorted(frozen) == sorted(processes(lab, "www1"))
    everything.thaw(frozen)
    SYSTEM.wait_whole(lab, NODES)
    assert sorted(frozen) == sorted(processes(lab, "www1"))


def test_sigterm_stops_the_programs_and_takes_the_addresses_away(lab: Lab) -> None:
    SYSTEM.stop(lab, "www1", "SIGTERM")
    SYSTEM.wait_whole(lab, NODES)
    until(lambda: all("www1" not in nodes for nodes in lab.holders().values()))
    until(lambda: processes(lab, "www1") == [])


def test_nothing_is_left_of_a_lab_that_is_gone(lab: Lab) -> None:
    known = [pid for node in NODES for pid in processes(lab, node)]
    assert len(known) >= 3 * len(NODES)
    down(lab.plan.name)
    until(lambda: not any(Path(f"/proc/{pid}/ns/net").exists() for pid in known))
