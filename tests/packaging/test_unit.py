"""The unit and its companions, read by systemd's own programs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHIPPED = Path(__file__).parents[2] / "agent" / "systemd"


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install systemd")
    return found


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a command that exists here: systemd looks only in the system's directories."""
    text = (SHIPPED / "molehill.service").read_text()
    assert text.count("ExecStart=molehill run\n") == text.count("ExecStopPost=molehill sweep\n") == 1
    made = tmp_path / "molehill.service"
    made.write_text(text.replace("=molehill ", f"={Path(sys.executable).parent / 'molehill'} "))
    return made


def verify(unit: Path) -> str:
    words = [program("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


def test_systemd_understands_every_line(unit: Path) -> None:
    assert verify(unit) == ""
    unit.write_text(unit.read_text().replace("ProtectClock=yes", "ProtectClocks=yes"))
    assert "ProtectClocks" in verify(unit)


def test_little_is_exposed(unit: Path) -> None:
    """systemd's own score, from 0 (nothing) to 100."""
    words = [program("systemd-analyze"), "security", "--no-pager", "--offline=yes", "--threshold=30", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_user_is_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    words = [program("systemd-sysusers"), f"--root={tmp_path}", "--inline"]
    lines = [line for line in (SHIPPED / "molehill.sysusers.conf").read_text().splitlines() if line[:1] == "u"]
    subprocess.run([*words, *lines], capture_output=True, check=True)
    assert re.search(r"^molehill:.*:/usr/sbin/nologin$", (tmp_path / "etc" / "passwd").read_text(), re.MULTILINE)
    assert re.search(r"^molehill:", (tmp_path / "etc" / "group").read_text(), re.MULTILINE)


def test_the_configuration_is_for_root_and_the_agent_only(tmp_path: Path) -> None:
    (tmp_path / "etc" / "molehill").mkdir(parents=True, mode=0o755)
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nmolehill:x:748:748::/:/bin/false\n")
    (tmp_path / "etc" / "group").write_text("root:x:0:\nmolehill:x:748:\n")
    secret = tmp_path / "etc" / "molehill" / "secret"
    secret.write_text("key\n")
    secret.chmod(0o644)
    words = [program("systemd-tmpfiles"), f"--root={tmp_path}", "--create", str(SHIPPED / "molehill.tmpfiles.conf")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("needs root")
    assert done.returncode == 0, done.stderr
    modes = [(path.stat().st_mode & 0o777, path.stat().st_gid) for path in (secret.parent, secret)]
    assert modes == [(0o750, 748), (0o640, 748)]
