"""Tells the network where a VIP is now: broadcast first, for all VIPs, then whom configuration or experience names.

Everything is sent in slices that leave the event loop after a few milliseconds. Events follow the frames of their
slice. Nothing is sent for a VIP after `withdraw`, whatever was queued.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from agent.core.effects import Occasion
from agent.core.events import ArpCacheChanged, ArpSent, Event
from agent.core.ids import NodeName, VipName
from agent.core.settings import Vip
from agent.core.view import NeighbourEntry
from agent.drivers import frames, rtnetlink
from agent.drivers.audience import CACHE_THROTTLE, Lane, NeighbourCache, Net, Ranges, Telling, net
from agent.drivers.port import Port
from agent.drivers.records import LinkRecord
from agent.drivers.targets import NotifyTarget

SLICE_FRAMES = 256
SLICE_SECONDS = 0.003
"""A frame costs 2 to 40 us, mostly the receivers' work where they are on this machine."""


@dataclass(slots=True)
class _Told:
    """One address of a VIP and the broadcasts that announce it."""

    port: Port
    packed: bytes
    text: str
    net: Net
    router: bool
    first: bytes = b""
    """Gratuitous request, or advertisement to all nodes."""
    second: bytes = b""
    """Gratuitous reply, or advertisement to all routers."""

    def pack(self) -> None:
        mac = self.port.mac or bytes(6)
        if len(self.packed) == 4:
            self.first = frames.gratuitous_request(mac, self.packed)
            self.second = frames.gratuitous_reply(mac, self.packed)
        else:
            self.first = frames.advertisement(mac, self.packed, router=self.router)
            self.second = frames.advertisement(mac, self.packed, router=self.router, everyone=False)

    def directed(self, host: bytes, host_mac: bytes | None) -> bytes:
        mac = self.port.mac or bytes(6)
        if len(self.packed) == 4:
            return frames.directed_request(mac, self.packed, host, host_mac or frames.BROADCAST)
        if host_mac:
            return frames.directed_advertisement(mac, self.packed, host, host_mac, router=self.router)
        return frames.solicitation(mac, self.packed, host)


class _Broadcast(NamedTuple):
    vip: VipName
    told: _Told
    second: bool
    occasion: Occasion


class _Lane(NamedTuple):
    lane: Lane
    interface: str
    """Where its hosts are; empty: wherever a VIP's network is theirs."""


class Announcer:
    """Carries out `Announce`, `LearnNeighbours` and `ForgetNeighbours`.

    ``interval`` in seconds is that of the ARP cache: what a departed member told is kept for three of them.
    Call `link_changed` with each change of an interface (`AddressDriver`'s ``on_link``).
    """

    def __init__(
        self,
        vips: tuple[Vip, ...],
        notify: tuple[NotifyTarget, ...],
        use_arp_cache: bool,
        *,
        clock: Callable[[], float],
        on_event: Callable[[Event], None],
        interval: float = 90.0,
    ) -> None:
        self._clock = clock
        self._on_event = on_event
        self._ports: dict[str, Port] = {}
        self._links: dict[str, LinkRecord] = {}
        self._cache = NeighbourCache()
        self._first: deque[_Broadcast] = deque()
        self._second: deque[_Broadcast] = deque()
        self._lanes: list[_Lane] = []
        self._told: dict[VipName, tuple[_Told, ...]] = {}
        self._own: set[bytes] = set()
        self._turn: asyncio.Handle | None = None
        self._leaving: dict[NodeName, asyncio.Handle] = {}
        self._settings = (vips, notify, use_arp_cache, interval)

    async def open(self) -> None:
        """Reads the interfaces and opens a socket on each that VIPs use. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        frames.prepare()
        self._links = {link.name: link for link in rtnetlink.current_links()}
        self.reconfigure(*self._settings)

    def close(self) -> None:
        for handle in (self._turn, *self._leaving.values()):
            if handle:
                handle.cancel()
        self._first.clear()
        self._second.clear()
        for port in self._ports.values():
            port.close()
        self._ports.clear()

    def reconfigure(
        self, vips: tuple[Vip, ...], notify: tuple[NotifyTarget, ...], use_arp_cache: bool, interval: float
    ) -> None:
        """Takes over new definitions. Directed announcements under way end; the next announcement repeats them."""
        self._interval = interval
        names = {address.interface for vip in vips for address in vip.addresses}
        for name in self._ports.keys() - names:
            self._ports.pop(name).close()
        for name in names - self._ports.keys():
            self._ports[name] = Port(name)
            self._ports[name].follow(self._links.get(name))
        routers = {name: _forwards(name) for name in names}
        self._told = {
            vip.name: tuple(
                _Told(
                    self._ports[address.interface],
                    ip_address(address.address).packed,
                    address.address,
                    net(address.interface, address.network),
                    routers[address.interface],
                )
                for address in vip.addresses
            )
            for vip in vips
        }
        self._own = {told.packed for each in self._told.values() for told in each}
        self._pack(None)
        nets = tuple(dict.fromkeys(told.net for each in self._told.values() for told in each))
        self._cache.reconfigure(nets)
        self._lanes = [_Lane(_ranged(target, nets), target.interface) for target in notify]
        if use_arp_cache:
            self._lanes.append(_Lane(Lane(lambda: self._cache.hosts, CACHE_THROTTLE), ""))

    def link_changed(self, name: str, link: LinkRecord | None) -> None:
        """The kernel's word on an interface; None: it is gone."""
        if link is None:
            self._links.pop(name, None)
        else:
            self._links[name] = link
        port = self._ports.get(name)
        if port is not None and port.follow(link):
            self._pack(port)

    def announce(self, vips: tuple[VipName, ...], occasion: Occasion) -> None:
        """Sends the broadcasts (the first slice of them before it returns), then tells targets and ARP cache."""
        for vip in vips:
            for told in self._told.get(vip, ()):
                self._first.append(_Broadcast(vip, told, False, occasion))
                self._second.append(_Broadcast(vip, told, True, occasion))
            for each in self._lanes:
                if vip in self._told:
                    each.lane.start(vip, occasion)
        if self._turn is not None:
            self._turn.cancel()
        self._next_slice()

    def withdraw(self, vips: tuple[VipName, ...]) -> None:
        """Nothing more is sent for these, paced frames included."""
        gone = set(vips)
        self._first = deque(each for each in self._first if each.vip not in gone)
        self._second = deque(each for each in self._second if each.vip not in gone)
        for each in self._lanes:
            each.lane.stop(gone)

    def local(self, entries: tuple[NeighbourEntry, ...]) -> None:
        """This node's own neighbours."""
        self._cache.local(entries)
        self._tell_cache()

    def learn(self, member: NodeName, entries: tuple[NeighbourEntry, ...]) -> None:
        """A member's neighbours; they replace what it told before."""
        self._keep(member)
        self._cache.learn(member, entries)
        self._tell_cache()

    def forget(self, member: NodeName) -> None:
        """The member has left: its entries are kept for three intervals."""
        self._keep(member)
        self._leaving[member] = self._loop.call_later(3 * self._interval, self._drop, member)

    def _keep(self, member: NodeName) -> None:
        handle = self._leaving.pop(member, None)
        if handle:
            handle.cancel()

    def _drop(self, member: NodeName) -> None:
        self._leaving.pop(member, None)
        self._cache.drop(member)
        self._tell_cache()

    def _tell_cache(self) -> None:
        self._on_event(ArpCacheChanged(self._clock(), self._cache.local_size, len(self._cache.hosts)))

    def _pack(self, port: Port | None) -> None:
        for each in self._told.values():
            for told in each:
                if port is None or told.port is port:
                    told.pack()

    # Sending.

    def _next_slice(self) -> None:
        self._turn = None
        started = self._clock()
        sent: list[tuple[VipName, str, str, str, Occasion, str]] = []
        while len(sent) < SLICE_FRAMES:
            if self._first or self._second:
                self._broadcast((self._first or self._second).popleft(), sent)
            elif not self._direct(sent):
                break
            if not len(sent) % 16 and self._clock() - started > SLICE_SECONDS:
                break
        at = self._clock()
        for vip, interface, kind, target, occasion, error in sent:
            self._on_event(ArpSent(at, vip, interface, kind, target, occasion, error))
        self._schedule()

    def _broadcast(self, each: _Broadcast, sent: list[tuple[VipName, str, str, str, Occasion, str]]) -> None:
        told = each.told
        error = told.port.send(told.second if each.second else told.first)
        kind = ("reply" if each.second else "request") if len(told.packed) == 4 else "na"
        sent.append((each.vip, told.port.name, kind, told.text, each.occasion, error))

    def _direct(self, sent: list[tuple[VipName, str, str, str, Occasion, str]]) -> bool:
        """Tells one host of one VIP; False: there is nothing to tell now."""
        now = self._clock()
        for lane, interface in self._lanes:
            telling = lane.take(now)
            if telling is not None:
                self._tell(telling, interface, sent)
                return True
        return False

    def _tell(self, telling: Telling, interface: str, sent: list[tuple[VipName, str, str, str, Occasion, str]]) -> None:
        if telling.host in self._own:
            return
        mac = self._cache.mac(telling.host)
        for told in self._told.get(telling.vip, ()):
            if told.net.holds(telling.host) and interface in ("", told.port.name):
                error = told.port.send(told.directed(telling.host, mac))
                host = str(ip_address(telling.host))
                sent.append((telling.vip, told.port.name, "directed", host, telling.occasion, error))

    def _schedule(self) -> None:
        """Comes back at once while broadcasts wait, else when the first lane may go on."""
        if self._first or self._second:
            self._turn = self._loop.call_soon(self._next_slice)
            return
        dues = [due for due in (each.lane.due() for each in self._lanes) if due is not None]
        if dues:
            wait = min(dues) - self._clock()
            self._turn = (
                self._loop.call_soon(self._next_slice) if wait <= 0 else self._loop.call_later(wait, self._next_slice)
            )


def _ranged(target: NotifyTarget, nets: tuple[Net, ...]) -> Lane:
    hosts = Ranges(target, nets)
    return Lane(lambda: hosts, target.throttle)


def _forwards(interface: str) -> bool:
    """Whether this host is an IPv6 router on the interface."""
    try:
        return Path("/proc/sys/net/ipv6/conf", interface, "forwarding").read_text().strip() != "0"
    except OSError:
        return False
