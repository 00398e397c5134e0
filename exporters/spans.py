"""A finished span as this program sees it: in the node's own clock, and without OpenTelemetry."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from exporters.incidents import Incident

Value = str | int | float | bool | tuple[str, ...]
Attributes = dict[str, Value]

_random = random.Random()


def new_id() -> int:
    """Of a span that is no root. Nothing secret: it only must not meet another one of its trace."""
    return _random.getrandbits(64) or 1


@dataclass(slots=True)
class Point:
    """An event on a span."""

    at: float
    name: str
    attributes: Attributes


@dataclass(slots=True)
class Span:
    name: str
    incident: Incident
    span: int
    parent: int | None
    """None: this is the root. The root's number where another node emits it."""
    start: float
    end: float
    attributes: Attributes = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    links: tuple[tuple[int, int], ...] = ()
    """Trace and span."""
    error: str = ""
    """Empty: nothing failed."""
