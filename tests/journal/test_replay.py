"""A recorded core runs again and answers the same; where it does not, the first step is named."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tests.sim.nemesis
import tests.sim.run
from agent import cli
from agent.core import coordinator
from agent.core.effects import Send
from agent.core.events import Decided, ViewInstalled
from agent.core.inputs import BalanceRequested, Timer
from agent.core.messages import Decide
from agent.core.node import Node, Output
from agent.core.placement import place
from agent.core.view import Matured
from agent.journal import BLOCK, Journal
from agent.journalfile import open_journal
from agent.replay import replay
from tests.core.cluster import settings, vips
from tests.journal.recorded import Taping, of, taped, written


@pytest.fixture
def failover(tmp_path: Path) -> tuple[Path, list[list[Output]]]:
    """What `b` recorded of the loss of `a`, the first member, and its return."""
    world, tape = taped(["a", "b", "c"])
    world.crash(world.hosts["a"])
    world.run(5.0)
    world.start(world.hosts["a"])
    world.run(10.0)
    journal, outputs = of(tape, "b")
    installed = [output for answered in outputs for output in answered if isinstance(output, ViewInstalled)]
    assert [len(event.view.members) for event in installed][-3:] == [3, 2, 3]
    return written(journal, tmp_path), outputs


def test_a_failover_is_replayed_equal(
    failover: tuple[Path, list[list[Output]]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, outputs = failover
    assert cli.main(["replay", str(path)]) == 0
    assert capsys.readouterr().out.endswith(f"\n{len(outputs)} steps, all equal\n")
    _, content = open_journal(path)
    assert [list(played.outputs) for played in replay(content)] == outputs


@pytest.mark.parametrize("seed", ["1", "4242"])
def test_the_order_of_sets_does_not_matter(failover: tuple[Path, list[list[Output]]], seed: str) -> None:
    path, outputs = failover
    command = [sys.executable, "-m", "agent", "replay", str(path)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(outputs)} steps, all equal" in done.stdout


def test_a_changed_rule_is_told_at_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, tape = taped(["a", "b", "c"])
    journal, outputs = of(tape, "a")
    decides = [
        any(isinstance(output, Decided) and isinstance(output.decision, Matured) for output in answered)
        for answered in outputs
    ]
    monkeypatch.setattr(coordinator, "place", lambda members, specs, held: place(members, specs[::-1], held))
    path = written(journal, tmp_path)
    assert cli.main(["replay", str(path)]) == 1
    out = capsys.readouterr().out
    assert f"the outputs first differ at step {decides.index(True)}, " in out
    assert "Decide(view=" in out
    assert any(
        isinstance(output, Send) and isinstance(output.message, Decide) for output in outputs[decides.index(True)]
    )


def test_a_lost_beginning_is_made_up_for_by_a_later_state(tmp_path: Path) -> None:
    world, tape = taped(["a", "b", "c"], bytes_max=80_000)
    journal, outputs = of(tape, "b")
    sizes = []
    for moment in range(4, 240, 2):
        if moment == 150:
            world.crash(world.hosts["c"])
        if moment == 190:
            world.start(world.hosts["c"])
        world.run(float(moment))
        while journal.tend():
            pass
        sizes.append(journal.size)
    path = written(journal, tmp_path)
    header, content = open_journal(path)
    played = list(replay(content))
    assert 1_000 < header.first < len(outputs) - 1_000
    assert header.first + len(played) == len(outputs)
    assert all(one.equal for one in played)
    assert [list(one.outputs) for one in played] == outputs[header.first :]
    # A block that is not compressed yet may come on top.
    assert max(sizes) < 80_000 + BLOCK * 300


@pytest.mark.parametrize("seed", range(60, 64))
def test_any_history_is_replayed_from_any_state(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults of all kinds; small segments, each of which has to do as a beginning, also in the midst of a change."""
    tapes: list[Taping] = []

    class Small(Taping):
        bytes_max = 2**30

        def __init__(self, *args: object, **keywords: object) -> None:
            super().__init__(*args, **keywords)
            tapes.append(self)

        def before(self, host: object, now: float, item: object) -> None:
            super().before(host, now, item)  # type: ignore[arg-type]
            journal = self.journals[host.node.me]  # type: ignore[attr-defined]
            if journal.steps % 150 == 100:
                journal.cut()

    monkeypatch.setattr(tests.sim.run, "Checkers", Small)
    # The nemesis makes digests of any length; agents have 16 characters, and the wire's limit is the journal's.
    short = lambda value: hashlib.sha256(repr(value).encode()).hexdigest()[:16]  # noqa: E731
    monkeypatch.setattr(tests.sim.nemesis, "repr", short, raising=False)
    tests.sim.run.run(seed)
    (tape,) = tapes
    beginnings = 0
    for member, journal in tape.journals.items():
        outputs = tape.outputs[member]
        while True:
            header, content = open_journal(written(journal, tmp_path))
            assert [list(one.outputs) for one in replay(content)] == outputs[header.first :]
            beginnings += 1
            if not journal.drop():
                break
    assert beginnings > len(tape.journals)


def test_a_crash_of_the_core_comes_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Node._take

    def take(self: Node, now: float, item: object) -> list[Output]:
        if isinstance(item, BalanceRequested):
            raise ZeroDivisionError("planted")
        return real(self, now, item)  # type: ignore[arg-type]

    monkeypatch.setattr(Node, "_take", take)
    one = settings(["a"], vips(2))[0]
    node = Node(one, 1)
    journal = Journal(node, clock=lambda: 2.0)
    journal.record((1.0, Timer(), node.step(1.0, Timer())))
    with pytest.raises(ZeroDivisionError):
        node.step(2.0, BalanceRequested())
    journal.record((2.0, BalanceRequested(), None))
    path = written(journal, tmp_path, "crash", "ZeroDivisionError('planted')")
    assert cli.main(["replay", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1 steps, all equal; then step 1" in out
    assert "raises as recorded: ZeroDivisionError('planted')" in out
    monkeypatch.undo()
    assert cli.main(["replay", str(path)]) == 1
    out = capsys.readouterr().out
    assert "the outputs first differ at step 1, " in out
    assert "the recorded one raised ZeroDivisionError('planted')" in out


def test_printing_lists_every_step(
    failover: tuple[Path, list[list[Output]]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, outputs = failover
    assert cli.main(["replay", "--print", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("step ") for line in lines) == len(outputs)
    assert sum(line.startswith("    ") for line in lines) == sum(len(answered) for answered in outputs)
    assert sum("    ViewInstalled(" in line for line in lines) >= 3
