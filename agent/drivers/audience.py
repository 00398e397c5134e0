"""Whom to tell of a moved VIP in particular, and at what pace. No I/O."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import NamedTuple, Protocol

from agent.core.effects import Occasion
from agent.core.ids import NodeName, VipName
from agent.core.view import NeighbourEntry
from agent.drivers.targets import NotifyTarget

HOSTS_MAX = 65_536
"""Hosts of one notify target: at 1,000 a second a round takes a minute; an IPv6 /64 would take for ever."""

ENTRIES_MAX = 4_096
"""Entries taken from one member: `neighbours.read` reads no more."""

CACHE_THROTTLE = 1_000
"""Hosts of the shared ARP cache told in a second: each gets a frame per VIP."""

CATCH_UP = 0.01
"""Seconds of hosts that a late turn may tell at once, so that a throttle above the timers' grain is reached."""


class Net(NamedTuple):
    """A network as numbers, so that a question costs 0.1 us."""

    size: int
    """Bytes of an address."""
    first: int
    last: int
    interface: str

    def holds(self, packed: bytes) -> bool:
        return len(packed) == self.size and self.first <= int.from_bytes(packed, "big") <= self.last


def net(interface: str, cidr: str) -> Net:
    """Its hosts: without network and broadcast address where it has them."""
    parsed = ip_network(cidr, strict=False)
    first, last = int(parsed.network_address), int(parsed.broadcast_address)
    if parsed.version == 4 and parsed.prefixlen < 31:
        first, last = first + 1, last - 1
    return Net(4 if parsed.version == 4 else 16, first, last, interface)


class Hosts(Protocol):
    """Addresses in order: a list of them, or computed ones."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> bytes: ...


class Ranges:
    """The hosts of a notify target that lie on VIPs' networks of its interface, in order, computed when asked for."""

    def __init__(self, target: NotifyTarget, nets: Iterable[Net]) -> None:
        size = 4 if target.network.version == 4 else 16
        first, last = int(target.network.network_address), int(target.network.broadcast_address)
        self._size = size
        self._parts: list[tuple[int, int]] = []
        self._length = 0
        covered = -1
        for each in sorted(set(nets), key=lambda n: n[:3]):
            low, high = max(first, each.first, covered + 1), min(last, each.last)
            if each.interface != target.interface or each.size != size or low > high:
                continue
            covered = high
            high = min(high, low + HOSTS_MAX - self._length - 1)
            if low <= high:
                self._parts.append((low, high))
                self._length += high - low + 1

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int, /) -> bytes:
        for low, high in self._parts:
            if number <= high - low:
                return (low + number).to_bytes(self._size, "big")
            number -= high - low + 1
        raise IndexError(number)


class NeighbourCache:
    """The shared ARP cache: what this node and the others have as neighbours on VIPs' networks."""

    def __init__(self) -> None:
        self.nets: tuple[Net, ...] = ()
        self._local: dict[bytes, bytes] = {}
        self._shared: dict[NodeName, dict[bytes, bytes]] = {}
        self._all: dict[bytes, bytes] = {}
        self.hosts: list[bytes] = []
        """Every known host, in order."""

    def mac(self, host: bytes) -> bytes | None:
        return self._all.get(host)

    @property
    def local_size(self) -> int:
        return len(self._local)

    def reconfigure(self, nets: tuple[Net, ...]) -> None:
        """Forgets what is on no VIP's network any more; what is on a new one comes with the next reading."""
        self.nets = nets
        self._local = self._inside(self._local)
        self._shared = {member: self._inside(entries) for member, entries in self._shared.items()}
        self._unite()

    def local(self, entries: tuple[NeighbourEntry, ...]) -> None:
        self._local = self._inside(dict(map(_parsed, entries)))
        self._unite()

    def learn(self, member: NodeName, entries: tuple[NeighbourEntry, ...]) -> None:
        """Replaces what this member told before."""
        self._shared[member] = self._inside(dict(map(_parsed, entries[:ENTRIES_MAX])))
        self._unite()

    def drop(self, member: NodeName) -> None:
        if self._shared.pop(member, None) is not None:
            self._unite()

    def _unite(self) -> None:
        """What this node has seen itself wins over what it was told."""
        self._all = {}
        for entries in self._shared.values():
            self._all.update(entries)
        self._all.update(self._local)
        self.hosts = sorted(self._all, key=lambda host: (len(host), host))

    def _inside(self, entries: dict[bytes, bytes]) -> dict[bytes, bytes]:
        return {host: mac for host, mac in entries.items() if any(each.holds(host) for each in self.nets)}


def _parsed(entry: NeighbourEntry) -> tuple[bytes, bytes]:
    """Address and MAC as bytes; an empty address, which is on no network, for what makes no sense."""
    try:
        host = socket.inet_pton(socket.AF_INET6 if ":" in entry.address else socket.AF_INET, entry.address)
        mac = bytes.fromhex(entry.mac.replace(":", ""))
    except (OSError, ValueError):
        return b"", b""
    usable = len(mac) == 6 and any(mac) and not mac[0] & 1
    return (host, mac) if usable else (b"", b"")


class Telling(NamedTuple):
    """One host to be told of one VIP now."""

    host: bytes
    vip: VipName
    occasion: Occasion


class Lane:
    """Hosts told in turn, at most `throttle` of them a second, each of every VIP that is on its round.

    The hosts form a circle. A VIP enters it where it stands and leaves after one full round, so that a VIP announced
    anew starts at once, however slow the round of another.
    """

    def __init__(self, hosts: Callable[[], Hosts], throttle: float | None) -> None:
        self._hosts = hosts
        self._pause = 1.0 / throttle if throttle else 0.0
        self._cursor = 0
        self._due = 0.0
        self._rounds: dict[VipName, tuple[int, Occasion]] = {}
        self._pending: deque[Telling] = deque()

    def start(self, vip: VipName, occasion: Occasion) -> None:
        """Begins a round; one that is under way begins afresh."""
        count = len(self._hosts())
        if count:
            self._rounds[vip] = (count, occasion)

    def stop(self, vips: Iterable[VipName]) -> None:
        gone = set(vips)
        for vip in gone:
            self._rounds.pop(vip, None)
        if any(each.vip in gone for each in self._pending):
            self._pending = deque(each for each in self._pending if each.vip not in gone)

    def due(self) -> float | None:
        """When there is something to tell, in seconds of the clock; 0: now; None: nothing."""
        if self._pending:
            return 0.0
        return self._due if self._rounds else None

    def take(self, now: float) -> Telling | None:
        """The next telling that may go now."""
        if not self._pending and self._rounds and now >= self._due:
            self._advance(now)
        return self._pending.popleft() if self._pending else None

    def _advance(self, now: float) -> None:
        hosts = self._hosts()
        if not hosts:
            self._rounds.clear()
            return
        host = hosts[self._cursor % len(hosts)]
        self._cursor = (self._cursor + 1) % len(hosts)
        self._due = max(self._due, now - CATCH_UP) + self._pause if self._pause else 0.0
        for vip, (left, occasion) in list(self._rounds.items()):
            self._pending.append(Telling(host, vip, occasion))
            if left > 1:
                self._rounds[vip] = (left - 1, occasion)
            else:
                del self._rounds[vip]
