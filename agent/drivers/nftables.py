"""The part of nf_tables that the fast lease speaks, as bytes: linux/netfilter/{nfnetlink,nf_tables}.h.

Packed by hand like `rtnetlink`: the `nft` program costs 2 to 4 ms a call, these bytes 0.05 ms. The tests let nft(8)
read back what is written here. Numbers inside nf_tables attributes are big-endian.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agent.drivers import rtnetlink
from agent.drivers.rtnetlink import Answer, attribute

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
BATCH_BEGIN, BATCH_END = 0x10, 0x11
SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES

INET, ARP, NETDEV = 1, 3, 5
"""Table families (NFPROTO_*)."""

NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, DELCHAIN, NEWRULE, NEWSET = 0, 1, 2, 3, 5, 6, 9
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14

PREROUTING, POSTROUTING, ARP_INPUT, INGRESS, EGRESS = 0, 4, 0, 0, 1
"""Hooks, each inside its family."""

SET_TIMEOUT, SET_DYNAMIC = 0x10, 0x20
"""Elements run out; rules may add elements."""

ELEMENT_MAX = 1000
"""Elements of one message: the list's length has 16 bits, an IPv6 element takes 28 bytes."""

SO_SNDBUFFORCE, SO_ATTACH_FILTER = 32, 26
SEND_BYTES = 4 << 20
"""A batch is sent whole or not at all; 16,384 VIPs of two addresses take 0.8 MB."""

_HEADER = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct(">BBH")
_SEQUENCE = struct.Struct("=I")
_FLAGS = struct.Struct("=H")
_NESTED = 0x8000


class KeyType(NamedTuple):
    """What a set is keyed by, and how nft(8) is to show it (its own numbers and notes, as `nft` itself stores them)."""

    length: int
    number: int
    notes: bytes


IPV4_KEY = KeyType(4, 7, bytes.fromhex("000402000000"))
IPV6_KEY = KeyType(16, 8, bytes.fromhex("000402000000"))
TIME_KEY = KeyType(8, 43, bytes.fromhex("000401000000030e000409000000010600041e000000"))
"""`typeof meta time`: nanoseconds of the wall clock."""


def number(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(4, "big"))


def word(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def request(kind: int, family: int, flags: int, *parts: bytes) -> bytes:
    """One message of a batch, with sequence number 0: `FilterSocket` sets it."""
    payload = _NFGENMSG.pack(family, 0, 0) + b"".join(parts)
    kind |= SUBSYSTEM << 8
    return _HEADER.pack(16 + len(payload), kind, flags | rtnetlink.NLM_F_REQUEST, 0, 0) + payload


def _edge(kind: int) -> bytes:
    return _HEADER.pack(20, kind, rtnetlink.NLM_F_REQUEST, 0, 0) + _NFGENMSG.pack(0, 0, SUBSYSTEM)


def new_table(family: int, table: str) -> bytes:
    """Makes it, or finds it there."""
    return request(NEWTABLE, family, rtnetlink.NLM_F_CREATE, word(1, table), number(2, 0))


def delete_table(family: int, table: str) -> bytes:
    return request(DELTABLE, family, 0, word(1, table))


def new_set(family: int, table: str, name: str, key: KeyType) -> bytes:
    return request(NEWSET, family, rtnetlink.NLM_F_CREATE, *_set(table, name, key, 0))


def new_timed_set(family: int, table: str, name: str, key: KeyType, size: int, sweep: int) -> bytes:
    """Of at most `size` elements, each with a timeout; what has run out is thrown away every `sweep` milliseconds."""
    limits = nested(9, number(1, size)), number(12, sweep)
    return request(NEWSET, family, rtnetlink.NLM_F_CREATE, *_set(table, name, key, SET_TIMEOUT | SET_DYNAMIC), *limits)


def _set(table: str, name: str, key: KeyType, flags: int) -> list[bytes]:
    return [
        word(1, table),
        word(2, name),
        number(3, flags),
        number(4, key.number),
        number(5, key.length),
        number(10, 1),  # NFTA_SET_ID: wanted, used by no one here
        attribute(13, key.notes),
    ]


def new_chain(family: int, table: str, name: str) -> bytes:
    """One that rules jump to."""
    return request(NEWCHAIN, family, rtnetlink.NLM_F_CREATE, word(1, table), word(3, name))


def new_base_chain(family: int, table: str, name: str, hook: int, priority: int, device: str = "") -> bytes:
    """One that packets enter, with policy accept; `device` for the netdev family."""
    where = [number(1, hook), attribute(2, priority.to_bytes(4, "big", signed=True))]
    if device:
        where.append(word(3, device))
    return request(
        NEWCHAIN,
        family,
        rtnetlink.NLM_F_CREATE,
        word(1, table),
        word(3, name),
        nested(4, *where),
        number(5, 1),  # accept
        word(7, "filter"),
    )


def delete_chain(family: int, table: str, name: str) -> bytes:
    return request(DELCHAIN, family, 0, word(1, table), word(3, name))


def new_rule(family: int, table: str, chain: str, *expressions: bytes) -> bytes:
    """At the end of the chain."""
    return request(
        NEWRULE,
        family,
        rtnetlink.NLM_F_CREATE | 0x800,  # NLM_F_APPEND
        word(1, table),
        word(2, chain),
        nested(4, *(nested(1, each) for each in expressions)),
    )


def elements(kind: int, family: int, table: str, name: str, members: Iterable[bytes]) -> bytes:
    """NEWSETELEM (who is there already is left alone) or DELSETELEM; at most `ELEMENT_MAX` members."""
    flags = rtnetlink.NLM_F_CREATE if kind == NEWSETELEM else 0
    return request(kind, family, flags, word(1, table), word(2, name), nested(3, *members))


def get_element(family: int, table: str, name: str, key: bytes) -> bytes:
    return request(GETSETELEM, family, 0, word(1, table), word(2, name), nested(3, element(key)))


def element(key: bytes, *, timeout: int = 0) -> bytes:
    """`timeout` in milliseconds; 0: none."""
    parts = [nested(1, attribute(1, key))]
    if timeout:
        parts.append(_timeout(4, timeout))
    return nested(1, *parts)


def _timeout(kind: int, milliseconds: int) -> bytes:
    return attribute(kind, milliseconds.to_bytes(8, "big"))


# Expressions. All work on register 1.


def _expression(name: str, *parts: bytes) -> bytes:
    return word(1, name) + nested(2, *parts)


def meta(key: int) -> bytes:
    return _expression("meta", number(2, key), number(1, 1))


META_PROTOCOL, META_IIF, META_IIFNAME, META_NFPROTO, META_TIME = 1, 4, 6, 15, 30


def masked(mask: bytes) -> bytes:
    """The register, and `mask`."""
    return _expression(
        "bitwise",
        number(1, 1),
        number(2, 1),
        number(3, len(mask)),
        nested(4, attribute(1, mask)),
        nested(5, attribute(1, bytes(len(mask)))),
    )


def payload(offset: int, length: int) -> bytes:
    """Bytes from the network header on."""
    return _expression("payload", number(1, 1), number(2, 1), number(3, offset), number(4, length))


def equal(value: bytes) -> bytes:
    return _expression("cmp", number(1, 1), number(2, 0), nested(3, attribute(1, value)))


def lookup(name: str) -> bytes:
    """Goes on with the rule where the register is in the set."""
    return _expression("lookup", word(1, name), number(2, 1))


def update(name: str, timeout: int) -> bytes:
    """Puts the register into a set, for so many milliseconds from now on."""
    return _expression("dynset", word(1, name), number(3, 1), number(4, 1), _timeout(6, timeout))


def verdict(code: int) -> bytes:
    return _expression("immediate", number(1, 0), nested(2, nested(2, number(1, code))))


def go_to(chain: str) -> bytes:
    code = 0xFFFFFFFC  # NFT_GOTO, -4
    return _expression("immediate", number(1, 0), nested(2, nested(2, number(1, code), word(2, chain))))


DROP, ACCEPT = 0, 1


def batch(requests: Sequence[bytes], first: int = 0) -> bytearray:
    """One transaction; the last request asks for an answer. `first`: sequence number of its beginning."""
    parts = [_edge(BATCH_BEGIN), *requests, _edge(BATCH_END)]
    data = bytearray(b"".join(parts))
    position = 0
    for sequence, part in enumerate(parts, first):
        _SEQUENCE.pack_into(data, position + 8, sequence)
        if sequence == first + len(requests):
            (flags,) = _FLAGS.unpack_from(data, position + 6)
            _FLAGS.pack_into(data, position + 6, flags | rtnetlink.NLM_F_ACK)
        position += len(part)
    return data


class Failure(NamedTuple):
    """Why nothing of a batch was done: the first message that failed, and the kernel's words."""

    position: int
    """In the batch; -1: the batch as a whole."""
    answer: Answer


class FilterSocket:
    """One kept netlink socket for batches, each done whole or not at all, before `commit` returns.

    The kernel works inside the sender's system call. The call waits while another process' change of the rules is
    under way (one lock per network namespace). Raises OSError when the kernel has no netfilter netlink at all.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(rtnetlink.SOL_NETLINK, rtnetlink.NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(rtnetlink.SOL_NETLINK, rtnetlink.NETLINK_EXT_ACK, 1)
            rtnetlink.grow_buffer(self._socket, 1 << 20)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BYTES)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[0]
        """The kernel names it in its notice of each change that this socket made."""
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def commit(self, requests: Sequence[bytes]) -> Failure | None:
        """One transaction; None: done."""
        first = self._sequence + 1
        last = first + len(requests) + 1
        self._sequence = last & 0x3FFFFFFF
        try:
            self._socket.send(batch(requests, first))
        except OSError as error:
            return _failure(error.errno or errno.EIO)
        return self._answer(first, last)

    def _answer(self, first: int, last: int) -> Failure | None:
        """The last message but the end mark asks for an answer; every failure is answered before that."""
        failure: Failure | None = None
        while True:
            try:
                data = self._socket.recv(rtnetlink.RECEIVE_BYTES)
            except OSError as error:
                return failure or _failure(error.errno or errno.EIO)
            for at in rtnetlink.messages(data):
                if at.kind != rtnetlink.NLMSG_ERROR or not first <= at.sequence <= last:
                    continue
                answer = rtnetlink.read_answer(data, at)
                if answer.code and failure is None:
                    failure = Failure(at.sequence - first - 1, answer)
                if at.sequence in (first, last - 1):  # the whole batch was refused, or this was its last message
                    return failure

    def has(self, queries: bytearray, count: int) -> bool:
        """Whether all elements asked for, by as many `get_element` in one buffer, are there. Takes no lock."""
        self._sequence = (self._sequence + 1) & 0x3FFFFFFF
        position = 0
        for _ in range(count):
            _SEQUENCE.pack_into(queries, position + 8, self._sequence)
            position += _SEQUENCE.unpack_from(queries, position)[0]
        there = True
        try:
            self._socket.send(queries)
            while count:
                data = self._socket.recv(rtnetlink.RECEIVE_BYTES)
                for at in rtnetlink.messages(data):
                    if at.sequence == self._sequence:
                        count -= 1
                        there = there and at.kind != rtnetlink.NLMSG_ERROR
        except OSError:
            return False
        return there

    def elements(self, family: int, table: str, name: str) -> list[bytes]:
        """The keys in a set, whatever its size; none where there is no such set. Not for the fail-over path."""
        query = request(GETSETELEM, family, rtnetlink.NLM_F_DUMP, word(1, table), word(2, name))
        keys: list[bytes] = []
        while True:
            self._sequence += 1
            asked = bytearray(query)
            _SEQUENCE.pack_into(asked, 8, self._sequence)
            self._socket.send(asked)
            keys.clear()
            if self._read_keys(keys):
                return keys

    def _read_keys(self, keys: list[bytes]) -> bool:
        """False: the set changed while it was read."""
        whole = True
        while True:
            data = self._socket.recv(rtnetlink.RECEIVE_BYTES)
            for at in rtnetlink.messages(data):
                if at.sequence != self._sequence:
                    continue
                whole = whole and not at.flags & rtnetlink.NLM_F_DUMP_INTR
                if at.kind in (rtnetlink.NLMSG_DONE, rtnetlink.NLMSG_ERROR):
                    return whole
                keys += _keys(data, at.start + 4, at.end)


def _keys(data: bytes, start: int, end: int) -> Iterable[bytes]:
    for kind, first, last in rtnetlink.attributes(data, start, end):
        if kind != 3:
            continue
        for _, inner, stop in rtnetlink.attributes(data, first, last):
            for key, begin, beyond in rtnetlink.attributes(data, inner, stop):
                if key == 1:
                    yield data[begin + 4 : beyond]


def _failure(code: int) -> Failure:
    return Failure(-1, Answer(code, os.strerror(code)))


def notice_socket(but: int, buffer: int) -> socket.socket:
    """Hears of every change of the rules in this network namespace but those made by the socket with port `but`.

    The kernel drops those before they are queued, so that our own renewals wake nobody. `buffer` in bytes.
    """
    notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        notices.setblocking(False)
        rtnetlink.grow_buffer(notices, buffer)
        ours = socket.htonl(but)  # the program loads big-endian what the header holds in the host's order
        program = b"".join(
            struct.pack("=HBBI", *line)
            for line in (
                (0x20, 0, 0, 12),  # nlmsg_pid: all messages of one notice are from one transaction
                (0x15, 0, 1, ours),
                (0x06, 0, 0, 0),
                (0x06, 0, 0, 0xFFFFFFFF),
            )
        )
        held = ctypes.create_string_buffer(program, len(program))
        notices.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(held)))
        notices.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))
    except OSError:
        notices.close()
        raise
    return notices
