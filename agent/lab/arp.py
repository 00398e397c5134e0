"""ARP and neighbour discovery as the client's segment has them: captured frames, and who answers."""

from __future__ import annotations

import ctypes
import ipaddress
import select
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType

from agent.lab.namespaces import entered
from agent.lab.plan import Plan
from agent.lab.scheduling import SO_RCVBUFFORCE

_ETH_ARP = 0x0806
_ETH_IPV6 = 0x86DD
_SO_TIMESTAMPNS = 35
_SO_ATTACH_FILTER = 26
_ARP = struct.Struct(">HHBBH6s4s6s4s")
_BROADCAST = b"\xff" * 6
_ASKER_MAC = b"\x02\x6d\x68\xff\xff\xfe"
"""Not the client's: answers to it pass the client's own neighbour cache by, so that asking changes nothing."""
_ASKER_LINK_LOCAL = ipaddress.IPv6Address("fe80::6d68:ffff:fffe").packed
# ICMPv6 neighbour advertisements only: next header 58, type 136.
_FILTER = (
    (0x30, 0, 0, 20),
    (0x15, 0, 3, 58),
    (0x30, 0, 0, 54),
    (0x15, 0, 1, 136),
    (0x06, 0, 0, 0x40000),
    (0x06, 0, 0, 0),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One ARP frame or neighbour advertisement that says who has an address."""

    at: float
    """Kernel's arrival time in seconds of CLOCK_BOOTTIME."""
    interface: str
    kind: str
    """request, reply, na."""
    address: str
    """The address that the sender claims."""
    mac: str
    node: str
    """The node whose MAC it is; empty: a stranger's."""
    gratuitous: bool
    """Sender and target are the same address, or an advertisement to all nodes."""
    broadcast: bool


def macs_of(plan: Plan) -> dict[str, str]:
    """MAC to node."""
    return {port.mac: node.name for node in plan.nodes for port in node.ports}


def _open(plan: Plan, interface: str, protocol: int) -> socket.socket:
    with entered(plan.namespace("client")):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        if protocol == _ETH_IPV6:
            code = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
            buffer = ctypes.create_string_buffer(code, len(code))
            program = struct.pack("HL", len(_FILTER), ctypes.addressof(buffer))
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        sock.bind((interface, protocol))
    return sock


class Capture:
    """Collects from its opening on; the kernel keeps frames and their times until they are asked for."""

    def __init__(self, plan: Plan) -> None:
        self._macs = macs_of(plan)
        six = any(":" in address for _, address in plan.addresses())
        protocols = (_ETH_ARP, _ETH_IPV6) if six else (_ETH_ARP,)
        self._sockets = [
            (interface, _open(plan, interface, protocol)) for interface in plan.interfaces for protocol in protocols
        ]

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for _, sock in self._sockets:
            sock.close()

    def send(self, interface: str, frame: bytes) -> None:
        for name, sock in self._sockets:
            if name == interface:
                sock.send(frame)
                return

    def frames(self) -> list[Seen]:
        """What has come since the last call, in order of arrival."""
        offset = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_REALTIME)
        found = []
        for interface, sock in self._sockets:
            while True:
                try:
                    data, control, _, _ = sock.recvmsg(2048, 64)
                except BlockingIOError:
                    break
                seconds, nanoseconds = struct.unpack("=qq", control[0][2])
                seen = self._parse(seconds + nanoseconds * 1e-9 + offset, interface, data)
                if seen is not None:
                    found.append(seen)
        return sorted(found, key=lambda seen: seen.at)

    def wait(self, seconds: float) -> None:
        """Until something has come, or the time is over."""
        select.select([sock for _, sock in self._sockets], [], [], seconds)

    def _parse(self, at: float, interface: str, data: bytes) -> Seen | None:
        broadcast = data[:6] == _BROADCAST or data[:2] == b"\x33\x33"
        kind = struct.unpack_from(">H", data, 12)[0]
        if kind == _ETH_ARP and len(data) >= 42:
            _, _, _, _, operation, mac, sender, _, target = _ARP.unpack_from(data, 14)
            name = {1: "request", 2: "reply"}.get(operation)
            if name is None or sender == b"\0\0\0\0":
                return None
            address, gratuitous = socket.inet_ntoa(sender), sender == target
        elif kind == _ETH_IPV6 and len(data) >= 78 and data[54] == 136:
            name, mac = "na", data[6:12]
            address, gratuitous = socket.inet_ntop(socket.AF_INET6, data[62:78]), broadcast
        else:
            return None
        text = mac.hex(":")
        return Seen(at, interface, name, address, text, self._macs.get(text, ""), gratuitous, broadcast)


def question(address: str) -> bytes:
    """Who has it? Broadcast, from nobody whom a neighbour cache knows."""
    if ":" not in address:
        body = _ARP.pack(1, 0x0800, 6, 4, 1, _ASKER_MAC, b"\0" * 4, b"\0" * 6, socket.inet_aton(address))
        return _BROADCAST + _ASKER_MAC + struct.pack(">H", _ETH_ARP) + body
    target = socket.inet_pton(socket.AF_INET6, address)
    group = b"\xff\x02" + b"\0" * 9 + b"\x01\xff" + target[13:]
    body = struct.pack(">BBHI", 135, 0, 0, 0) + target + b"\x01\x01" + _ASKER_MAC
    summed = _ASKER_LINK_LOCAL + group + struct.pack(">II", len(body), 58) + body
    total = sum(struct.unpack(f">{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack(">H", ~total & 0xFFFF) + body[4:]
    header = struct.pack(">IHBB", 6 << 28, len(body), 58, 255) + _ASKER_LINK_LOCAL + group
    return b"\x33\x33" + group[12:] + _ASKER_MAC + struct.pack(">H", _ETH_IPV6) + header + body


def who_answers(plan: Plan, wait: float = 0.1) -> dict[str, list[str]]:
    """For each VIP address the nodes (or strange MACs) that answer an ARP request or a neighbour solicitation.

    Waits the whole time, in seconds, so that a second answer is seen.
    """
    found: dict[str, list[str]] = {address: [] for _, address in plan.addresses()}
    with Capture(plan) as capture:
        for vip in plan.vips:
            for interface, address, _ in vip.addresses:
                capture.send(interface, question(address))
        deadline = time.monotonic() + wait
        over = False
        while not over:
            # What came while this process did not run is read, too.
            over = (left := deadline - time.monotonic()) <= 0
            capture.wait(max(left, 0.0))
            for seen in capture.frames():
                answers = found.get(seen.address)
                who = seen.node or seen.mac
                if answers is not None and seen.kind in ("reply", "na") and who not in answers:
                    answers.append(who)
    return found
