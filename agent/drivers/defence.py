"""What is done about hosts that claim a VIP which this node holds (RFC 5227 2.4), and how often it is told. No I/O.

A defence is two rounds of announcements: one at once, and one `AGAIN` seconds after the rival's last claim, for hosts
that ignore a change within a second of the last (Linux' locktime) and against rivals that announce a few times in a
row. Then the VIP is not defended until `DEFEND_INTERVAL` is over. RFC 5227 2.4 (c) asks for that, and it keeps two
defenders of one address from flooding the network. A claim in that time is answered at its end, also where it was
the last: else its hearers would believe the rival until their entries age out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.core.ids import VipName

DEFEND_INTERVAL = 10.0
"""Seconds from the beginning of a defence to the next of the same VIP (RFC 5227 1.1)."""

AGAIN = 1.1
"""Seconds: as in an ordinary announcement (`Timing.announce_repeat`)."""

AGAIN_MAX = 5.0
"""Seconds after the first round in which the second is sent, however often the rival repeats itself."""

QUIET = 1.0
"""Seconds between two events about one VIP and one rival."""

RIVALS_MAX = 8
"""Hardware addresses told of per VIP and `QUIET`; more are counted only (they are made up)."""

TOLD_MAX = 100
"""Events per second about all VIPs, those of defences apart (which are rare by themselves)."""

GRAIN = 0.1
"""Seconds: how exactly second rounds and the ends of intervals are kept. One timer serves all VIPs."""


class Verdict(NamedTuple):
    answer: str
    """As in `ConflictSeen`."""
    tell: bool
    """False: the claim is counted only."""


@dataclass(slots=True)
class _Contest:
    until: float
    """When it may be defended anew."""
    again: float | None
    """When the second round is due; None: it is over."""
    latest: float
    owed: bool = False
    """Claimed since the last round."""
    quiet: dict[bytes, float] = field(default_factory=dict)
    """By rival: when it may be told of again."""


class Defence:
    """Times are seconds of one clock. `yielding`: give up instead of defending."""

    def __init__(self, *, yielding: bool) -> None:
        self.yielding = yielding
        self._contests: dict[VipName, _Contest] = {}
        self._second = 0.0
        self._told = 0

    @property
    def any(self) -> bool:
        """Whether `take` will have something to do."""
        return bool(self._contests)

    def claimed(self, now: float, vip: VipName, mac: bytes) -> Verdict:
        rival = b"" if self.yielding else mac  # the VIP is given up once, however many claim it
        contest = self._contests.get(vip)
        if contest is None or now >= contest.until:
            self._contests[vip] = begun = _begun(now, contest, second=not self.yielding)
            begun.quiet[rival] = now + QUIET
            return Verdict("yielded" if self.yielding else "defended", True)
        if contest.again is not None:
            contest.again = min(now + AGAIN, contest.latest)
        else:
            contest.owed = not self.yielding
        return Verdict("yielded" if self.yielding else "noted", self._tells(now, contest, rival))

    def take(self, now: float) -> tuple[VipName, ...]:
        """VIPs to be announced now."""
        going = []
        for vip, contest in list(self._contests.items()):
            if contest.again is not None and contest.again <= now:
                contest.again = None
                going.append(vip)
            elif contest.until <= now:
                if contest.owed:
                    self._contests[vip] = _begun(now, contest, second=True)
                    going.append(vip)
                else:
                    del self._contests[vip]
        return tuple(going)

    def forget(self, vips: Iterable[VipName]) -> None:
        """They are not this node's any more."""
        for vip in vips:
            self._contests.pop(vip, None)

    def _tells(self, now: float, contest: _Contest, mac: bytes) -> bool:
        if now < contest.quiet.get(mac, 0.0):
            return False
        if len(contest.quiet) >= RIVALS_MAX:
            contest.quiet = {rival: end for rival, end in contest.quiet.items() if now < end}
        if now - self._second >= 1.0:
            self._second, self._told = now, 0
        if len(contest.quiet) >= RIVALS_MAX or self._told >= TOLD_MAX:
            return False
        self._told += 1
        contest.quiet[mac] = now + QUIET
        return True


def _begun(now: float, before: _Contest | None, *, second: bool) -> _Contest:
    quiet = {rival: end for rival, end in before.quiet.items() if now < end} if before else {}
    return _Contest(now + DEFEND_INTERVAL, now + AGAIN if second else None, now + AGAIN_MAX, quiet=quiet)
