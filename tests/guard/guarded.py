"""A namespace of the real kernel, and stand-in agents with real guards in it."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from agent.drivers import rtnetlink
from agent.drivers.addresses import TAG
from agent.drivers.records import AddressKey

ROOT = Path(__file__).parents[2]
CLONE_NEWNET = 0x40000000
PATIENCE = 60.0
"""Seconds after which a test gives up waiting for something that takes milliseconds."""

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    with Path("/proc/thread-self/ns/net").open() as before, Path("/run/netns", namespace).open() as there:
        assert _libc.setns(there.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert _libc.setns(before.fileno(), CLONE_NEWNET) == 0


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def wait_ended(pid: int) -> None:
    """Until a process that may be anybody's child is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], PATIENCE)[0], f"{pid} lives on"
    finally:
        os.close(handle)


class Place:
    """A namespace with eth0 up, which the test itself is inside."""

    def __init__(self) -> None:
        self.name = f"mhg{os.getpid()}n{next(_numbers)}"

    def up(self) -> None:
        run("ip", "netns", "add", self.name)
        for interface in ("all", "default"):
            run("ip", "netns", "exec", self.name, "sysctl", "-qw", f"net.ipv6.conf.{interface}.accept_dad=0")
        self.ip("link set lo up")
        self.ip("link add eth0 type veth peer name eth1")
        self.ip("link set eth1 up")
        self.ip("link set eth0 up")
        with inside(self.name):
            self.ifindex = socket.if_nametoindex("eth0")

    def down(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def ip(self, command: str) -> str:
        return run("ip", "-n", self.name, *command.split())

    def execute(self, *command: str) -> str:
        return run("ip", "netns", "exec", self.name, *command)

    def add_tagged(self, text: str) -> None:
        """What molehill itself would have put up."""
        address = ip_interface(text)
        key = AddressKey(self.ifindex, address.packed[: address.max_prefixlen // 8], address.network.prefixlen)
        requests = rtnetlink.RequestSocket()
        assert requests.execute([rtnetlink.add_address(key, tag=TAG)]) == [rtnetlink.DONE]
        requests.close()

    def addresses(self) -> set[str]:
        """Address/prefix of everything on eth0, link-local addresses left out."""
        lines = self.ip("-o addr show dev eth0").splitlines()
        return {line.split()[3] for line in lines if "fe80::" not in line}

    def until(self, holds: Callable[[], bool]) -> None:
        """Waits for the kernel's word on addresses that makes it true."""
        with rtnetlink.event_socket(1 << 20) as events:
            events.settimeout(PATIENCE)
            while not holds():
                events.recv(rtnetlink.RECEIVE_BYTES)


class Agent:
    """A stand-in agent (standin.py) as its own process."""

    def __init__(self, place: Place, errors: Path, *options: str, hand_down: tuple[int, ...] = ()) -> None:
        self.errors = errors
        with errors.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("standin.py")), str(place.ifindex), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                pass_fds=hand_down,
                process_group=0,
            )
        self._rest = b""
        self._heard: list[dict[str, Any]] = []
        self.guard = int(self.event("guard")["guard"])

    def tell(self, verb: str, value: object = None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({verb: value}).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, verb: str, value: object = None) -> Any:
        self.tell(verb, value)
        return self.answer(verb)

    def answer(self, verb: str) -> Any:
        return self._await(lambda line: line.get("did") == verb)["answer"]

    def event(self, name: str) -> dict[str, Any]:
        """The next of that name."""
        found = self._await(lambda line: line.get("event") == name)
        if found.get("guard"):
            self.guard = found["guard"]
        return found

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def wait_guard(self) -> None:
        wait_ended(self.guard)

    def guard_ends_within(self, seconds: float) -> bool:
        handle = os.pidfd_open(self.guard)
        try:
            return bool(select.select([handle], [], [], seconds)[0])
        finally:
            os.close(handle)

    @staticmethod
    def now() -> float:
        return time.monotonic()

    def said(self) -> str:
        """What agent and guard wrote to standard error. Whole once the guard is gone."""
        return self.errors.read_text()

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.guard, signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        wait_ended(self.guard)

    def _await(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            for line in self._heard:
                if wanted(line):
                    self._heard.remove(line)
                    return line
            assert self.process.stdout is not None
            descriptor = self.process.stdout.fileno()
            assert select.select([descriptor], [], [], PATIENCE)[0], f"only {self._heard}; {self.said()}"
            data = os.read(descriptor, 1 << 16)
            assert data, f"the agent ended: {self.said()}"
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._heard += map(json.loads, lines)
