"""`molehill run` that also writes views, frames and the cost of installing a view to the file in MOLEHILL_RECORD.

After the fail-over, as all observers: by one more subscriber of the bus. The cost is that of the core's step and of all
that is done for it at once, up to the frames: processor time of the event loop's thread, which no other process delays.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from agent.cli import main
from agent.core.events import ArpSent, Event, ViewInstalled
from agent.pump import Pump
from exporters import observers
from exporters.bus import Bus

spent: list[tuple[float, float]] = []
"""Of each run of the pump that has not been told of: when it began, and its processor time."""

plain_run = Pump._run


def timed_run(self: Pump) -> None:
    began, before = time.clock_gettime(time.CLOCK_BOOTTIME), time.thread_time()
    plain_run(self)
    spent.append((began, time.thread_time() - before))
    del spent[:-200]


class Recording(Bus):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._file = open(os.environ["MOLEHILL_RECORD"], "a")  # noqa: SIM115
        self.subscribe("recording", self._record)

    def _record(self, event: Event) -> None:
        match event:
            case ViewInstalled(at=at, view=view):
                cost = next((cpu for began, cpu in reversed(spent) if began <= at), 0.0)
                self._tell({"view": len(view.members), "at": at, "cpu": cost})
            case ArpSent(at=at, occasion=occasion):
                self._tell({"frame": occasion.value, "at": at})

    def _tell(self, line: dict[str, Any]) -> None:
        print(json.dumps(line), file=self._file, flush=True)


if __name__ == "__main__":
    observers.Bus = Recording  # type: ignore[misc]
    Pump._run = timed_run  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
