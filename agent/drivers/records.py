"""What the kernel's tables hold, as values."""

from __future__ import annotations

from typing import NamedTuple

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
OPERSTATE_UNKNOWN = 0
OPERSTATE_UP = 6


class AddressKey(NamedTuple):
    """What makes an address one address to the kernel."""

    ifindex: int
    """Interface index."""
    packed: bytes
    """4 or 16 bytes, network order."""
    prefix: int


class AddressRecord(NamedTuple):
    """One line of the address table."""

    key: AddressKey
    flags: int | None
    """IFA_F_*; None: just added by this process, and the kernel has not been heard on it yet."""
    tag: int
    """IFA_PROTO; 0: none, or a kernel before 5.18."""


class LinkRecord(NamedTuple):
    """One interface."""

    ifindex: int
    name: str
    mac: bytes
    flags: int
    state: int
    """RFC 2863 operational state; virtual devices without a notion of carrier stay at UNKNOWN and are usable."""
    promotes: bool = False
    """Its own promote_secondaries (that of `all` not included)."""

    def unchanged(self, later: LinkRecord) -> bool:
        """Whether a later word on the interface says nothing new that matters (events leave `promotes` out)."""
        return self[:3] == later[:3] and self.obstacle == later.obstacle

    @property
    def obstacle(self) -> str:
        """Why no address may go on it, as in `AddressesFailed.reason`; empty: usable."""
        if not self.flags & IFF_UP:
            return "interface_down"
        if not self.flags & IFF_LOWER_UP or self.state not in (OPERSTATE_UNKNOWN, OPERSTATE_UP):
            return "no_carrier"
        return ""


class NeighbourRecord(NamedTuple):
    """One line of a neighbour table."""

    ifindex: int
    packed: bytes
    mac: bytes
    """Empty: not resolved."""
    state: int
    """NUD_*."""
