"""What `/api/v1/status` and `/api/v1/events` answer. The control socket's `status` is the same."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ViewStatus(Schema):
    id: str
    """`epoch-coordinator-incarnation`."""
    members: list[str]
    """In agreed order."""
    since: datetime
    cause: Literal["join", "leave", "disconnect", "network", "merge"]
    gathered: float
    """Seconds from the beginning of the gather to the installation, at this node."""
    spread: float
    """Weighted maximum minus minimum load of its eligible members."""
    votes: int | None
    """Of its members; None: nobody counts them (`partition: component`)."""
    votes_needed: int | None
    """To hold VIPs."""


class MemberStatus(Schema):
    name: str
    incarnation: int | None
    """None: never heard."""
    address: str | None
    """None: not configured with an address (broadcast, multicast)."""
    in_view: bool
    heard: datetime | None
    """Last heartbeat; None for this node itself and for who was never heard."""
    silence: float | None
    """Seconds from `heard` to this answer: the same without anybody's wall clock."""
    rtt: float | None
    """Seconds there and back, of the last heartbeat that told it."""
    fit: bool
    draining: bool
    leaving: bool
    config_matches: bool
    vips: int
    """VIPs that it owns."""


class AnnouncedStatus(Schema):
    frames: int
    """ARP frames and neighbour advertisements that this node sent for the VIP."""
    errors: int
    """Attempts that failed; not in `frames`."""
    failing: bool
    """Whether one failed since the last frame that told everyone: somebody may not know of this node yet."""
    last: datetime
    """When the last frame went out, or failed to."""
    kind: str
    """The last one: request, reply, directed, na, probe."""
    target: str
    """Whom it told: an address, or the VIP's own for everyone."""
    occasion: str
    """Why: acquire, merge, repeat, refresh."""


class RivalStatus(Schema):
    mac: str
    address: str
    """The VIP's address that it claims."""
    interface: str
    """Where this node heard it."""
    first: datetime
    last: datetime
    claims: int
    answer: str
    """What was done about the last claim: defended, yielded, noted."""


class VipStatus(Schema):
    name: str
    addresses: list[str]
    """`interface:address/prefix` as this node puts them up; empty: not configured here."""
    owner: str | None
    """As the group agreed; None: nobody."""
    held: bool
    """Its addresses are up on this node."""
    state: Literal["held", "acquiring", "releasing", "waiting", "failed", "elsewhere", "uncovered"]
    """This node's part in it."""
    since: datetime | None
    """When the owner became the owner, or the VIP became uncovered; None: since ever."""
    cause: str | None
    """Why it went there last."""
    prefer: list[str]
    nodes: list[str]
    """The only nodes that may hold it; empty: any."""
    announced: AnnouncedStatus | None
    """What this node told the network about it since the agent started; None: nothing."""
    rivals: list[RivalStatus]
    """Hosts outside the group that claimed it in the last 15 minutes while this node held it; the latest first."""


class ArpCacheStatus(Schema):
    local: int
    shared: int


class EngineStatus(Schema):
    kind: Literal["embedded", "spread", "corosync"]
    heartbeat: float
    """Seconds."""
    failure_timeout: float
    """Seconds."""
    sealed: bool | None
    """Whether the agents' messages are encrypted and proven genuine; None: the engine's daemon sees to that."""


class LeaseStatus(Schema):
    layer: str
    """fast (kernel filter), address (lifetime of the addresses), guard (process that cleans up after the agent)."""
    active: bool
    """Whether it would silence this node in time."""
    detail: str
    """Why it is not active, or what was mended."""
    until: datetime | None
    """When it runs out unless it is renewed; None: no lease is running, or the layer has no time."""
    remaining: float | None
    """Seconds from this answer to `until`: the same without anybody's wall clock."""
    margin: float | None
    """Seconds that were left at the last renewal."""
    expired: int
    """Times it ran out since the agent started."""


class StatusResponse(Schema):
    cluster: str
    node: str
    state: str
    """BOOT, GATHER, RUN, BALANCE, LEFT."""
    mature: bool
    fit: bool
    draining: bool
    quorate: bool
    """Always true under `partition: component`."""
    view: ViewStatus | None
    members: list[MemberStatus]
    vips: list[VipStatus]
    leases: list[LeaseStatus]
    """The layers that are to silence this node when it should no longer answer for a VIP."""
    arp_cache: ArpCacheStatus
    engine: EngineStatus
    version: str


class EventResponse(Schema):
    seq: int
    time: datetime
    type: str
    level: Literal["debug", "info", "warning", "error"]
    cause: str | None
    message: str
    fields: dict[str, object]
    trace_id: str | None
    """Of the OpenTelemetry trace that it belongs to, if that is exported."""


class EventsResponse(Schema):
    first: int
    """Oldest event that is still kept."""
    last: int
    """Newest event; ask again with `since` = the last `seq` received until they are equal."""
    events: list[EventResponse]


class ErrorResponse(Schema):
    error: str
