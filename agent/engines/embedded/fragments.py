"""Messages that are larger than one datagram: cut, and put together again within bounds.

Fragments are numbered, not placed by offset, so they cannot overlap; each is sealed on its own, so only a proven member
can put anything here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.core.ids import Member
from agent.engines.embedded.rejections import Reason, Rejected

MESSAGE_MAX: Final = 4 * 1024 * 1024
"""Bytes of one message: an Install of 16,384 VIPs with names of 40 characters, each named in a state, a table and as
owned, is about 3 MB."""
FRAGMENTS_MAX: Final = 4096
"""Of one message: MESSAGE_MAX in chunks of 1,024 bytes; real ones hold over 1,100 (see `udp.py`)."""
PARTIAL_MAX: Final = 4
"""Unfinished messages of one sender: an Install, its repetition, a Decide and a heartbeat."""
BYTES_MAX: Final = 16 * 1024 * 1024
"""In unfinished messages of all senders together."""
AGE_MAX: Final = 2.0
"""Seconds after which an unfinished message is given up; whoever sent it has repeated it by then."""
CHUNK_COST: Final = 128
"""Bytes that a stored chunk costs beside its content."""


class Part(NamedTuple):
    """Where a chunk belongs."""

    message: int
    """Number of the message, unique within its sender's life."""
    position: int
    total: int


def split(payload: bytes, size: int) -> list[bytes]:
    """`payload` in chunks of at most `size` bytes."""
    return [payload[start : start + size] for start in range(0, len(payload), size)]


@dataclass(slots=True)
class _Partial:
    started: float
    total: int
    chunks: dict[int, bytes] = field(default_factory=dict)
    cost: int = 0


@dataclass(slots=True)
class Reassembly:
    """Unfinished messages of all senders, oldest first."""

    _partials: dict[tuple[Member, int], _Partial] = field(default_factory=dict)
    _cost: int = 0

    @property
    def cost(self) -> int:
        """Bytes kept now."""
        return self._cost

    def __len__(self) -> int:
        return len(self._partials)

    def add(self, sender: Member, part: Part, chunk: bytes, now: float) -> bytes | None:
        """Take one chunk; the whole message when it was the last one missing, else None.

        Raises `Rejected` (malformed, limit). A chunk that is already here is ignored.
        """
        if not (part.total >= 2 and part.position < part.total) or not chunk:
            raise Rejected(Reason.MALFORMED, "a fragment outside its message")
        if part.total > FRAGMENTS_MAX:
            raise Rejected(Reason.LIMIT, "too many fragments")
        self.expire(now)
        key = (sender, part.message)
        partial = self._partials.get(key)
        if partial is None:
            self._make_room(sender)
            partial = self._partials[key] = _Partial(now, part.total)
        if partial.total != part.total:
            raise Rejected(Reason.MALFORMED, "fragments of one message disagree")
        if part.position in partial.chunks:
            return None
        if partial.cost + len(chunk) > MESSAGE_MAX + FRAGMENTS_MAX * CHUNK_COST:
            self._drop(key)
            raise Rejected(Reason.LIMIT, "message too long")
        partial.chunks[part.position] = chunk
        partial.cost += len(chunk) + CHUNK_COST
        self._cost += len(chunk) + CHUNK_COST
        if len(partial.chunks) == part.total:
            self._drop(key)
            return b"".join(partial.chunks[index] for index in range(part.total))
        while self._cost > BYTES_MAX:
            self._drop(next(iter(self._partials)))
        return None

    def expire(self, now: float) -> None:
        """Give up what is too old."""
        while self._partials:
            key, partial = next(iter(self._partials.items()))
            if now - partial.started <= AGE_MAX:
                return
            self._drop(key)

    def forget(self, sender: Member) -> None:
        """Nothing more will come from this life."""
        for key in [key for key in self._partials if key[0] == sender]:
            self._drop(key)

    def _make_room(self, sender: Member) -> None:
        own = [key for key in self._partials if key[0] == sender]
        if len(own) >= PARTIAL_MAX:
            self._drop(own[0])

    def _drop(self, key: tuple[Member, int]) -> None:
        self._cost -= self._partials.pop(key).cost
