"""An event as JSON-able values of bounded size."""

from __future__ import annotations

import dataclasses
import re

from agent.core.events import Event, OwnersChanged, ViewInstalled
from agent.core.ids import Member, ViewId

LIST_MAX = 64
"""Elements kept of a long list: 5,000 events with such a list each stay below 100 MB; usual ones take far less."""

LEFT_OUT = {ViewInstalled: ("owners",), OwnersChanged: ("owners",)}
"""Whole tables, as long as there are VIPs; the status has them."""


def type_name(kind: type) -> str:
    """`VipAcquired` is `vip_acquired` wherever a name of an event leaves the program."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


MOMENTS = ("started", "since", "gather_started", "failed_since")
AHEAD = ("until",)
"""Fields that are times of the node's own clock, which mean nothing to others: those of the past, those to come."""


def fields(event: Event) -> dict[str, object]:
    """All fields but `at`.

    A list over LIST_MAX is cut, and its length stands beside it as `<name>_total`. A time becomes `<name>_before`:
    seconds before the event; one to come `<name>_after`.
    """
    left_out = LEFT_OUT.get(type(event), ())
    result: dict[str, object] = {}
    for field in dataclasses.fields(event):
        if field.name == "at" or field.name in left_out:
            continue
        value = getattr(event, field.name)
        if field.name in MOMENTS:
            result[f"{field.name}_before"] = None if value is None else round(event.at - value, 6)
            continue
        if field.name in AHEAD:
            result[f"{field.name}_after"] = round(value - event.at, 6)
            continue
        result[field.name] = plain(value)
        if type(value) is tuple and len(value) > LIST_MAX:
            result[f"{field.name}_total"] = len(value)
    return result


def cause(event: Event) -> str | None:
    """Why it happened, for those events that have a reason of a closed set."""
    value = getattr(event, "cause", None) or getattr(event, "reason", None)
    return None if value is None else str(value)


def plain(value: object) -> object:
    """Members and view ids as their text, dataclasses as objects, tuples as lists."""
    match value:
        case Member() | ViewId():
            return str(value)
        case None | bool() | int() | float():
            return value
        case str():
            return str(value)
        case tuple():
            return [plain(element) for element in value[:LIST_MAX]]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)} | _kind(value)
    raise TypeError(f"{type(value).__name__} has no plain form")


def _kind(value: object) -> dict[str, object]:
    """Decisions are a union: their name tells which one."""
    return {"type": type_name(type(value))}
