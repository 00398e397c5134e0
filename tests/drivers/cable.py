"""Two machines on one cable, as network namespaces of the real kernel; the test itself runs inside the first."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from agent.drivers import rtnetlink

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SO_RCVBUFFORCE = 33
MARK = bytes.fromhex("ffffffffffff 020000000999 88b5") + bytes(46)
"""A frame of a protocol for experiments."""

PATIENCE = 30.0
"""Seconds after which a test gives up waiting for something that takes two at most."""

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Runs the calling thread inside a namespace; sockets that it opens there stay there."""
    with Path("/proc/thread-self/ns/net").open() as before, Path("/run/netns", namespace).open() as there:
        if _libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
        try:
            yield
        finally:
            if _libc.setns(before.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns back")


class Cable:
    """`node` and `client`, each with an eth0 in 10.9.0.0/24 (.1 and .2) and fd00:9::/64, and what tests do to them."""

    node_mac = "02:00:00:00:09:01"
    client_mac = "02:00:00:00:09:02"

    def __init__(self) -> None:
        number = next(_numbers)
        self.node = f"mh{os.getpid()}n{number}"
        self.client = f"mh{os.getpid()}c{number}"

    def up(self) -> None:
        for namespace in (self.node, self.client):
            run("ip", "netns", "add", namespace)
            run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0")
            run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        self.plug()

    def plug(self) -> None:
        """Makes the cable, or makes it anew after `unplug`."""
        self.ip(
            f"link add eth0 address {self.node_mac} type veth peer name eth0 netns {self.client} "
            f"address {self.client_mac}"
        )
        for number, ip in ((1, self.ip), (2, self.client_ip)):
            ip(f"addr add 10.9.0.{number}/24 dev eth0")
            ip(f"addr add fd00:9::{number}/64 dev eth0 nodad")
            ip("link set eth0 up")
        self._until(self.node, lambda: "state UP" in self.ip("link show dev eth0"))  # told up to a second late

    def unplug(self) -> None:
        self.ip("link del eth0")

    def down(self) -> None:
        for namespace in (self.node, self.client):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)

    def ip(self, command: str) -> str:
        return run("ip", "-n", self.node, *command.split())

    def client_ip(self, command: str) -> str:
        return run("ip", "-n", self.client, *command.split())

    def batch(self, commands: list[str]) -> None:
        """Many commands to the node's `ip` in one process."""
        done = subprocess.run(
            ["ip", "-n", self.node, "-batch", "-"],
            input="\n".join(commands),
            text=True,
            check=False,
            capture_output=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)

    def addresses(self, interface: str = "eth0") -> set[str]:
        """Address/prefix of everything on an interface of the node, link-local addresses left out."""
        words = self.ip(f"-o addr show dev {interface}").split("\n")
        return {line.split()[3] for line in words if line and "fe80::" not in line}

    def ready(self) -> None:
        """Waits until the client takes IPv6 multicast: Linux brings IPv6 up a second after the carrier."""
        self._until(self.client, lambda: "fe80:" in self.client_ip("-6 addr show dev eth0 scope link -tentative"))

    def _until(self, namespace: str, holds: Callable[[], bool]) -> None:
        """Waits for the kernel's word on links and addresses that makes it true; `PATIENCE` at most for each."""
        with inside(namespace):
            events = rtnetlink.event_socket(1 << 20)
        with events:
            events.settimeout(PATIENCE)
            while not holds():
                events.recv(rtnetlink.RECEIVE_BYTES)

    def client_socket(self, address: str) -> socket.socket:
        """A UDP socket at the client, of the family of an address."""
        with inside(self.client):
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(PATIENCE)
        return made

    def delivered(self) -> None:
        """All frames of the node have been taken in by the client; on a busy machine the kernel delivers later."""
        with self.capture() as packets, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind(("eth0", 0))
            sender.send(MARK)
            while packets.recv(2048) != MARK:
                pass

    def undelivered(self) -> int:
        """Frames of the client that the kernel had no room for on their way to the node's interface."""
        with inside(self.client):
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        (counts,) = [line.split(":")[1].split() for line in lines if line.strip().startswith("eth0:")]
        return int(counts[11])

    def capture(self) -> socket.socket:
        """A packet socket at the client's end that sees all its frames, and has room for thousands."""
        with inside(self.client):
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            packets.bind(("eth0", 3))
            packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
            packets.settimeout(PATIENCE)
        return packets


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def valid_seconds(told: str) -> list[int]:
    """What `ip addr show` says of the addresses that do not stay for ever."""
    return [int(seconds) for seconds in re.findall(r"valid_lft (\d+)sec", told)]


class Heard:
    """What a driver said, and a way to wait for it without a clock."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self._more = asyncio.Event()

    def __call__(self, what: object) -> None:
        self.said.append(what)
        self._more.set()

    def of(self, kind: type[T]) -> list[T]:
        return [each for each in self.said if isinstance(each, kind)]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits until `holds` is true after something was said; `PATIENCE` at most."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self._more.clear()
                await self._more.wait()
