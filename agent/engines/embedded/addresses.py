"""Numeric addresses of the embedded engine."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any


class EngineError(Exception):
    """The engine cannot be used as configured: one line that names the value, what is wrong and the fix."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A numeric address with the engine's port."""

    family: socket.AddressFamily
    address: str
    """Canonical text without scope, as `recvfrom` shows it."""
    port: int
    sockaddr: tuple[Any, ...]
    multicast: bool
    wildcard: bool

    @property
    def scope(self) -> int:
        """IPv6: index of the interface of a link-local address; else 0."""
        return int(self.sockaddr[3]) if self.family == socket.AF_INET6 else 0


def endpoint(role: str, address: str, port: int) -> Endpoint:
    """Reads an address. `role` names it in the `EngineError` for one that is no numeric address."""
    try:
        ((family, _, _, _, sockaddr),) = socket.getaddrinfo(
            address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except OSError:
        raise EngineError(f"{role}: {address!r} is not an IPv4 or IPv6 address; write it in numbers") from None
    text = canonical(str(sockaddr[0]))
    parsed = ip_address(text)
    return Endpoint(family, text, port, tuple(sockaddr), parsed.is_multicast, parsed.is_unspecified)


def canonical(address: str) -> str:
    """Without scope."""
    return address.partition("%")[0]
