"""The address watch: `python -m agent.lab.watch STATE_DIRECTORY`, in the lab's middle namespace.

One netlink socket hears the address changes of every node's namespace (NETLINK_LISTEN_ALL_NSID), so that their order
is the kernel's and no scheduling delay can make two nodes seem to hold a VIP at once. Each change goes to
addresses.jsonl with the time at which it was read.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from agent.lab.namespaces import entered
from agent.lab.plan import Plan
from agent.lab.scheduling import SO_RCVBUFFORCE, favour
from agent.lab.state import read_plan

FILE = "addresses.jsonl"
_SOL_NETLINK = 270
_LISTEN_ALL_NSID = 8
_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_NEWADDR, _DELADDR, _GETADDR, _DONE = 20, 21, 22, 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_DUMP = struct.pack("=IHHIIBxxxi", 24, _GETADDR, 0x301, 1, 0, 0, 0)
_UNIVERSE = 0


class Change(msgspec.Struct, frozen=True):
    """One address came to a node or went from it."""

    at: float
    """Seconds of CLOCK_BOOTTIME."""
    node: str
    address: str
    present: bool
    exact: bool = True
    """False: found by a dump at the start or after lost messages; it may have changed earlier."""


def parse(data: bytes) -> list[tuple[int, str]]:
    """Message type and address of every address message of global scope; the rest is left out."""
    found = []
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 16:
            break
        if kind in (_NEWADDR, _DELADDR) and offset + 24 <= len(data) and data[offset + 19] == _UNIVERSE:
            address = _address(data[offset + 16], data[offset + 24 : offset + length])
            if address is not None:
                found.append((kind, address))
        elif kind == _DONE:
            found.append((_DONE, ""))
        offset += (length + 3) & ~3
    return found


def _address(family: int, attributes: bytes) -> str | None:
    values: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if length < 4:
            break
        values[kind] = attributes[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
    if raw is None or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return socket.inet_ntop(family, raw)


class Watch:
    def __init__(self, plan: Plan, file: int) -> None:
        self._nodes = [node.name for node in plan.nodes]
        self._namespaces = [plan.namespace(name) for name in self._nodes]
        self._present: list[set[str]] = [set() for _ in self._nodes]
        self._file = file
        self._encode = msgspec.json.Encoder().encode
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        self._socket.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
        self._socket.bind((0, _GROUPS))

    def resynchronise(self) -> None:
        """Reads every node's table, at the start and after the kernel had to drop messages."""
        lines = []
        for number, namespace in enumerate(self._namespaces):
            with entered(namespace):
                now_there = dump()
            at = time.clock_gettime(time.CLOCK_BOOTTIME)
            for address in sorted(now_there ^ self._present[number]):
                lines.append(Change(at, self._nodes[number], address, address in now_there, exact=False))
            self._present[number] = now_there
        self._write(lines)

    def step(self) -> None:
        """Waits for messages and records what they change; renewed lifetimes change nothing."""
        try:
            data, control, _, _ = self._socket.recvmsg(1 << 16, 64)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self.resynchronise()
            return
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        number = -1
        for level, kind, value in control:
            if (level, kind) == (_SOL_NETLINK, _LISTEN_ALL_NSID):
                number = struct.unpack("=i", value[:4])[0]
        if not 0 <= number < len(self._nodes):
            return
        lines = []
        present = self._present[number]
        for kind, address in parse(data):
            if kind == _DONE or (kind == _NEWADDR) == (address in present):
                continue
            (present.add if kind == _NEWADDR else present.discard)(address)
            lines.append(Change(at, self._nodes[number], address, kind == _NEWADDR))
        self._write(lines)

    def _write(self, changes: list[Change]) -> None:
        if changes:
            os.write(self._file, b"".join(self._encode(change) + b"\n" for change in changes))


def dump() -> set[str]:
    """The global addresses of the calling thread's namespace."""
    found: set[str] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.send(_DUMP)
        while True:
            for kind, address in parse(sock.recv(1 << 16)):
                if kind == _DONE:
                    return found
                found.add(address)


def read(directory: Path) -> list[Change]:
    """What the watch has written so far, in the kernel's order."""
    try:
        text = (directory / FILE).read_bytes()
    except FileNotFoundError:
        return []
    decode = msgspec.json.Decoder(Change).decode
    return [decode(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def main(arguments: list[str]) -> int:
    directory = Path(arguments[0])

    def stop(*_: Any) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    file = os.open(directory / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    watch = Watch(read_plan(directory), file)
    watch.resynchronise()
    favour()
    (directory / "watch.ready").touch()
    while True:
        watch.step()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
