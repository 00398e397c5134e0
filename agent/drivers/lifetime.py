"""The address lifetime: what is not renewed the kernel itself takes off its interface, whatever becomes of the agent.

The kernel counts whole seconds and is up to 2.5 s late, so this is the backstop behind the fast lease. It needs no
nf_tables, and it removes the address instead of silencing it.

Renewing costs 10 us an IPv4 address; an IPv6 address 10 us and 0.27 us more for each other IPv6 address on the machine,
since the kernel looks through all of them each time: 3 ms for 100, 0.3 s for 1,000, 6 s for 4,000. So that this never
takes more than `SHARE` of a processor per family, the lifetime grows with the number of addresses: with more than 1,000
of IPv4 and 180 of IPv6 at 3 s.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agent.core.events import Event, LeaseLost, LeaseRenewed
from agent.core.settings import Vip
from agent.drivers.records import AddressKey

LAYER = "address"

SHARE = 0.01
"""Most of a processor for renewals, per address family."""

LINEAR, QUADRATIC = {4: 12e-6, 16: 12e-6}, {4: 0.0, 16: 0.3e-6}
"""Seconds to renew n addresses, per length of an address: LINEAR n + QUADRATIC n^2 (tests/bench/renewal.py)."""

RENEW_AT = 0.4
"""Part of the lifetime after which all are renewed."""

SPREAD = 0.5
"""Part of the time up to the next renewal over which one is spread."""

SLICE, SLICE_LEAST = 64, 1
SLICE_SECONDS = 0.003
"""What a slice may take of the event loop: the next one is cut to it."""

FUZZ = 0.5
"""Seconds by which the kernel may take an address off early: it rounds ages to the next quarter of a second."""


class Lifetimes(NamedTuple):
    """Seconds per address family; 0: for ever."""

    version4: int
    version6: int

    def of(self, packed: bytes) -> int:
        return self.version4 if len(packed) == 4 else self.version6


def lifetimes(least: int, counts: Mapping[int, int]) -> Lifetimes:
    """What `least`, in seconds, has to become for so many addresses per length; 0 stays 0."""
    if not least:
        return Lifetimes(0, 0)
    found = []
    for length in (4, 16):
        count = counts.get(length, 0)
        cost = LINEAR[length] * count + QUADRATIC[length] * count * count
        found.append(max(least, math.ceil(cost / SHARE / RENEW_AT)))
    return Lifetimes(*found)


class AddressLifetime:
    """Keeps the lifetimes of an address driver's addresses from running out, and tells when they did.

    ``renew`` is asked for a slice at a time. ``least`` in seconds; 0: addresses are for ever, and nothing is done.
    """

    def __init__(
        self,
        least: int,
        *,
        clock: Callable[[], float],
        held: Callable[[], Iterable[AddressKey]],
        renew: Callable[[Sequence[AddressKey]], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self._least = least
        self._clock = clock
        self._on_event = on_event
        self._began: dict[AddressKey, float] = {}
        """When each address was last put up or renewed, at the latest."""
        self._held = held
        self.seconds = Lifetimes(least, least)
        self._rounds = [
            _Rounds(
                length,
                clock=clock,
                seconds=lambda length: self.seconds.of(bytes(length)),
                held=self._held_of,
                renew=renew,
                on_round=self._renewed,
            )
            for length in (4, 16)
        ]

    def _held_of(self, length: int) -> list[AddressKey]:
        return [key for key in self._held() if len(key.packed) == length]

    def configure(self, vips: Iterable[Vip]) -> None:
        """All VIPs that may be held at once."""
        self.seconds = lifetimes(
            self._least, Counter(16 if ":" in address.address else 4 for vip in vips for address in vip.addresses)
        )

    def start(self) -> None:
        """From now on everything is renewed in time. Within the event loop."""
        for rounds in self._rounds if self._least else ():
            rounds.start()

    def stop(self) -> None:
        for rounds in self._rounds:
            rounds.stop()

    def began(self, keys: Iterable[AddressKey], at: float) -> None:
        """The kernel counts these addresses' lifetimes from `at` on or later."""
        self._began.update(dict.fromkeys(keys, at))

    def forget(self, key: AddressKey) -> None:
        self._began.pop(key, None)

    def ran_out(self, key: AddressKey) -> bool:
        """Whether an address that is gone has been there for its lifetime, so that the kernel took it off."""
        began = self._began.get(key)
        return bool(self._least) and began is not None and self._clock() - began >= self.seconds.of(key.packed) - FUZZ

    def lost(self) -> None:
        """Addresses ran out before they were renewed."""
        self._on_event(LeaseLost(self._clock(), LAYER))

    def _renewed(self, margin: float, until: float) -> None:
        self._on_event(LeaseRenewed(self._clock(), LAYER, margin, until))


class _Rounds:
    """Renews the held addresses of one family over and over, in slices, each round spread over some time."""

    def __init__(
        self,
        length: int,
        *,
        clock: Callable[[], float],
        seconds: Callable[[int], int],
        held: Callable[[int], list[AddressKey]],
        renew: Callable[[Sequence[AddressKey]], None],
        on_round: Callable[[float, float], None],
    ) -> None:
        """`seconds` and `held` are asked with the `length` of the family's addresses.

        `on_round` gets what was left of the former lifetimes, in seconds, and until when the new ones last.
        """
        self._length = length
        self._clock, self._seconds, self._held, self._renew = clock, seconds, held, renew
        self._on_round = on_round
        self._timer: asyncio.Handle | None = None
        self._work: list[AddressKey] = []
        self._slice = SLICE
        self._began = 0.0
        self._ends = 0.0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends = self._clock() + self._seconds(self._length)
        self._later(RENEW_AT * self._seconds(self._length))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _later(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._next)

    def _next(self) -> None:
        if not self._work:
            self._began = self._clock()
            self._work = self._held(self._length)
            self._count = len(self._work)
        started = self._clock()
        part, self._work = self._work[: self._slice], self._work[self._slice :]
        if part:
            self._renew(part)
        spent = self._clock() - started
        if spent > SLICE_SECONDS:
            self._slice = max(SLICE_LEAST, int(self._slice * SLICE_SECONDS / spent))
        else:
            self._slice = min(SLICE, self._slice * 2)
        pause = RENEW_AT * self._seconds(self._length)
        if self._work:
            self._later(SPREAD * pause * len(part) / self._count)
            return
        margin, self._ends = self._ends - self._began, self._began + self._seconds(self._length)
        if part:
            self._on_round(margin, self._ends)
        self._later(max(0.0, self._began + pause - self._clock()))
