"""Asks on one interface who has which address, and hears the answers: one kept packet socket, filtered by the kernel.

A question is an ordinary request from this host's own address, or an RFC 5227 probe where it has none in that network:
it claims nothing, so it changes nobody's cache but that it may make this host known. Counted are only answers to this
host's own hardware address: what a VIP's new holder announces to everybody is not an answer.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.drivers import frames
from exporters.witness_plan import Asked, WitnessError

ETH_P_ALL, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0806, 0x86DD
SO_ATTACH_FILTER = 26
PACKET_OUTGOING = 4
ARPHRD_ETHER = 1

RECEIVE_BUFFER = 2**20
"""Bytes: answers of 1,000 VIPs at once, twice."""

READS_PER_TURN = 256

LOAD_HALF, LOAD_BYTE, EQUAL, RETURN = 0x28, 0x30, 0x15, 0x06
FILTER = (
    # ARP replies ...
    (LOAD_HALF, 0, 0, 12),
    (EQUAL, 0, 2, ETH_P_ARP),
    (LOAD_HALF, 0, 0, 20),
    (EQUAL, 5, 6, 2),
    # ... and neighbour advertisements: IPv6, ICMPv6, type 136.
    (EQUAL, 0, 5, ETH_P_IPV6),
    (LOAD_BYTE, 0, 0, 20),
    (EQUAL, 0, 3, socket.IPPROTO_ICMPV6),
    (LOAD_BYTE, 0, 0, 54),
    (EQUAL, 0, 1, frames.NEIGHBOUR_ADVERTISEMENT),
    (RETURN, 0, 0, 0xFFFF),
    (RETURN, 0, 0, 0),
)
"""Classic BPF: code, jump if true, jump if false, operand."""

Answer = Callable[[Asked, bytes], None]
"""Gets what was asked and the hardware address that answered."""


@dataclass(frozen=True, slots=True)
class Question:
    """Where to ask for one address, and from whom."""

    asked: Asked
    interface: str
    mac: bytes
    source: bytes | None
    """This host's address in that network; None: it has none."""

    def frame(self) -> bytes:
        target = self.asked.address
        if len(target) == 16:
            assert self.source is not None
            return frames.solicitation(self.mac, self.source, target)
        return frames.directed_request(self.mac, self.source, target) if self.source else frames.probe(self.mac, target)


def questions(asked: tuple[Asked, ...]) -> list[Question | WitnessError]:
    """Finds interfaces and own addresses by the kernel's routes; for each that cannot be asked, why."""
    found: list[Question | WitnessError] = []
    with IPRoute() as netlink:
        links = {link["index"]: link for link in netlink.get_links()}
        for one in asked:
            try:
                found.append(_question(netlink, links, one))
            except WitnessError as error:
                found.append(error)
    return found


def _question(netlink: IPRoute, links: dict[int, object], asked: Asked) -> Question:
    index = _index(links, asked.interface)
    source: bytes | None = None
    try:
        (route,) = netlink.route("get", dst=asked.text, **({"oif": index} if index else {}))
        reached = route.get_attr("RTA_OIF")
        if route.get_attr("RTA_GATEWAY") is None and reached in (index or reached,) and route["type"] == 1:
            source = socket.inet_pton(route["family"], route.get_attr("RTA_PREFSRC"))
            index = reached
    except (NetlinkError, ValueError):
        pass
    if index is None:
        raise WitnessError(
            f"VIP {asked.vip}: no interface of this host is on the network of {asked.text}: name one with --interface"
        )
    link: object = links[index]
    name = link.get_attr("IFLA_IFNAME")  # type: ignore[attr-defined]
    if link["ifi_type"] != ARPHRD_ETHER:  # type: ignore[index]
        raise WitnessError(f"VIP {asked.vip}: {name} is no Ethernet interface, nobody can be asked there")
    if len(asked.address) == 16 and source is None:
        raise WitnessError(f"VIP {asked.vip}: {name} has no IPv6 address to ask for {asked.text} from: give it one")
    mac = bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))  # type: ignore[attr-defined]
    return Question(asked, name, mac, source)


def _index(links: dict[int, object], name: str | None) -> int | None:
    if name is None:
        return None
    for index, link in links.items():
        if link.get_attr("IFLA_IFNAME") == name:  # type: ignore[attr-defined]
            return index
    known = ", ".join(sorted(link.get_attr("IFLA_IFNAME") for link in links.values()))  # type: ignore[attr-defined]
    raise WitnessError(f"this host has no interface {name!r}: it has {known}")


class Segment:
    """One interface. `open`, then `ask` each frame; `close` at the end."""

    def __init__(self, interface: str, asked: list[Question], on_answer: Answer) -> None:
        self.interface = interface
        self._mac = asked[0].mac
        self._asked = {question.asked.address: question.asked for question in asked}
        self._families = {len(question.asked.address) for question in asked}
        self._on_answer = on_answer
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Raises `WitnessError` where this process may not ask at all, OSError where the interface cannot be used."""
        protocol = {frozenset({4}): ETH_P_ARP, frozenset({16}): ETH_P_IPV6}.get(frozenset(self._families), ETH_P_ALL)
        try:
            # Protocol 0 hears nothing: no frame comes in before the filter is there.
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        except PermissionError:
            raise WitnessError(
                "asking by ARP needs CAP_NET_RAW: be root, or give it with AmbientCapabilities= or setcap"
            ) from None
        try:
            _attach(opened, FILTER)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            opened.bind((self.interface, protocol))
        except OSError:
            opened.close()
            raise
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened, self._readable)

    def ask(self, frame: bytes) -> str:
        """Empty: sent; else the name of the error."""
        if self._socket is None:
            return "ENODEV"
        try:
            self._socket.send(frame)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "EIO")
        return ""

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        assert self._socket is not None
        for _ in range(READS_PER_TURN):
            try:
                frame, (_, _, kind, _, _) = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:
                return  # the interface went down: asking tells
            claim = frames.parse_arp(frame) or frames.parse_nd(frame)
            if claim is None or kind == PACKET_OUTGOING or claim.destination != self._mac:
                continue
            asked = self._asked.get(claim.address)
            if asked is not None and claim.kind in ("reply", "na"):
                self._on_answer(asked, claim.mac)


def _attach(sock: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(buffer)))
