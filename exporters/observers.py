"""All that observes an agent, assembled: the bus and its subscribers in their order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agent.core.ids import NodeName
from agent.core.settings import Settings
from exporters.bus import Bus
from exporters.history import History
from exporters.leases import LAYERS
from exporters.lines import Level
from exporters.log import Log
from exporters.metrics import Metrics
from exporters.status import EngineKind, Status
from exporters.wall import Wall

if TYPE_CHECKING:
    from exporters.traces import Traces


SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that renders, encodes or writes gives the interpreter to the event loop.

Python's default is 5 ms, and the loop has to ask for it again after each system call that it makes.
"""


class Observers:
    """`close` at the end, when nothing happens any more."""

    def __init__(
        self,
        settings: Settings,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        engine: EngineKind,
        addresses: Mapping[NodeName, str],
        sealed: bool | None = None,
        lease_layers: tuple[str, ...] = LAYERS,
        reject_reasons: tuple[str, ...],
        as_json: bool,
        debug: bool,
        tracing: tuple[str, float] | None,
    ) -> None:
        """`sealed`: whether the engine has a key; None: another program's task. `lease_layers`: those that are meant.

        `tracing`: the collector's base address and the share of traces that are exported; None: off.
        """
        sys.setswitchinterval(SWITCH_INTERVAL)
        wall = Wall(clock)
        self._wall = wall
        self.bus = Bus(loop)
        self.traces: Traces | None = None
        exemplar: Callable[[], dict[str, str] | None] = _none
        trace_id: Callable[[], str | None] = _none
        dropped: Callable[[], int] = _nothing
        if tracing is not None:
            from exporters.traces import Traces  # heavy, and of no use without a collector

            endpoint, sample = tracing
            self.traces = Traces(
                self.bus, wall, settings, loop=loop, endpoint=endpoint, sample=sample, say=self._say_of_traces
            )
            exemplar, trace_id = self.traces.incidents.exemplar, self.traces.incidents.trace_id
            dropped = self.traces.dropped
        self.status = Status(
            settings, wall, engine=engine, addresses=addresses, sealed=sealed, lease_layers=lease_layers
        )
        self.history = History(wall, trace_id=trace_id)
        self.log = Log(sys.stderr, wall, as_json=as_json, debug=debug, trace_id=trace_id)
        self.metrics = Metrics(
            self.status, self.bus, reject_reasons=reject_reasons, spans_dropped=dropped, exemplar=exemplar
        )
        self.bus.subscribe("status", self.status)
        self.bus.subscribe("metrics", self.metrics)
        self.bus.subscribe("history", self.history)
        self.bus.subscribe("log", self.log)

    def _say_of_traces(self, text: str) -> None:
        self.log.say(Level.WARNING, "tracing", text, self._wall.clock())

    def configure(
        self,
        settings: Settings,
        addresses: Mapping[NodeName, str],
        *,
        sealed: bool | None = None,
        lease_layers: tuple[str, ...] = LAYERS,
    ) -> None:
        """After a reload."""
        self.status.configure(settings, addresses, sealed, lease_layers)
        if self.traces is not None:
            self.traces.configure(settings)

    async def close(self) -> None:
        """Everything that happened is observed; then the log and, within its time, the collector get the rest."""
        self.bus.flush()
        if self.traces is not None:
            await self.traces.close()
        self.log.close()


def _none() -> None:
    return None


def _nothing() -> int:
    return 0
