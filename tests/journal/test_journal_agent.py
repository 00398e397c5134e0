"""The flight recorder of real agents: on request, by a signal, and of a crash."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import cli
from agent.control import client
from agent.core.events import ViewInstalled, VipAcquired
from agent.core.inputs import BalanceRequested
from agent.journalfile import Header, open_journal
from agent.lab import formation, network
from agent.lab.lab import Lab, control_path, down, molehill, node_directory
from agent.lab.plan import Host, Plan, generate
from agent.replay import Played, replay

pytestmark = [pytest.mark.netns, pytest.mark.lab]

CRASHING = Path(__file__).parent / "crashing.py"


def with_error_on_www2(plan: Plan, host: Host, directory: Path) -> list[str]:
    line = molehill(plan, host, directory)
    at = line.index("-P")
    return [*line[:at], str(CRASHING), *line[at + 3 :]] if host.name == "www2" else line


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    name = f"j{os.getpid() % 1_000_000}"
    try:
        made = Lab.create(generate(name, 3, 6, network.free_management_network()), with_error_on_www2)
        formation.wait_formed(made, timeout=90)
        yield made
    finally:
        down(name)


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.01)


def dumps(lab: Lab, node: str, reason: str) -> list[Path]:
    return sorted((node_directory(lab.directory, node) / "state").glob(f"journal-*-{reason}.molehill"))


def played(path: Path) -> tuple[Header, list[Played]]:
    header, content = open_journal(path)
    return header, list(replay(content))


def test_a_failover_recorded_on_request_and_by_signal(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.lose("www3")
    until(lambda: [address for address, nodes in lab.holders().items() if {"www1", "www2"} & set(nodes)][5:])
    copy = tmp_path / "copy.molehill"
    assert cli.main(["--control", str(control_path(lab.directory, "www1")), "journal", str(copy)]) == 0
    assert f"{copy}: " in capsys.readouterr().out
    (original,) = dumps(lab, "www1", "request")
    assert original.read_bytes() == copy.read_bytes()
    header, steps = played(copy)
    assert (header.node, header.first, all(step.equal for step in steps)) == ("www1", 0, True)
    outputs = [output for step in steps for output in step.outputs]
    assert sum(isinstance(output, VipAcquired) for output in outputs) >= 3
    assert [len(output.view.members) for output in outputs if isinstance(output, ViewInstalled)][-2:] == [3, 2]
    assert cli.main(["replay", str(copy)]) == 0
    agent = lab.agent("www1")
    assert agent is not None
    os.kill(agent.pid, signal.SIGUSR1)
    until(lambda: dumps(lab, "www1", "signal"))
    header, later = played(dumps(lab, "www1", "signal")[0])
    assert len(later) >= len(steps)
    assert all(step.equal for step in later)
    assert lab.agent("www1") is not None


def test_a_crash_is_recorded_frees_the_addresses_and_ends_the_agent(lab: Lab) -> None:
    assert any("www2" in nodes for nodes in lab.holders().values())
    with pytest.raises(client.Failed):
        client.ask(str(control_path(lab.directory, "www2")), "balance")
    assert lab.wait_ended("www2", 30.0)
    vips = {address for _, address in lab.plan.addresses()}
    assert vips & {address for _, address, _ in network.kernel_addresses(lab.plan, "www2")} == set()
    until(lambda: len(lab.holders()) == 6 and all(len(nodes) == 1 for nodes in lab.holders().values()))
    assert all("www2" not in nodes for nodes in lab.holders().values())
    (path,) = dumps(lab, "www2", "crash")
    header, steps = played(path)
    assert header.error == "KeyError('planted')"
    assert isinstance(steps[-1].step.item, BalanceRequested)
    assert steps[-1].step.digest is None
    assert steps[-1].raised is None  # this program has not that error
    assert all(step.equal for step in steps[:-1])
    log = lab.log("www2").read_text()
    assert "the agent gives everything up and ends" in log
