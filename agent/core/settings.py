"""What the core is told about its cluster and its own node. Frozen; a reload hands in a new one."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from agent.core.ids import NodeName, VipName

MEMBERS_MAX = 128
"""Spread's limit. A heartbeat names its members three times: 20 fit one 1,400-byte datagram, 128 need five."""

VIPS_MAX = 16_384
"""A state exchange of so many VIPs is about 0.5 MB a member: 400 datagrams, below the sockets' 4 MiB buffers."""

NEIGHBOURS_MAX = 4096
"""Entries of one shared neighbour table: what one message may carry."""

HARDWARE_MAX = 64
"""Hardware addresses of one member that are remembered: more interfaces carry nobody's VIPs."""

REQUESTS_MAX = 64
"""Operator requests of one node that wait for a decision."""

LEASE_MAX = 3600.0
"""Seconds; a longer lease would keep a VIP uncovered for longer than any operator would."""

WAIT_MAX = 10.0
"""Leases, or failure timeouts, of this node's own that it waits for anybody's at most: a wrong peer may say an hour."""

UNSTABLE_MAX = 32
"""Decisions that may be undelivered somewhere: bounds the tail that a Join carries."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a VIP, as this node puts it on an interface."""

    interface: str
    address: str
    """IPv4 or IPv6 address in its canonical text form."""
    prefix: int
    """Prefix length put on the interface."""
    network: str
    """The directly attached network in CIDR form: only hosts inside it are told of a move by directed ARP."""


@dataclass(frozen=True, slots=True)
class Vip:
    """One unit that moves as a whole."""

    name: VipName
    addresses: tuple[Address, ...]
    prefer: tuple[NodeName, ...] = ()
    """Nodes that should hold it, best first."""
    nodes: tuple[NodeName, ...] = ()
    """The only nodes that may hold it; empty: any."""


class PartitionPolicy(StrEnum):
    COMPONENT = "component"
    QUORUM = "quorum"


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds."""

    heartbeat: float = 0.1
    failure_timeout: float = 0.4
    mature: float = 5.0
    balance_interval: float = 4.0
    announce_repeat: float = 1.1
    """Second announcement: Linux ignores a neighbour's change within 1 s of the last (locktime)."""
    announce_refresh: float = 60.0

    @property
    def late(self) -> float:
        """Silence after which a peer is doubted: enough to believe another member's suspicion of it (R4)."""
        return 1.5 * self.heartbeat

    @property
    def join_resend(self) -> float:
        """Pause between repetitions of a Join."""
        return min(0.02, max(0.003, self.heartbeat / 5))

    @property
    def join_timeout(self) -> float:
        """How long a coordinator waits for those who have not joined (R5)."""
        return max(0.02, self.failure_timeout / 4)

    @property
    def patience(self) -> float:
        """How long a member waits for an Install before it raises the epoch; doubled on each failure (R12)."""
        return 2.0 * self.join_timeout

    @property
    def patience_max(self) -> float:
        return 8.0 * self.failure_timeout

    @property
    def merge_hold_down(self) -> float:
        """Mutual hearing must last so long before two views merge; doubled after each failed attempt (R12)."""
        return 0.5 * self.failure_timeout


@dataclass(frozen=True, slots=True)
class Settings:
    cluster: str
    node: NodeName
    vips: tuple[Vip, ...]
    members: tuple[NodeName, ...]
    """Configured members, this node among them; empty when they are discovered."""
    timing: Timing = field(default_factory=Timing)
    acquisitions_per_round: int | None = None
    """Most moves in one balance round of the whole cluster; None: all."""
    weight: float = 1.0
    serves: bool = True
    """False: a member that takes part in views and votes but holds no VIP."""
    partition: PartitionPolicy = PartitionPolicy.COMPONENT
    votes: tuple[tuple[NodeName, int], ...] = ()
    digest: str = ""
    """Hash of the cluster-wide settings, equal on all nodes that are configured alike."""
    lease_bound: float = 0.0
    """Longest time that this node may go on holding after its last acknowledged heartbeat, in seconds; 0: no lease."""

    def votes_of(self, name: NodeName) -> int:
        """Votes of a configured member, 1 unless told otherwise; others have none."""
        if name not in self.members:
            return 0
        return next((votes for member, votes in self.votes if member == name), 1)

    @property
    def longest_wait(self) -> float:
        """Seconds that this node waits for anybody's lease at most."""
        return WAIT_MAX * max(self.lease_bound, self.timing.failure_timeout)

    @property
    def votes_needed(self) -> int:
        """More than half of all configured votes."""
        return sum(self.votes_of(name) for name in self.members) // 2 + 1
