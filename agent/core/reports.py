"""What observers are told of the agreed record: each fact once after it changed."""

from __future__ import annotations

from dataclasses import replace

from agent.core.events import ConfigDiffers, Event, OwnersChanged, QuorumChanged, StandingsChanged
from agent.core.ids import NodeName
from agent.core.placement import spread
from agent.core.record import Record


class Reports:
    __slots__ = ("_told", "changed", "differing")

    def __init__(self) -> None:
        self.changed = False
        """Whether the record changed since `due` was called."""
        self.differing: tuple[NodeName, ...] = ()
        """Members whose settings are not ours."""
        self._told: dict[type, object] = {StandingsChanged: ((), (), ()), ConfigDiffers: ((), ())}
        """Last word on each; nothing to report is what observers assume."""

    def due(self, now: float, record: Record | None, quorum: tuple[int, int] | None) -> list[Event]:
        """`quorum`: votes of the view and votes needed; None where none is needed."""
        if not self.changed or record is None:
            return []
        self.changed = False
        standings, names = record.standings, record.view.names()
        quorate = quorum is None or quorum[0] >= quorum[1]
        owners = tuple(sorted(record.owners.items())) if quorate else ()
        served = record.mature and quorate
        uncovered = record.uncovered() if served else tuple(spec.name for spec in record.specs)
        unfit = tuple(name for name in names if not standings[name].fit)
        draining = tuple(name for name in names if standings[name].draining)
        leaving = tuple(name for name in names if standings[name].leaving)
        disputed = record.disputed()
        facts: list[tuple[object, Event]] = [
            ((owners, uncovered, names), OwnersChanged(now, owners, uncovered, 0.0)),
            ((unfit, draining, leaving), StandingsChanged(now, unfit, draining, leaving)),
            ((self.differing, disputed), ConfigDiffers(now, self.differing, disputed)),
        ]
        if quorum is not None:
            facts.append((quorum, QuorumChanged(now, quorate, *quorum)))
        out: list[Event] = []
        for fact, event in facts:
            if self._told.get(type(event)) == fact:
                continue
            self._told[type(event)] = fact
            if isinstance(event, OwnersChanged):
                event = replace(event, spread=spread(record.candidates(), record.specs, dict(owners)))
            out.append(event)
        return out
