"""Takes addresses off interfaces, for those who do it once and have to be small: the guard, and `sweep`.

The same requests as in `rtnetlink` and `kernel`, which keep tables, hear events and import much more. Only the standard
library's C modules are used: `typing` alone would cost the guard a third of its memory.
"""

from __future__ import annotations

import errno
import os
import struct
from _collections_abc import Iterator  # `collections.abc`'s own, without `collections`
from _socket import (  # `socket` itself costs 1 MiB and 8 ms
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    MSG_DONTWAIT,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_RAW,
    SOL_SOCKET,
    socket,
)

LOCK = "guard.lock"
"""The file in its state_dir that an agent has locked while it lives: what it left is its own business till then."""

ATTEMPTS = 3
"""The same deletions are asked for so often."""
CHUNK = 256
"""Requests in one send: as many failures fit the smallest receive buffer."""

NETLINK_ROUTE = 0
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
RTM_GETLINK, RTM_SETLINK, RTM_DELADDR, RTM_GETADDR = 18, 19, 21, 22
IFA_ADDRESS, IFA_LOCAL, IFA_PROTO = 1, 2, 11
IFLA_AF_SPEC, IFLA_INET_CONF, PROMOTE_SECONDARIES = 26, 1, 20
SOL_NETLINK, NETLINK_CAP_ACK, SO_RCVBUFFORCE = 270, 10, 33
TAG = 0x4D
"""IFA_PROTO of our addresses (`agent.drivers.addresses`)."""

HEADER = struct.Struct("=IHHII")
ADDRESS = struct.Struct("=BBBBI")
LINK = struct.Struct("=BxHiII")
ATTRIBUTE = struct.Struct("=HH")
UNSIGNED = struct.Struct("=I")
SIGNED = struct.Struct("=i")

Key = tuple[int, bytes, int]
"""Interface index, address, prefix (`agent.drivers.records.AddressKey`)."""


def attributes(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Kind, first and past-the-last byte of each attribute's value."""
    while position + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, position)
        if length < 4 or position + length > end:
            return
        yield kind & 0x3FFF, position + 4, position + length
        position += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def delete_address(key: Key) -> tuple[int, bytes]:
    """Of exactly this address with exactly this prefix."""
    ifindex, packed, prefix = key
    family = AF_INET6 if len(packed) == 16 else AF_INET
    return RTM_DELADDR, (
        ADDRESS.pack(family, prefix, 0, 0, ifindex) + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    )


def set_promotion(ifindex: int, on: int) -> tuple[int, bytes]:
    conf = attribute(IFLA_INET_CONF, attribute(PROMOTE_SECONDARIES, UNSIGNED.pack(on)))
    return RTM_SETLINK, LINK.pack(0, 0, ifindex, 0, 0) + attribute(IFLA_AF_SPEC, attribute(AF_INET, conf))


class Kernel:
    """One rtnetlink socket, opened before it is needed. Requests are answered within their system call."""

    def __init__(self) -> None:
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        try:
            self._socket.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20)
        except OSError:
            self._socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))
        self._sequence = 0

    def remove(self, keys: list[Key]) -> dict[Key, int]:
        """Removes addresses without losing others of their networks; what is left, and the kernel's errno for it.

        Last added, first removed: the primary address is the oldest, and each promotion moves all others' routes.
        """
        stubborn = [
            index for index in sorted({key[0] for key in keys if len(key[1]) == 4}) if not self._promotes(index)
        ]
        before, after = ([set_promotion(index, on) for index in stubborn] for on in (1, 0))
        left = dict.fromkeys(keys, 0)
        for _ in range(ATTEMPTS):
            asked = list(left)
            answers = self._execute([*before, *map(delete_address, asked), *after])[len(before) :]
            gone = (0, errno.EADDRNOTAVAIL, errno.ENODEV)
            left = {key: code for key, code in zip(asked, answers, strict=False) if code not in gone}
            if not left:
                break
        return left

    def tagged(self, keys: list[Key]) -> list[Key]:
        """Those that are there and bear our tag. A kernel before 5.18 keeps no tags: all of them."""
        if not keys:
            return []
        tags = self._tags()
        if not any(tags.values()) and not keeps_tags(os.uname().release):
            return keys
        return [key for key in keys if tags.get(key) == TAG]

    def ours(self) -> list[Key]:
        """Everything that bears our tag, last added first."""
        return [key for key, tag in self._tags().items() if tag == TAG][::-1]

    def _tags(self) -> dict[Key, int]:
        """Every address and its tag (0: none)."""
        found: dict[Key, int] = {}
        for at, end, data in self._query(RTM_GETADDR, DUMP, ADDRESS.pack(0, 0, 0, 0, 0)):
            _, prefix, _, _, ifindex = ADDRESS.unpack_from(data, at)
            packed, tag = b"", 0
            for kind, first, last in attributes(data, at + ADDRESS.size, end):
                if kind == IFA_LOCAL or (kind == IFA_ADDRESS and not packed):
                    packed = data[first:last]  # on a point-to-point link IFA_ADDRESS is the peer's
                elif kind == IFA_PROTO:
                    tag = data[first]
            found[ifindex, packed, prefix] = tag
        return found

    def _promotes(self, ifindex: int) -> bool:
        """The interface's own promote_secondaries, which the kernel reports as one of an array that begins at 1."""
        for at, end, data in self._query(RTM_GETLINK, 0, LINK.pack(0, 0, ifindex, 0, 0)):
            for kind, first, last in attributes(data, at + LINK.size, end):
                if kind != IFLA_AF_SPEC:
                    continue
                for family, inner, stop in attributes(data, first, last):
                    for conf, begin, beyond in attributes(data, inner, stop) if family == AF_INET else ():
                        position = begin + 4 * (PROMOTE_SECONDARIES - 1)
                        if conf == IFLA_INET_CONF and position + 4 <= beyond:
                            return bool(UNSIGNED.unpack_from(data, position)[0])
        return True  # the interface is gone

    def _execute(self, requests: list[tuple[int, bytes]]) -> list[int]:
        """An errno for each, 0 for done. ENOBUFS where the answer was lost."""
        answers: list[int] = []
        for start in range(0, len(requests), CHUNK):
            chunk = requests[start : start + CHUNK]
            first = self._sequence + 1
            self._sequence += len(chunk)
            batch = []
            for sequence, (kind, payload) in enumerate(chunk, first):
                flags = REQUEST | ACK if sequence == self._sequence else REQUEST
                batch.append(HEADER.pack(16 + len(payload), kind, flags, sequence, 0) + payload)
            try:
                self._socket.send(b"".join(batch))
                answers += self._answers(first, len(chunk))
            except OSError as error:
                answers += [error.errno or errno.EIO] * len(chunk)
        return answers

    def _answers(self, first: int, count: int) -> list[int]:
        codes = [0] * count
        while True:
            data = self._socket.recv(1 << 16, MSG_DONTWAIT)
            position = 0
            while position + 20 <= len(data):
                length, kind, _, sequence, _ = HEADER.unpack_from(data, position)
                if kind == NLMSG_ERROR and first <= sequence < first + count:
                    codes[sequence - first] = -SIGNED.unpack_from(data, position + 16)[0]
                    if sequence == first + count - 1:
                        return codes
                position += (max(length, 16) + 3) & ~3

    def _query(self, kind: int, flags: int, payload: bytes) -> list[tuple[int, int, bytes]]:
        """Start and end of each reply's payload, and the buffer it is in; what came before an error."""
        self._sequence += 1
        found: list[tuple[int, int, bytes]] = []
        try:
            self._socket.send(HEADER.pack(16 + len(payload), kind, REQUEST | flags, self._sequence, 0) + payload)
            while True:
                data = self._socket.recv(1 << 16, MSG_DONTWAIT)
                position = 0
                while position + 16 <= len(data):
                    length, answer, _, sequence, _ = HEADER.unpack_from(data, position)
                    if sequence == self._sequence:
                        if answer in (NLMSG_ERROR, NLMSG_DONE):
                            return found
                        found.append((position + 16, position + length, data))
                        if flags != DUMP:
                            return found
                    position += (max(length, 16) + 3) & ~3
        except OSError:
            return found


def keeps_tags(release: str) -> bool:
    major, minor = release.split(".")[:2]
    return (int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)) >= (5, 18)
