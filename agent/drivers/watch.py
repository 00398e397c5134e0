"""Listens for hosts that claim a VIP of this node: ARP, and neighbour discovery where there are IPv6 VIPs.

Who is no rival: this machine itself by any of its interfaces, and fellow members, whose claims the group's own rules
settle. The kernel leaves both out, and all that is about other addresses (`bpf_filter`), so that the traffic of the
network costs this program nothing. The filter holds all *configured* VIPs: so it need not be changed while VIPs move,
and what it lets pass is asked again here, exactly.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from agent.core.events import ConflictSeen, Event
from agent.core.ids import NodeName, VipName
from agent.core.inputs import HardwareKnown, Input, RivalSeen
from agent.core.settings import Vip
from agent.drivers import bpf_filter, frames, rtnetlink
from agent.drivers.defence import GRAIN, Defence
from agent.drivers.ear import Ear
from agent.drivers.records import LinkRecord

ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD

Policy = Literal["defend", "yield"]


class Sighting(NamedTuple):
    """A claim to a configured VIP by a host that is neither this machine nor a fellow."""

    vip: VipName
    address: str
    interface: str
    mac: bytes


class _Claimable(NamedTuple):
    vip: VipName
    text: str


class ConflictWatch:
    """Reports `ConflictSeen`, `HardwareKnown`, and under the policy `yield` `RivalSeen`.

    ``defend`` announces VIPs; it is called for held ones only: when a rival claims one, and when `Defence` says again.
    Call `link_changed` with each change of any interface (`AddressDriver`'s ``on_link``), also before `open`.
    """

    def __init__(
        self,
        vips: tuple[Vip, ...],
        policy: Policy,
        *,
        clock: Callable[[], float],
        on_input: Callable[[Input], None],
        on_event: Callable[[Event], None],
        defend: Callable[[tuple[VipName, ...]], None],
    ) -> None:
        self._settings = (vips, policy)
        self._clock = clock
        self._on_input = on_input
        self._on_event = on_event
        self._defend = defend
        self.claims: Counter[VipName] = Counter()
        """Claims to VIPs while they were held here, those that no event tells of included."""
        self.on_sighting: Callable[[Sighting], None] = lambda sighting: None
        """Hears of every claim, also to VIPs that are not held: for the probe."""
        self._claimable: dict[tuple[str, bytes], _Claimable] = {}
        self._held: set[VipName] = set()
        self._fellows: dict[bytes, NodeName] = {}
        self._links: dict[str, LinkRecord] = {}
        self._own: frozenset[bytes] = frozenset()
        self._hardware: tuple[str, ...] | None = None
        self._ears: dict[tuple[str, int], Ear] = {}
        self._defence = Defence(yielding=False)
        self._timer: asyncio.Handle | None = None
        self._filtering: asyncio.Handle | None = None
        self._open = False

    async def open(self) -> None:
        """To be called when the address driver is open. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._links = {link.name: link for link in rtnetlink.current_links()}
        self._own = self._macs()
        self._open = True
        self.reconfigure(*self._settings)

    def close(self) -> None:
        self._open = False
        for handle in (self._timer, self._filtering):
            if handle:
                handle.cancel()
        for ear in self._ears.values():
            ear.close()
        self._ears.clear()

    def missed(self) -> int:
        """Claims that were not looked at, because too many came; since the last change of definitions."""
        return sum(ear.missed() for ear in self._ears.values())

    def reconfigure(self, vips: tuple[Vip, ...], policy: Policy) -> None:
        """Takes over new definitions. Raises OSError when a socket cannot be had."""
        self._settings = (vips, policy)
        self._defence.yielding = policy == "yield"
        self._claimable = {}
        wanted: dict[tuple[str, int], None] = {}
        for vip in vips:
            for address in vip.addresses:
                family = socket.AF_INET6 if ":" in address.address else socket.AF_INET
                packed = socket.inet_pton(family, address.address)
                self._claimable[address.interface, packed] = _Claimable(vip.name, address.address)
                wanted[address.interface, ETH_P_IPV6 if len(packed) == 16 else ETH_P_ARP] = None
        names = {vip.name for vip in vips}
        self.not_held(tuple(self._held - names))
        self.claims = Counter({vip: count for vip, count in self.claims.items() if vip in names})
        for key in self._ears.keys() - wanted.keys():
            self._ears.pop(key).close()
        for interface, protocol in wanted.keys() - self._ears.keys():
            self._ears[interface, protocol] = Ear(interface, protocol, self._hear)
        self._filter()
        for ear in self._ears.values():
            ear.follow(self._links.get(ear.interface))
        self._tell_hardware()

    # What others tell.

    def link_changed(self, name: str, link: LinkRecord | None) -> None:
        """The kernel's word on an interface; None: it is gone."""
        if link is None:
            self._links.pop(name, None)
        else:
            self._links[name] = link
        if not self._open:
            return
        own = self._macs()
        if own != self._own:
            self._own = own
            self._filter_soon()
        for (interface, _), ear in self._ears.items():
            if interface == name:
                ear.follow(link)
        self._tell_hardware()

    def fellows(self, macs: tuple[tuple[str, NodeName], ...]) -> None:
        """Hardware addresses of all other members; replaces the former ones."""
        self._fellows = {bytes.fromhex(mac.replace(":", "")): node for mac, node in macs}
        self._filter_soon()

    def held(self, vips: tuple[VipName, ...]) -> None:
        """They are up here and announced: from now on whoever else claims them is a rival."""
        self._held.update(vips)

    def not_held(self, vips: tuple[VipName, ...]) -> None:
        """They are about to leave this node: nothing is announced for them any more."""
        self._held.difference_update(vips)
        self._defence.forget(vips)

    # For the probe.

    def holds(self, vip: VipName) -> bool:
        return vip in self._held

    def mac(self, interface: str) -> bytes:
        """Empty: no such interface, or no Ethernet."""
        link = self._links.get(interface)
        return link.mac if link is not None and len(link.mac) == 6 else b""

    def send(self, interface: str, frame: bytes) -> str:
        """By the socket that hears the answer. Empty: sent; else the name of the error."""
        ear = self._ears.get((interface, int.from_bytes(frame[12:14], "big")))
        return ear.send(frame) if ear is not None else "ENODEV"

    def look(self) -> None:
        """Takes in what has arrived already."""
        for ear in list(self._ears.values()):
            ear.look()

    # The interfaces.

    def _macs(self) -> frozenset[bytes]:
        return frozenset(link.mac for link in self._links.values() if len(link.mac) == 6 and any(link.mac))

    def _tell_hardware(self) -> None:
        known = {self.mac(interface) for interface, _ in self._ears} - {b""}
        hardware = tuple(sorted(mac.hex(":") for mac in known))
        if hardware != self._hardware:
            self._hardware = hardware
            self._on_input(HardwareKnown(hardware))

    def _filter_soon(self) -> None:
        """Not at once: members become known in view changes, and a long filter costs a few milliseconds.

        Until then a frame that should not have passed is left out here.
        """
        if self._open and self._filtering is None:
            self._filtering = self._loop.call_soon(self._filter)

    def _filter(self) -> None:
        if self._filtering is not None:
            self._filtering.cancel()
            self._filtering = None
        addresses: dict[tuple[str, int], list[bytes]] = {key: [] for key in self._ears}
        for interface, packed in self._claimable:
            addresses[interface, ETH_P_IPV6 if len(packed) == 16 else ETH_P_ARP].append(packed)
        for (interface, protocol), ear in self._ears.items():
            build = bpf_filter.arp if protocol == ETH_P_ARP else bpf_filter.neighbour_discovery
            near = self.mac(interface)
            known = dict.fromkeys([near] if near else [])
            known.update(dict.fromkeys(sorted(self._fellows)))
            known.update(dict.fromkeys(sorted(self._own)))
            ear.hear(partial(build, tuple(addresses[interface, protocol]), list(known)))

    # Claims.

    def _hear(self, interface: str, frame: bytes) -> None:
        claim = frames.parse_arp(frame) or frames.parse_nd(frame)
        if claim is None or claim.mac in self._own or claim.mac in self._fellows:
            return
        claimed = self._claimable.get((interface, claim.address))
        if claimed is None:
            return
        sighting = Sighting(claimed.vip, claimed.text, interface, claim.mac)
        self.on_sighting(sighting)
        if claimed.vip in self._held:
            self._answer(sighting)

    def _answer(self, rival: Sighting) -> None:
        now = self._clock()
        self.claims[rival.vip] += 1
        verdict = self._defence.claimed(now, rival.vip, rival.mac)
        mac = rival.mac.hex(":")
        if verdict.answer == "defended":
            self._defend((rival.vip,))
        if verdict.tell:
            self._on_event(ConflictSeen(now, rival.vip, rival.address, rival.interface, mac, verdict.answer))
        if self._timer is None:
            self._timer = self._loop.call_later(GRAIN, self._tick)
        if verdict.tell and verdict.answer == "yielded":
            self._on_input(RivalSeen(rival.vip, mac))

    def _tick(self) -> None:
        going = self._defence.take(self._clock())
        if going:
            self._defend(going)
        self._timer = self._loop.call_later(GRAIN, self._tick) if self._defence.any else None
