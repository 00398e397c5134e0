"""The prober's record: a ring of replies in a mapped file, which others read while it is written.

Times are seconds of CLOCK_BOOTTIME, which is one clock for all namespaces; replies carry the kernel's arrival time.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path

MAGIC = b"MHPROBE1"
HEADER = struct.Struct("<8sQQddQ")
"""Magic, capacity, records written so far, period, time of the last round, failed sends."""
HEADER_SIZE = 64
RECORD = struct.Struct("<dHBxI")
"""Time, index of the address, number of the node, sequence; for a stall: its end, STALL, 0, microseconds."""
STALL = 0xFFFF
CAPACITY = 1 << 21
RUNS_MAX = 50
LOOK_BACK = 1.0
"""Seconds before a phase in which its last earlier reply is looked for."""


class Writer:
    """The prober's side; raises OSError where the file cannot be made."""

    def __init__(self, path: Path, period: float, capacity: int = CAPACITY) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.truncate(descriptor, HEADER_SIZE + capacity * RECORD.size)
            self._map = mmap.mmap(descriptor, HEADER_SIZE + capacity * RECORD.size)
        finally:
            os.close(descriptor)
        self._capacity = capacity
        self._count = 0
        self._period = period

    def reply(self, at: float, address: int, node: int, sequence: int) -> None:
        offset = HEADER_SIZE + self._count % self._capacity * RECORD.size
        RECORD.pack_into(self._map, offset, at, address, node, sequence)
        self._count += 1

    def stall(self, end: float, seconds: float) -> None:
        self.reply(end, STALL, 0, min(int(seconds * 1e6), 0xFFFFFFFF))

    def publish(self, now: float, failed: int) -> None:
        """Readers see the records written so far."""
        HEADER.pack_into(self._map, 0, MAGIC, self._capacity, self._count, self._period, now, failed)

    def close(self) -> None:
        self._map.close()


@dataclass(slots=True)
class Replies:
    """The replies of one address, in order of arrival."""

    times: array[float] = field(default_factory=lambda: array("d"))
    nodes: bytearray = field(default_factory=bytearray)
    sequences: array[int] = field(default_factory=lambda: array("L"))


@dataclass(frozen=True, slots=True)
class Outage:
    """What a client saw of one address in one phase."""

    vip: str
    address: str
    seconds: float
    """Longest gap between two replies, less one period."""
    gap_began: float
    gap_ended: float
    served: bool
    """False: the gap lasted to the end of the phase."""
    before: str
    """Node that answered last before the gap; empty: none within a second before the phase."""
    after: str
    runs: tuple[tuple[str, int], ...]
    """Who answered in turn, with the number of replies; only the first RUNS_MAX turns."""
    turns: int
    """How often the answering node changed: 0 or 1 in a clean move."""
    doubled: int
    """Probes that were answered more than once."""


@dataclass(frozen=True, slots=True)
class Recording:
    period: float
    last_round: float
    """When the prober was at work last."""
    failed_sends: int
    complete: bool
    """False: the ring no longer has the beginning of what was asked for."""
    replies: dict[int, Replies]
    stalls: tuple[tuple[float, float], ...]
    """End and length in seconds, of those over a millisecond."""

    def worst_stall(self, since: float, until: float) -> float:
        """Longest time in the phase for which the prober itself did not run when it should have."""
        return max((length for end, length in self.stalls if since <= end <= until + length), default=0.0)


def last_round(path: Path) -> float | None:
    """When the prober was at work last; None before its first round."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER.size)
    except FileNotFoundError:
        return None
    if len(header) < HEADER.size:
        return None
    magic, _, _, _, now, _ = HEADER.unpack(header)
    return float(now) if magic == MAGIC else None


def read(path: Path, since: float, until: float) -> Recording:
    """Raises FileNotFoundError, and ValueError where the file is not a record."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic, capacity, count, period, now, failed = HEADER.unpack_from(data, 0)
        if magic != MAGIC:
            raise ValueError(f"{path} is not a prober's record")

        def time_of(position: int) -> float:
            return float(RECORD.unpack_from(data, HEADER_SIZE + position % capacity * RECORD.size)[0])

        # A quarter of a full ring is left out: the writer may be overwriting it meanwhile.
        low = first = 0 if count <= capacity else count - capacity * 3 // 4
        high = count
        while low < high:
            middle = (low + high) // 2
            if time_of(middle) < since - LOOK_BACK:
                low = middle + 1
            else:
                high = middle
        replies: dict[int, Replies] = {}
        stalls = []
        for position in range(low, count):
            at, address, node, sequence = RECORD.unpack_from(data, HEADER_SIZE + position % capacity * RECORD.size)
            if at > until + LOOK_BACK:
                break
            if address == STALL:
                stalls.append((at, sequence / 1e6))
                continue
            known = replies.setdefault(address, Replies())
            known.times.append(at)
            known.nodes.append(node)
            known.sequences.append(sequence)
        complete = first == 0 or low > first
    return Recording(period, now, failed, complete, replies, tuple(stalls))


def outage(
    recording: Recording, index: int, vip: str, address: str, nodes: list[str], since: float, until: float
) -> Outage:
    """The longest gap that touches the phase, with its two ends; both times bound the phase."""
    known = recording.replies.get(index, Replies())
    first = max(0, bisect_right(known.times, since) - 1)
    last = bisect_right(known.times, until)
    times = known.times[first:last]
    owners = known.nodes[first:last]
    best = (0.0, since, since, "", "", True)
    before, previous = "", since
    if times and times[0] <= since:
        previous = times[0]
    elif times:
        best = (times[0] - since, since, times[0], "", nodes[owners[0]], True)
    for at, node in zip(times, owners, strict=True):
        if at - previous > best[0]:
            best = (at - previous, previous, at, before, nodes[node], True)
        previous, before = at, nodes[node]
    if until - previous > max(best[0], 2 * recording.period):
        best = (until - previous, previous, until, before, "", False)
    runs: list[tuple[str, int]] = []
    turns = 0
    for node, group in itertools.groupby(owners):
        turns += 1
        if turns <= RUNS_MAX:
            runs.append((nodes[node], sum(1 for _ in group)))
    sequences = known.sequences[first:last]
    return Outage(
        vip=vip,
        address=address,
        seconds=max(0.0, best[0] - recording.period),
        gap_began=best[1],
        gap_ended=best[2],
        served=best[5],
        before=best[3],
        after=best[4],
        runs=tuple(runs),
        turns=max(0, turns - 1),
        doubled=len(sequences) - len(set(sequences)),
    )
