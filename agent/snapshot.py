"""A whole core as plain data, and back: where a journal whose beginning was dropped starts from.

Taken in two steps, because the agent must not stand still for a thousand VIPs: `capture` copies what can change (0.2 ms
for ten VIPs), `plain` turns the copy into MessagePack's types at leisure, in any thread. Only classes of `agent.core`
are made from a file, and nothing in it is executed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from types import FunctionType, MethodType
from typing import Any, Final, cast

import agent.core
from agent.core.node import Node

ATOMS: Final = frozenset({type(None), bool, int, float, str, bytes})
CONTAINERS: Final[dict[type, str]] = {tuple: "t", list: "l", set: "s", frozenset: "z", dict: "d"}
MADE: Final[dict[str, Callable[[Any], Any]]] = {"t": tuple, "z": frozenset}
FUNCTIONS: Final = (FunctionType, MethodType)


class NotPlain(TypeError):
    """The core holds something that has no plain form. An error of the program: a test walks through whole runs."""


class Unfit(ValueError):
    """The data is no core of this version of the program; the text says what does not fit."""


class _Copy:
    """A changeable thing as it was: its parts are values and other copies."""

    __slots__ = ("kind", "parts", "tag")

    def __init__(self, tag: str, kind: type) -> None:
        self.tag = tag
        self.kind = kind
        self.parts: list[Any] = []


def capture(node: Node) -> object:
    """Step one, on the loop's thread."""
    return _capture(node, {})


def plain(captured: object) -> object:
    """Step two: lists, strings and numbers. Raises `NotPlain`."""
    return _Writer().write(captured)


def restore(data: object) -> Node:
    """The core of `plain`. Raises `Unfit`, and nothing but that."""
    try:
        return _Reader().root(data)
    except Unfit:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise Unfit(f"the core's state cannot be put together: {error!r}") from error


_values: Final[dict[type, bool]] = {}


def _is_value(kind: type) -> bool:
    """Whether nobody changes what is of this type: the core's messages, views and settings are values by contract."""
    known = _values.get(kind)
    if known is None:
        known = kind in ATOMS or issubclass(kind, tuple | frozenset | Enum | type | FunctionType | MethodType)
        known = known or (is_dataclass(kind) and kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]
        _values[kind] = known
    return known


def _capture(value: Any, known: dict[int, _Copy]) -> Any:
    kind = type(value)
    if _is_value(kind):
        return value
    found = known.get(id(value))
    if found is not None:
        return found
    tag = CONTAINERS.get(kind, "o")
    copied = known[id(value)] = _Copy(tag, kind)
    if tag == "o":
        parts: Iterable[Any] = (part for name in attributes(kind, value) for part in (name, getattr(value, name)))
    elif tag == "d":
        parts = (part for pair in value.items() for part in pair)
    else:
        parts = value
    copied.parts = [_capture(part, known) for part in parts]
    return copied


@cache
def _slots(kind: type) -> tuple[str, ...]:
    return tuple(name for base in kind.__mro__ for name in getattr(base, "__slots__", ()) if not name.startswith("__"))


def attributes(kind: type, value: object) -> list[str]:
    """Names of what an object has, in the order of their making."""
    names = [name for name in _slots(kind) if hasattr(value, name)]
    return names + list(getattr(value, "__dict__", ()))


class _Writer:
    """Everything but atoms is `[tag, ...]`; what comes again is `["r", number]`, so that sharing stays sharing."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []
        """So that no identity is given twice."""

    def write(self, value: Any) -> Any:
        kind = type(value)
        if kind in ATOMS:
            return value
        if isinstance(value, Enum):
            return ["e", _name(kind), value.name]
        if isinstance(value, type):
            return ["c", _name(value)]
        if isinstance(value, FUNCTIONS):
            return ["f"]
        number = self._numbers.get(id(value))
        if number is not None:
            return ["r", number]
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)
        tag, named, parts = _taken_apart(value)
        return [tag, *((_name(named),) if named else ()), *(self.write(part) for part in parts)]


def _taken_apart(value: Any) -> tuple[str, type | None, Iterable[Any]]:
    """Tag, class if it has to be named, and parts."""
    kind = type(value)
    if kind is _Copy:
        return value.tag, value.kind if value.tag == "o" else None, value.parts
    if kind in CONTAINERS:
        parts = (part for pair in value.items() for part in pair) if kind is dict else value
        return CONTAINERS[kind], None, parts
    if issubclass(kind, tuple):
        return "n", kind, value
    return "o", kind, (part for name in attributes(kind, value) for part in (name, getattr(value, name)))


def _name(kind: type) -> str:
    name = f"{kind.__module__.removeprefix('agent.core.')}.{kind.__qualname__}"
    if classes().get(name) is not kind:
        raise NotPlain(f"{kind!r} is no class of the core")
    return name


@cache
def classes() -> dict[str, type]:
    """Every class that the core defines."""
    modules = [
        importlib.import_module(f"agent.core.{found.name}") for found in pkgutil.iter_modules(agent.core.__path__)
    ]
    return {
        f"{module.__name__.removeprefix('agent.core.')}.{kind.__qualname__}": kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    }


class _Reader:
    def __init__(self) -> None:
        self._made: list[Any] = []
        self._filled: set[int] = set()
        """Parts of the new core that are taken, so that none is filled twice."""

    def root(self, data: object) -> Node:
        """Functions do not travel: a new core has them, and its parts are filled where they are."""
        settings, me = self._beginning(data)
        self._made = []
        return cast("Node", self.read(data, Node(settings, me.incarnation)))

    def _beginning(self, data: Any) -> tuple[Any, Any]:
        """The two things that a core is made with: it sets them first, so they refer to nothing earlier."""
        match data:
            case ["o", "node.Node", "settings", settings, "me", me, *_]:
                self._made.append(None)
                return self.read(settings, None), self.read(me, None)
        raise Unfit("it does not begin with a node")

    def read(self, data: Any, present: Any) -> Any:
        """`present`: what a new core has in this place."""
        if type(data) in ATOMS:
            return data
        tag, *parts = data
        match tag:
            case "r":
                return self._made[parts[0]]
            case "e":
                return _kind(parts[0])[parts[1]]  # type: ignore[index]
            case "c":
                return _kind(parts[0])
            case "f":
                if not isinstance(present, FUNCTIONS):
                    raise Unfit("a function where a new core has none")
                return present
            case "o":
                return self._object(parts, present)
        number = len(self._made)
        self._made.append(None)
        match tag:
            case "t" | "z":
                value = MADE[tag](self.read(part, None) for part in parts)
            case "n":
                value = _kind(parts[0])(*[self.read(part, None) for part in parts[1:]])
            case "l" | "s" | "d":
                return self._container(tag, parts, number)
            case _:
                raise Unfit(f"unknown tag {tag!r}")
        self._made[number] = value
        return value

    def _container(self, tag: str, parts: list[Any], number: int) -> Any:
        made: Any = {"l": list, "s": set, "d": dict}[tag]()
        self._made[number] = made
        values = [self.read(part, None) for part in parts]
        if tag == "d":
            made.update(zip(values[::2], values[1::2], strict=True))
        elif tag == "s":
            made.update(values)
        else:
            made.extend(values)
        return made

    def _object(self, parts: list[Any], present: Any) -> Any:
        kind = _kind(parts[0])
        names, values = parts[1::2], parts[2::2]
        value = present
        if type(present) is not kind or _is_value(kind) or id(present) in self._filled:
            value = object.__new__(kind)
        self._filled.add(id(value))
        self._made.append(value)
        known = set(_slots(kind))
        for name, part in zip(names, values, strict=True):
            if not isinstance(name, str) or (known and name not in known) or name.startswith("__"):
                raise Unfit(f"{parts[0]} has no {name!r} in this version of molehill")
            object.__setattr__(value, name, self.read(part, getattr(value, name, None)))
        return value


def _kind(name: Any) -> type:
    kind = classes().get(name) if isinstance(name, str) else None
    if kind is None:
        raise Unfit(f"this version of molehill has no {name!r}")
    return kind
