"""The last events, kept in memory: what the API, the page and `molehill events` show."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from itertools import islice
from typing import TypedDict, assert_never

from agent.core import events as e
from agent.core.effects import Occasion
from exporters.limit import RateLimit
from exporters.lines import describe
from exporters.record import cause, fields, type_name
from exporters.wall import Wall

EVENTS_MAX = 5_000
"""About 5 MB. A fail-over of ten VIPs between three nodes makes some sixty."""

PAGE = 1_000
"""Events in one answer: 0.5 MB of JSON."""


FIRST = (Occasion.ACQUIRE, Occasion.MERGE, Occasion.DEFEND)
"""Announcements that answer something; the others repeat them."""


class Recorded(TypedDict):
    seq: int
    """Grows by one; starts at 1 with the agent."""
    time: str
    """RFC 3339, UTC."""
    type: str
    level: str
    cause: str | None
    message: str
    fields: dict[str, object]
    trace_id: str | None
    """Of the trace that it belongs to, if that is exported."""


class History:
    def __init__(
        self, wall: Wall, *, limit: int = EVENTS_MAX, trace_id: Callable[[], str | None] = lambda: None
    ) -> None:
        """`trace_id`: of the event that is being observed."""
        self._wall = wall
        self._trace_id = trace_id
        self._events: deque[Recorded] = deque(maxlen=limit)
        self._limit = RateLimit()
        self._followers: set[asyncio.Event] = set()
        self._closed = False
        self.last = 0
        """Number of the newest event; 0: none yet."""

    def __call__(self, event: e.Event) -> None:
        """Subscriber of the bus."""
        if not _kept(event):
            return
        held_back = self._limit.admit(event)
        if held_back is None:
            return
        line = describe(event)
        self.last += 1
        values = fields(event)
        if held_back:
            values["held_back"] = held_back
        self._events.append(
            Recorded(
                seq=self.last,
                time=self._wall.text(event.at),
                type=type_name(type(event)),
                level=line.level.value,
                cause=cause(event),
                message=line.text,
                fields=values,
                trace_id=self._trace_id(),
            )
        )
        for follower in self._followers:
            follower.set()

    @property
    def first(self) -> int:
        """Number of the oldest event that is still kept; 1 if there is none."""
        return self.last - len(self._events) + 1

    def since(self, seq: int, *, page: int = PAGE) -> list[Recorded]:
        """Those after `seq`, oldest first, at most `page`.

        A number from the future is one of a former life of the agent: all are new to who asks so.
        """
        skip = 0 if seq > self.last else max(0, seq - self.first + 1)
        return list(islice(self._events, skip, skip + page))

    def latest(self, count: int) -> list[Recorded]:
        """The newest `count`, oldest first."""
        return self.since(max(0, self.last - count), page=count) if count > 0 else []

    async def follow(self, seq: int) -> AsyncGenerator[Recorded, None]:
        """Those after `seq`, then each new one as it comes; ends when the history is closed.

        Who reads too slowly misses what has fallen off the far end, and sees it by the gap in the numbers.
        """
        if seq > self.last:
            seq = 0
        changed = asyncio.Event()
        self._followers.add(changed)
        try:
            while True:
                changed.clear()
                for event in self.since(seq) if seq < self.last else ():
                    seq = event["seq"]
                    yield event
                if seq < self.last:
                    continue
                if self._closed:
                    return
                await changed.wait()
        finally:
            self._followers.discard(changed)

    def close(self) -> None:
        """Lets all followers end."""
        self._closed = True
        for follower in self._followers:
            follower.set()


def _kept(event: e.Event) -> bool:
    """Whether it belongs into the history: what would push everything else out does not."""
    match event:
        case e.HeartbeatSent() | e.HeartbeatReceived() | e.JoinHeard() | e.LeaseRenewed():
            return False
        case e.LoopLag(seconds=seconds):
            return seconds >= 0.05
        case e.ArpSent(occasion=occasion, kind=kind, error=error):
            return bool(error) or (occasion in FIRST and kind not in ("directed", "probe"))
        case e.Announced(occasion=occasion):
            return occasion in FIRST
        case (
            e.Started()
            | e.Stalled()
            | e.MemberSuspected()
            | e.MemberHeard()
            | e.GatherStarted()
            | e.ViewInstalled()
            | e.PlacementDiffers()
            | e.Decided()
            | e.Excluded()
            | e.BecameMature()
            | e.AcquireStarted()
            | e.VipAcquired()
            | e.VipAcquireFailed()
            | e.ReleaseStarted()
            | e.VipReleased()
            | e.VipLost()
            | e.VipWaits()
            | e.BalanceRound()
            | e.BalanceRoundDone()
            | e.ConfigDiffers()
            | e.OwnersChanged()
            | e.StandingsChanged()
            | e.StateChanged()
            | e.LimitReached()
            | e.OperatorAnswered()
            | e.LeaseLost()
            | e.LeaseTaken()
            | e.QuorumChanged()
            | e.LeaseLayer()
            | e.ConflictSeen()
            | e.DatagramRejected()
            | e.NameClash()
            | e.ArpCacheChanged()
            | e.StrayRemoved()
            | e.InterfaceChanged()
            | e.Reloaded()
        ):
            return True
        case _:
            assert_never(event)
