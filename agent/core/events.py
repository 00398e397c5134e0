"""What became true. The only thing that observers see; a subscriber matches the whole union (`assert_never`).

Every event carries `at`, seconds of the node's clock when the thing happened. Core events are outputs of
`Node.step`; those marked *driver* or *engine* are published by the part that did the thing.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.effects import Occasion
from agent.core.ids import Member, NodeName, Seq, ViewId, VipName
from agent.core.view import Cause, Decision, Move, View, ViewCause


@dataclass(frozen=True, slots=True)
class Started:
    at: float
    member: Member


@dataclass(frozen=True, slots=True)
class Stalled:
    """The node was not scheduled in time. `yielded`: past the failure timeout, so it gave everything up (R11)."""

    at: float
    seconds: float
    yielded: bool


@dataclass(frozen=True, slots=True)
class MemberSuspected:
    at: float
    member: Member
    silence: float
    """Seconds since it was heard last."""
    named_by: NodeName | None
    """The peer whose suspicion was believed (R4); None: own finding."""


@dataclass(frozen=True, slots=True)
class MemberHeard:
    """First sign of a peer that was not heard before or not within a failure timeout."""

    at: float
    member: Member


@dataclass(frozen=True, slots=True)
class GatherStarted:
    at: float
    epoch: int
    reason: str
    """start, suspect, leave, join, merge, epoch, excluded, patience, split_vote, stall, return."""


@dataclass(frozen=True, slots=True)
class JoinHeard:
    """A member's declaration reached this node while it gathered."""

    at: float
    epoch: int
    member: Member


@dataclass(frozen=True, slots=True)
class ViewInstalled:
    at: float
    view: View
    previous: ViewId | None
    joined: tuple[Member, ...]
    left: tuple[Member, ...]
    cause: ViewCause
    together: tuple[tuple[Member, ...], ...]
    """Sets of members that came from the same old view (Spread's vs_sets)."""
    mature: bool
    gather_started: float
    """When this node began to gather for it."""
    failed_since: float | None
    """Last sign of the member whose loss caused the change; None: no loss."""
    owners: tuple[tuple[VipName, NodeName], ...]


@dataclass(frozen=True, slots=True)
class PlacementDiffers:
    """An Install's placement is not what this node computes from the same states (R8): versions or bugs differ."""

    at: float
    view: ViewId
    detail: str


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision was delivered, here, in agreed order. `flushed`: while changing views, so it changed records only."""

    at: float
    view: ViewId
    seq: Seq
    decision: Decision
    flushed: bool


@dataclass(frozen=True, slots=True)
class Excluded:
    """A newer view has members of ours but not us (R10)."""

    at: float
    by: Member
    view: ViewId


@dataclass(frozen=True, slots=True)
class BecameMature:
    at: float


@dataclass(frozen=True, slots=True)
class AcquireStarted:
    at: float
    vip: VipName
    cause: Cause


@dataclass(frozen=True, slots=True)
class VipAcquired:
    at: float
    vip: VipName
    cause: Cause
    started: float
    """When the driver was asked."""
    since: float
    """Last sign of the old holder, or the order to move: the start of what a client sees as an outage."""


@dataclass(frozen=True, slots=True)
class VipAcquireFailed:
    at: float
    vip: VipName
    reason: str
    detail: str
    retry_in: float
    """Seconds before this node may be given the VIP again."""


@dataclass(frozen=True, slots=True)
class ReleaseStarted:
    at: float
    vip: VipName
    cause: Cause


@dataclass(frozen=True, slots=True)
class VipReleased:
    at: float
    vip: VipName
    cause: Cause
    started: float


@dataclass(frozen=True, slots=True)
class VipLost:
    """An address of a held VIP was removed by somebody else."""

    at: float
    vip: VipName
    detail: str


@dataclass(frozen=True, slots=True)
class VipWaits:
    """Not acquired yet although it is ours: `covered` elsewhere within earshot, its old `lease` may still run, the
    node's `own_lease` has lapsed, or it has made a `claim` that another part of the group has not answered yet."""

    at: float
    vip: VipName
    reason: str


@dataclass(frozen=True, slots=True)
class Announced:
    at: float
    vips: tuple[VipName, ...]
    occasion: Occasion


@dataclass(frozen=True, slots=True)
class BalanceRound:
    """A decided set of moves. `timed` False: urgent or asked for by a person."""

    at: float
    view: ViewId
    seq: Seq
    moves: tuple[Move, ...]
    timed: bool


@dataclass(frozen=True, slots=True)
class BalanceRoundDone:
    """All hand-overs of the round are confirmed."""

    at: float
    view: ViewId
    seq: Seq
    seconds: float


@dataclass(frozen=True, slots=True)
class ConfigDiffers:
    """Members whose settings digest is not ours; empty: all agree again."""

    at: float
    members: tuple[NodeName, ...]
    vips: tuple[VipName, ...]
    """VIPs that not all members define alike."""


@dataclass(frozen=True, slots=True)
class OwnersChanged:
    """The agreed table of who owns what, after each change of it."""

    at: float
    owners: tuple[tuple[VipName, NodeName], ...]
    uncovered: tuple[VipName, ...]
    spread: float
    """Weighted maximum minus minimum load of the eligible members."""


@dataclass(frozen=True, slots=True)
class StandingsChanged:
    """Fitness, draining and departure of the members, after each change."""

    at: float
    unfit: tuple[NodeName, ...]
    draining: tuple[NodeName, ...]
    leaving: tuple[NodeName, ...]


@dataclass(frozen=True, slots=True)
class StateChanged:
    """BOOT, GATHER, RUN, BALANCE (reference: Wackamole), LEFT."""

    at: float
    state: str


@dataclass(frozen=True, slots=True)
class LimitReached:
    at: float
    limit: str


@dataclass(frozen=True, slots=True)
class OperatorAnswered:
    at: float
    number: int
    verb: str
    refused: str
    """Empty: done."""


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    at: float
    peer: NodeName
    rtt: float | None
    """Seconds, from the echo; None where it echoes nothing new."""
    missed: int
    """Heartbeats of this peer that were never seen, since the last."""


@dataclass(frozen=True, slots=True)
class HeartbeatSent:
    at: float


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """A layer of the lease ran out before it was renewed. `fast`: core's finding; `address`: driver's."""

    at: float
    layer: str


@dataclass(frozen=True, slots=True)
class LeaseTaken:
    """The fast lease is in force: for the first time, or again after it was lost."""

    at: float
    until: float


@dataclass(frozen=True, slots=True)
class QuorumChanged:
    """Under `partition: quorum`: whether this node's view may hold VIPs, and the votes counted."""

    at: float
    quorate: bool
    votes: int
    needed: int


# Drivers and engines.


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """*Driver.* `margin`: seconds that were left of the former lease."""

    at: float
    layer: str
    """fast, address."""
    margin: float
    until: float


@dataclass(frozen=True, slots=True)
class LeaseLayer:
    """*Driver.* Whether a layer that silences this node is in force: `fast`, `address`, `guard`."""

    at: float
    layer: str
    active: bool
    detail: str
    """Why not, or what was done (a filter table that somebody removed was put back; a guard was replaced)."""


@dataclass(frozen=True, slots=True)
class ConflictSeen:
    """*Driver.* A host that is no member of the group claims a VIP that this node holds (RFC 5227 2.4)."""

    at: float
    vip: VipName
    address: str
    interface: str
    mac: str
    answer: str
    """What is done about it: `defended`, `yielded`, `noted` (defended within the last 10 s already)."""


@dataclass(frozen=True, slots=True)
class ArpSent:
    """*Driver.* One frame, or one failed attempt."""

    at: float
    vip: VipName
    interface: str
    kind: str
    """request, reply, directed, na, probe."""
    target: str
    """Address told, or the VIP itself for a broadcast."""
    occasion: Occasion
    error: str
    """Empty: sent."""


@dataclass(frozen=True, slots=True)
class DatagramRejected:
    """*Engine*, and the core for a message that contradicts itself (`malformed`). `reason` is a closed set."""

    at: float
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class NameClash:
    """*Engine.* Another host speaks with this node's own name."""

    at: float
    source: str


@dataclass(frozen=True, slots=True)
class ArpCacheChanged:
    """*Driver.*"""

    at: float
    local: int
    shared: int


@dataclass(frozen=True, slots=True)
class StrayRemoved:
    """*Driver.* An address of ours that nobody held was found (a crash left it) and removed."""

    at: float
    interface: str
    address: str


@dataclass(frozen=True, slots=True)
class InterfaceChanged:
    """*Driver.*"""

    at: float
    interface: str
    usable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class LoopLag:
    """*Driver.* How late the event loop ran a timer."""

    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Reloaded:
    """*Driver.* `error` empty: the new configuration is in force."""

    at: float
    error: str


Event = (
    Started
    | Stalled
    | MemberSuspected
    | MemberHeard
    | GatherStarted
    | JoinHeard
    | ViewInstalled
    | PlacementDiffers
    | Decided
    | Excluded
    | BecameMature
    | AcquireStarted
    | VipAcquired
    | VipAcquireFailed
    | ReleaseStarted
    | VipReleased
    | VipLost
    | VipWaits
    | Announced
    | BalanceRound
    | BalanceRoundDone
    | ConfigDiffers
    | OwnersChanged
    | StandingsChanged
    | StateChanged
    | LimitReached
    | OperatorAnswered
    | HeartbeatReceived
    | HeartbeatSent
    | LeaseLost
    | LeaseTaken
    | QuorumChanged
    | LeaseRenewed
    | LeaseLayer
    | ConflictSeen
    | ArpSent
    | DatagramRejected
    | NameClash
    | ArpCacheChanged
    | StrayRemoved
    | InterfaceChanged
    | LoopLag
    | Reloaded
)
