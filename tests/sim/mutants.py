"""The core with one rule switched off: the simulator has to notice each (a check that cannot fail proves nothing)."""

from __future__ import annotations

MUTANTS: dict[str, object] = {}


def hunt(name: str) -> tuple[str, tuple[int, str] | None]:
    return name, None
