"""`molehill lab` as a person uses it: through the program's own command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeLab

from agent import cli
from agent.lab import formation, namespaces, network, state
from agent.lab.lab import Lab, now
from agent.lab.processes import Process, alive, stopped

netns = pytest.mark.netns


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "--nodes", "0"], "--nodes 0"),
        (["up", "--add", "x=1.2.3.4"], "--add goes with"),
        (["up", "--config-from", "seed", "--vips", "3"], "without files"),
        (["up", "--wackamole-conf", "x"], "together"),
        (["up", "--config-from", "/nonexistent"], "does not exist"),
        (["status", "--name", "no"], "there is no lab 'no'"),
        (["status", "--name", "a-b"], "1 to 9 small letters"),
        (["probe", "--name", "no"], "`molehill lab up` makes one"),
    ],
)
def test_refusals_are_one_line_that_says_what_to_do(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], lab_name: str
) -> None:
    assert cli.main(["lab", *words]) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["up", "--profile", "slow"], ["kill"], ["kill", "a", "--signal", "X"]]
)
def test_usage_errors_are_exit_code_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["lab", *words])
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["lab", "up"]) == 1
    assert "needs root: run it with sudo" in capsys.readouterr().err


def test_without_iproute2_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cli.main(["lab", "down"]) == 1
    assert "apt-get install iproute2" in capsys.readouterr().err


@netns
def test_seed_network_by_command_line(lab_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def lab(*words: str) -> str:
        assert cli.main(["lab", *words, "--name", lab_name]) == 0
        return capsys.readouterr().out

    document = json.loads(lab("up", "--config-from", "seed", "--add", "www3=192.168.3.142", "--no-agents", "--json"))
    assert [node["ports"][0]["interface"] for node in document["nodes"]] == ["eth4"] * 3
    network.batch(["addr add 192.168.3.145/24 dev eth4"], f"mh-{lab_name}-www2")

    def served() -> tuple[list[str], list[str]]:
        (vip,) = json.loads(lab("status", "--json"))["vips"]
        return vip["kernel"], vip["answers"]

    until(lambda: served() == (["www2"], ["www2"]))
    assert "www2 is cut off" in lab("cut", "www2")
    found = json.loads(lab("status", "--json"))
    assert found["vips"][0]["answers"] == []
    assert [node["network"] for node in found["nodes"]] == ["connected", "cut", "connected"]
    assert "healed" in lab("heal")
    text = lab("status")
    assert "192.168.3.145" in text
    assert "not started" in text
    probed = json.loads(lab("probe", "--seconds", "1", "--json"))
    (outage,) = probed["outages"]
    assert outage["served"]
    assert outage["runs"][0][0] == "www2"
    assert probed["held_twice"] == []
    assert "answered by www2" in lab("probe", "--seconds", "1")
    assert "namespaces" in lab("down")
    assert "nothing to remove" in lab("down")
    assert namespaces.with_prefix(f"mh-{lab_name}-") == []


@netns
def test_status_shows_when_agent_and_kernel_disagree(make_lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab = make_lab(nodes=2, vips=2, agents=True)
    formation.wait_formed(lab)
    network.batch(["addr del 10.72.1.1/16 dev eth0"], lab.plan.namespace("www1"))

    def shown() -> str:
        assert cli.main(["lab", "status", "--name", lab.plan.name]) == 0
        return capsys.readouterr().out

    # An agent that takes half a second to answer says nothing.
    until(lambda: "www1: the agent says ['10.72.1.1'], the kernel has []" in shown())
    assert cli.main(["lab", "kill", "www2", "--signal", "STOP", "--name", lab.plan.name]) == 0
    stopping = lab.agent("www2")
    assert stopping is not None
    until(lambda: stopped(stopping))
    capsys.readouterr()
    assert cli.main(["lab", "status", "--json", "--name", lab.plan.name]) == 0
    www2 = json.loads(capsys.readouterr().out)["nodes"][1]
    assert www2["process"] == "stopped"
    assert "did not answer" in www2["error"]
    assert www2["kernel"] == ["10.72.1.2"]


@netns
def test_logs_and_kill_of_what_never_ran(make_lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab = make_lab(nodes=1, vips=1)
    for words, said in (
        (["logs", "www1"], "never started"),
        (["logs", "www9"], "no node 'www9'"),
        (["kill", "www1"], "no agent runs on www1"),
        (["cut", "www9"], "no node 'www9'"),
        (["split", "www1,www9"], "no node 'www9'"),
    ):
        assert cli.main(["lab", *words, "--name", lab.plan.name]) == 1
        assert said in capsys.readouterr().err
    assert lab.running().apart == {}


@netns
def test_prober_ends_when_who_started_it_is_killed(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1, vips=1)
    root = Path(cli.__file__).parent.parent
    program = (
        "import sys, time; from agent.lab.lab import Lab; from agent.lab.probing import Probing\n"
        "probing = Probing(Lab.open(sys.argv[1])); print(probing._process.pid, probing._process.started, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, lab.plan.name], stdout=subprocess.PIPE, text=True, cwd=root
    ) as caller:
        assert caller.stdout is not None
        prober = Process(*map(int, caller.stdout.readline().split()))
        assert alive(prober)
        caller.send_signal(signal.SIGKILL)
    until(lambda: not alive(prober))


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@netns
def test_a_memory_file_cut_short_is_told_and_removed(make_lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab = make_lab(nodes=1, vips=1)
    (state.directory_of(lab.plan.name) / "plan.json").write_text('{"name": ')
    assert cli.main(["lab", "status", "--name", lab.plan.name]) == 1
    assert "`molehill lab down` removes what is left" in capsys.readouterr().err
    assert cli.main(["lab", "down", "--name", lab.plan.name]) == 0
    assert namespaces.with_prefix(f"mh-{lab.plan.name}-") == []


@netns
def test_opened_labs_remember_faults(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, vips=1)
    before = now()
    lab.cut("www1")
    after = now()
    again = Lab.open(lab.plan.name)
    assert again.running().apart == {"www1": "cut"}
    assert [sorted(apart.nodes) for apart in again.apart()] == [["www1"]]
    assert before < again.apart()[0].since < after
    assert again.apart()[0].until > now()
    again.heal()
    assert lab.running().apart == {}
