"""From the parts that make events to those that observe them, without slowing either a fail-over or the loop."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import TextIO

from agent.core.events import Event

QUEUE_MAX = 65_536
"""1,000 VIPs lost at once make about ten events each; six times that. 65,536 events are about 15 MB."""

DELAY = 0.02
"""Seconds from an event to the first look at it: by then a hand-over of a few milliseconds is over."""

SLICE = 0.002
"""Seconds of observing before the loop gets its turn."""

PAUSE = 0.002
"""Seconds between two slices: observing takes at most half of the loop."""

Subscriber = Callable[[Event], object]


class Bus:
    """A bounded queue of events, emptied in slices by the event loop.

    A subscriber that raises is removed, reported once on `complaints`, and named in `failed`; the others go on.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        limit: int = QUEUE_MAX,
        timer: Callable[[], float] = time.perf_counter,
        complaints: TextIO | None = None,
    ) -> None:
        self._loop = loop
        self._limit = limit
        self._timer = timer
        self._complaints = complaints
        self._events: deque[Event] = deque()
        self._subscribers: list[tuple[str, Subscriber]] = []
        self._due: asyncio.TimerHandle | None = None
        self.dropped = 0
        """Events lost because the queue was full."""
        self.failed: list[str] = []
        """Subscribers that raised and were removed."""

    def subscribe(self, name: str, subscriber: Subscriber) -> None:
        """Subscribers see each event in the order of their subscription."""
        self._subscribers.append((name, subscriber))

    def publish(self, event: Event) -> None:
        """Takes note of an event; returns at once. On the loop's thread only."""
        if len(self._events) >= self._limit:
            self.dropped += 1
            return
        self._events.append(event)
        if self._due is None:
            self._due = self._loop.call_later(DELAY, self.drain)

    def drain(self) -> None:
        """One slice; what is left waits for the next."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        end = self._timer() + SLICE
        while self._events:
            self._observe(self._events.popleft())
            if self._timer() >= end:
                break
        if self._events:
            self._due = self._loop.call_later(PAUSE, self.drain)

    def flush(self) -> None:
        """All that waits, in one go: for the end of the process, when there is nothing left to delay."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        while self._events:
            self._observe(self._events.popleft())

    def _observe(self, event: Event) -> None:
        for entry in tuple(self._subscribers):
            name, subscriber = entry
            try:
                subscriber(event)
            except Exception:
                self._subscribers.remove(entry)
                self.failed.append(name)
                out = sys.stderr if self._complaints is None else self._complaints
                print(f"molehill: {name} failed on {event!r} and is switched off until the agent restarts:", file=out)
                traceback.print_exc(file=out)
