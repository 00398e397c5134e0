"""The unit under a real systemd, booted in a container: what is left when agent and guard are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 180.0
HOLD = """
import os, socket, time
from pathlib import Path
from agent.drivers import rtnetlink
from agent.drivers.addresses import TAG
from agent.drivers.records import AddressKey
from agent.guarding import Guard

guard = Guard()
guard.start()
guard.claim(Path(os.environ["STATE_DIRECTORY"]))
keys = [AddressKey(socket.if_nametoindex("eth9"), bytes((10, 9, 0, host)), 24) for host in range(1, 101)]
guard.hold(keys)
answers = rtnetlink.RequestSocket().execute([rtnetlink.add_address(key, tag=TAG) for key in keys])
assert set(answers) == {rtnetlink.DONE}, answers
guard.beat()
print("holds", flush=True)
time.sleep(3600)
"""
DROP_IN = """[Service]
Type=exec
WatchdogSec=0
Environment=PYTHONPATH={root}
ExecStart=
ExecStart={python} /opt/hold.py
"""

SOURCE, LIBRARIES = "/opt/source", "/opt/libraries"
PACKAGES = Path(next(path for path in sys.path if path.endswith("site-packages")))

pytestmark = pytest.mark.netns


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def until(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    """systemd tells nobody outside the container of what it does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


class Machine:
    """This machine's own files with an overlay above them, and its own systemd as process 1."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.root = directory / "root"
        self._boot: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        layers = self._directory / "layers"
        for each in (layers, self.root):
            each.mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", str(layers))
        for each in (layers / "upper", layers / "work"):
            each.mkdir()
        options = f"lowerdir=/,upperdir={layers}/upper,workdir={layers}/work"
        run("mount", "-t", "overlay", "overlay", "-o", options, str(self.root))
        self._install()
        words = ["systemd-nspawn", "-D", str(self.root), "--register=no", "--keep-unit", "--private-network", "--boot"]
        # Under names of their own: /tmp and the like are other file systems in there.
        words += [f"--bind-ro={ROOT}:{SOURCE}", f"--bind-ro={PACKAGES}:{LIBRARIES}"]
        words += ["--console=pipe", "systemd.unit=multi-user.target"]
        with (self._directory / "console").open("wb") as console:
            self._boot = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        until(lambda: self.leader() is not None, self.console)
        until(lambda: self.answers("systemctl", "is-system-running") in ("running", "degraded"), self.console)

    def down(self) -> None:
        if self._boot is not None:
            # With its process 1 goes all that is in it; the container's manager would leave it running.
            if (leader := self.leader()) is not None:
                os.kill(leader, signal.SIGKILL)
            self._boot.kill()
            self._boot.wait()
        for each in (self.root, self._directory / "layers"):
            subprocess.run(["umount", "--lazy", str(each)], check=False, capture_output=True)

    def _install(self) -> None:
        system = self.root / "etc" / "systemd" / "system"
        for each in system.glob("*.wants"):
            shutil.rmtree(each)
        (self.root / "etc" / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (self.root / "etc" / "fstab").unlink(missing_ok=True)
        program = self.root / "usr" / "local" / "bin" / "molehill"
        program.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCE}:{LIBRARIES} exec {PYTHON} -m agent "$@"\n')
        program.chmod(0o755)
        shutil.copy(ROOT / "agent" / "systemd" / "molehill.service", system)
        drop_ins = system / "molehill.service.d"
        drop_ins.mkdir()
        (drop_ins / "hold.conf").write_text(DROP_IN.format(root=SOURCE, python=PYTHON))
        (self.root / "opt" / "hold.py").write_text(HOLD)
        run("systemd-sysusers", f"--root={self.root}", str(ROOT / "agent" / "systemd" / "molehill.sysusers.conf"))

    def leader(self) -> int | None:
        """The container's process 1, as seen from here."""
        assert self._boot is not None
        path = Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children")
        for child in path.read_text().split() if path.exists() else ():
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return int(child)
        return None

    def command(self, *words: str) -> list[str]:
        return ["nsenter", "-t", str(self.leader()), "-m", "-u", "-i", "-n", "-p", "-C", "--", *words]

    def answers(self, *words: str) -> str:
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False).stdout.strip()

    def run(self, *words: str) -> str:
        return run(*self.command(*words))

    def held(self) -> int:
        return len(self.answers("ip", "-o", "addr", "show", "dev", "eth9", "to", "10.9.0.0/24").splitlines())

    def console(self) -> str:
        return (self._directory / "console").read_text(errors="replace")

    def journal(self) -> str:
        return self.answers("journalctl", "-u", "molehill", "--no-pager", "-o", "cat")


PYTHON = "/usr/bin/python3"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("systemd-nspawn", "systemctl", "nsenter"))):
        pytest.skip("needs root and systemd-container")
    if (
        not Path(PYTHON).exists()
        or run(PYTHON, "-c", "import sys; print(sys.version_info[:2])") != f"{sys.version_info[:2]}\n"
    ):
        pytest.skip(f"needs {PYTHON} of the tests' own version: the unit sees no home directories")
    made = Machine(tmp_path)
    try:
        made.up()
        yield made
    finally:
        made.down()


def test_what_is_left_under_systemd(machine: Machine) -> None:
    machine.run("ip", "link", "add", "eth9", "type", "veth", "peer", "name", "eth8")
    for interface in ("eth8", "eth9"):
        machine.run("ip", "link", "set", interface, "up")

    def begin() -> None:
        machine.run("systemctl", "start", "molehill")
        until(lambda: machine.held() == 100, machine.journal)

    def kill(whom: str, wanted: str) -> str:
        """What the unit wrote from the kill until it was up again, with the wanted words."""
        before = len(machine.journal())
        machine.run("systemctl", "kill", "--signal=KILL", f"--kill-whom={whom}", "molehill")
        until(lambda: "Scheduled restart" in machine.journal()[before:], machine.journal)
        until(lambda: machine.held() == 100, machine.journal)  # the next life
        until(lambda: wanted in machine.journal()[before:], machine.journal)  # last words come late into the journal
        return machine.journal()[before:]

    begin()
    for _ in range(3):
        said = kill("main", "100 addresses removed")
        assert "were left" not in said, f"systemd lets the guard do its work: {said}"
    # systemd kills one after the other, and a guard that runs needs a millisecond.
    until(lambda: machine.answers("pkill", "-STOP", "--count", "molehill-guard") == "1", machine.journal)
    kill("all", "100 addresses and 0 filter tables were left")  # systemd sweeps after the guard
    machine.run("nft", "add", "table", "inet", "molehill_www")
    machine.run("systemctl", "stop", "molehill")
    assert machine.held() == 0
    assert "molehill" not in machine.run("nft", "list", "tables")
