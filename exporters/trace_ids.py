"""Identities that every node computes alike, so that no context has to travel with the group's messages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

LOW_64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Identity:
    """A trace and its root span, as numbers; neither is 0, which OpenTelemetry reserves for "none"."""

    trace: int
    """128 bits."""
    root: int
    """64 bits."""

    @property
    def trace_text(self) -> str:
        """32 hexadecimal digits, as in log lines, exemplars and W3C headers."""
        return f"{self.trace:032x}"

    @property
    def root_text(self) -> str:
        """16 hexadecimal digits."""
        return f"{self.root:016x}"

    def sampled(self, share: float) -> bool:
        """Whether it is among the `share` (0 to 1) of all traces; the rule of OpenTelemetry's TraceIdRatioBased."""
        return self.trace & LOW_64 < round(share * (LOW_64 + 1))


def identify(cluster: str, view: str, *further: str | int) -> Identity:
    """The trace of a view change, or with `further` (a decision's sequence, say) of something inside that view.

    SHA-256 of the parts with a zero byte between them: 16 bytes of trace, then 8 of root span.
    """
    digest = hashlib.sha256("\0".join([cluster, view, *map(str, further)]).encode()).digest()
    return Identity(int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1)
