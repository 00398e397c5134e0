"""Keeps the journal in the running agent: tends it in quiet moments and writes it when somebody asks or it crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from agent.core.node import Node
from agent.journal import Dump, Journal

PAUSE = 0.25
"""Seconds between two looks at what waits to be encoded."""

TURN = 0.002
"""Seconds that the loop gets between two slices of work."""


class Recorder:
    """`keep` as a task; `dump` at any time."""

    def __init__(self, node: Node, directory: Path, *, clock: Callable[[], float]) -> None:
        """Before the first step of `node`. Dumps go to `directory`."""
        self.journal = Journal(node, clock=clock)
        self._directory = directory
        self._writing = asyncio.Lock()

    async def keep(self) -> None:
        """For ever."""
        while True:  # noqa: ASYNC110  (what waits is not announced: that would cost the fail-over)
            await asyncio.sleep(TURN if self.journal.tend() else PAUSE)

    async def dump(self, reason: str, error: str = "") -> Dump:
        """Writes all that is kept; the loop goes on meanwhile. Raises `JournalError`."""
        async with self._writing:
            while self.journal.tend(now=True):  # noqa: ASYNC110  (work in slices)
                await asyncio.sleep(0)
            recording = self.journal.recording(reason, error)
            return await asyncio.to_thread(recording.write, self._directory)
