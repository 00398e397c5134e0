"""The part of rtnetlink that the drivers speak, as bytes: rtnetlink(7), netlink(7), linux/if_addr.h, linux/if_link.h.

Packed by hand because speed is the point: pyroute2's classes need 0.6 ms a message, ``struct`` 2 us. The tests hold
both to the same bytes. Nothing here keeps state but `RequestSocket`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agent.drivers.records import AddressKey, AddressRecord, LinkRecord, NeighbourRecord

NETLINK_ROUTE = 0
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP_INTR = 0x10
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100

IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS, IFA_PROTO = 1, 2, 6, 8, 11
IFA_F_SECONDARY, IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x01, 0x02, 0x200
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
FOREVER = 0xFFFFFFFF

IFLA_ADDRESS, IFLA_IFNAME, IFLA_OPERSTATE, IFLA_AF_SPEC, IFLA_EXT_MASK = 1, 3, 16, 26, 29
RTEXT_FILTER_SKIP_STATS = 8
IFLA_INET_CONF = 1
IPV4_DEVCONF_PROMOTE_SECONDARIES = 20

NDA_DST, NDA_LLADDR = 1, 2

_HEADER = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_IFINFOMSG = struct.Struct("=BxHiII")
_NDMSG = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_UNSIGNED = struct.Struct("=I")
_SIGNED = struct.Struct("=i")
_FLAGS_AND_SEQUENCE = struct.Struct("=HI")
_CACHEINFO = struct.Struct("=IIII")

RECEIVE_BYTES = 65_536


class Answer(NamedTuple):
    """What the kernel said to one request: `code` is an errno, 0 is done; `text` is its own words (extended ack)."""

    code: int
    text: str


DONE = Answer(0, "")


class Message(NamedTuple):
    """One netlink message inside a received buffer."""

    kind: int
    flags: int
    sequence: int
    start: int
    """First byte of the payload."""
    end: int


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, flags: int, payload: bytes) -> bytes:
    """A request with sequence number 0: `RequestSocket` sets it when it sends."""
    return _HEADER.pack(16 + len(payload), kind, flags | NLM_F_REQUEST, 0, 0) + payload


def add_address(key: AddressKey, *, tag: int, flags: int = 0, lifetime: int = 0, renew: bool = False) -> bytes:
    """RTM_NEWADDR. It refuses an address that is there already, unless it is to `renew` the lifetime of one.

    `lifetime` in seconds, 0 for ever. An IPv6 address is *deprecated* from the start (preferred lifetime 0), so that no
    connection of the host's own takes it as source; IPv4 knows no such thing, there a /32 gets link scope to that end.
    """
    version6 = len(key.packed) == 16
    valid = lifetime or FOREVER
    scope = RT_SCOPE_LINK if key.prefix == 32 and not version6 else RT_SCOPE_UNIVERSE
    if version6:
        flags |= IFA_F_NODAD
    payload = [
        _IFADDRMSG.pack(socket.AF_INET6 if version6 else socket.AF_INET, key.prefix, flags & 0xFF, scope, key.ifindex),
        attribute(IFA_LOCAL, key.packed),
        attribute(IFA_ADDRESS, key.packed),
        attribute(IFA_FLAGS, _UNSIGNED.pack(flags)),
        attribute(IFA_PROTO, bytes((tag,))),
    ]
    if version6 or lifetime:
        payload.append(attribute(IFA_CACHEINFO, _CACHEINFO.pack(0 if version6 else valid, valid, 0, 0)))
    return message(RTM_NEWADDR, NLM_F_REPLACE if renew else NLM_F_CREATE | NLM_F_EXCL, b"".join(payload))


def delete_address(key: AddressKey) -> bytes:
    """RTM_DELADDR of exactly this address with exactly this prefix (IFA_ADDRESS makes the kernel compare it)."""
    payload = _IFADDRMSG.pack(family_of(key.packed), key.prefix, 0, 0, key.ifindex)
    return message(RTM_DELADDR, 0, payload + attribute(IFA_LOCAL, key.packed) + attribute(IFA_ADDRESS, key.packed))


def set_promotion(ifindex: int, *, on: bool) -> bytes:
    """RTM_SETLINK of the interface's promote_secondaries: needs no write access to /proc/sys."""
    conf = attribute(IFLA_INET_CONF, attribute(IPV4_DEVCONF_PROMOTE_SECONDARIES, _UNSIGNED.pack(on)))
    return message(
        RTM_SETLINK,
        0,
        _IFINFOMSG.pack(0, 0, ifindex, 0, 0) + attribute(IFLA_AF_SPEC, attribute(socket.AF_INET, conf)),
    )


def get_link(ifindex: int) -> bytes:
    return message(RTM_GETLINK, 0, _IFINFOMSG.pack(0, 0, ifindex, 0, 0) + _EXT_MASK)


_EXT_MASK = attribute(IFLA_EXT_MASK, _UNSIGNED.pack(RTEXT_FILTER_SKIP_STATS))
DUMP_LINKS = message(RTM_GETLINK, NLM_F_DUMP, _IFINFOMSG.pack(0, 0, 0, 0, 0) + _EXT_MASK)
DUMP_ADDRESSES = message(RTM_GETADDR, NLM_F_DUMP, _IFADDRMSG.pack(0, 0, 0, 0, 0))


def dump_neighbours(family: int) -> bytes:
    return message(RTM_GETNEIGH, NLM_F_DUMP, _NDMSG.pack(family, 0, 0, 0, 0))


def delete_neighbour(entry: NeighbourRecord) -> bytes:
    """RTM_DELNEIGH of the entry for this address on its interface."""
    head = _NDMSG.pack(family_of(entry.packed), entry.ifindex, 0, 0, 0)
    return message(RTM_DELNEIGH, 0, head + attribute(NDA_DST, entry.packed))


def family_of(packed: bytes) -> int:
    return socket.AF_INET6 if len(packed) == 16 else socket.AF_INET


def messages(data: bytes) -> Iterator[Message]:
    """The messages in a received buffer; stops at the first that does not fit."""
    position = 0
    while position + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, position)
        if length < 16 or position + length > len(data):
            return
        yield Message(kind, flags, sequence, position + 16, position + length)
        position += (length + 3) & ~3


def attributes(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Kind, first and past-the-last byte of each attribute's value; stops at the first that does not fit."""
    while position + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < 4 or position + length > end:
            return
        yield kind & 0x3FFF, position + 4, position + length
        position += (length + 3) & ~3


def read_address(data: bytes, at: Message) -> AddressRecord | None:
    """The address of an RTM_NEWADDR or RTM_DELADDR; None: not of IPv4 or IPv6."""
    if at.end - at.start < _IFADDRMSG.size:
        return None
    family, prefix, flags, _, index = _IFADDRMSG.unpack_from(data, at.start)
    packed, tag = b"", 0
    for kind, start, end in attributes(data, at.start + _IFADDRMSG.size, at.end):
        if kind == IFA_LOCAL or (kind == IFA_ADDRESS and not packed):
            packed = data[start:end]  # on a point-to-point link IFA_ADDRESS is the peer's
        elif kind == IFA_FLAGS:
            (flags,) = _UNSIGNED.unpack_from(data, start)
        elif kind == IFA_PROTO:
            tag = data[start]
    if len(packed) != {socket.AF_INET: 4, socket.AF_INET6: 16}.get(family):
        return None
    return AddressRecord(AddressKey(index, packed, prefix), flags, tag)


def read_link(data: bytes, at: Message) -> LinkRecord | None:
    """The interface of an RTM_NEWLINK or RTM_DELLINK; None: a bridge's or another family's word on it."""
    if at.end - at.start < _IFINFOMSG.size:
        return None
    family, _, index, flags, _ = _IFINFOMSG.unpack_from(data, at.start)
    if family != socket.AF_UNSPEC:
        return None  # a port that leaves a bridge is told as RTM_DELLINK of family AF_BRIDGE
    name, mac, state, promotes = "", b"", 0, False
    for kind, start, end in attributes(data, at.start + _IFINFOMSG.size, at.end):
        if kind == IFLA_IFNAME:
            name = data[start:end].rstrip(b"\0").decode(errors="surrogateescape")
        elif kind == IFLA_ADDRESS:
            mac = data[start:end]
        elif kind == IFLA_OPERSTATE:
            state = data[start]
        elif kind == IFLA_AF_SPEC:
            promotes = _promotes(data, start, end)
    return LinkRecord(index, name, mac, flags, state, promotes)


def _promotes(data: bytes, start: int, end: int) -> bool:
    """IFLA_INET_CONF as the kernel reports it is an array of u32 whose first is number 1."""
    for family, inner, stop in attributes(data, start, end):
        if family != socket.AF_INET:
            continue
        for kind, first, last in attributes(data, inner, stop):
            position = first + 4 * (IPV4_DEVCONF_PROMOTE_SECONDARIES - 1)
            if kind == IFLA_INET_CONF and position + 4 <= last:
                return bool(_UNSIGNED.unpack_from(data, position)[0])
    return False


def read_neighbour(data: bytes, at: Message) -> NeighbourRecord | None:
    """The neighbour of an RTM_NEWNEIGH; None: without address, or with a hardware address that is no Ethernet one.

    An entry that is not resolved yet has an empty one.
    """
    if at.end - at.start < _NDMSG.size:
        return None
    _, index, state, _, _ = _NDMSG.unpack_from(data, at.start)
    packed, mac = b"", b""
    for kind, start, end in attributes(data, at.start + _NDMSG.size, at.end):
        if kind == NDA_DST:
            packed = data[start:end]
        elif kind == NDA_LLADDR:
            mac = data[start:end]
    return NeighbourRecord(index, packed, mac, state) if len(packed) in (4, 16) and len(mac) in (0, 6) else None


def read_answer(data: bytes, at: Message) -> Answer:
    (code,) = _SIGNED.unpack_from(data, at.start)
    if not code:
        return DONE
    text = os.strerror(-code)
    if at.flags & NLM_F_ACK_TLVS:
        # The request's header follows, and with it its payload unless the answer is capped.
        length = 16 if at.flags & NLM_F_CAPPED else _UNSIGNED.unpack_from(data, at.start + 4)[0]
        for kind, start, end in attributes(data, at.start + 4 + ((length + 3) & ~3), at.end):
            if kind == NLMSGERR_ATTR_MSG:
                text = f"{text} ({data[start:end].rstrip(bytes(1)).decode(errors='replace')})"
    return Answer(-code, text)


class RequestSocket:
    """One kept netlink socket for requests, answered before `execute` returns.

    rtnetlink works inside the sender's system call, so that the answers are in the receive queue when it returns. The
    call waits while another process changes the network's configuration (the kernel's RTNL lock); that is the one wait
    that no user of rtnetlink can avoid.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        grow_buffer(self._socket, 1 << 20)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def execute(self, requests: Sequence[bytes]) -> list[Answer] | None:
        """Sends all in one batch; one answer each, in order. None: answers were lost, so the outcome is unknown.

        Only the last asks for an acknowledgement: the kernel works in order and reports each failure in any case, so
        this answers for all at the price of one message.
        """
        if not requests:
            return []
        first = self._sequence + 1
        self._sequence += len(requests)
        batch = bytearray(b"".join(requests))
        position = 0
        for sequence in range(first, self._sequence + 1):
            length, _, flags, _, _ = _HEADER.unpack_from(batch, position)
            if sequence == self._sequence:
                flags |= NLM_F_ACK
            _FLAGS_AND_SEQUENCE.pack_into(batch, position + 6, flags, sequence)
            position += length
        try:
            self._socket.send(batch)
        except OSError as error:
            return [Answer(error.errno or errno.EIO, os.strerror(error.errno or errno.EIO))] * len(requests)
        return self._answers(first, len(requests))

    def _answers(self, first: int, count: int) -> list[Answer] | None:
        answers = [DONE] * count
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except OSError:
                return None  # ENOBUFS: answers did not fit; EAGAIN: the kernel still owes one
            for at in messages(data):
                if at.kind == NLMSG_ERROR and first <= at.sequence < first + count:
                    answers[at.sequence - first] = read_answer(data, at)
                    if at.sequence == first + count - 1:
                        return answers

    def query(self, request: bytes) -> Iterator[tuple[bytes, list[Message]]]:
        """The replies to one dump or get request, a received buffer at a time. Raises OSError.

        InterruptedError: the tables changed in between, so that something may be missing: ask again. A caller that
        drops the iterator early must drop the socket too.
        """
        self._sequence += 1
        batch = bytearray(request)
        (flags,) = struct.unpack_from("=H", batch, 6)
        single = flags & NLM_F_DUMP != NLM_F_DUMP
        _FLAGS_AND_SEQUENCE.pack_into(batch, 6, flags, self._sequence)
        self._socket.send(batch)
        interrupted = False
        while True:
            data = self._socket.recv(RECEIVE_BYTES)
            found: list[Message] = []
            for at in messages(data):
                if at.sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(at.flags & NLM_F_DUMP_INTR)
                if at.kind == NLMSG_ERROR:
                    answer = read_answer(data, at)
                    raise OSError(answer.code, answer.text)
                if at.kind == NLMSG_DONE:
                    yield data, found
                    if interrupted:
                        raise InterruptedError(errno.EINTR, "the kernel's tables changed during the dump")
                    return
                found.append(at)
            yield data, found
            if single and found:
                return


def current_links() -> list[LinkRecord]:
    """The interfaces as they are. What changes during the dump may be missing and comes as an event. Raises OSError."""
    requests = RequestSocket()
    links: list[LinkRecord] = []
    try:
        for data, found in requests.query(DUMP_LINKS):
            links += [link for link in (read_link(data, at) for at in found) if link]
    except InterruptedError:
        pass
    finally:
        requests.close()
    return links


def grow_buffer(netlink: socket.socket, size: int) -> None:
    """Sets the receive buffer, above net.core.rmem_max where CAP_NET_ADMIN allows it."""
    try:
        netlink.setsockopt(socket.SOL_SOCKET, 33, size)  # SO_RCVBUFFORCE
    except PermissionError:
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def event_socket(buffer: int) -> socket.socket:
    """A non-blocking socket that hears of every change to links and addresses; `buffer` in bytes."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
    events.setblocking(False)
    grow_buffer(events, buffer)
    events.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
    return events
