"""Asks the client's segment who has an address, every 2 ms, and keeps whatever claims one.

Answers and announcements alike count, with the kernel's arrival times: what the segment saw, not what interfaces carry.
A fenced address may still be there, silent. Answers go to a MAC that is not the client's, so that asking does not mend
what the client believes.
"""

from __future__ import annotations

import threading
from types import TracebackType

from agent.lab.arp import Capture, Seen, question
from agent.lab.plan import Plan

PERIOD = 0.002


class Asker:
    """Asks who has the addresses, from its making on; `frames` after the end."""

    def __init__(self, plan: Plan, addresses: list[str]) -> None:
        wanted = set(addresses)
        self._questions = [
            (interface, question(address))
            for vip in plan.vips
            for interface, address, _ in vip.addresses
            if address in wanted
        ]
        self._addresses = wanted
        self._capture = Capture(plan)
        self._over = threading.Event()
        self.frames: list[Seen] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._capture.close()

    def _run(self) -> None:
        while not self._over.wait(PERIOD):
            for interface, frame in self._questions:
                self._capture.send(interface, frame)
            self.frames += [frame for frame in self._capture.frames() if frame.address in self._addresses]
