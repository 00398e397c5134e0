"""Files and options to a checked `Configuration`: every error at once, each with its file and line."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from agent.config.document import parse_yaml, read_bytes, read_yaml
from agent.config.explain import explain
from agent.config.models import Configuration, short_host_name
from agent.config.problem import ConfigError, Location, Origins, Place, Problem
from agent.config.rules import judge
from agent.config.secret import secret_problems
from agent.config.spread import parse_spread
from agent.config.translate import translate
from agent.config.values import show
from agent.config.wackamole import parse_wackamole

T = TypeVar("T")

_NAMED = ("engine.members.", "votes.")
"""What follows is one key: node names may hold dots."""


@dataclass(frozen=True, slots=True)
class Loaded:
    configuration: Configuration
    warnings: tuple[Problem, ...]


def load(path: Path, *, node: str | None = None, overrides: Sequence[str] = ()) -> Loaded:
    """The configuration of a YAML file. Raises `ConfigError`.

    `overrides` are `dotted.key=value` with the value in YAML; `node` wins over both.
    """
    data, origins = read_yaml(path)
    data, origins = _override(data, origins, overrides)
    return _finish(*_with_node(data, origins, node))


def load_wackamole(
    wackamole: Path,
    spread: Path,
    *,
    node: str | None = None,
    overrides: Sequence[str] = (),
    secret: Path = Path("/etc/molehill/secret"),
) -> Loaded:
    """The configuration that a Wackamole and a Spread file mean. Raises `ConfigError` with the errors of both.

    The key is `secret` if it exists. Without `node` this node is the daemon with the short host name, else the one
    whose address is this host's.
    """
    problems: list[Problem] = []
    vips = _parse(wackamole, parse_wackamole, problems)
    daemons = _parse(spread, parse_spread, problems)
    if vips is None or daemons is None:
        raise ConfigError(problems)
    translation = translate(vips, daemons, secret if os.path.exists(secret) else None)
    pool: list[Any] = translation.data.setdefault("vips", [])
    data, origins = _override(translation.data, translation.origins, overrides)
    chosen = node if node is not None else _this_node(data)
    data, origins = _with_node(data, origins, chosen, given=node is not None)
    if data.get("vips") is pool:
        for index in translation.preferred:
            if isinstance(pool[index], dict):
                pool[index].setdefault("prefer", [chosen])
    return _finish(data, origins, translation.warnings)


def _parse(path: Path, parse: Callable[[str, str], T], problems: list[Problem]) -> T | None:
    """One of the ancestors' files; comments may be in any encoding. None: it is wrong, and `problems` says how."""
    try:
        return parse(read_bytes(path).decode("utf-8", "surrogateescape").removeprefix("\ufeff"), str(path))
    except ConfigError as error:
        problems += error.problems
        return None


def _finish(data: dict[str, Any], origins: Origins, warnings: Sequence[Problem] = ()) -> Loaded:
    try:
        configuration = Configuration.model_validate(data)
        problems: list[Problem] = []
        broken: frozenset[str] = frozenset()
    except ValidationError as error:
        problems = explain(error, data, origins)
        broken = frozenset(str(details["loc"][0]) for details in error.errors() if details["loc"])
        # Whatever else is wrong is found by the rules that need nothing of the broken keys.
        rest = {key: value for key, value in data.items() if key not in broken} | {"cluster": "unknown"}
        if "node" in broken:
            rest["node"] = "unknown"
        configuration = Configuration.model_validate(rest)
    configuration.written_at(origins)
    problems += judge(configuration, origins, broken)
    if "engine" not in broken:
        problems += secret_problems(configuration)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ConfigError(sorted(errors, key=_order))
    return Loaded(configuration, tuple(sorted({*warnings, *problems}, key=_order)))


def _order(problem: Problem) -> tuple[str, int, str]:
    return problem.file, problem.line or 0, problem.what


def _with_node(
    data: dict[str, Any], origins: Origins, node: str | None, given: bool = True
) -> tuple[dict[str, Any], Origins]:
    if node is None:
        return data, origins
    places = dict(origins.places)
    if given:
        places["node",] = Place(f"-n {node}", None)
    return {**data, "node": node}, Origins(origins.file, places)


def _this_node(data: dict[str, Any]) -> str:
    """Which member this host is, as Spread finds out without -n."""
    name = short_host_name()
    engine = data.get("engine")
    members = engine.get("members") if isinstance(engine, dict) else None
    if "node" in data or not isinstance(members, dict) or name in members:
        return str(data.get("node", name))
    local = [member for member, address in members.items() if isinstance(address, str) and is_local(address)]
    return str(local[0]) if len(local) == 1 else name


def is_local(address: str) -> bool:
    """Whether an address is on this host: only then can a socket be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True


def _override(data: dict[str, Any], origins: Origins, overrides: Sequence[str]) -> tuple[dict[str, Any], Origins]:
    """Applies `--set KEY=VALUE`. Raises `ConfigError` with every option that cannot be applied."""
    places = dict(origins.places)
    problems: list[Problem] = []
    for text in overrides:
        label = f"--set {text}"
        key, equals, value_text = text.partition("=")
        if not equals or not all(key.split(".")):
            problems.append(Problem(label, None, f"{show(text)} is not KEY=VALUE", "write it as in `mature=5s`"))
            continue
        try:
            value, written = parse_yaml(value_text, label)
            location = _put(data, key, value)
        except ConfigError as error:
            problems += [Problem(label, None, problem.what, problem.fix) for problem in error.problems]
            continue
        except KeyError as error:
            problems.append(Problem(label, None, f"{show(error.args[0])} has no keys", "name a key as in engine.port"))
            continue
        places = {known: place for known, place in places.items() if known[: len(location)] != location}
        places |= {(*location, *below): Place(label, None) for below in written.places}
        places[location] = Place(label, None)
        for end in range(1, len(location)):
            places.setdefault(location[:end], Place(label, None))
    if problems:
        raise ConfigError(problems)
    return data, Origins(origins.file, places)


def _put(data: dict[str, Any], key: str, value: Any) -> Location:
    """Sets a dotted key and returns its location. Raises `KeyError` with the part that cannot have keys."""
    named = next((prefix for prefix in _NAMED if key.startswith(prefix)), None)
    parts = [*named[:-1].split("."), key[len(named) :]] if named else key.split(".")
    inner: Any = data
    location: list[str | int] = []
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        step: str | int = part
        if isinstance(inner, list):
            if not (part.isascii() and part.isdecimal()) or int(part[:9]) >= len(inner):
                raise KeyError(key)
            step = int(part[:9])
        elif not isinstance(inner, dict):
            raise KeyError(".".join(parts[:depth]))
        elif not last and inner.get(part) is None:
            inner[part] = {}
        location.append(step)
        if last:
            inner[step] = value
        else:
            inner = inner[step]
    return tuple(location)
