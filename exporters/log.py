"""Events as log lines: logfmt for people, JSON on request."""

from __future__ import annotations

import io
import json
import queue
import re
import threading
from collections.abc import Callable
from typing import TextIO

from agent.core.events import Event
from exporters.limit import RateLimit
from exporters.lines import Level, describe
from exporters.record import fields, type_name
from exporters.wall import Wall

QUEUE_MAX = 20_000
"""Lines that wait for a slow reader of the log (about 5 MB)."""

FOREIGN_MAX = 1_000
"""Characters of a line that is not ours: a library may quote what a stranger sent."""

PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f]+")


class Log:
    """Writes in a thread of its own: a pipe that nobody reads must not stop the agent.

    `lost` counts lines given up because the reader was too slow.
    """

    def __init__(
        self,
        stream: TextIO,
        wall: Wall,
        *,
        as_json: bool = False,
        debug: bool = False,
        trace_id: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`trace_id`: of the event that is being observed, if it belongs to a trace that is exported."""
        self._stream = stream
        self._trace_id = trace_id
        self._wall = wall
        self._as_json = as_json
        self._debug = debug
        self._limit = RateLimit()
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUE_MAX)
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()
        self.lost = 0

    def __call__(self, event: Event) -> None:
        """Subscriber of the bus."""
        line = describe(event)
        if line.level is Level.DEBUG and not self._debug:
            return
        held_back = self._limit.admit(event)
        if held_back is None:
            return
        scalars: dict[str, object] = {
            name: value for name, value in fields(event).items() if isinstance(value, str | int | float) and value != ""
        }
        if held_back:
            scalars["held_back"] = held_back
        trace = self._trace_id()
        if trace is not None:
            scalars["trace_id"] = trace
        self._put(line.level, type_name(type(event)), line.text, self._wall.text(event.at), scalars)

    def say(self, level: Level, name: str, text: str, at: float) -> None:
        """A line of the program itself, for what is no event: warnings of the configuration, the end of the process."""
        self._put(level, name, text, self._wall.text(at), {})

    def foreign(self, line: str) -> None:
        """A line that something else in this process wrote to standard error."""
        self._queue(line[:FOREIGN_MAX])

    def close(self, timeout: float = 1.0) -> None:
        """Waits at most `timeout` seconds for the reader to take the rest."""
        try:
            self._lines.put(None, timeout=timeout)
        except queue.Full:
            return
        self._writer.join(timeout)

    def _put(self, level: Level, name: str, text: str, time: str, scalars: dict[str, object]) -> None:
        record = {"time": time, "level": level.value, "event": name, "msg": text} | scalars
        line = json.dumps(record, ensure_ascii=False) if self._as_json else logfmt(record)
        self._queue(line)

    def _queue(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.lost += 1

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                self.lost += 1


class Foreign(io.TextIOBase):
    """Takes the place of standard error while the agent runs: a traceback or a library's warning goes the log's way,
    because a pipe that nobody reads would stop whoever writes to it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        self._begun = self._begun[:FOREIGN_MAX]
        for line in lines:
            self._log.foreign(line)
        return len(text)


def logfmt(record: dict[str, object]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in record.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
