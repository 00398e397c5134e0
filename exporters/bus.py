"""From the parts that make events to those that observe them, without slowing either a fail-over or the loop."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import TextIO, TypeVar

from agent.core.events import (
    AcquireStarted,
    ArpSent,
    Event,
    GatherStarted,
    MemberSuspected,
    ReleaseStarted,
    ViewInstalled,
    VipAcquired,
    VipReleased,
)

QUEUE_MAX = 65_536
"""1,000 VIPs lost at once make about ten events each; six times that. 65,536 events are about 15 MB."""

DELAY = 0.02
"""Seconds from an event to the first look at it: by then a hand-over of a few milliseconds is over."""

URGENT = frozenset(
    {MemberSuspected, GatherStarted, ViewInstalled, AcquireStarted, VipAcquired, ReleaseStarted, VipReleased, ArpSent}
)
"""Events of a fail-over under way: nothing is observed before DELAY has passed since the last of them..."""

LATEST = 0.2
"""...but after so many seconds at the latest: a view that changes all the time must be seen, too."""

SLICE = 0.002
"""Seconds of observing before the loop gets its turn."""

SETTLED = 500
"""Events that an asker may have observed at once: 5 to 10 ms."""

PAUSE = 0.002
"""Seconds between two slices: observing takes at most half of the loop."""

Subscriber = Callable[[Event], object]
Kind = TypeVar("Kind", bound=Event)
HAPPENED = attrgetter("at")


class Bus:
    """A bounded queue of events, emptied in slices by the event loop, in the order in which they happened.

    That is not the order in which they are published: the pump carries a step's effects out first, so that the frames
    of an announcement are heard of before the acquisition that they announce. A step is published in one turn of the
    loop, so what one turn brought is put in order of `at` before any of it is observed.

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
        self._fresh: list[Event] = []
        """Published since the last slice, not in order yet."""
        self._subscribers: list[tuple[str, Subscriber]] = []
        self._due: asyncio.TimerHandle | None = None
        self._first = self._urgent = 0.0
        """When the first event that waits was published, and the last urgent one."""
        self._seen = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.dropped = 0
        """Events lost because the queue was full."""
        self.failed: list[str] = []
        """Subscribers that raised and were removed."""

    def subscribe(self, name: str, subscriber: Subscriber) -> None:
        """Subscribers see each event in the order of their subscription."""
        self._subscribers.append((name, subscriber))

    def publish(self, event: Event) -> None:
        """Takes note of an event; returns at once. On the loop's thread only."""
        if len(self._events) + len(self._fresh) >= self._limit:
            self.dropped += 1
            return
        self._fresh.append(event)
        if type(event) in URGENT:
            self._urgent = self._timer()
        if self._due is None:
            self._first = self._timer()
            self._due = self._loop.call_later(DELAY, self._drain_when_calm)

    def _drain_when_calm(self) -> None:
        now = self._timer()
        rest = min(self._urgent + DELAY, self._first + LATEST) - now
        if rest > 0.0:
            self._due = self._loop.call_later(rest, self._drain_when_calm)
        else:
            self.drain()

    async def caught_up(self) -> None:
        """Until everything published so far has been observed; nothing is hurried for it."""
        if self._events or self._fresh:
            future: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append((self._seen + len(self._events) + len(self._fresh), future))
            await future

    def drain(self) -> None:
        """One slice; what is left waits for the next."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        end = self._timer() + SLICE
        self._sort()
        while self._events:
            self._observe(self._events.popleft())
            if self._timer() >= end:
                break
        if self._events:
            self._first = self._timer()
            self._due = self._loop.call_later(PAUSE, self._drain_when_calm)

    def settle(self) -> None:
        """What waits, up to `SETTLED` events: for whoever asks right after an order and wants to see what it did."""
        self._sort()
        for _ in range(min(len(self._events), SETTLED)):
            self._observe(self._events.popleft())

    def flush(self) -> None:
        """All that waits, in one go: for the end of the process, when there is nothing left to delay."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        while self._events or self._fresh:
            self._sort()
            self._observe(self._events.popleft())

    def coming(self, kind: type[Kind]) -> Kind | None:
        """The first event of a kind that waits to be observed; for use while observing."""
        self._sort()
        return next((event for event in self._events if isinstance(event, kind)), None)

    def _sort(self) -> None:
        if self._fresh:
            self._fresh.sort(key=HAPPENED)
            self._events.extend(self._fresh)
            self._fresh.clear()

    def _observe(self, event: Event) -> None:
        self._seen += 1
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
        while self._waiting and self._waiting[0][0] <= self._seen:
            _, future = self._waiting.pop(0)
            if not future.done():
                future.set_result(None)
