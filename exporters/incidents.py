"""Which event belongs to which trace: a view change, a decision of its log, or something that only this node does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from agent.core import events as e
from agent.core.effects import Occasion
from agent.core.ids import NodeName, Seq, ViewId, VipName
from agent.core.view import (
    Answered,
    Assigned,
    Cause,
    HandedOver,
    Matured,
    Move,
    Moves,
    NeighboursShared,
    StandingChanged,
    View,
)
from exporters.trace_ids import Identity, identify

DEFENCE = 1.0
"""Seconds within which a claim and frames belong together; a VIP is defended every 10 s at most."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One trace, as this node sees it."""

    identity: Identity
    name: str
    """Of the root span."""
    view: ViewId
    seq: Seq
    """Of the decision; 0: the view change itself, or something local."""
    begun: float
    rooted_here: bool
    """Whether this node emits the root span: the view's first member does, and everybody for what is local."""
    previous: Identity | None
    """Trace of the view before, or of the view in which this happens: for a link."""
    sampled: bool
    heir_of: ViewId | None = None
    """The view before, if its first member was lost and this node is the first that is left: it tells roots that the
    lost one cannot have told any more."""


class Incidents:
    """Subscriber of the bus, before all that ask it: `now` is the incident of the event that is being observed."""

    def __init__(
        self, cluster: str, node: NodeName, share: float, *, coming: Callable[[], e.ViewInstalled | None]
    ) -> None:
        """`coming`: the next view among events that are known but not observed yet."""
        self._cluster = cluster
        self._node = node
        self._share = share
        self._coming = coming
        self._view: Incident | None = None
        self._installed_view: View | None = None
        self._yielding = False
        self._rounds: dict[tuple[ViewId, Seq], Incident] = {}
        self._orders: dict[VipName, Incident] = {}
        """Why a VIP is taken or given up, where it is not the view change."""
        self._acquiring: dict[VipName, Incident | None] = {}
        self._releasing: dict[VipName, Incident | None] = {}
        self._told: dict[VipName, Incident | None] = {}
        """What the latest announcement of a VIP was for; its repetition belongs there too."""
        self._refreshing: dict[VipName, Incident | None] = {}
        self._defending: dict[VipName, Incident] = {}
        self._locals = 0
        self._last_local: Incident | None = None
        self.now: Incident | None = None

    def exemplar(self) -> dict[str, str] | None:
        """Labels that lead from a metric to the trace of the event under observation, if that is sampled."""
        if self.now is None or not self.now.sampled:
            return None
        return {"trace_id": self.now.identity.trace_text, "span_id": self.now.identity.root_text}

    def trace_id(self) -> str | None:
        """Of the event under observation, if its trace is sampled."""
        return self.now.identity.trace_text if self.now is not None and self.now.sampled else None

    def __call__(self, event: e.Event) -> None:
        self.now = self._of(event)

    def _of(self, event: e.Event) -> Incident | None:
        match event:
            case e.ViewInstalled():
                return self._installed(event)
            case e.MemberSuspected() | e.GatherStarted() | e.JoinHeard():
                return self._next()
            case e.Stalled(yielded=yielded):
                self._yielding = self._yielding or yielded
                return self._next() if yielded else None
            case e.Excluded():
                self._yielding = True
                return self._next()
            case e.Decided(flushed=False):
                return self._decided(event)
            case e.BalanceRound(view=view, seq=seq):
                return self._rounds.get((view, seq))
            case e.BalanceRoundDone(view=view, seq=seq):
                return self._rounds.pop((view, seq), None)
            case e.PlacementDiffers() | e.BecameMature() | e.QuorumChanged():
                return self._view
            case (
                e.AcquireStarted()
                | e.VipAcquired()
                | e.VipAcquireFailed()
                | e.ReleaseStarted()
                | e.VipReleased()
                | e.VipLost()
                | e.VipWaits()
            ):
                return self._moved(event)
            case e.Announced():
                return self._announced(event)
            case (
                e.ConflictSeen(vip=vip, at=at, answer="defended") | e.ArpSent(vip=vip, at=at, occasion=Occasion.DEFEND)
            ):
                return self._defended(vip, at)
            case e.ConflictSeen(vip=vip) | e.ArpSent(vip=vip, kind="probe"):
                return self._acquiring.get(vip)
            case e.ArpSent(vip=vip, occasion=occasion):
                return (self._refreshing if occasion is Occasion.REFRESH else self._told).get(vip)
            case (
                e.Decided()
                | e.Started()
                | e.MemberHeard()
                | e.ConfigDiffers()
                | e.OwnersChanged()
                | e.StandingsChanged()
                | e.StateChanged()
                | e.LimitReached()
                | e.OperatorAnswered()
                | e.HeartbeatReceived()
                | e.HeartbeatSent()
                | e.LeaseLost()
                | e.LeaseTaken()
                | e.LeaseRenewed()
                | e.LeaseLayer()
                | e.DatagramRejected()
                | e.NameClash()
                | e.ArpCacheChanged()
                | e.StrayRemoved()
                | e.InterfaceChanged()
                | e.LoopLag()
                | e.Reloaded()
            ):
                return None
            case _:
                assert_never(event)

    def _installed(self, event: e.ViewInstalled) -> Incident:
        self._view = self._change(event)
        self._installed_view = event.view
        self._yielding = False
        self._rounds.clear()
        self._orders.clear()
        return self._view

    def _next(self) -> Incident | None:
        """The view to which a detection or a vote leads, if it is known already."""
        coming = self._coming()
        return self._change(coming) if coming is not None else None

    def _change(self, event: e.ViewInstalled) -> Incident:
        identity = identify(self._cluster, str(event.view.id))
        return Incident(
            identity,
            "change view",
            event.view.id,
            0,
            event.gather_started,
            rooted_here=event.view.members[0].name == self._node,
            previous=identify(self._cluster, str(event.previous)) if event.previous is not None else None,
            sampled=identity.sampled(self._share),
            heir_of=self._heir_of(event),
        )

    def _heir_of(self, event: e.ViewInstalled) -> ViewId | None:
        before = self._installed_view
        if before is None or before.id != event.previous or event.failed_since is None:
            return None
        stayed = [member for member in before.members if member in event.view.members]
        inherits = before.members[0] not in stayed and bool(stayed) and stayed[0].name == self._node
        return before.id if inherits else None

    def _decided(self, event: e.Decided) -> Incident | None:
        match event.decision:
            case Moves(moves=moves, timed=timed):
                incident = self._decision(event, "balance vips" if timed else "hand over vips", moves)
                self._rounds[(event.view, event.seq)] = incident
                return incident
            case Matured(owners=owners):
                return self._decision(event, "begin serving", owners)
            case Assigned(owners=owners):
                return self._decision(event, "assign vips", owners)
            case HandedOver(moves=moves):
                return self._orders.get(moves[0].vip, self._view) if moves else None
            case StandingChanged() | NeighboursShared() | Answered():
                return None
            case _:
                assert_never(event.decision)

    def _decision(
        self, event: e.Decided, name: str, moves: tuple[Move, ...] | tuple[tuple[VipName, NodeName], ...]
    ) -> Incident:
        identity = identify(self._cluster, str(event.view), event.seq)
        incident = Incident(
            identity,
            name,
            event.view,
            event.seq,
            event.at,
            rooted_here=self._view is not None and self._view.rooted_here,
            previous=identify(self._cluster, str(event.view)),
            sampled=identity.sampled(self._share),
        )
        for move in moves:
            self._orders[move.vip if isinstance(move, Move) else move[0]] = incident
        return incident

    def _local(self, at: float, name: str) -> Incident | None:
        """Something that no other node takes part in; what happens at one moment is one trace."""
        if self._view is None:
            return None
        last = self._last_local
        if last is not None and (last.begun, last.name) == (at, name):
            return last
        self._locals += 1
        identity = identify(self._cluster, str(self._view.view), self._node, self._locals)
        self._last_local = Incident(
            identity,
            name,
            self._view.view,
            0,
            at,
            rooted_here=True,
            previous=self._view.identity,
            sampled=identity.sampled(self._share),
        )
        return self._last_local

    def _defended(self, vip: VipName, at: float) -> Incident | None:
        """A claim and the frames against it, which are heard of in any order."""
        known = self._defending.get(vip)
        if known is not None and abs(at - known.begun) < DEFENCE:
            return known
        incident = self._local(at, "defend vip")
        if incident is not None:
            self._defending[vip] = incident
        return incident

    def _moved(
        self,
        event: e.AcquireStarted
        | e.VipAcquired
        | e.VipAcquireFailed
        | e.ReleaseStarted
        | e.VipReleased
        | e.VipLost
        | e.VipWaits,
    ) -> Incident | None:
        vip = event.vip
        ordered = self._orders.get(vip, self._view)
        match event:
            case e.AcquireStarted():
                self._acquiring[vip] = ordered
                return ordered
            case e.VipAcquired():
                self._told[vip] = self._acquiring.pop(vip, ordered)
                return self._told[vip]
            case e.VipAcquireFailed():
                return self._acquiring.pop(vip, ordered)
            case e.ReleaseStarted(cause=cause, at=at):
                if self._yielding:
                    ordered = self._next()
                elif cause is Cause.RELOAD:
                    ordered = self._local(at, "reload vips")
                self._releasing[vip] = ordered
                return ordered
            case e.VipReleased():
                return self._releasing.pop(vip, ordered)
            case e.VipLost(at=at):
                repair = self._local(at, "repair vips")
                if repair is not None:
                    self._orders[vip] = repair
                return repair
            case e.VipWaits():
                return ordered
            case _:
                assert_never(event)

    def _announced(self, event: e.Announced) -> Incident | None:
        vip = event.vips[0] if event.vips else VipName("")
        if event.occasion is Occasion.REFRESH:
            refresh = self._local(event.at, "refresh announcements")
            self._refreshing.update(dict.fromkeys(event.vips, refresh))
            return refresh
        if event.occasion is Occasion.DEFEND:
            return self._defended(vip, event.at)
        if event.occasion is Occasion.MERGE:
            self._told.update({each: self._orders.get(each, self._view) for each in event.vips})
        return self._told.get(vip)
