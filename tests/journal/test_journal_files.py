"""Files that are no whole journal of this form: told as such, and nothing in them is executed."""

from __future__ import annotations

import os
import random
import zlib
from pathlib import Path

import msgspec
import pytest

from agent import cli, snapshot
from agent.core.inputs import Timer
from agent.core.node import Node
from agent.engines.embedded.codec import VERSION
from agent.journal import KEPT_FILES, Journal, JournalError
from agent.journalfile import CORE, FORM, HEADER, MAGIC, Unreadable, frame, open_journal, steps_frame
from agent.replay import UNPLAYABLE, replay
from tests.core.cluster import settings, vips
from tests.journal.recorded import of, taped, written


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    _, tape = taped(["a", "b"], 3)
    return written(of(tape, "a")[0], tmp_path_factory.mktemp("journal")).read_bytes()


def outcome(path: Path, data: bytes) -> tuple[int, str]:
    """Steps replayed, and what was wrong with the file."""
    path.write_bytes(data)
    count = 0
    try:
        _, content = open_journal(path)
        for played in replay(content):
            assert played.equal
            count += 1
    except Unreadable as error:
        return count, str(error)
    return count, ""


def test_a_shortened_file_is_told_wherever_it_breaks_off(whole: bytes, tmp_path: Path) -> None:
    steps, said = outcome(tmp_path / "j", whole)
    assert (steps > 50, said) == (True, "")
    for length in [*range(60), *range(60, len(whole), 37), len(whole) - 1]:
        _, said = outcome(tmp_path / "j", whole[:length])
        assert said, length
    assert "breaks off" in said
    assert "breaks off after step" in outcome(tmp_path / "j", whole[: whole.rindex(b"E")])[1]


def test_any_changed_byte_is_found(whole: bytes, tmp_path: Path) -> None:
    rng = random.Random(5)
    for position in [*range(70), *(rng.randrange(len(whole)) for _ in range(400))]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        assert outcome(tmp_path / "j", bytes(damaged))[1], position


def test_other_forms_and_other_files(whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = whole.replace(MAGIC + str(FORM).encode(), MAGIC + b"9", 1)
    assert "has form 9, this molehill reads form 1" in outcome(tmp_path / "j", newer)[1]
    assert "is no journal" in outcome(tmp_path / "j", b"\x80\x04\x95" * 50)[1]
    (tmp_path / "j").write_bytes(newer)
    assert cli.main(["replay", str(tmp_path / "j")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert cli.main(["replay", str(tmp_path / "missing")]) == 1
    assert "No such file" in capsys.readouterr().err


def start(whole: bytes) -> bytes:
    """Up to the header, inclusive."""
    first = whole.index(b"\n") + 1
    return whole[: first + 9 + int.from_bytes(whole[first + 1 : first + 5], "big")]


@pytest.mark.parametrize(
    ("core", "told"),
    [
        (None, "does not begin with a node"),
        (["o", "node.Node", "settings", 1, "me", 2], "cannot be put together"),
        (["o", "os.system", "x", 1], "does not begin with a node"),
        (["o", "node.Node", "settings", ["o", "builtins.eval"], "me", 1], "has no 'builtins.eval'"),
        (["o", "node.Node", "settings", ["n", "ids.Member", "x", 1], "me", ["r", 77]], "cannot be put together"),
        (["o", "node.Node", "settings", ["c", "node.Node"], "me", ["q"]], "unknown tag"),
    ],
)
def test_a_state_that_is_none(whole: bytes, core: object, told: str, tmp_path: Path) -> None:
    content = start(whole) + frame(CORE, zlib.compress(msgspec.msgpack.encode(core)))
    steps, said = outcome(tmp_path / "j", content)
    assert steps == 0
    assert told in said


def test_a_state_with_attributes_that_the_core_has_not(whole: bytes, tmp_path: Path) -> None:
    state = snapshot.plain(snapshot.capture(Node(settings(["a"], vips(1))[0], 1)))
    assert isinstance(state, list)
    position = state.index("membership") + 1
    peers = next(part for part in state[position] if isinstance(part, list) and part[:2] == ["o", "peers.Peers"])
    peers += ["planted", 1]
    content = start(whole) + frame(CORE, zlib.compress(msgspec.msgpack.encode(state))) + steps_frame([])
    assert "peers.Peers has no 'planted'" in outcome(tmp_path / "j", content)[1]


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ((1.0, "Exec", {}, 1), "an input 'Exec' that this version of molehill does not know"),
        ((1.0, "DrainRequested", {"on": 3}, 1), "Expected `bool`"),
        ((1.0, "Received", [["a", 1], bytes((VERSION, 0x63)) + b"junk"], 1), "unknown message tag"),
        (("soon", "Timer", {}, 1), "Expected `float`"),
    ],
)
def test_a_step_that_is_none(whole: bytes, step: object, told: str, tmp_path: Path) -> None:
    state = snapshot.plain(snapshot.capture(Node(settings(["a"], vips(1))[0], 1)))
    content = (
        start(whole)
        + frame(CORE, zlib.compress(msgspec.msgpack.encode(state)))
        + steps_frame([msgspec.msgpack.encode(step)])
    )
    assert told in outcome(tmp_path / "j", content)[1]


def test_a_frame_that_would_fill_the_memory(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.journalfile.FRAME_MAX", 10**6)
    content = start(whole) + frame(CORE, zlib.compress(bytes(2 * 10**6)))
    assert "unpacks to more than 1000000 bytes" in outcome(tmp_path / "j", content)[1]


def test_a_header_twice_is_no_journal(whole: bytes, tmp_path: Path) -> None:
    content = start(whole) + frame(HEADER, b"")
    assert "unknown kind" in outcome(tmp_path / "j", content)[1]


def test_without_a_state_it_can_only_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = Node(settings(["a"], vips(1))[0], 1)
    node.membership.log = object()  # type: ignore[assignment]  # nothing of the core's
    journal = Journal(node, clock=lambda: 0.0)
    journal.record((1.0, Timer(), []))
    path = journal.recording("request").write(tmp_path).path
    assert cli.main(["replay", str(path)]) == 1
    assert UNPLAYABLE in capsys.readouterr().err
    assert cli.main(["replay", "--print", str(path)]) == 0
    assert "step 0, " in capsys.readouterr().out


def test_dumps_are_bounded_private_and_whole_or_not_there(tmp_path: Path) -> None:
    node = Node(settings(["a"], vips(1))[0], 1)
    journal = Journal(node, clock=lambda: 0.0)
    kept = []
    for number in range(KEPT_FILES + 3):
        journal.record((float(number), Timer(), node.step(float(number), Timer())))
        kept.append(journal.recording("request").write(tmp_path).path)
        os.utime(kept[-1], (number, number))
    assert sorted(tmp_path.iterdir()) == sorted(kept[-KEPT_FILES:])
    assert kept[-1].stat().st_mode & 0o777 == 0o640
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="make state_dir writable"):
        journal.recording("request").write(tmp_path / "file" / "below")
