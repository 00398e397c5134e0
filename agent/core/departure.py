"""Going by one's own will: everything is handed over first, then the word of it, and perhaps the process ends."""

from __future__ import annotations

from agent.core.effects import Effect, Send, Stop
from agent.core.events import Event
from agent.core.lease import Lease
from agent.core.membership import Membership
from agent.core.messages import Leave
from agent.core.serving import Serving
from agent.core.view import Cause

Outputs = list[Effect | Event]

LEAVE_TIMEOUTS = 3.0
"""Failure timeouts that a departure waits for its VIPs to be handed over."""

NEVER = float("inf")


class Departure:
    __slots__ = ("_lease", "_membership", "_serving", "by", "stops")

    def __init__(self, membership: Membership, serving: Serving, lease: Lease) -> None:
        self._membership, self._serving, self._lease = membership, serving, lease
        self.by = NEVER
        """When this node goes even if nobody has taken its VIPs."""
        self.stops = False
        """The process ends afterwards."""

    def begin(self, now: float, timeout: float, *, stop: bool) -> Outputs:
        """`timeout`: the failure timeout in seconds."""
        self.stops = self.stops or stop
        if not self._membership.active:
            return [Stop()] if stop else []
        if not self._serving.leaving:
            self._serving.leaving = True
            self.by = now + LEAVE_TIMEOUTS * timeout
        return []

    def finish(self, now: float) -> Outputs:
        """Goes when everything is handed over; alone, or when that takes too long, drops it first."""
        membership, serving = self._membership, self._serving
        view = membership.view
        forced = view is None or now >= self.by or (membership.operational and len(view.members) == 1)
        out: Outputs = []
        if forced and serving.ownership.holdings:
            out += serving.release_everything(now, Cause.LEAVE)
        if serving.ownership.holdings or not (forced or (membership.operational and serving.handed_over())):
            return out
        if view is not None:
            goodbye = Send(Leave(view.id), ())
            out += [goodbye, goodbye]
        return out + self._gone(now)

    def fenced(self, now: float) -> Outputs:
        """The guard has said goodbye for this node, which for the others is out of its view."""
        leaving = self._serving.leaving
        out = self._serving.release_everything(now, Cause.LEASE)
        gone = self._gone(now)
        return out + (gone if leaving else [output for output in gone if not isinstance(output, Stop)])

    def undo(self) -> None:
        self._serving.leaving = False
        self.by = NEVER

    def _gone(self, now: float) -> Outputs:
        self._membership.leave()
        self._lease.drop(now)
        self.by = NEVER
        out = self._serving.left(now)
        return [*out, Stop()] if self.stops else out
