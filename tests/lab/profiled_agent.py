"""`molehill run` that notes which functions of the exporters run between a view that lost a member and its last frame.

One line of JSON for each such fail-over goes to the file in MOLEHILL_PROFILE. Calls are noted by the interpreter's
profile hook, in the thread of the event loop; other threads only wait for it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any

from agent.cli import main
from agent.core.effects import Occasion
from agent.core.events import ArpSent, Event, MemberSuspected, ViewInstalled
from exporters import observers
from exporters.bus import Bus

EXPORTERS = str(Path(observers.__file__).parent)
calls: deque[tuple[float, str]] = deque(maxlen=20_000)


def note(frame: FrameType, what: str, _: Any) -> None:
    if what == "call" and frame.f_code.co_filename.startswith(EXPORTERS):
        name = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
        calls.append((time.clock_gettime(time.CLOCK_BOOTTIME), name))


class Noting(Bus):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._members, self._suspected, self._decided, self._frames = 0, 0.0, 0.0, [0.0]
        self.subscribe("profile", self._look)

    def _look(self, event: Event) -> None:
        """After the fail-over, as all observers; the ring still has its calls."""
        match event:
            case MemberSuspected(at=at):
                self._suspected = at
            case ViewInstalled(at=at, view=view):
                lost, self._members = self._members - len(view.members), len(view.members)
                self._decided, self._frames = (at if lost == 1 else 0.0), []
            case ArpSent(at=at, occasion=Occasion.ACQUIRE) if self._decided:
                self._frames.append(at)
            case ArpSent() if self._decided and self._frames:  # the repetition, 1.1 s later
                last = max(self._frames)
                inside = sorted({name for when, name in calls if self._decided <= when <= last})
                before = sorted({name for when, name in calls if when < self._decided})
                with open(os.environ["MOLEHILL_PROFILE"], "a") as file:
                    took = {"seconds": last - self._decided, "since_suspicion": last - self._suspected}
                    print(json.dumps(took | {"ran": inside, "before": before}), file=file)
                self._decided = 0.0


if __name__ == "__main__":
    observers.Bus = Noting  # type: ignore[misc]
    sys.setprofile(note)
    sys.exit(main(sys.argv[1:]))
