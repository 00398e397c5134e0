"""Which addresses are on this machine, whose they are, and what requests put a VIP's there. No I/O.

Whose: addresses that this program adds bear `TAG` (IFA_PROTO, kernel 5.18 and later). What bears another tag or none is
the node's own and is never touched: Wackamole cleaned up by address and label and took the interface down or its base
address away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TypeVar

from agent.core.settings import Vip
from agent.drivers import rtnetlink
from agent.drivers.lifetime import Lifetimes
from agent.drivers.links import LinkTable
from agent.drivers.records import AddressKey, AddressRecord

TAG = 0x4D
"""IFA_PROTO of our addresses; the kernel uses 1 to 3."""

K = TypeVar("K", bytes, "Group")

REMEMBERED = 1 << 16
"""Planned addresses that are kept: planning anew after a change of the network costs 2 us a VIP instead of 10."""

Group = tuple[int, int, int, int]
"""Interface index, address length, prefix, network: inside one, IPv4 has one primary address, and secondaries."""


def network(packed: bytes, prefix: int) -> int:
    """The network's bits of an address, as a number."""
    return int.from_bytes(packed, "big") >> (8 * len(packed) - prefix)


def group(key: AddressKey) -> Group:
    return key.ifindex, len(key.packed), key.prefix, network(key.packed, key.prefix)


def text(packed: bytes) -> str:
    return str(ip_address(packed))


class AddressTable:
    """The kernel's address table as last told, with indexes for what acquisitions ask."""

    def __init__(self) -> None:
        self._records: dict[AddressKey, AddressRecord] = {}
        self._same: dict[bytes, set[AddressKey]] = {}
        self._groups: dict[Group, set[AddressKey]] = {}

    def __contains__(self, key: AddressKey) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[AddressRecord]:
        return iter(self._records.values())

    def get(self, key: AddressKey) -> AddressRecord | None:
        return self._records.get(key)

    def same(self, packed: bytes) -> Iterable[AddressRecord]:
        """The same address on any interface with any prefix."""
        return [self._records[key] for key in self._same.get(packed, ())]

    def neighbours(self, key: AddressKey) -> set[AddressKey]:
        """Addresses of the same interface and network: what its removal may take along."""
        return self._groups.get(group(key), set())

    def add(self, record: AddressRecord) -> None:
        self._records[record.key] = record
        self._same.setdefault(record.key.packed, set()).add(record.key)
        self._groups.setdefault(group(record.key), set()).add(record.key)

    def discard(self, key: AddressKey) -> None:
        if self._records.pop(key, None) is None:
            return
        _drop(self._same, key.packed, key)
        _drop(self._groups, group(key), key)

    def replace(self, records: Iterable[AddressRecord]) -> None:
        """Takes over a whole dump."""
        self._records.clear()
        self._same.clear()
        self._groups.clear()
        for record in records:
            self.add(record)


def _drop(index: dict[K, set[AddressKey]], at: K, key: AddressKey) -> None:
    keys = index[at]
    keys.discard(key)
    if not keys:
        del index[at]


@dataclass(frozen=True, slots=True)
class PlannedAddress:
    """One address of a VIP with its requests, packed when the configuration or the interface changed."""

    interface: str
    packed: bytes
    key: AddressKey
    add: bytes
    delete: bytes


@dataclass(frozen=True, slots=True)
class PlannedVip:
    """A VIP with its interfaces found; `obstacle` names why it cannot be put up, and `detail` for people."""

    addresses: tuple[PlannedAddress, ...]
    obstacle: str
    detail: str


def prefix_route(key: AddressKey, own: Iterable[AddressKey]) -> bool:
    """Whether the kernel is to make a route to the address' network.

    It is needed when the VIP is the interface's only way into its network. It does harm when the node has an address of
    its own that covers the VIP: the VIP's more specific route would make it the source of the node's connections.
    IPv4 addresses of the very same network are secondary and get no route, and take the network over (with its
    route) should the node's own be removed: they go without the flag.
    """
    if key.prefix == 8 * len(key.packed):
        return False
    for other in own:
        if other.ifindex != key.ifindex or len(other.packed) != len(key.packed):
            continue
        if len(key.packed) == 4 and other.prefix == key.prefix:
            continue
        if network(key.packed, other.prefix) == network(other.packed, other.prefix):
            return False
    return True


def plan(vip: Vip, links: LinkTable, own: Mapping[int, Iterable[AddressKey]], lifetime: Lifetimes) -> PlannedVip:
    """Packs the requests of one VIP for the interfaces as they are now.

    `own`: per interface index the node's own addresses.
    """
    addresses = []
    obstacle = detail = ""
    for address in vip.addresses:
        link = links.named(address.interface)
        if link is not None:
            key = AddressKey(link.ifindex, _packed(address.address), address.prefix)
            route = prefix_route(key, own.get(link.ifindex, ()))
            addresses.append(_planned(address.interface, key, route, lifetime.of(key.packed)))
        reason = links.obstacle(address.interface)
        if reason and not obstacle:
            obstacle, detail = reason, f"interface {address.interface}: {reason.replace('_', ' ')}"
    return PlannedVip(tuple(addresses), obstacle, detail)


@lru_cache(REMEMBERED)
def _packed(address: str) -> bytes:
    return ip_address(address).packed


@lru_cache(REMEMBERED)
def _planned(interface: str, key: AddressKey, route: bool, lifetime: int) -> PlannedAddress:
    flags = 0 if route else rtnetlink.IFA_F_NOPREFIXROUTE
    add = rtnetlink.add_address(key, tag=TAG, flags=flags, lifetime=lifetime)
    return PlannedAddress(interface, key.packed, key, add, rtnetlink.delete_address(key))


def strays(
    table: Iterable[AddressRecord],
    vips: Iterable[PlannedVip],
    held: Iterable[AddressKey],
    spared: frozenset[bytes] = frozenset(),
    *,
    tags: bool,
) -> list[AddressKey]:
    """Addresses that a former life of this program left.

    Where the kernel keeps `tags`, whatever bears ours. Where it does not, exactly a configured VIP's address with its
    prefix on its interface: that address is nobody else's business by configuration. What is `spared` is another's.
    """
    ours = set(held)
    configured = {address.key for vip in vips for address in vip.addresses}
    return [
        record.key
        for record in table
        if record.key not in ours
        and record.key.packed not in spared
        and (record.tag == TAG if tags else record.key in configured)
    ]
