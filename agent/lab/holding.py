"""Who held what and when, from the address watch: exact, because it is worked out from every change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.lab.watch import Change


@dataclass(frozen=True, slots=True)
class Apart:
    """From `since` to `until` the nodes reach each other but none of the rest; one node: cut off."""

    nodes: frozenset[str]
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Twice:
    """Two nodes that could reach each other both had an address."""

    address: str
    nodes: tuple[str, str]
    since: float
    until: float

    @property
    def seconds(self) -> float:
        return self.until - self.since


@dataclass(frozen=True, slots=True)
class Held:
    node: str
    address: str
    since: float
    until: float


def periods(changes: Iterable[Change], until: float) -> list[Held]:
    """Every stretch of holding, in order of its end; what is still held ends at `until`."""
    open_: dict[tuple[str, str], float] = {}
    found = []
    for change in changes:
        if change.at > until:
            break
        key = (change.node, change.address)
        if change.present:
            open_.setdefault(key, change.at)
        elif key in open_:
            found.append(Held(*key, open_.pop(key), change.at))
    found += [Held(*key, since, until) for key, since in open_.items()]
    return found


def holders(changes: Iterable[Change], address: str) -> list[str]:
    """Nodes that have the address after the last change."""
    now: dict[str, None] = {}
    for change in changes:
        if change.address == address:
            if change.present:
                now[change.node] = None
            else:
                now.pop(change.node, None)
    return list(now)


def held_twice(
    changes: Iterable[Change], addresses: Iterable[str], since: float, until: float, apart: Iterable[Apart] = ()
) -> list[Twice]:
    """Stretches between `since` and `until` in which two connected nodes had one of the addresses.

    Changes are taken in their recorded order: a removal recorded before an addition is no overlap, whatever the
    times at which they were read.
    """
    wanted = set(addresses)
    separations = list(apart)
    holding: dict[str, dict[str, float]] = {}
    found = []
    for change in changes:
        if change.address not in wanted or change.at > until:
            continue
        there = holding.setdefault(change.address, {})
        if change.present:
            there.setdefault(change.node, change.at)
        elif change.node in there:
            began = there.pop(change.node)
            found += _overlaps(change.address, change.node, began, change.at, there, separations)
    for address, there in holding.items():
        while there:
            node, began = there.popitem()
            found += _overlaps(address, node, began, until, there, separations)
    clipped = [Twice(one.address, one.nodes, max(one.since, since), min(one.until, until)) for one in found]
    return sorted((one for one in clipped if one.until >= one.since), key=lambda one: one.since)


def _overlaps(
    address: str, node: str, began: float, ended: float, others: dict[str, float], separations: list[Apart]
) -> list[Twice]:
    found = []
    for other, other_began in others.items():
        pieces = [(max(began, other_began), ended)]
        for separation in separations:
            if (node in separation.nodes) != (other in separation.nodes):
                pieces = [piece for old in pieces for piece in _without(old, separation.since, separation.until)]
        first, second = sorted((node, other))
        found += [Twice(address, (first, second), start, end) for start, end in pieces]
    return found


def _without(piece: tuple[float, float], since: float, until: float) -> list[tuple[float, float]]:
    start, end = piece
    left = []
    if start < min(end, since):
        left.append((start, min(end, since)))
    if max(start, until) < end:
        left.append((max(start, until), end))
    if since >= end or until <= start:
        return [piece]
    return left
