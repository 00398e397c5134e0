"""A network that loses, delays, duplicates, reorders, and cuts links one way and two ways."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Network:
    rng: random.Random
    loss: float = 0.0
    duplicate: float = 0.0
    delay: tuple[float, float] = (80e-6, 250e-6)
    """Seconds, one way."""
    late: float = 0.0
    """Share of messages that take up to `late_by` longer: reordering."""
    late_by: float = 0.05
    stale: float = 0.0
    """Share of messages of which another copy comes up to `stale_by` seconds later: a misbehaving switch."""
    stale_by: float = 4.0
    slow: dict[tuple[str, str], float] = field(default_factory=dict)
    """Directed links on which everything comes so many seconds later, in order."""
    cut: set[tuple[str, str]] = field(default_factory=set)
    """Directed links that carry nothing."""

    def deliveries(self, source: str, target: str) -> list[float]:
        """Delays after which copies of one message arrive; empty: lost."""
        if (source, target) in self.cut or self.rng.random() < self.loss:
            return []
        copies = 2 if self.rng.random() < self.duplicate else 1
        delays = [self._delay() + self.slow.get((source, target), 0.0) for _ in range(copies)]
        if self.stale and self.rng.random() < self.stale:
            delays.append(self.rng.uniform(0.0, self.stale_by))
        return delays

    def _delay(self) -> float:
        delay = self.rng.uniform(*self.delay)
        return delay + self.rng.uniform(0.0, self.late_by) if self.rng.random() < self.late else delay

    def split(self, group: set[str], everyone: set[str]) -> None:
        for one in group:
            for other in everyone - group:
                self.cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        self.cut.clear()
        self.slow.clear()
        self.loss = self.duplicate = self.late = self.stale = 0.0
