"""The first process of a rival's node: `python -m tests.bench.rival_systems.inside SYSTEM STATE_DIRECTORY NODE`.

Runs in mount, IPC, host name, process and network namespaces that are new. Lays the unpacked packages over /usr and
/etc, gives the node an empty /run, /tmp, /var/lib, /var/log and /dev/shm, starts the programs and buries the dead.
SIGTERM stops the programs, the last one first. When this process ends the kernel ends the rest.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agent.lab.lab import node_directory
from agent.lab.state import read_plan
from tests.bench.rival_systems.boot import Boot, Directory, File, Program
from tests.bench.rival_systems.software import SOFTWARE
from tests.bench.rival_systems.unpacked import TREE

EMPTY = ("/var/lib", "/var/log", "/tmp", "/dev/shm", "/run")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
READY_SECONDS = 30.0
POLL = 0.02
FIRST_ID = 900
"""Of users and groups that are made here."""


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def isolate(private: Path, name: str) -> None:
    """After this the node has the machine's programs, and nothing of its state."""
    socket.sethostname(name)
    mount("-t", "proc", "proc", "/proc")
    private.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "tmpfs", str(private))
    upper, work = private / "upper", private / "work"
    upper.mkdir()
    work.mkdir()
    lower = f"{TREE}/etc:/etc" if (TREE / "etc").is_dir() else "/etc"
    if (TREE / "usr").is_dir():
        mount("-t", "overlay", "overlay", "-o", f"ro,lowerdir={TREE}/usr:/usr", "/usr")
    mount("-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "/etc")
    for place in EMPTY:
        mount("-t", "tmpfs", "tmpfs", place)


def furnish(boot: Boot) -> None:
    """Users, directories and files."""
    for number, (user, group) in enumerate(boot.users, start=FIRST_ID):
        _make_user(user, group, number)
    for directory in boot.directories:
        _make_directory(directory)
    for file in boot.files:
        _write(file)


def _make_user(user: str, group: str, number: int) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        with open("/etc/group", "a") as groups, open("/etc/passwd", "a") as users:
            groups.write(f"{group}:x:{number}:\n")
            users.write(f"{user}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n")


def _make_directory(directory: Directory) -> None:
    Path(directory.path).mkdir(parents=True, exist_ok=True)
    _give(directory.path, directory.owner)


def _write(file: File) -> None:
    path = Path(file.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.text)
    path.chmod(file.mode)
    _give(file.path, file.owner)


def _give(path: str, owner: str) -> None:
    user, _, group = owner.partition(":")
    shutil.chown(path, user, group or None)


def start(program: Program) -> int:
    """The process id, once the program serves. Raises TimeoutError."""
    pid = os.posix_spawnp(program.line[0], program.line, os.environ)
    deadline = time.monotonic() + READY_SECONDS
    while program.ready and subprocess.run(program.ready, capture_output=True, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{program.line[0]} does not serve after {READY_SECONDS:g} s")
        select.select([], [], [], POLL)
    return pid


def attend(programs: tuple[Program, ...]) -> None:
    """Until all have ended by themselves, or SIGTERM has ended them."""
    running: dict[int, str] = {}
    try:
        for program in programs:
            running[start(program)] = program.line[0]
        while running:
            pid, status = os.wait()
            if pid in running:
                print(f"{running.pop(pid)} has ended: {os.waitstatus_to_exitcode(status)}", flush=True)
    except SystemExit:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for pid in reversed(running):
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


def main(arguments: list[str]) -> int:
    def stop(*_: Any) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    name, directory, node = arguments[0], Path(arguments[1]), arguments[2]
    plan = read_plan(directory)
    boot = SOFTWARE[name].boot(plan, plan.node(node))
    isolate(node_directory(directory, node) / "private", node)
    os.environ["PATH"] = PATH
    furnish(boot)
    attend(boot.programs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
