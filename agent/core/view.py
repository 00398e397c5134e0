"""Agreed data: the view, what each member declared on entering it, and who owns what."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.core.ids import Member, NodeName, Seq, ViewId, VipName


class Cause(StrEnum):
    """Why a VIP was acquired or released: label of metrics, attribute of spans, word of log lines."""

    FAILOVER = "failover"
    BALANCE = "balance"
    LEAVE = "leave"
    DRAIN = "drain"
    MOVE = "move"
    PREFER = "prefer"
    CONFLICT = "conflict"
    MERGE = "merge"
    UNFIT = "unfit"
    LEASE = "lease"
    QUORUM = "quorum"
    REPAIR = "repair"
    START = "start"
    RELOAD = "reload"


class ViewCause(StrEnum):
    """Why a view was installed (Spread's causes, and the merge told from other network changes)."""

    JOIN = "join"
    LEAVE = "leave"
    DISCONNECT = "disconnect"
    NETWORK = "network"
    MERGE = "merge"


@dataclass(frozen=True, slots=True)
class VipSpec:
    """A VIP as its definition is exchanged between members; interfaces are each node's own business."""

    name: VipName
    addresses: tuple[str, ...]
    prefer: tuple[NodeName, ...] = ()
    nodes: tuple[NodeName, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides whether a member may be given VIPs. Part of its state; a change is a request to the coordinator."""

    fit: bool = True
    draining: bool = False
    leaving: bool = False
    weight: float = 1.0
    serves: bool = True
    failed: tuple[VipName, ...] = ()
    """VIPs that it could not put up, or whose interface is missing or down; sorted."""
    votes: int = 1
    """What it adds to a quorum; 0 until it can be sure that no lease runs which an earlier life acknowledged."""


@dataclass(frozen=True, slots=True)
class MemberState:
    """Wackamole's STATE message, carried inside Join."""

    held: tuple[VipName, ...]
    """Sorted; includes additions and removals in flight, so that nobody acquires what may still be up."""
    mature: bool
    standing: Standing
    digest: str
    """Settings digest."""
    table: str
    """Digest of the VIP table."""
    specs: tuple[VipSpec, ...] | None
    """The table itself; None where every receiver is known to have the same."""
    lease_bound: float = 0.0
    yielded: bool = False
    """It has given everything up (R10, R11): what it still declares as held is on its way off the interfaces."""
    hardware: tuple[str, ...] = ()
    """Hardware addresses of its interfaces: what they announce is no rival's claim."""


@dataclass(frozen=True, slots=True)
class View:
    """Totem's regular configuration."""

    id: ViewId
    members: tuple[Member, ...]
    """In agreed order: by name."""

    def __contains__(self, member: object) -> bool:
        return member in self.members

    def names(self) -> tuple[NodeName, ...]:
        return tuple(member.name for member in self.members)


@dataclass(frozen=True, slots=True)
class Move:
    """One hand-over."""

    vip: VipName
    giver: NodeName
    taker: NodeName
    cause: Cause


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """What a person asked for; `number` makes it idempotent within the asking member's life."""

    number: int
    verb: str
    """`balance` or `move`."""
    vip: VipName | None = None
    taker: NodeName | None = None


@dataclass(frozen=True, slots=True)
class NeighbourEntry:
    """One host of the shared ARP cache: a usable entry of some member's neighbour table."""

    address: str
    mac: str


# What a coordinator may write into its view's log. `Decision` is the closed union.


@dataclass(frozen=True, slots=True)
class Matured:
    """The component may serve; carries the first placement."""

    owners: tuple[tuple[VipName, NodeName], ...]
    answers: tuple[tuple[NodeName, int], ...] = ()


@dataclass(frozen=True, slots=True)
class StandingChanged:
    member: NodeName
    standing: Standing


@dataclass(frozen=True, slots=True)
class Moves:
    """A balance round (Wackamole's BALANCE) or an urgent hand-over: each giver releases, then says so."""

    moves: tuple[Move, ...]
    timed: bool
    """True: a timed balance round; False: asked for by a drain, a departure, a person or lost fitness."""
    answers: tuple[tuple[NodeName, int], ...] = ()


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The giver's release is confirmed; each taker acquires. For a merge's loser: the winner announces again."""

    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class Assigned:
    """Uncovered VIPs are given out inside a view."""

    owners: tuple[tuple[VipName, NodeName], ...]
    cause: Cause


@dataclass(frozen=True, slots=True)
class NeighboursShared:
    """A part of one member's neighbour table; replaces what it shared before when `first`."""

    member: NodeName
    entries: tuple[NeighbourEntry, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Answered:
    """Operator requests that needed no other decision."""

    answers: tuple[tuple[NodeName, int], ...]


Decision = Matured | StandingChanged | Moves | HandedOver | Assigned | NeighboursShared | Answered


@dataclass(frozen=True, slots=True)
class Entry:
    """One position of a view's log."""

    seq: Seq
    decision: Decision
