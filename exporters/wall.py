"""Wall time for events: they carry seconds of the node's own clock, which no person can read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Wall:
    """Turns seconds of the node's clock into wall time, by the difference of both clocks now.

    Taken anew each time, so that a wall clock that was set right is right from then on.
    """

    clock: Callable[[], float]
    wall: Callable[[], float] = time.time

    def seconds(self, at: float) -> float:
        """Unix seconds."""
        return self.wall() - (self.clock() - at)

    def instant(self, at: float) -> datetime:
        return datetime.fromtimestamp(self.seconds(at), UTC)

    def text(self, at: float) -> str:
        """RFC 3339 in UTC with milliseconds."""
        return self.instant(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
