"""Patience with others: how long views hear each other before they merge, and how long after a failure (R12)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.core.ids import Member, NodeName
from agent.core.settings import MEMBERS_MAX, Timing


@dataclass(slots=True)
class Attempt:
    """Merges tried towards one peer (R12)."""

    count: int
    not_before: float


class Merging:
    __slots__ = ("_attempts", "_since", "_timing")

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._since: dict[NodeName, float] = {}
        """Since when each outsider could be merged with."""
        self._attempts: dict[NodeName, Attempt] = {}

    def cannot(self, name: NodeName) -> None:
        """Some pair does not hear each other (any more)."""
        self._since.pop(name, None)

    def due(self, now: float, name: NodeName, hold: float) -> bool:
        """Whether everyone has heard everyone for `hold` seconds, and the last attempt is long enough ago."""
        return now >= self._since.setdefault(name, now) + hold and self.allowed(now, name)

    def allowed(self, now: float, name: NodeName) -> bool:
        attempt = self._attempts.get(name)
        return attempt is None or now >= attempt.not_before

    def tried(self, now: float, name: NodeName) -> None:
        """Doubles the wait before the next attempt."""
        count = self._attempts[name].count + 1 if name in self._attempts else 1
        pause = min(self._timing.patience_max, self._timing.merge_hold_down * 2.0**count)
        if len(self._attempts) > MEMBERS_MAX:
            self._attempts = {other: a for other, a in self._attempts.items() if now < a.not_before}
        self._attempts[name] = Attempt(count, now + pause)

    def lasted(self, members: Iterable[Member]) -> None:
        """A view with these has proved stable: the next merge with them starts afresh."""
        for member in members:
            self._attempts.pop(member.name, None)

    def configure(self, timing: Timing) -> None:
        self._timing = timing

    def restart(self) -> None:
        """A new view: everyone's hearing is judged anew."""
        self._since.clear()
