"""Who claimed an address when: what frames on the client's segment say about two nodes that both have it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.lab.arp import Seen

WINDOW = 0.02
"""Seconds: ten questions."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Two nodes claimed one address in turns."""

    address: str
    since: float
    until: float
    """Seconds of CLOCK_BOOTTIME: the other node's last claim before it, and its first after it."""
    claims: int
    """How many lay between two of another node."""


def stretches(frames: Iterable[Seen]) -> list[Stretch]:
    """All stretches of all addresses.

    A claim counts that lies between two of another node which are at most `WINDOW` apart. A move, and a later move
    back, have none. Claims of strangers do not count.
    """
    by_address: dict[str, list[tuple[float, str]]] = {}
    for frame in frames:
        if frame.node:
            by_address.setdefault(frame.address, []).append((frame.at, frame.node))
    return [one for address, claims in by_address.items() for one in _of_one(address, sorted(claims))]


def _of_one(address: str, claims: list[tuple[float, str]]) -> list[Stretch]:
    before = _nearest_of_another(claims)
    after = [None if at is None else -at for at in _nearest_of_another([(-at, node) for at, node in claims[::-1]])]
    found: list[Stretch] = []
    open_ = False
    for first, last in zip(before, reversed(after), strict=True):
        if first is None or last is None or last - first > WINDOW:
            open_ = False
            continue
        if open_:
            found[-1] = Stretch(address, found[-1].since, last, found[-1].claims + 1)
        else:
            found.append(Stretch(address, first, last, 1))
        open_ = True
    return found


def _nearest_of_another(claims: list[tuple[float, str]]) -> list[float | None]:
    """For each claim the time of the latest earlier one of any other node."""
    latest: dict[str, float] = {}
    found = []
    for at, node in claims:
        found.append(max((when for other, when in latest.items() if other != node), default=None))
        latest[node] = at
    return found


def answered_by_two(frames: Iterable[Seen]) -> tuple[float, int]:
    """The longest stretch in seconds, and how many claims lay in all of them."""
    found = stretches(frames)
    return max((one.until - one.since for one in found), default=0.0), sum(one.claims for one in found)


def in_turns(found: Iterable[Stretch]) -> float:
    """Seconds that the worst address was claimed in turns.

    A sum: where the asker itself stalled for longer than `WINDOW`, one stretch looks like two.
    """
    sums: dict[str, float] = {}
    for one in found:
        sums[one.address] = sums.get(one.address, 0.0) + one.until - one.since
    return max(sums.values(), default=0.0)


def silent_for(frames: Iterable[Seen], old: str, since: float) -> float:
    """The shortest time between the old holder's last claim and another's first, in seconds.

    It says nothing about an old holder that goes on claiming: `answered_by_two` does.
    """
    ours: dict[str, list[float]] = {}
    others: dict[str, float] = {}
    for frame in frames:
        if frame.node == old:
            ours.setdefault(frame.address, []).append(frame.at)
        elif frame.at >= since:
            others[frame.address] = min(frame.at, others.get(frame.address, frame.at))
    gaps = []
    for address, new in others.items():
        claimed = ours.get(address, [])
        # What it claims when it has been given the address again is a new story.
        last = max((at for at in claimed if at < new), default=max(claimed, default=None))
        if last is not None:
            gaps.append(new - last)
    return min(gaps, default=float("inf"))
