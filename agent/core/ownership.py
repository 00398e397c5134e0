"""What this node has on its interfaces, VIP by VIP, and when it announces it.

| VIP       | input                          | next      | output                        |
|-----------|--------------------------------|-----------|-------------------------------|
| (free)    | the record gives it to us      | ACQUIRING | Acquire                       |
| ACQUIRING | AddressesAdded, still ours     | HELD      | Announce, and again later     |
| ACQUIRING | AddressesAdded, no longer ours | RELEASING | Release                       |
| ACQUIRING | AddressesFailed                | (free)    | not tried before a pause      |
| HELD      | the record gives it away       | RELEASING | Release                       |
| HELD      | AddressLost                    | ACQUIRING | Acquire (cause repair)        |
| RELEASING | AddressesRemoved               | (free)    |                               |

While the node gathers nothing leaves (free) and no repair is made (R2): what it declared must stay true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from agent.core.effects import Acquire, Announce, Effect, Occasion, Release
from agent.core.events import (
    AcquireStarted,
    Announced,
    Event,
    ReleaseStarted,
    VipAcquired,
    VipAcquireFailed,
    VipLost,
    VipReleased,
)
from agent.core.ids import VipName
from agent.core.settings import Timing
from agent.core.view import Cause

RETRY_FIRST = 1.0
"""Seconds before a VIP that could not be put up is tried here again; doubled on each failure in a row."""
RETRY_MAX = 60.0
RIVAL_PAUSE = 10.0
"""The same for a VIP that a rival claimed: RFC 5227's DEFEND_INTERVAL."""


class Phase(Enum):
    ACQUIRING = "acquiring"
    HELD = "held"
    RELEASING = "releasing"


@dataclass(frozen=True, slots=True)
class Order:
    """Why the record gives a VIP to this node, and since when clients may have missed it."""

    cause: Cause
    since: float


@dataclass(slots=True)
class Holding:
    phase: Phase
    cause: Cause
    started: float
    since: float
    lost: bool = False
    """An address of it was taken away while nothing may be acquired: to be mended."""
    recalled: bool = False
    """Defined otherwise since its addition began: to be taken back when that is confirmed."""
    announce_at: float = float("inf")
    occasion: Occasion = Occasion.REPEAT

    @property
    def answers(self) -> bool:
        """All its addresses are up, as far as this node knows: it may be announced."""
        return self.phase is Phase.HELD and not self.lost


@dataclass(slots=True)
class Failure:
    until: float
    count: int
    pausing: bool = True


class Ownership:
    __slots__ = ("_failures", "_timing", "holdings", "unable")

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self.holdings: dict[VipName, Holding] = {}
        self._failures: dict[VipName, Failure] = {}
        self.unable: dict[VipName, str] = {}

    def configure(self, timing: Timing) -> None:
        self._timing = timing

    def held(self) -> tuple[VipName, ...]:
        """All that may be on an interface: additions and removals in flight included."""
        return tuple(sorted(self.holdings))

    def failed(self) -> tuple[VipName, ...]:
        """VIPs that this node cannot put up now."""
        failing = {vip for vip, failure in self._failures.items() if failure.pausing}
        return tuple(sorted(failing | set(self.unable))) if failing or self.unable else ()

    def deadline(self) -> float:
        announce = min((holding.announce_at for holding in self.holdings.values()), default=float("inf"))
        retry = min((f.until for f in self._failures.values() if f.pausing), default=float("inf"))
        return min(announce, retry)

    def reconcile(
        self,
        now: float,
        orders: Mapping[VipName, Order],
        may_acquire: Callable[[VipName], bool],
        released_for: Callable[[VipName], Cause],
    ) -> list[Effect | Event]:
        """Takes what the record gives to this node and lets go of the rest. Not to be called while gathering."""
        out: list[Effect | Event] = []
        giving_up = [vip for vip, holding in self.holdings.items() if vip not in orders and holding.phase is Phase.HELD]
        out += self.release(now, giving_up, released_for)
        failed = set(self.failed())
        taking = []
        for vip, order in orders.items():
            holding = self.holdings.get(vip)
            if holding is not None and holding.lost and holding.phase is Phase.HELD:
                holding.phase, holding.lost = Phase.ACQUIRING, False
                holding.cause, holding.started, holding.since = Cause.REPAIR, now, now
                holding.announce_at = float("inf")
            elif holding is None and vip not in failed and may_acquire(vip):
                self.holdings[vip] = Holding(Phase.ACQUIRING, order.cause, now, order.since)
            else:
                continue
            taking.append(vip)
            out.append(AcquireStarted(now, vip, self.holdings[vip].cause))
        if taking:
            out.append(Acquire(tuple(taking)))
        return out

    def release(
        self, now: float, vips: Iterable[VipName], released_for: Callable[[VipName], Cause]
    ) -> list[Effect | Event]:
        """Lets go of those that are held; an addition in flight is taken back when it is confirmed."""
        out: list[Effect | Event] = []
        going = []
        for vip in vips:
            holding = self.holdings[vip]
            if holding.phase is Phase.HELD:
                holding.phase, holding.started, holding.cause = Phase.RELEASING, now, released_for(vip)
                holding.announce_at = float("inf")
                going.append(vip)
                out.append(ReleaseStarted(now, vip, holding.cause))
        if going:
            out.insert(0, Release(tuple(going)))
        return out

    def added(self, now: float, vips: Iterable[VipName], ours: Callable[[VipName], bool]) -> list[Effect | Event]:
        """AddressesAdded. `ours`: whether it may be kept."""
        out: list[Effect | Event] = []
        keep, back = [], []
        for vip in vips:
            holding = self.holdings.get(vip)
            if holding is None or holding.phase is not Phase.ACQUIRING:
                continue
            holding.phase = Phase.HELD
            self._failures.pop(vip, None)
            if holding.recalled or not ours(vip):
                back.append(vip)
                continue
            keep.append(vip)
            holding.announce_at, holding.occasion = now + self._timing.announce_repeat, Occasion.REPEAT
            out.append(VipAcquired(now, vip, holding.cause, holding.started, holding.since))
        if keep:
            announced = tuple(keep)
            out.insert(0, Announce(announced, Occasion.ACQUIRE))
            out.append(Announced(now, announced, Occasion.ACQUIRE))
        out += self.release(now, back, lambda vip: self.holdings[vip].cause)
        return out

    def redefined(self, vips: Iterable[VipName]) -> None:
        """What is known of these is about other addresses: an addition in flight is taken back, a failure forgotten."""
        for vip in vips:
            self._failures.pop(vip, None)
            if (holding := self.holdings.get(vip)) is not None and holding.phase is Phase.ACQUIRING:
                holding.recalled = True

    def could_not(self, now: float, vip: VipName, reason: str, detail: str) -> list[Effect | Event]:
        """AddressesFailed: nothing of it is up."""
        holding = self.holdings.get(vip)
        if holding is None or holding.phase is not Phase.ACQUIRING:
            return []
        del self.holdings[vip]
        count = self._failures[vip].count + 1 if vip in self._failures else 1
        pause = min(RETRY_MAX, RETRY_FIRST * 2.0 ** (count - 1))
        self._failures[vip] = Failure(now + pause, count)
        return [VipAcquireFailed(now, vip, reason, detail, pause)]

    def removed(self, now: float, vips: Iterable[VipName]) -> list[Effect | Event]:
        """AddressesRemoved."""
        out: list[Effect | Event] = []
        for vip in vips:
            holding = self.holdings.get(vip)
            if holding is not None and holding.phase is Phase.RELEASING:
                del self.holdings[vip]
                out.append(VipReleased(now, vip, holding.cause, holding.started))
        return out

    def lost(self, now: float, vip: VipName, detail: str) -> list[Effect | Event]:
        """AddressLost: mended at the next reconciliation."""
        holding = self.holdings.get(vip)
        if holding is None or holding.phase is not Phase.HELD:
            return []
        holding.lost = True
        return [VipLost(now, vip, detail)]

    def rival(self, now: float, vip: VipName) -> list[Effect | Event]:
        """RivalSeen: it is given up, and not tried here again before a pause (RFC 5227 2.4, case a)."""
        holding = self.holdings.get(vip)
        if holding is None or holding.phase is not Phase.HELD:
            return []
        count = self._failures[vip].count + 1 if vip in self._failures else 1
        self._failures[vip] = Failure(now + min(RETRY_MAX, RIVAL_PAUSE * 2.0 ** (count - 1)), count)
        return self.release(now, [vip], lambda _: Cause.CONFLICT)

    def leaving_besides(self, orders: Mapping[VipName, Order]) -> bool:
        """Whether anything is on an interface, or may come onto one, that the record does not give to this node."""
        return any(
            vip not in orders or holding.phase is Phase.RELEASING or holding.recalled
            for vip, holding in self.holdings.items()
        )

    def announce(self, now: float, vips: Iterable[VipName], occasion: Occasion) -> list[Effect | Event]:
        """At once, for those that are held, and once more after the locktime."""
        going = tuple(vip for vip in vips if vip in self.holdings and self.holdings[vip].answers)
        if not going:
            return []
        for vip in going:
            holding = self.holdings[vip]
            holding.announce_at, holding.occasion = now + self._timing.announce_repeat, Occasion.REPEAT
        return [Announce(going, occasion), Announced(now, going, occasion)]

    def announce_due(self, now: float) -> list[Effect | Event]:
        """Repetitions and refreshes whose time has come."""
        out: list[Effect | Event] = []
        due: dict[Occasion, list[VipName]] = {}
        for vip, holding in self.holdings.items():
            if holding.answers and holding.announce_at <= now:
                due.setdefault(holding.occasion, []).append(vip)
                holding.announce_at, holding.occasion = now + self._timing.announce_refresh, Occasion.REFRESH
        for occasion, vips in due.items():
            out += [Announce(tuple(vips), occasion), Announced(now, tuple(vips), occasion)]
        return out

    def end_pauses(self, now: float) -> None:
        """A VIP may be tried again here; the count lasts until an acquisition succeeds."""
        for failure in self._failures.values():
            if failure.until <= now:
                failure.pausing = False
