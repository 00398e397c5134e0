"""What is to be done in the world. The pump carries them out in order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.core.ids import NodeName, VipName
from agent.core.messages import Message
from agent.core.view import NeighbourEntry


class Occasion(StrEnum):
    """Why a VIP is announced."""

    ACQUIRE = "acquire"
    MERGE = "merge"
    REPEAT = "repeat"
    REFRESH = "refresh"
    DEFEND = "defend"
    """A rival claimed it (RFC 5227 2.4)."""


@dataclass(frozen=True, slots=True)
class Send:
    message: Message
    to: tuple[NodeName, ...]
    """Empty: everyone (all configured peers, or the segment)."""


@dataclass(frozen=True, slots=True)
class Acquire:
    """Put the addresses on their interfaces; each VIP is answered by AddressesAdded or AddressesFailed."""

    vips: tuple[VipName, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Take the addresses away and stop announcing at once; each VIP is answered by AddressesRemoved."""

    vips: tuple[VipName, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    vips: tuple[VipName, ...]
    occasion: Occasion


@dataclass(frozen=True, slots=True)
class HoldLease:
    """The kernel answers for this node's VIPs until `until`, and not longer, whatever becomes of the agent.

    `fresh` False: a renewal, which must fail when the lease has lapsed meanwhile (answer: `LeaseLapsed`).
    `fresh` True: a new lease, begun by rule R15 (docs/protocol.md).
    """

    until: float
    fresh: bool


@dataclass(frozen=True, slots=True)
class KnowFellows:
    """Hardware addresses of all other members that this node ever shared a view with: their claims are no rival's."""

    macs: tuple[tuple[str, NodeName], ...]
    """Hardware address and whose it is; sorted. Replaces the former ones."""


@dataclass(frozen=True, slots=True)
class LearnNeighbours:
    """Entries of the shared ARP cache as this member has them now; replaces its former ones."""

    member: NodeName
    entries: tuple[NeighbourEntry, ...]


@dataclass(frozen=True, slots=True)
class ForgetNeighbours:
    """Nothing is known of this member's neighbours any more; entries age out from here."""

    member: NodeName


@dataclass(frozen=True, slots=True)
class Stop:
    """Everything is handed over and said: the process may end."""


Effect = Send | Acquire | Release | Announce | HoldLease | KnowFellows | LearnNeighbours | ForgetNeighbours | Stop
