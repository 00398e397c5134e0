"""What members say to each other. Values only: encoding and limits are the engine's.

The sender is not a field: the engine proves it and hands it over beside the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.ids import Member, NodeName, Seq, ViewId, VipName
from agent.core.view import Entry, MemberState, NeighbourEntry, OperatorRequest, Standing, View, VipSpec


@dataclass(frozen=True, slots=True)
class Requests:
    """Everything that a member wants decided: the whole list each time, so that nothing is lost by reordering (R7)."""

    mature: bool = False
    """Its maturity time is over."""
    standing: Standing | None = None
    """Its present standing, while the view's record differs."""
    released: tuple[VipName, ...] = ()
    """Given up as the last decisions asked, and confirmed by netlink."""
    operator: tuple[OperatorRequest, ...] = ()
    neighbours: tuple[NeighbourEntry, ...] | None = None
    """Its neighbour table, while the version that the view has is older."""
    neighbours_version: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """All to all, every interval; at once on a new request and after an install."""

    view: View | None
    """The installed view; None before the first one and after a departure."""
    epoch: int
    """Highest epoch seen."""
    gathering: bool
    delivered: Seq
    stable: Seq
    """From the coordinator: every member has delivered so far."""
    holds: int
    """VIPs held, additions and removals in flight included."""
    serving: bool
    """The sender's view is mature."""
    uncovered: tuple[VipName, ...]
    """VIPs without owner in the sender's view; what is not here is covered there."""
    digest: str
    table: str
    lease_bound: float
    hears: tuple[Member, ...]
    """Whom the sender heard within a failure timeout."""
    number: int
    """Counts the sender's heartbeats."""
    echoes: tuple[tuple[Member, int, float], ...]
    """Per member heard: its last heartbeat's number, and for how many seconds it has been here (RTT, leases)."""
    requests: Requests


OTHERS = VipName("all others")
"""Among the waits: every VIP that no table of the view names. A lost member may hold what only it knew of, and a node
or a reload may bring that VIP into a later view. (No configuration can name a VIP so: names have no spaces.)"""


@dataclass(frozen=True, slots=True)
class Lost:
    """An old fellow member that has not joined, and how long ago it was heard (R9).

    It may hold any VIP that no joiner declares: what it was given last, this member may not have heard.
    """

    member: Member
    silence: float
    lease_bound: float
    """0: it holds nothing under a lease, or said that it has let go."""


@dataclass(frozen=True, slots=True)
class Join:
    """A vote that freezes and declares (R1, R2)."""

    epoch: int
    vote: Member
    alive: tuple[Member, ...]
    """Whom the sender waits for; itself included."""
    suspects: tuple[Member, ...]
    hears: tuple[Member, ...]
    old_view: View | None
    delivered: Seq
    tail: tuple[Entry, ...]
    """Delivered entries that may be missing elsewhere."""
    lost: tuple[Lost, ...]
    state: MemberState
    waits: tuple[tuple[VipName, float], ...] = ()
    """What is left of the waits that earlier Installs began (R9), in seconds from now; see `OTHERS`."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The flush of one old view: its members that came together deliver the same entries (R6)."""

    old_view: ViewId
    members: tuple[Member, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Install:
    """The answer to the votes: the view, what everyone declared, what is to be delivered first, and who owns what."""

    view: View
    states: tuple[MemberState, ...]
    """In the order of `view.members`; `specs` is None in each: tables are in `tables`."""
    sizes: tuple[int, ...]
    """Members of the old view that each came from, in the order of `view.members` (R13)."""
    tables: tuple[tuple[str, tuple[VipSpec, ...]], ...]
    """Digest and VIP table, each once; empty when all members have the same table."""
    recovered: tuple[Recovered, ...]
    mature: bool
    owners: tuple[tuple[VipName, NodeName], ...]
    conflicts: tuple[tuple[VipName, NodeName], ...]
    """VIP and losing holder: it releases and says so (R13)."""
    waits: tuple[tuple[VipName, float], ...]
    """Seconds from receipt before which a VIP may not be acquired (R9); absent: at once. See `OTHERS`."""


@dataclass(frozen=True, slots=True)
class Decide:
    """From the one writer of the view's log."""

    view: ViewId
    entries: tuple[Entry, ...]
    """Consecutive."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The sender holds nothing any more and goes."""

    view: ViewId


Message = Heartbeat | Join | Install | Decide | Leave
