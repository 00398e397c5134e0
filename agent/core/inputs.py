"""What may happen to a node."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.ids import Member, VipName
from agent.core.messages import Message
from agent.core.settings import Settings
from agent.core.view import NeighbourEntry


@dataclass(frozen=True, slots=True)
class Received:
    """A message whose sender the engine has proven."""

    sender: Member
    message: Message


@dataclass(frozen=True, slots=True)
class Timer:
    """`Node.deadline()` has come. Spurious ones are harmless."""


@dataclass(frozen=True, slots=True)
class AddressesAdded:
    """All addresses of each VIP are on their interfaces: answer to `Acquire`."""

    vips: tuple[VipName, ...]


@dataclass(frozen=True, slots=True)
class AddressesFailed:
    """Nothing of the VIP is left on an interface: answer to `Acquire`."""

    vip: VipName
    reason: str
    """A closed set: interface_missing, interface_down, no_carrier, denied, exists_here, conflict, netlink."""
    detail: str


@dataclass(frozen=True, slots=True)
class AddressesRemoved:
    """Answer to `Release`, confirmed by the kernel."""

    vips: tuple[VipName, ...]


@dataclass(frozen=True, slots=True)
class AddressLost:
    """Somebody took an address of a held VIP off its interface; the rest of the VIP is still up."""

    vip: VipName
    detail: str


@dataclass(frozen=True, slots=True)
class VipsUnable:
    """The VIPs whose interface is missing, down or without carrier now: the whole set, each time it changes."""

    vips: tuple[tuple[VipName, str], ...]
    """VIP and reason, as in `AddressesFailed`."""


@dataclass(frozen=True, slots=True)
class LeaseLapsed:
    """The fast lease ran out before it was renewed: the kernel answers for no VIP until it is taken up again."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """The guard took this agent for dead: it removed all addresses and told the group that they are free."""


@dataclass(frozen=True, slots=True)
class RivalSeen:
    """A host that is no member claims a VIP that this node holds, and the policy is to yield (RFC 5227 2.4)."""

    vip: VipName
    mac: str


@dataclass(frozen=True, slots=True)
class HardwareKnown:
    """Hardware addresses of the interfaces that carry VIPs here: the whole set, each time it changes."""

    macs: tuple[str, ...]
    """Lower case, with colons; sorted."""


@dataclass(frozen=True, slots=True)
class FitnessChanged:
    """The verdict of the node's health checks."""

    fit: bool


@dataclass(frozen=True, slots=True)
class NeighboursRead:
    """The usable entries of this node's neighbour tables that lie on a VIP's network."""

    entries: tuple[NeighbourEntry, ...]


@dataclass(frozen=True, slots=True)
class LeaveRequested:
    """Hand everything over, then leave the group. `stop`: the process ends afterwards."""

    stop: bool


@dataclass(frozen=True, slots=True)
class JoinRequested:
    """Undo a departure."""


@dataclass(frozen=True, slots=True)
class DrainRequested:
    on: bool


@dataclass(frozen=True, slots=True)
class BalanceRequested:
    """A balance round now."""


@dataclass(frozen=True, slots=True)
class MoveRequested:
    vip: VipName
    taker: str


@dataclass(frozen=True, slots=True)
class Reconfigured:
    settings: Settings


Input = (
    Received
    | Timer
    | AddressesAdded
    | AddressesFailed
    | AddressesRemoved
    | AddressLost
    | VipsUnable
    | LeaseLapsed
    | Fenced
    | RivalSeen
    | HardwareKnown
    | FitnessChanged
    | NeighboursRead
    | LeaveRequested
    | JoinRequested
    | DrainRequested
    | BalanceRequested
    | MoveRequested
    | Reconfigured
)
