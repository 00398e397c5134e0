"""The embedded engine's sockets: non-blocking, with large buffers and the priority of network control."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from ipaddress import ip_address
from struct import Struct
from typing import Final

from agent.engines.embedded.addresses import Endpoint, EngineError

BUFFER: Final = 4 * 1024 * 1024
"""Bytes asked for each buffer of a socket."""

_TOS_CS6: Final = 0xC0
_PRIORITY_CONTROL: Final = 6
_INTERFACE: Final = Struct("@I")


def bound(there: Endpoint, role: str) -> socket.socket:
    """A socket bound to the endpoint. Raises `EngineError`; `role` names the setting in it."""
    opened = socket.socket(there.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _prepare(opened, there)
        opened.bind(there.sockaddr)
    except OSError as error:
        opened.close()
        raise EngineError(
            f"{role}: cannot use UDP {there.address} port {there.port}: {os.strerror(error.errno or 0)}; "
            + _fix(error, role)
        ) from error
    return opened


def join(opened: socket.socket, here: Endpoint, group: Endpoint) -> None:
    """Makes the socket a member of a multicast group on the interface of `here`. Raises `EngineError`."""
    try:
        if group.family == socket.AF_INET6:
            request = ip_address(group.address).packed + _INTERFACE.pack(group.scope or here.scope)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        else:
            request = ip_address(group.address).packed + ip_address(here.address).packed
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    except OSError as error:
        raise EngineError(
            f"multicast: cannot join {group.address} from {here.address}: {os.strerror(error.errno or 0)}; "
            "bind to an address of the segment's interface (IPv6: name the interface, as in ff02::4803%eth0)"
        ) from error


def multicast_from(opened: socket.socket, here: Endpoint, group: Endpoint) -> None:
    """What the socket sends to the group leaves by the interface of `here`."""
    if group.family == socket.AF_INET6:
        if scope := group.scope or here.scope:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, scope)
    elif not here.wildcard:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, ip_address(here.address).packed)


def _prepare(opened: socket.socket, there: Endpoint) -> None:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    for forced, asked in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            opened.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
        except PermissionError:  # without CAP_NET_ADMIN: as much as the system's limit grants
            opened.setsockopt(socket.SOL_SOCKET, asked, BUFFER)
    with suppress(OSError):  # marks are a wish; a network without them works too
        if there.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _TOS_CS6)
        else:
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _TOS_CS6)
        # After the mark, which sets a priority of its own.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY_CONTROL)
    if there.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _fix(error: OSError, role: str) -> str:
    match error.errno:
        case errno.EADDRNOTAVAIL:
            return f"no interface has this address: correct engine.{role}, or bring the interface up first"
        case errno.EADDRINUSE:
            return "another program has it (ss -ulpn shows which): stop it, or change engine.port on all nodes"
        case errno.EACCES:
            return "ports below 1024 need CAP_NET_BIND_SERVICE: choose an engine.port above"
        case _:
            return f"check engine.{role} and engine.port"


_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
"""Linux, asm-generic/socket.h; Python does not name them."""
