"""Pydantic's findings in the operator's words: file, line, value, what is wrong, how to fix it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from agent.config.models import Configuration
from agent.config.problem import Invalid, Location, Origins, Problem, dotted
from agent.config.values import quoted, show

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
}


def explain(error: ValidationError, data: dict[str, Any], origins: Origins) -> list[Problem]:
    """One problem per thing that is wrong."""
    problems = [_explain(details, data, origins) for details in error.errors(include_url=False)]
    return [problem for problem in problems if problem is not None]


def _explain(details: ErrorDetails, data: dict[str, Any], origins: Origins) -> Problem | None:
    location, value = _written(details["loc"], data)
    context = details.get("ctx", {})
    name = dotted(location)
    match details["type"]:
        case "missing":
            key = str(details["loc"][-1])
            where = f" in {name}" if location else ""
            return origins.problem(location, f"{show(key)} is missing{where}", f"add {_example((*location, key))}")
        case "extra_forbidden":
            return origins.problem(location, f"unknown key {show(location[-1])}{_inside(location)}", _known(location))
        case "value_error" if isinstance(found := context.get("error"), Invalid):
            return origins.problem(location, f"{name}: {found.what}", found.fix)
        case "literal_error":
            allowed = str(context["expected"])
            return origins.problem(location, f"{name}: {show(value)} is not known", f"write {allowed}")
        case "too_short":
            if value:  # Its entries are wrong, each reported for itself.
                return None
            return origins.problem(location, f"{name} is empty", f"write {_example(location)}")
        case "greater_than_equal" | "less_than_equal":
            return origins.problem(location, f"{name}: {show(value)} is out of range", f"write {_range(location)}")
        case kind if kind in _KINDS:
            what = f"{name} has no value" if value is None else f"{name}: {show(value)} is not {_KINDS[kind]}"
            return origins.problem(location, what, _form(kind, location, value))
        case _:
            return origins.problem(location, f"{name}: {show(value)}: {details['msg']}", "see docs/configuration.md")


def _written(path: Iterable[str | int], data: Any) -> tuple[Location, Any]:
    """The part of pydantic's path that stands in the file (it adds tags of unions, and missing keys), and its value."""
    location: list[str | int] = []
    value = data
    for part in path:
        if not _has(value, part):
            continue
        value = value[part]
        location.append(part)
    return tuple(location), value


def _has(container: Any, part: str | int) -> bool:
    if isinstance(container, list):
        return isinstance(part, int) and part < len(container)
    return isinstance(container, dict) and part in container


def _inside(location: Location) -> str:
    return f" in {dotted(location[:-1])}" if len(location) > 1 else ""


def _known(location: Location) -> str:
    known = list(_keys(location[:-1]))
    close = difflib.get_close_matches(str(location[-1]).lower(), known, n=1, cutoff=0.6)
    return f"did you mean {show(close[0])}?" if close else f"known here: {', '.join(known)}"


def _keys(location: Location) -> dict[str, FieldInfo]:
    """The keys that the schema allows at a place."""
    models: list[type[BaseModel]] = [Configuration]
    for part in location:
        if isinstance(part, str):
            fields = [model.model_fields[part] for model in models if part in model.model_fields]
            models = [model for field in fields for model in _models(field.annotation)]
    return {name: field for model in models for name, field in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _field(location: Location) -> FieldInfo | None:
    while location and isinstance(location[-1], int):
        location = location[:-1]
    return _keys(location[:-1]).get(str(location[-1])) if location else None


def _example(location: Location) -> str:
    key = location[-1]
    field = _field(location)
    if field is None or not field.examples:
        return f"`{key}: ...`"
    example = field.examples[0]
    return f"`{key}: {example if isinstance(example, str) else _flow(example)}`"


def _flow(value: Any) -> str:
    """YAML's flow form of an example, which is not JSON's: keys bare, and words where they need no quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, str):
        return value if value.replace(".", "").replace("/", "").isalnum() else f'"{value}"'
    return json.dumps(value)


def _range(location: Location) -> str:
    limits: dict[str, Any] = {}
    field = _field(location) or _field(location[:-1])
    pending = [] if field is None else [*field.metadata, *_metadata(field.annotation)]
    for constraint in pending:
        inner = constraint.metadata if isinstance(constraint, FieldInfo) else [constraint]
        for limit in inner:
            limits |= {name: getattr(limit, name) for name in ("ge", "le") if hasattr(limit, name)}
    return f"a number from {limits.get('ge')} to {limits.get('le')}" if len(limits) == 2 else "a number in range"


def _metadata(annotation: Any) -> list[Any]:
    found = list(getattr(annotation, "__metadata__", ()))
    return found + [item for argument in get_args(annotation) for item in _metadata(argument)]


def _form(kind: str, location: Location, value: Any) -> str:
    if value is None and location:
        return f"give a value or remove the line of {show(location[-1])}"
    if kind in ("tuple_type", "list_type"):
        field = _field(location)
        example = f", as in {_example(location)}" if field is not None and field.examples else ""
        return f"write it in brackets{example}"
    if kind == "string_type":
        return quoted(value)
    if kind in ("int_type", "int_from_float"):
        return f"write {_range(location)}, without quotes"
    if kind == "bool_type":
        return "write true or false, without quotes"
    known = list(_keys(location)) or [f"as in {_example(location)}"]
    return f"write keys below it: {', '.join(known)}"
