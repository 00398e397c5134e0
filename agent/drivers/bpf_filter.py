"""Classic BPF programs that let only those frames pass in which a foreign host claims one of given addresses.

A program has three parts: the form of the frame, a search among the addresses, and the senders that are no strangers.
The search is a binary tree over ranges of 32-bit words; addresses in a row are one range, and 16 ranges are one leaf.
1,000 scattered IPv4 addresses take about 1,200 instructions and a frame passes at most 25 of them.

Where a program would be longer than the kernel takes, neighbouring ranges are joined over the smallest gaps (IPv6: and
the last words left out): it then lets too much pass, never too little, and the reader asks exactly.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from functools import lru_cache
from heapq import nlargest
from itertools import groupby, pairwise

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand (struct sock_filter)."""

INSTRUCTIONS_MAX = 4096
"""BPF_MAXINSNS."""

LENGTHS = (INSTRUCTIONS_MAX, 2048, 1024, 512, 256)
"""Longest programs to be tried in turn: kernels before 6.7 have room for about 2,500 instructions (20 KiB)."""

SENDERS_MAX = 128
"""Known senders that the kernel leaves out (5 instructions each); frames of more are left to the reader."""

RUN = 16
"""Ranges in one leaf, compared one after the other."""

SNAP = 2048
"""Bytes of a frame that the reader gets."""

_SO_ATTACH_FILTER = 26
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_WORD_X, _SET_X = 0x20, 0x28, 0x30, 0x40, 0x01
_JUMP, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x05, 0x15, 0x25, 0x35, 0x06
_PACKET_TYPE = 0xFFFFF000 + 4
"""SKF_AD_PKTTYPE: 0 to us, 1 broadcast, 2 multicast, 3 to another host (also tagged with a VLAN that we have not)."""

_REJECT: Instruction = (_RETURN, 0, 0, 0)
_PASS: Instruction = (_RETURN, 0, 0, SNAP)
_FOUND: Instruction = (0xFFFF, 0, 0, 0)
"""Stands for a jump to the third part until it is known how far that is."""

NOTHING = (_REJECT,)
"""The program that lets nothing pass."""

Words = tuple[int, ...]
Span = tuple[int, int]


def arp(addresses: tuple[bytes, ...], senders: Sequence[bytes], most: int = INSTRUCTIONS_MAX) -> list[Instruction]:
    """Ethernet/IPv4 ARP whose sender protocol address is one of these, sender hardware address none of `senders`."""
    head = [
        *_must(_LOAD_WORD, 14, 0x00010800),
        *_must(_LOAD_HALF, 18, 0x0604),
        (_SET_X, 0, 0, 28),
    ]
    return _program(head, addresses, senders, 22, most)


def neighbour_discovery(
    addresses: tuple[bytes, ...], senders: Sequence[bytes], most: int = INSTRUCTIONS_MAX
) -> list[Instruction]:
    """Advertisements for these addresses and solicitations from them, Ethernet source none of `senders`."""
    head = [
        *_must(_LOAD_BYTE, 20, socket.IPPROTO_ICMPV6),
        *_must(_LOAD_BYTE, 21, 255),
        (_LOAD_BYTE, 0, 0, 54),
        (_EQUAL, 0, 2, 136),
        (_SET_X, 0, 0, 62),
        (_JUMP, 0, 0, 3),
        (_EQUAL, 1, 0, 135),
        _REJECT,
        (_SET_X, 0, 0, 22),
    ]
    return _program(head, addresses, senders, 6, most)


def attach(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Puts the program in place of the socket's former one at once. Raises OSError (ENOMEM: net.core.optmem_max)."""
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(buffer)))


def _program(
    form: list[Instruction], addresses: tuple[bytes, ...], senders: Sequence[bytes], sender_at: int, most: int
) -> list[Instruction]:
    head = [(_LOAD_WORD, 0, 0, _PACKET_TYPE), (_GREATER, 0, 1, 2), _REJECT, *form]
    known = min(SENDERS_MAX, most // 16)
    search = _search(addresses, most - len(head) - 5 * known - 2)
    return [*head, *search, *_strangers(senders[:known], sender_at)]


def _must(load: int, offset: int, value: int) -> list[Instruction]:
    return [(load, 0, 0, offset), (_EQUAL, 1, 0, value), _REJECT]


def _strangers(senders: Sequence[bytes], offset: int) -> list[Instruction]:
    """Passes unless the hardware address at `offset` is one of these: by its last four bytes, then the first two."""
    known: dict[int, set[int]] = {}
    for mac in senders:
        known.setdefault(int.from_bytes(mac[2:], "big"), set()).add(int.from_bytes(mac[:2], "big"))
    code: list[Instruction] = [(_LOAD_WORD, 0, 0, offset + 2)]
    for low, highs in known.items():
        code += [(_EQUAL, 0, 3 + len(highs), low), (_LOAD_HALF, 0, 0, offset)]
        code += [(_EQUAL, len(highs) - number, 0, high) for number, high in enumerate(sorted(highs))]
        code += [_PASS, _REJECT]
    return [*code, _PASS]


@lru_cache(64)
def _search(addresses: tuple[bytes, ...], room: int) -> Sequence[Instruction]:
    """At X: goes on behind itself for each of the addresses, exactly or with as few others as there is `room` for."""
    code = _fitting(addresses, room)
    end = len(code)
    return tuple((_JUMP, 0, 0, end - at - 1) if line == _FOUND else line for at, line in enumerate(code))


def _fitting(addresses: tuple[bytes, ...], room: int) -> list[Instruction]:
    if not addresses:
        return [_REJECT]
    words = {struct.unpack(f"!{len(address) // 4}I", address) for address in addresses}
    for depth in range(len(addresses[0]) // 4, 0, -1):
        cut = sorted({each[:depth] for each in words} if depth < len(addresses[0]) // 4 else words)
        beginnings = [len({each[:length] for each in cut}) for length in range(depth)]
        if 4 * sum(beginnings[1:]) + 3 * beginnings[-1] > room:
            continue  # what each of them costs at least: joining ranges will not help
        spans = min(len(cut), room)
        while spans:
            code = _tree(cut, 0, spans)
            if len(code) <= room:
                return code
            spans //= 2
    return [_FOUND]


def _tree(addresses: Sequence[Words], level: int, most: int) -> list[Instruction]:
    """Sorted addresses that are equal in the words before `level`; at most so many ranges in the last word."""
    load: Instruction = (_LOAD_WORD_X, 0, 0, 4 * level)
    if level == len(addresses[0]) - 1:
        return [load, *_among(_joined([each[level] for each in addresses], most))]
    parts = [
        (value, _tree(list(group), level + 1, most)) for value, group in groupby(addresses, lambda each: each[level])
    ]
    return [load, *_branches(parts)]


def _joined(values: Sequence[int], most: int) -> list[Span]:
    """Sorted values as ranges; gaps are filled, the smallest first, until there are not more than `most` ranges."""
    gaps = [(after - before, at) for at, (before, after) in enumerate(pairwise(values), 1) if after - before > 1]
    cuts = sorted(at for _, at in nlargest(most - 1, gaps)) if len(gaps) >= most else [at for _, at in gaps]
    return [(values[start], values[end - 1]) for start, end in pairwise([0, *cuts, len(values)])]


def _among(spans: Sequence[Span]) -> list[Instruction]:
    if len(spans) > RUN:
        middle = len(spans) // 2
        return _split(spans[middle][0], _among(spans[:middle]), _among(spans[middle:]))
    found = sum(1 if low == high else 2 for low, high in spans) + 1
    code: list[Instruction] = []
    for low, high in spans:
        if low != high:
            code.append((_GREATER, 1, 0, high))
        code.append((_EQUAL if low == high else _AT_LEAST, found - len(code) - 1, 0, low))
    return [*code, _REJECT, _FOUND]


def _branches(parts: Sequence[tuple[int, list[Instruction]]]) -> list[Instruction]:
    if len(parts) > 1:
        middle = len(parts) // 2
        return _split(parts[middle][0], _branches(parts[:middle]), _branches(parts[middle:]))
    value, code = parts[0]
    return [(_EQUAL, 1, 0, value), _REJECT, *code]


def _split(pivot: int, below: list[Instruction], rest: list[Instruction]) -> list[Instruction]:
    """A conditional jump reaches 255 instructions, an unconditional one all."""
    if len(below) <= 255:
        return [(_AT_LEAST, len(below), 0, pivot), *below, *rest]
    return [(_AT_LEAST, 0, 1, pivot), (_JUMP, 0, 0, len(below)), *below, *rest]
