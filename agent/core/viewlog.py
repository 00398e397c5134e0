"""The log of one view: one writer, contiguous delivery, and the tail that may be missing somewhere (R6, R7)."""

from __future__ import annotations

from agent.core.ids import Seq
from agent.core.settings import UNSTABLE_MAX
from agent.core.view import Decision, Entry


class ViewLog:
    __slots__ = ("_entries", "_waiting", "delivered", "stable")

    def __init__(self) -> None:
        self.delivered: Seq = 0
        self.stable: Seq = 0
        """Every member is known to have delivered so far."""
        self._entries: dict[Seq, Entry] = {}
        """Delivered here and not stable."""
        self._waiting: dict[Seq, Entry] = {}
        """Came too early."""

    @property
    def full(self) -> bool:
        """The writer has to wait until its members have caught up."""
        return self.delivered - self.stable >= UNSTABLE_MAX

    def write(self, decision: Decision) -> Entry:
        """The coordinator's own: delivered here at once."""
        self.delivered += 1
        entry = Entry(self.delivered, decision)
        self._entries[entry.seq] = entry
        return entry

    def receive(self, entries: tuple[Entry, ...]) -> list[Entry]:
        """What may be delivered now, in order; duplicates and gaps are harmless."""
        for entry in entries:
            if self.delivered < entry.seq <= self.delivered + 2 * UNSTABLE_MAX:
                self._waiting[entry.seq] = entry
        ready = []
        while (following := self._waiting.pop(self.delivered + 1, None)) is not None:
            self.delivered += 1
            self._entries[following.seq] = following
            # The writer is never further ahead of any member than that, so nobody can miss an older one.
            self._entries.pop(following.seq - UNSTABLE_MAX, None)
            ready.append(following)
        return ready

    def missing(self, entries: tuple[Entry, ...]) -> list[Entry]:
        """Of a flush's entries those that were not delivered here."""
        return [entry for entry in entries if entry.seq > self.delivered]

    def settle(self, stable: Seq) -> None:
        """Forgets what every member has."""
        if stable > self.stable:
            for seq in range(self.stable + 1, stable + 1):
                self._entries.pop(seq, None)
            self.stable = stable

    def tail(self, after: Seq = 0) -> tuple[Entry, ...]:
        """Delivered and perhaps missing elsewhere, beyond `after`."""
        return tuple(self._entries[seq] for seq in sorted(self._entries) if seq > after)
