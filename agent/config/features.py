"""Keys that are read and checked, but not acted upon yet. Each part that comes to life removes its line here."""

from __future__ import annotations

from collections.abc import Callable

from agent.config.models import Configuration
from agent.config.problem import Location, Problem

_WAITING: tuple[tuple[str, Location, Callable[[Configuration], bool]], ...] = (
    ("checks", ("checks",), lambda c: bool(c.checks)),
    ("hooks", ("hooks",), lambda c: bool(c.hooks.acquired or c.hooks.released)),
)


def notes(configuration: Configuration) -> list[Problem]:
    """A warning for each key that is set and has no effect yet."""
    waiting = [(name, location) for name, location, is_set in _WAITING if is_set(configuration)]
    waiting += [
        (f"checks of VIP '{vip.name}'", ("vips", index, "checks"))
        for index, vip in enumerate(configuration.pool)
        if vip.checks
    ]
    return [
        configuration.origins.problem(
            location, f"not in force yet: {name}", "the key is checked but has no effect", "warning"
        )
        for name, location in waiting
    ]


def unsupported(configuration: Configuration) -> list[Problem]:
    """An error for each setting without which running would mean something else than was asked for."""
    engine, problem = configuration.engine, configuration.origins.problem
    found = []
    if engine.kind != "embedded":
        found.append(
            problem(("engine", "kind"), f"engine '{engine.kind}' is not in force yet", "write `kind: embedded`")
        )
    elif not engine.members:
        key = "multicast" if engine.multicast is not None else "broadcast"
        found.append(
            problem(("engine", key), f"members cannot be discovered by {key} yet", "list all of them under `members`")
        )
    return found
