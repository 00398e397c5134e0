"""The frames of announcements, gathered into spans: each frame an event, none lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.core.effects import Occasion
from agent.core.events import ArpSent
from agent.core.ids import VipName
from exporters.incidents import Incident
from exporters.spans import Attributes, Point

EVENTS_MAX = 128
"""Events of one span: OpenTelemetry's default limit, which collectors keep to as well."""

QUIET = 0.5
"""Seconds without a frame after which a span is closed."""

LONGEST = 10.0
"""Seconds after which the span of an announcement that is paced is closed; the frames that follow get another."""

Key = tuple[int, VipName, Occasion, bool]
"""Trace, VIP, occasion, and whether it is a question (a probe) instead of an announcement."""


@dataclass(slots=True)
class Told:
    """Frames of one VIP for one occasion."""

    name: str
    """Of the span."""
    incident: Incident
    vip: VipName
    occasion: Occasion
    parent: int
    start: float
    points: list[Point] = field(default_factory=list)
    failed: str = ""
    """The last error; empty: none."""

    def attributes(self) -> Attributes:
        interfaces = dict.fromkeys(str(point.attributes["network.interface.name"]) for point in self.points)
        attributes: Attributes = {
            "announce.occasion": self.occasion.value,
            "arp.frames": len(self.points),
            "network.interface.name": ",".join(interfaces),
        }
        return attributes | ({"error.type": self.failed} if self.failed else {})


class Announcements:
    def __init__(self) -> None:
        self._open: dict[Key, Told] = {}
        self._begun: dict[tuple[VipName, Occasion], float] = {}

    @property
    def open(self) -> bool:
        return bool(self._open)

    def begun(self, at: float, vips: tuple[VipName, ...], occasion: Occasion) -> None:
        self._begun.update({(vip, occasion): at for vip in vips})

    def frame(self, event: ArpSent, incident: Incident, parent: int) -> Told | None:
        """Takes note of it; the span that it has filled, if it has."""
        vip, occasion, at = event.vip, event.occasion, event.at
        asked = event.kind == "probe"
        key = (incident.identity.trace, vip, occasion, asked)
        told = self._open.get(key)
        if told is None:
            begun = at if asked else min(at, self._begun.pop((vip, occasion), at))
            name = "probe vip" if asked else "announce vip"
            told = self._open[key] = Told(name, incident, vip, occasion, parent, begun)
        attributes: Attributes = {
            "arp.kind": event.kind,
            "arp.target": event.target,
            "network.interface.name": event.interface,
        }
        if event.error:
            attributes["error.type"] = told.failed = event.error
        told.points.append(Point(at, "frame failed" if event.error else "frame sent", attributes))
        return self._open.pop(key) if len(told.points) == EVENTS_MAX else None

    def last(self, incident: Incident, vip: VipName) -> float | None:
        """The latest frame of an acquisition's announcement that is still open."""
        told = self._open.get((incident.identity.trace, vip, Occasion.ACQUIRE, False))
        return None if told is None else told.points[-1].at

    def sweep(self, now: float, *, everything: bool) -> Iterator[Told]:
        """Those that have come to rest, or last long; or all."""
        for key, told in list(self._open.items()):
            if everything or now - told.points[-1].at >= QUIET or now - told.start >= LONGEST:
                yield self._open.pop(key)
