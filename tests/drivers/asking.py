"""A client that asks for addresses: by ARP, by neighbour solicitation, by datagram. Silence is told without waiting.

Each question is followed by the same one for an address that surely answers. Both take the same way, so when there is
an answer to the second and none to the first, there is none.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from ipaddress import ip_address
from types import TracebackType

from cable import PATIENCE, Cable, inside

from agent.drivers import frames

PORT = 7

OWN = "10.9.0.1"
OWN6 = "fd00:9::1"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


class Asker:
    """The client at the other end of a cable of the node's; `interface` is its end."""

    def __init__(self, cable: Cable, interface: str = "eth0", client_mac: str = Cable.client_mac) -> None:
        self._cable = cable
        self._mac = mac(client_mac)
        with inside(cable.client):
            self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._packets.bind((interface, 3))
            self._packets.settimeout(PATIENCE)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._packets.close()

    def arp(self, address: str) -> bool:
        """Whether ARP for it is answered."""
        link = ip_address("10.9.0.2").packed
        for each in (address, OWN):
            self._packets.send(frames.directed_request(self._mac, link, ip_address(each).packed))
        return self._told(address, OWN, _arp_answer)

    def solicit(self, address: str) -> bool:
        """Whether a neighbour solicitation for it is answered."""
        link = ip_address("fd00:9::2").packed
        for each in (address, OWN6):
            self._packets.send(frames.solicitation(self._mac, link, ip_address(each).packed))
        return self._told(address, OWN6, _advertised)

    def _told(self, address: str, sure: str, answered: Callable[[bytes], bytes]) -> bool:
        found = False
        while True:
            about = answered(self.frame())
            found = found or about == ip_address(address).packed
            if about == ip_address(sure).packed:
                return found

    def frame(self) -> bytes:
        """The next frame on the cable, our own not counted."""
        while True:
            frame, source = self._packets.recvfrom(2048)
            if source[2] != socket.PACKET_OUTGOING:
                return frame


def _arp_answer(frame: bytes) -> bytes:
    return frame[28:32] if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" else b""


def _advertised(frame: bytes) -> bytes:
    return frame[62:78] if frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136 else b""


class Service:
    """A server at an address of the node. The client needs no ARP to send to it."""

    def __init__(self, cable: Cable, address: str, interface: str = "eth0") -> None:
        self._cable = cable
        self._address = address
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._sure = OWN6 if ":" in address else OWN
        self._at, self._at_own = self._serve(address), self._serve(self._sure)
        self._at.setblocking(False)
        (link,) = json.loads(cable.ip(f"-j link show dev {interface}"))
        for each in (address, self._sure):
            cable.client_ip(f"neigh replace {each} lladdr {link['address']} dev {interface} nud permanent")

    def _serve(self, address: str) -> socket.socket:
        server = socket.socket(self._family, socket.SOCK_DGRAM)
        server.bind((address, PORT))
        server.settimeout(PATIENCE)
        return server

    def __enter__(self) -> Service:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._at.close()
        self._at_own.close()

    def reached(self) -> bool:
        """Whether a datagram from the client is delivered."""
        with self._cable.client_socket(self._address) as client:
            for to in (self._address, self._sure):
                client.sendto(b"question", (to, PORT))
            self._at_own.recv(64)
        try:
            self._at.recv(64)
        except BlockingIOError:
            return False
        return True

    def speaks(self) -> bool:
        """Whether the server can send from its address."""
        try:
            self._at.sendto(b"answer", ("fd00:9::2" if self._family == socket.AF_INET6 else "10.9.0.2", PORT))
        except PermissionError:
            return False
        return True
