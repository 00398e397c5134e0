"""The node's view of the cluster, folded from its events."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, assert_never

from agent import __version__
from agent.core import events as e
from agent.core.ids import Member, NodeName, VipName
from agent.core.settings import PartitionPolicy, Settings
from agent.core.view import (
    Answered,
    Assigned,
    Cause,
    Decision,
    HandedOver,
    Matured,
    Moves,
    NeighboursShared,
    StandingChanged,
    ViewCause,
)
from exporters import leases, rivals
from exporters.schema import (
    AnnouncedStatus,
    ArpCacheStatus,
    EngineStatus,
    MemberStatus,
    StatusResponse,
    ViewStatus,
    VipStatus,
)
from exporters.wall import Wall

EngineKind = Literal["embedded", "spread", "corosync"]
VipState = Literal["held", "acquiring", "releasing", "waiting", "failed"]

VIEW_CAUSES = {
    ViewCause.JOIN: Cause.START,
    ViewCause.LEAVE: Cause.LEAVE,
    ViewCause.DISCONNECT: Cause.FAILOVER,
    ViewCause.NETWORK: Cause.FAILOVER,
    ViewCause.MERGE: Cause.MERGE,
}
"""Why an owner changed with a view, as far as an onlooker can tell."""


@dataclass(frozen=True, slots=True)
class Owner:
    node: NodeName | None
    since: datetime
    cause: Cause | None


@dataclass(frozen=True, slots=True)
class Heard:
    member: Member
    at: float | None
    rtt: float | None


@dataclass(frozen=True, slots=True)
class Announced:
    """What was sent for one VIP."""

    frames: int
    errors: int
    last: e.ArpSent
    failing: frozenset[tuple[str, bool]] = frozenset()
    """Interfaces, each with whether it is IPv6: a frame was lost since the last one that told everyone there."""

    def and_then(self, event: e.ArpSent) -> Announced:
        where = (event.interface, ":" in event.target)
        if event.error:
            return Announced(self.frames, self.errors + 1, event, self.failing | {where})
        failing = self.failing if event.kind == "directed" else self.failing - {where}
        return Announced(self.frames + 1, self.errors, event, failing)


class Status:
    """Subscriber of the bus, and the state from which status and the metrics of each VIP are rendered.

    All fields hold immutable values, so that `copy()` on the loop's thread is cheap and another thread can render it.
    """

    def __init__(
        self,
        settings: Settings,
        wall: Wall,
        *,
        engine: EngineKind,
        addresses: Mapping[NodeName, str] | None = None,
        sealed: bool | None = None,
        lease_layers: Iterable[str] = leases.LAYERS,
    ) -> None:
        """`addresses`: of the members, to be shown. `sealed`: whether the engine encrypts; None: that is not its job.

        `lease_layers`: those that are meant to be active.
        """
        self.settings = settings
        self.wall = wall
        self.engine = engine
        self.addresses = dict(addresses or {})
        self.sealed = sealed
        self.state = "BOOT"
        self.mature = False
        self.view: e.ViewInstalled | None = None
        self.standings: e.StandingsChanged | None = None
        self.differ: frozenset[NodeName] = frozenset()
        self.heard: dict[NodeName, Heard] = {}
        self.owners: dict[VipName, Owner] = {}
        self.uncovered = 0
        self.spread = 0.0
        self.states: dict[VipName, VipState] = {}
        self.held_since: dict[VipName, float] = {}
        """When this node acquired what it holds, in Unix seconds: fixed then, so that no two scrapes differ."""
        self.announced: dict[VipName, Announced] = {}
        self.arp_cache = (0, 0)
        self.layers = {name: leases.Layer() for name in lease_layers}
        self.quorum: e.QuorumChanged | None = None
        self.rivals: rivals.Rivals = {}
        self._moved: dict[VipName, Cause] = {}
        self._default = Cause.START

    def configure(
        self, settings: Settings, addresses: Mapping[NodeName, str], sealed: bool | None, lease_layers: Iterable[str]
    ) -> None:
        """After a reload."""
        self.settings = settings
        self.addresses = dict(addresses)
        self.sealed = sealed
        self.layers = {name: self.layers.get(name, leases.Layer()) for name in lease_layers}

    def copy(self) -> Status:
        other = copy.copy(self)
        other.heard, other.owners = dict(self.heard), dict(self.owners)
        other.states, other.held_since = dict(self.states), dict(self.held_since)
        other.announced, other.layers, other.rivals = dict(self.announced), dict(self.layers), dict(self.rivals)
        return other

    @property
    def not_ready(self) -> str:
        """Why traffic should not be expected here yet; empty: ready."""
        if self.view is None:
            return "in no view: it has left the group" if self.state == "LEFT" else "in no view yet"
        if not self.mature:
            return "not mature yet: the group has just started"
        if not self.quorate:
            if self.quorum is None:
                return "not quorate: no votes are counted yet"
            return (
                f"not quorate: {self.quorum.votes} of {self.quorum.needed} votes that are needed are in this component"
            )
        return ""

    @property
    def fit(self) -> bool:
        return self.standings is None or self.settings.node not in self.standings.unfit

    @property
    def draining(self) -> bool:
        return self.standings is not None and self.settings.node in self.standings.draining

    @property
    def quorate(self) -> bool:
        if self.settings.partition is PartitionPolicy.COMPONENT:
            return True
        return self.quorum is not None and self.quorum.quorate

    @property
    def counted(self) -> e.QuorumChanged | None:
        """The votes, if they matter."""
        return self.quorum if self.settings.partition is PartitionPolicy.QUORUM else None

    def __call__(self, event: e.Event) -> None:
        match event:
            case e.ViewInstalled(view=view, mature=mature, cause=cause, owners=owners, at=at):
                self.view, self.mature = event, mature
                self._default = VIEW_CAUSES[cause]
                for member in view.members:
                    self._met(member)
                self._own(at, owners)
            case e.OwnersChanged(owners=owners, uncovered=uncovered, spread=spread, at=at):
                self._own(at, owners)
                self.uncovered, self.spread = len(uncovered), spread
            case e.Decided(decision=decision):
                self._moved |= _causes(decision)
            case e.BecameMature():
                self.mature = True
            case e.StateChanged(state=state):
                self.state = state
                if state == "LEFT":
                    self.view, self.mature = None, False
            case e.MemberHeard(member=member) | e.JoinHeard(member=member):
                self._met(member)
            case e.HeartbeatReceived(peer=peer, at=at, rtt=rtt):
                known = self.heard.get(peer)
                if known is not None:
                    self.heard[peer] = replace(known, at=at, rtt=known.rtt if rtt is None else rtt)
            case e.StandingsChanged():
                self.standings = event
            case e.ConfigDiffers(members=members):
                self.differ = frozenset(members)
            case e.QuorumChanged():
                self.quorum = event
            case e.LeaseLayer() | e.LeaseLost() | e.LeaseTaken() | e.LeaseRenewed():
                leases.fold(self.layers, event)
            case e.ConflictSeen():
                rivals.fold(self.rivals, event)
            case e.ArpCacheChanged(local=local, shared=shared):
                self.arp_cache = (local, shared)
            case e.ArpSent(kind="probe"):
                pass  # a question, which tells nobody anything
            case e.ArpSent(vip=vip):
                self.announced[vip] = self.announced.get(vip, Announced(0, 0, event)).and_then(event)
            case (
                e.AcquireStarted()
                | e.VipAcquired()
                | e.VipAcquireFailed()
                | e.ReleaseStarted()
                | e.VipReleased()
                | e.VipLost()
                | e.VipWaits()
            ):
                self._follow(event)
            case e.Started(member=member):
                self._met(member)
            case (
                e.Stalled()
                | e.MemberSuspected()
                | e.GatherStarted()
                | e.PlacementDiffers()
                | e.Excluded()
                | e.Announced()
                | e.BalanceRound()
                | e.BalanceRoundDone()
                | e.LimitReached()
                | e.OperatorAnswered()
                | e.HeartbeatSent()
                | e.DatagramRejected()
                | e.NameClash()
                | e.StrayRemoved()
                | e.InterfaceChanged()
                | e.LoopLag()
                | e.Reloaded()
            ):
                pass
            case _:
                assert_never(event)

    def _met(self, member: Member) -> None:
        known = self.heard.get(member.name)
        if known is None or known.member.incarnation < member.incarnation:
            self.heard[member.name] = Heard(member, None, None)

    def _own(self, at: float, owners: tuple[tuple[VipName, NodeName], ...]) -> None:
        table, since = dict(owners), self.wall.instant(at)
        vips = {vip.name for vip in self.settings.vips} | table.keys() | self.owners.keys()
        for vip in vips:
            node = table.get(vip)
            known = self.owners.get(vip)
            if known is None and node is None:
                continue
            if known is None or known.node != node:
                self.owners[vip] = Owner(node, since, self._moved.get(vip, self._default))
                if node != self.settings.node and self.states.get(vip) in ("failed", "waiting"):
                    del self.states[vip]
        self._moved.clear()

    def _follow(
        self,
        event: e.AcquireStarted
        | e.VipAcquired
        | e.VipAcquireFailed
        | e.ReleaseStarted
        | e.VipReleased
        | e.VipLost
        | e.VipWaits,
    ) -> None:
        """This node's own part in one VIP."""
        match event:
            case e.AcquireStarted(vip=vip):
                self.states[vip] = "acquiring"
            case e.VipAcquired(vip=vip, at=at, cause=cause):
                self.states[vip] = "held"
                self.held_since[vip] = self.wall.seconds(at)
                owner = self.owners.get(vip)
                if owner is not None and owner.node == self.settings.node:
                    self.owners[vip] = replace(owner, cause=cause)
            case e.VipAcquireFailed(vip=vip):
                self.states[vip] = "failed"
                self.held_since.pop(vip, None)
            case e.ReleaseStarted(vip=vip):
                self.states[vip] = "releasing"
            case e.VipReleased(vip=vip):
                self.states.pop(vip, None)
                self.held_since.pop(vip, None)
            case e.VipWaits(vip=vip):
                self.states[vip] = "waiting"
            case e.VipLost():
                pass
            case _:
                assert_never(event)

    def snapshot(self) -> StatusResponse:
        return StatusResponse(
            cluster=self.settings.cluster,
            node=self.settings.node,
            state=self.state,
            mature=self.mature,
            fit=self.fit,
            draining=self.draining,
            quorate=self.quorate,
            view=self._view(),
            members=self._members(),
            vips=self._vips(),
            leases=leases.lease_statuses(self.layers, self.wall),
            arp_cache=ArpCacheStatus(local=self.arp_cache[0], shared=self.arp_cache[1]),
            engine=EngineStatus(
                kind=self.engine,
                heartbeat=self.settings.timing.heartbeat,
                failure_timeout=self.settings.timing.failure_timeout,
                sealed=self.sealed,
            ),
            version=__version__,
        )

    def _view(self) -> ViewStatus | None:
        if self.view is None:
            return None
        view, counted = self.view.view, self.counted
        return ViewStatus(
            id=str(view.id),
            members=list(view.names()),
            since=self.wall.instant(self.view.at),
            cause=self.view.cause.value,
            gathered=self.view.at - self.view.gather_started,
            spread=self.spread,
            votes=counted.votes if counted else None,
            votes_needed=counted.needed if counted else None,
        )

    def _members(self) -> list[MemberStatus]:
        """Who is configured, in the view, or was heard."""
        present = self.view.view.names() if self.view is not None else ()
        loads: dict[NodeName, int] = {}
        for owner in self.owners.values():
            if owner.node is not None:
                loads[owner.node] = loads.get(owner.node, 0) + 1
        now = self.wall.clock()
        standings = self.standings or e.StandingsChanged(at=0.0, unfit=(), draining=(), leaving=())
        names = sorted({self.settings.node, *self.settings.members, *present, *self.heard})
        rows = []
        for name in names:
            heard = self.heard.get(name)
            rows.append(
                MemberStatus(
                    name=name,
                    incarnation=heard.member.incarnation if heard else None,
                    address=self.addresses.get(name),
                    in_view=name in present,
                    heard=None if heard is None or heard.at is None else self.wall.instant(heard.at),
                    silence=None if heard is None or heard.at is None else max(0.0, now - heard.at),
                    rtt=heard.rtt if heard else None,
                    fit=name not in standings.unfit,
                    draining=name in standings.draining,
                    leaving=name in standings.leaving,
                    config_matches=name not in self.differ,
                    vips=loads.get(name, 0),
                )
            )
        return rows

    def _vips(self) -> list[VipStatus]:
        """The configured ones in the order of the configuration, then those that only others have."""
        configured = {vip.name: vip for vip in self.settings.vips}
        claims = rivals.rival_statuses(self.rivals, self.wall)
        rows = []
        for name in [*configured, *sorted(self.owners.keys() - configured.keys())]:
            vip = configured.get(name)
            owner = self.owners.get(name)
            node = owner.node if owner else None
            state = self.states.get(name)
            rows.append(
                VipStatus(
                    name=name,
                    addresses=[f"{a.interface}:{a.address}/{a.prefix}" for a in vip.addresses] if vip else [],
                    owner=node,
                    held=name in self.held_since,
                    state=state or ("uncovered" if node is None else "elsewhere"),
                    since=owner.since if owner else None,
                    cause=owner.cause.value if owner and owner.cause else None,
                    prefer=list(vip.prefer) if vip else [],
                    nodes=list(vip.nodes) if vip else [],
                    announced=self._announced(name),
                    rivals=claims.get(name, []),
                )
            )
        return rows

    def _announced(self, vip: VipName) -> AnnouncedStatus | None:
        sent = self.announced.get(vip)
        if sent is None:
            return None
        return AnnouncedStatus(
            frames=sent.frames,
            errors=sent.errors,
            failing=bool(sent.failing),
            last=self.wall.instant(sent.last.at),
            kind=sent.last.kind,
            target=sent.last.target,
            occasion=sent.last.occasion.value,
        )


def _causes(decision: Decision) -> dict[VipName, Cause]:
    """Which VIPs change their owner by a decision, and why."""
    match decision:
        case Matured(owners=owners):
            return {vip: Cause.START for vip, _ in owners}
        case Assigned(owners=owners, cause=cause):
            return {vip: cause for vip, _ in owners}
        case Moves(moves=moves) | HandedOver(moves=moves):
            return {move.vip: move.cause for move in moves}
        case StandingChanged() | NeighboursShared() | Answered():
            return {}
        case _:
            assert_never(decision)
