"""Asks whether anybody has a VIP before it is put up here (`conflict.probe`; RFC 5227 2.1, RFC 4862 5.4 in short).

The RFCs ask three times in up to seven seconds, for hosts that come to a network unasked. A VIP that moves cannot wait
so long: two questions 20 ms apart, and 20 ms after the second the answer is no. A host answers ARP and solicitations
in its kernel, in 0.1 ms on a wired network. What runs above the kernel waits up to 4 ms for a busy processor (99 of
100 times, measured): a question is open for five times that, and one lost frame is no answer yet. The
price is 40 ms for each acquisition, a tenth more outage under the profile `lan`. Hosts that sleep (Wi-Fi) may be
missed; the watch sees them when they speak.

Fellow members do not count: what they still have is the group's business.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent.core.effects import Occasion
from agent.core.events import ArpSent, ConflictSeen, Event
from agent.core.ids import VipName
from agent.core.inputs import AddressesFailed, Input
from agent.core.settings import Vip
from agent.drivers import frames
from agent.drivers.watch import ConflictWatch, Sighting

QUESTIONS = 2
PAUSE = 0.02
"""Seconds after each question."""

SLICE = 64
"""VIPs asked for in one turn of the loop: 1 to 3 ms."""


class Addresses(Protocol):
    """`AddressDriver`, or another driver around it (leases)."""

    @property
    def busy(self) -> bool: ...

    def acquire(self, vips: tuple[VipName, ...]) -> None: ...

    def release(self, vips: tuple[VipName, ...]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Target:
    interface: str
    text: str
    packed: bytes


@dataclass(slots=True, eq=False)
class _Batch:
    """VIPs that are asked for together; those that were answered or released are taken out."""

    vips: dict[VipName, None]
    asked: int = 0
    handle: asyncio.Handle | None = None


class Prober:
    """Stands before an address driver; made only where the option is set. Answers as `AddressDriver` does.

    A VIP that a stranger answers for is answered by `AddressesFailed` (reason ``conflict``); one that is released while
    it is asked for by `AddressesRemoved` alone.
    """

    def __init__(
        self,
        vips: tuple[Vip, ...],
        addresses: Addresses,
        watch: ConflictWatch,
        *,
        clock: Callable[[], float],
        on_input: Callable[[Input], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self._addresses = addresses
        self._watch = watch
        self._clock = clock
        self._on_input = on_input
        self._on_event = on_event
        self._batches: dict[VipName, _Batch] = {}
        self.reconfigure(vips)
        watch.on_sighting = self._seen

    def close(self) -> None:
        """What is being asked for is dropped without an answer."""
        for batch in set(self._batches.values()):
            if batch.handle is not None:
                batch.handle.cancel()
        self._batches.clear()

    def reconfigure(self, vips: tuple[Vip, ...]) -> None:
        """Takes over new definitions; a question that is out stays about the old ones."""
        self._targets = {
            vip.name: tuple(_target(address.interface, address.address) for address in vip.addresses) for vip in vips
        }

    @property
    def busy(self) -> bool:
        """Whether requests wait for their turn of the loop, or for silence."""
        return bool(self._batches) or self._addresses.busy

    def acquire(self, vips: tuple[VipName, ...]) -> None:
        """Asks; after the silence the driver acquires. What is held here and lost an address is mended unasked."""
        loop = asyncio.get_running_loop()
        mended = tuple(vip for vip in vips if self._watch.holds(vip))
        if mended:
            self._addresses.acquire(mended)
        fresh = [vip for vip in vips if vip not in self._batches and vip not in mended]
        for position in range(0, len(fresh), SLICE):
            batch = _Batch(dict.fromkeys(fresh[position : position + SLICE]))
            self._batches.update(dict.fromkeys(batch.vips, batch))
            batch.handle = loop.call_soon(self._turn, batch)
            if not position:
                batch.handle.cancel()
                self._turn(batch)

    def release(self, vips: tuple[VipName, ...]) -> None:
        """Takes questions back; the driver answers, also for those of which nothing is up."""
        for vip in vips:
            if vip in self._batches:
                self._take_out(vip)
        self._addresses.release(vips)

    def _turn(self, batch: _Batch) -> None:
        """Asks once more, or ends the wait."""
        batch.handle = None
        if batch.asked == QUESTIONS:
            self._watch.look()  # an answer that waits in the socket came in time, however late this turn is
            going = tuple(batch.vips)
            for vip in going:
                del self._batches[vip]
            if going:
                self._addresses.acquire(going)
            return
        batch.asked += 1
        for vip in batch.vips:
            for target in self._targets.get(vip, ()):
                self._ask(vip, target)
        if batch.vips:
            batch.handle = asyncio.get_running_loop().call_later(PAUSE, self._turn, batch)

    def _ask(self, vip: VipName, target: _Target) -> None:
        mac = self._watch.mac(target.interface)
        if not mac:
            return  # no such interface: the driver says so
        four = len(target.packed) == 4
        frame = frames.probe(mac, target.packed) if four else frames.duplicate_solicitation(mac, target.packed)
        error = self._watch.send(target.interface, frame)
        self._on_event(ArpSent(self._clock(), vip, target.interface, "probe", target.text, Occasion.ACQUIRE, error))

    def _seen(self, rival: Sighting) -> None:
        if rival.vip not in self._batches:
            return
        self._take_out(rival.vip)
        mac = rival.mac.hex(":")
        self._on_event(ConflictSeen(self._clock(), rival.vip, rival.address, rival.interface, mac, "yielded"))
        detail = f"{rival.address} on {rival.interface} is answered for by {mac}, which is no member's"
        self._on_input(AddressesFailed(rival.vip, "conflict", detail))

    def _take_out(self, vip: VipName) -> None:
        batch = self._batches.pop(vip)
        del batch.vips[vip]
        if not batch.vips and batch.handle is not None:
            batch.handle.cancel()


def _target(interface: str, address: str) -> _Target:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return _Target(interface, address, socket.inet_pton(family, address))
