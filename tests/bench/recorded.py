"""`molehill run` whose views and frames are also written to the file in MOLEHILL_RECORD, with the times of the events.

After the fail-over, as all observers: by one more subscriber of the bus.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from agent.cli import main
from agent.core.events import ArpSent, Event, ViewInstalled
from exporters import observers
from exporters.bus import Bus


class Recording(Bus):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._file = open(os.environ["MOLEHILL_RECORD"], "a")  # noqa: SIM115
        self.subscribe("recording", self._record)

    def _record(self, event: Event) -> None:
        match event:
            case ViewInstalled(at=at, view=view):
                print(json.dumps({"view": len(view.members), "at": at}), file=self._file, flush=True)
            case ArpSent(at=at, occasion=occasion):
                print(json.dumps({"frame": occasion.value, "at": at}), file=self._file, flush=True)


if __name__ == "__main__":
    observers.Bus = Recording  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
