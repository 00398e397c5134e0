"""What outlives the process: the incarnation, which only grows, and whether the node is drained."""

from __future__ import annotations

import os
import time
from pathlib import Path

DIGITS_MAX = 15
"""Of an incarnation: peers take none above 2**53."""


class StateError(Exception):
    """The state directory cannot be used; the text says why and what to do."""


class State:
    """Two small files in `state_dir`, each replaced atomically."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def next_incarnation(self) -> int:
        """The number of this life: one more than the last. A node without memory begins with the wall clock's
        seconds, so that a lost directory does not bring back numbers that peers have seen (nonces hang on them)."""
        path = self._directory / "incarnation"
        last = self._read(path)
        if last is not None and not (last.isdecimal() and len(last) <= DIGITS_MAX):
            raise StateError(f"{path}: {last[:40]!r} is no incarnation; remove the file to start from the wall clock")
        number = int(last) + 1 if last is not None else int(time.time())
        self._write(path, str(number))
        return number

    @property
    def draining(self) -> bool:
        return self._read(self._directory / "draining") is not None

    def set_draining(self, on: bool) -> None:
        path = self._directory / "draining"
        if on:
            self._write(path, "drained by an operator; undo with: molehill drain --undo")
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}; make state_dir writable for the agent") from error

    def _read(self, path: Path) -> str | None:
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StateError(f"{path}: {error}; make state_dir readable for the agent") from error

    def _write(self, path: Path, text: str) -> None:
        """Written beside, synced, and renamed: a crash leaves the old file or the new one."""
        beside = path.with_suffix(".new")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with beside.open("w", encoding="ascii") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}; make state_dir writable; is its disk full?") from error
