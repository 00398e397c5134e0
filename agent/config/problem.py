"""What is wrong with a configuration, and where: every reader and check of this package speaks in `Problem`s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Location = tuple[str | int, ...]
"""Path of a value in the configuration's tree: `("vips", 0, "addresses", 1)`."""

Severity = Literal["error", "warning"]

PROBLEMS_MAX = 50
"""Nobody reads more; a file of garbage would otherwise give one per word."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to tell the operator. `file` may also name an option of the command line (`--set a.b=c`)."""

    file: str
    line: int | None
    what: str
    fix: str
    severity: Severity = "error"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.what}; {self.fix}" if self.fix else f"{place}: {self.what}"


class ConfigError(Exception):
    """The configuration cannot be used. Holds every error found (and no warning), in the order of the files."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        shown = [str(problem) for problem in self.problems[:PROBLEMS_MAX]]
        if len(self.problems) > PROBLEMS_MAX:
            shown.append(f"... and {len(self.problems) - PROBLEMS_MAX} more")
        super().__init__("\n".join(shown))


class Invalid(ValueError):
    """A value that breaks its grammar. Pydantic carries it to the place where its line is known."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Place:
    file: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Origins:
    """Where each value was written. Equal to any other: where a thing was written is no part of what was written."""

    file: str = field(default="configuration", compare=False)
    places: Mapping[Location, Place] = field(default_factory=dict, compare=False)

    def place(self, location: Location) -> Place:
        """Of the value itself, else of the nearest value around it that was written anywhere."""
        for end in range(len(location), 0, -1):
            if (found := self.places.get(location[:end])) is not None:
                return found
        return Place(self.file, None)

    def problem(self, location: Location, what: str, fix: str, severity: Severity = "error") -> Problem:
        place = self.place(location)
        return Problem(place.file, place.line, what, fix, severity)


def dotted(location: Location) -> str:
    """`vips[0].addresses[1]`, as messages and `--set` name a key."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
