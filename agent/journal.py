"""The flight recorder: what the core was told, when, and a checksum of what it answered, kept in bounded memory.

Per step the pump appends three references to a list, and that is all that a fail-over pays. `tend` turns them into
bytes in quiet moments: thousands of kept objects would make every garbage collection long. The ring consists of
segments, each of which begins with the whole core, so that what is left when the oldest is dropped can be replayed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent import __version__
from agent.core.inputs import Input
from agent.core.node import Node, Output
from agent.journalfile import Header, core_frame, encode_step, steps_frame, whole
from agent.snapshot import NotPlain, capture, plain

BYTES_MAX = 16 * 2**20
"""Of a whole ring: packed steps. Three quiet nodes at 100 ms fill it in about four hours, see docs/replay.md."""

SEGMENTS = 8

SLICE = 32
"""Steps that are encoded in one turn of the loop: about half a millisecond."""

BLOCK = 256
"""Steps that are compressed together."""

PENDING_MAX = 4_096
"""Steps that may wait for a quiet moment."""

KEPT_FILES = 8
"""Dumps in `state_dir`; older ones are removed, so that crash after crash does not fill the disk."""

PREFIX, SUFFIX = "journal-", ".molehill"

QUIET = ("RUN", "LEFT")

Recorded = tuple[float, Input, list[Output] | None]


@dataclass(slots=True)
class Segment:
    """Steps from one known state of the core on."""

    first: int
    core: object
    """As captured."""
    since: float | None = None
    """The clock at its first step."""
    blocks: list[bytes] = field(default_factory=list)
    loose: list[bytes] = field(default_factory=list)
    """Encoded and not yet compressed."""
    size: int = 0

    def compress(self) -> None:
        if self.loose:
            self.blocks.append(steps_frame(self.loose))
            self.size += len(self.blocks[-1]) - sum(map(len, self.loose))
            self.loose.clear()


@dataclass(frozen=True, slots=True)
class Dump:
    """What was written."""

    path: Path
    steps: int
    seconds: float
    """From the first step to the last."""
    size: int


class JournalError(Exception):
    """It cannot be written; the text says where and why."""


class Journal:
    """`record` for each step, `tend` again and again on the loop's thread, `recording` when somebody wants to know."""

    def __init__(self, node: Node, *, clock: Callable[[], float], bytes_max: int = BYTES_MAX) -> None:
        """`node` has not been stepped."""
        self._node = node
        self._clock = clock
        self._bytes_max = bytes_max
        self._pending: deque[Recorded] = deque()
        self.record: Callable[[Recorded], None] = self._pending.append
        """Clock, input and outputs of a step; outputs None: it raised. Costs 0.3 us."""
        self._segments: deque[Segment] = deque()
        self._steps = 0
        self._last = 0.0
        self._begin()

    def tend(self, *, now: bool = False) -> bool:
        """One slice of work, about a millisecond; True: there is more.

        Nothing is done while the group is changing, unless it has to be `now`.
        """
        if not now and self._node.state not in QUIET and len(self._pending) < PENDING_MAX:
            return False
        segment = self._segments[-1]
        if len(segment.loose) >= BLOCK:
            segment.compress()
            return bool(self._pending)
        self._encode(SLICE)
        if not self._pending and segment.size >= self._bytes_max // SEGMENTS:
            self.cut()
            while self.size > self._bytes_max and self.drop():
                pass
        return bool(self._pending)

    def cut(self) -> None:
        """Begins a new segment from the present state of the core."""
        self._encode(len(self._pending))
        self._segments[-1].compress()
        self._begin()

    def drop(self) -> bool:
        """Gives the oldest segment up; False: it is the only one."""
        if len(self._segments) < 2:
            return False
        self._segments.popleft()
        return True

    def recording(self, reason: str, error: str = "") -> Recording:
        """All that is kept, as of now. What still waits is encoded at once: `tend` it first where that matters."""
        self._encode(len(self._pending))
        first = self._segments[0]
        header = Header(
            program=__version__,
            node=self._node.me.name,
            cluster=self._node.settings.cluster,
            incarnation=self._node.me.incarnation,
            reason=reason,
            wall=time.time(),
            clock=self._clock(),
            first=first.first,
            error=error,
        )
        parts = tuple((segment.core, (*segment.blocks,), (*segment.loose,)) for segment in self._segments)
        seconds = self._last - first.since if first.since is not None else 0.0
        return Recording(header, parts, self._steps - first.first, seconds)

    @property
    def steps(self) -> int:
        """Recorded since the start of the agent."""
        return self._steps + len(self._pending)

    @property
    def size(self) -> int:
        """Bytes of encoded steps."""
        return sum(segment.size for segment in self._segments)

    def _begin(self) -> None:
        """A segment from the present state on. Nothing is pending: the core is what the recorded steps made it."""
        self._segments.append(Segment(self._steps, capture(self._node)))

    def _encode(self, most: int) -> None:
        segment = self._segments[-1]
        for _ in range(min(most, len(self._pending))):
            now, item, outputs = self._pending.popleft()
            if segment.since is None:
                segment.since = now
            encoded = encode_step(now, item, outputs)
            segment.loose.append(encoded)
            segment.size += len(encoded)
            self._steps += 1
            self._last = now


@dataclass(frozen=True, slots=True)
class Recording:
    """What goes into a file. Nothing in it changes any more: `write` may run in a thread."""

    header: Header
    parts: tuple[tuple[object, tuple[bytes, ...], tuple[bytes, ...]], ...]
    """Per segment: its core, its compressed and its loose steps."""
    steps: int
    seconds: float

    def write(self, directory: Path) -> Dump:
        """Into a new file of `directory`; old dumps are removed. Raises `JournalError`."""
        header = self.header
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(header.wall))
        path = directory / f"{PREFIX}{at}-{header.incarnation}-{header.first + self.steps}-{header.reason}{SUFFIX}"
        beside = path.with_suffix(".part")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # What it tells (addresses, names, times) is not for everybody.
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as file:
                for piece in self.pieces():
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            for old in sorted(directory.glob(f"{PREFIX}*{SUFFIX}"), key=_made)[:-KEPT_FILES]:
                old.unlink(missing_ok=True)
            return Dump(path, self.steps, self.seconds, path.stat().st_size)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise JournalError(f"{path}: {error.strerror}; make state_dir writable; is its disk full?") from error

    def pieces(self) -> Iterator[bytes]:
        """The file, piece by piece."""
        return whole(self.header, self._frames(), self.steps)

    def _frames(self) -> Iterator[bytes]:
        for core, blocks, loose in self.parts:
            # Without its state a segment goes on where the one before it ended, and the first can still be read.
            with contextlib.suppress(NotPlain):
                yield core_frame(plain(core))
            yield from blocks
            if loose:
                yield steps_frame(list(loose))


def _made(path: Path) -> float:
    return path.stat().st_mtime
