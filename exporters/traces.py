"""Traces: a subscriber of the bus whose spans are made after the fail-over, in slices, from recorded times."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import get_args

from agent.core.events import Event, ViewInstalled
from agent.core.ids import VipName
from agent.core.settings import Settings, Vip
from exporters.bus import Bus
from exporters.incidents import Incident, Incidents
from exporters.otlp import Outbox
from exporters.spans import Span
from exporters.wall import Wall
from exporters.weaver import Traced, Weaver

TRACED = get_args(Traced)

DELAY = 0.25
"""Seconds from an event to the first span that is made of it."""

CALM = 0.1
"""Seconds without an event that mean: nothing is under way. Spans wait for that, but not longer than LATEST."""

LATEST = 2.0

SLICE = 0.002
PAUSE = 0.004
"""Seconds of making spans, and between two slices of it."""

WAITING_MAX = 65_536
"""Events that wait to become spans. 1,000 VIPs taken at once make about ten each."""

EXIT = 1.5
"""Seconds that the end of the process waits for the collector; VIPs are handed over before."""

DRIFT = 0.001
"""Seconds by which the wall clock may leave the node's before spans follow it: below, one trace keeps one offset."""


class Traces:
    """Made before the other subscribers: what they tell is marked with `incidents`."""

    def __init__(
        self,
        bus: Bus,
        wall: Wall,
        settings: Settings,
        *,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        sample: float,
        say: Callable[[str], None],
    ) -> None:
        """`endpoint`: base address of a collector. `sample`: share of the traces. `say`: a warning for the log."""
        self._loop = loop
        self._wall = wall
        self._offset = wall.seconds(0.0)
        self._waiting: deque[tuple[Traced, Incident | None]] = deque()
        self._since = self._last = 0.0
        self._due: asyncio.TimerHandle | None = None
        self._lost = 0
        self._weaver = Weaver(_addresses(settings.vips))
        self._outbox = Outbox(
            endpoint, cluster=settings.cluster, node=settings.node, seconds=lambda at: at + self._offset, say=say
        )
        self.incidents = Incidents(settings.cluster, settings.node, sample, coming=lambda: bus.coming(ViewInstalled))
        bus.subscribe("incidents", self.incidents)
        bus.subscribe("traces", self)

    def configure(self, settings: Settings) -> None:
        """After a reload."""
        self._weaver.configure(_addresses(settings.vips))

    @property
    def waiting(self) -> int:
        """Events of which no span was made yet."""
        return len(self._waiting)

    def dropped(self) -> int:
        """Spans that no collector took, and events that never became part of one."""
        return self._outbox.dropped + self._lost

    def __call__(self, event: Event) -> None:
        if not isinstance(event, TRACED):
            return
        if len(self._waiting) >= WAITING_MAX:
            self._lost += 1
            return
        self._last = time.monotonic()
        if not self._waiting:
            self._since = self._last
        self._waiting.append((event, self.incidents.now))
        if self._due is None:
            self._due = self._loop.call_later(DELAY, self._work)

    def _work(self) -> None:
        self._due = None
        now = time.monotonic()
        if self._waiting and now - self._last < CALM and now - self._since < LATEST:
            self._due = self._loop.call_later(CALM, self._work)
            return
        if self._outbox.pressed:
            self._due = self._loop.call_later(DELAY, self._work)
            return
        self._follow_wall()
        end = time.perf_counter() + SLICE
        while self._waiting and time.perf_counter() < end:
            self._put(self._weaver.observe(*self._waiting.popleft()))
        if self._waiting:
            self._since = 0.0
            self._due = self._loop.call_later(PAUSE, self._work)
            return
        self._put(self._weaver.sweep(self._wall.clock()))
        if self._weaver.busy:
            self._due = self._loop.call_later(DELAY, self._work)

    async def close(self) -> None:
        """Tells what is known, finished or not, within EXIT seconds."""
        if self._due is not None:
            self._due.cancel()
        while self._waiting:
            self._put(self._weaver.observe(*self._waiting.popleft()))
        self._put(self._weaver.sweep(self._wall.clock(), everything=True))
        await self._outbox.close(EXIT)

    def _put(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._outbox.put(span)

    def _follow_wall(self) -> None:
        offset = self._wall.seconds(0.0)
        if abs(offset - self._offset) > DRIFT:
            self._offset = offset


def _addresses(vips: tuple[Vip, ...]) -> dict[VipName, tuple[str, ...]]:
    return {vip.name: tuple(address.address for address in vip.addresses) for vip in vips}
