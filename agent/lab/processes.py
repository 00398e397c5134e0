"""Detached processes, known by process id and start time so that a reused id is never mistaken for them."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_spawned: set[int] = set()
PACKAGE_ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    started: int
    """Start time in clock ticks since boot, from /proc/PID/stat."""


def _stat(pid: int) -> tuple[str, int, int, int] | None:
    """State letter, process group, start time and parent; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[2]), int(fields[19]), int(fields[1])


def spawn(arguments: list[str], log: Path, *, namespace: str | None = None, third: int | None = None) -> Process:
    """Starts a program in a session of its own; its output is appended to `log`. Raises OSError.

    With a namespace the program runs under `ip netns exec`, which becomes the program: the process id stays.
    `third` is a descriptor that the program gets as number 3.
    """
    if namespace is not None:
        arguments = ["ip", "netns", "exec", namespace, *arguments]
    environment = dict(os.environ)
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = str(PACKAGE_ROOT) + (os.pathsep + inherited if inherited else "")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        pid = os.posix_spawnp(
            arguments[0],
            arguments,
            environment,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, descriptor, 1),
                (os.POSIX_SPAWN_DUP2, descriptor, 2),
                *([] if third is None else [(os.POSIX_SPAWN_DUP2, third, 3)]),
            ],
        )
    finally:
        os.close(descriptor)
    _spawned.add(pid)
    known = _stat(pid)
    return Process(pid, known[2] if known else 0)


def python(module: str, *arguments: str) -> list[str]:
    """Command line of a module of this program."""
    return [sys.executable, "-m", module, *arguments]


def alive(process: Process) -> bool:
    """Runs, is stopped or sleeps; a zombie does not count and is reaped where it is a child."""
    known = _stat(process.pid)
    if known is None or known[2] != process.started:
        return False
    if known[0] in "ZX":
        reap(process)
        return False
    return True


def stopped(process: Process) -> bool:
    """Under SIGSTOP."""
    known = _stat(process.pid)
    return known is not None and known[2] == process.started and known[0] in "Tt"


def send_signal(process: Process, number: signal.Signals, *, group: bool = False) -> bool:
    """False when the process is gone. `group`: its whole process group, so that what it forked is hit too,
    also when the process itself has ended (the kernel does not reuse its id while the group has members)."""
    known = _stat(process.pid)
    if known is not None and known[2] != process.started:
        return False
    if not group and not alive(process):
        return False
    try:
        (os.killpg if group else os.kill)(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def signal_all(process: Process, number: signal.Signals) -> bool:
    """To a process, its group, and its children in sessions of their own (an agent's guard); False: it is gone.

    None of them gets to act on another's end or silence.
    """
    if number != signal.SIGCONT:
        send_signal(process, signal.SIGSTOP)  # it would replace a guard that dies before it
    for child in _children(process):
        send_signal(child, number)
    sent = send_signal(process, number, group=True)
    if number not in (signal.SIGSTOP, signal.SIGKILL):
        send_signal(process, signal.SIGCONT, group=True)
    return sent


def _children(process: Process) -> list[Process]:
    found = []
    for entry in os.listdir("/proc"):
        known = _stat(int(entry)) if entry.isdigit() else None
        if known is not None and known[3] == process.pid:
            found.append(Process(int(entry), known[2]))
    return found


def reap(process: Process) -> None:
    """Only what this process spawned here: another part of the program may wait for children of its own."""
    if process.pid not in _spawned:
        return
    _spawned.discard(process.pid)
    try:
        os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return


def wait_gone(processes: list[Process], timeout: float) -> list[Process]:
    """Waits until all have ended; returns those that have not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    left = []
    for process in processes:
        if not alive(process):
            continue
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        finally:
            os.close(descriptor)
        if alive(process):
            left.append(process)
    return left


def kill_processes(pids: list[int]) -> None:
    """SIGKILL, and a wait until they are gone (at most 5 s)."""
    known = [Process(pid, status[2]) for pid in pids if (status := _stat(pid)) is not None]
    for process in known:
        send_signal(process, signal.SIGKILL)
    wait_gone(known, 5.0)
