"""Lets one event of a kind through and counts the rest: what a stranger sends must not fill a log or the history."""

from __future__ import annotations

from agent.core.events import (
    ArpSent,
    ConflictSeen,
    DatagramRejected,
    Event,
    HeartbeatReceived,
    HeartbeatSent,
    LeaseRenewed,
    LimitReached,
    LoopLag,
    NameClash,
    PlacementDiffers,
)

PAUSE = 10.0
"""Seconds between two of a kind."""

KEYS_MAX = 4_096
"""Kinds that are remembered. Keys are closed sets, interfaces and VIPs; only `NameClash` has a stranger's word."""


class RateLimit:
    def __init__(self, pause: float = PAUSE) -> None:
        self._pause = pause
        self._last: dict[str, tuple[float, int]] = {}

    def admit(self, event: Event) -> int | None:
        """None: keep it back. Otherwise how many of its kind were kept back since the last one let through."""
        key = _key(event)
        if key is None:
            return 0
        last, held_back = self._last.get(key, (None, 0))
        if last is not None and event.at - last < self._pause:
            self._last[key] = (last, held_back + 1)
            return None
        if len(self._last) >= KEYS_MAX:
            self._last.clear()
        self._last[key] = (event.at, 0)
        return held_back


def _key(event: Event) -> str | None:
    """None: not limited, because it comes from the group's own doing, a bounded number at each change."""
    match event:
        case DatagramRejected(reason=reason):
            return f"rejected {reason}"
        case NameClash(source=source):
            return f"clash {source}"
        case LimitReached(limit=limit):
            return f"limit {limit}"
        case ArpSent(interface=interface, error=error) if error:
            return f"arp {interface} {error}"
        case PlacementDiffers():
            return "placement"
        case ConflictSeen(vip=vip, answer=answer):
            return f"conflict {vip} {answer}"
        case LoopLag() | HeartbeatReceived() | HeartbeatSent() | LeaseRenewed():
            return type(event).__name__
        case _:
            return None
