"""Legal messages made up from a source of randomness, of any type that the core's messages consist of."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from random import Random
from typing import Any, Union, get_args, get_origin, get_type_hints

from agent.core.ids import Member, NodeName, ViewId, VipName
from agent.core.messages import Decide, Heartbeat, Install, Join, Leave, Message, Recovered, Requests
from agent.core.view import Entry, MemberState, Standing, View, VipSpec

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-._:/äß日本€ "


def name(rng: Random) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.choice((1, 4, 8, 64))))


def value(rng: Random, hint: Any, most: int) -> Any:
    """A legal value of the type; tuples have at most `most` elements."""
    if hint is int:
        return rng.choice((0, 1, rng.randrange(1000), 2**53))
    if hint is float:
        return rng.choice((0.0, 0.5, 1e-9, 1e9, rng.randrange(10**6) / 1000))
    if hint is bool:
        return rng.random() < 0.5
    if hint in (NodeName, VipName):
        return name(rng)
    if hint is str:
        return "" if rng.random() < 0.3 else name(rng)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return rng.choice(list(hint))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(value(rng, arguments[0], most) for _ in range(rng.randrange(most + 1)))
    if origin is tuple:
        return tuple(value(rng, argument, most) for argument in arguments)
    if origin in (types.UnionType, Union):
        chosen = rng.choice(arguments)
        return None if chosen is types.NoneType else value(rng, chosen, most)
    return record(rng, hint, most)


def record(rng: Random, kind: Any, most: int) -> Any:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)] if is_dataclass(kind) else kind._fields
    made = kind(*(value(rng, hints[field], most) for field in names))
    repair = _REPAIRS.get(kind)
    return made if repair is None else repair(rng, made, most)


def message(rng: Random, most: int = 4) -> Message:
    """A legal message of any type."""
    made: Message = record(rng, rng.choice((Heartbeat, Join, Install, Decide, Leave)), most)
    return made


def _consecutive(rng: Random, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    first = rng.randrange(1, 1000)
    return tuple(Entry(first + index, entry.decision) for index, entry in enumerate(entries))


def _view(rng: Random, view: View, most: int) -> View:
    members = {member.name: member for member in (*view.members, value(rng, Member, most))}
    return View(view.id, tuple(members[name] for name in sorted(members)))


def _install(rng: Random, install: Install, most: int) -> Install:
    states = tuple(value(rng, MemberState, most) for _ in install.view.members)
    return replace(install, states=states, sizes=tuple(value(rng, int, most) for _ in states))


_REPAIRS: dict[type, Callable[[Random, Any, int], Any]] = {
    View: _view,
    Install: _install,
    Join: lambda rng, made, most: replace(made, tail=_consecutive(rng, made.tail)),
    Decide: lambda rng, made, most: replace(made, entries=_consecutive(rng, made.entries)),
    Recovered: lambda rng, made, most: replace(made, entries=_consecutive(rng, made.entries)),
}
"""What random fields do not make legal by themselves."""


def members(count: int) -> tuple[Member, ...]:
    return tuple(Member(NodeName(f"www{index:03d}"), 1000 + index) for index in range(1, count + 1))


def calm_heartbeat(count: int) -> Heartbeat:
    """What a node of a quiet cluster of `count` says."""
    everyone = members(count)
    others = everyone[1:]
    return Heartbeat(
        view=View(ViewId(17, everyone[0]), everyone),
        epoch=17,
        gathering=False,
        delivered=123,
        stable=123,
        holds=2,
        serving=True,
        uncovered=(),
        digest="0123456789abcdef",
        table="fedcba9876543210",
        lease_bound=0.2,
        hears=others,
        number=123456,
        echoes=tuple((member, 123450, 0.0123) for member in others),
        requests=Requests(),
    )


def big_install(count: int, vips: int) -> Install:
    """The first Install of a cluster whose members share out the VIPs."""
    everyone = members(count)
    names = [VipName(f"192.168.{index // 250}.{index % 250}") for index in range(vips)]
    specs = tuple(VipSpec(vip, (f"{vip}/24",)) for vip in names)
    states = tuple(
        MemberState(tuple(names[index::count]), True, Standing(), "0123456789abcdef", "fedcba9876543210", None, 0.2)
        for index in range(count)
    )
    return Install(
        view=View(ViewId(17, everyone[0]), everyone),
        states=states,
        sizes=(1,) * count,
        tables=(("fedcba9876543210", specs),),
        recovered=(),
        mature=True,
        owners=tuple((vip, everyone[index % count].name) for index, vip in enumerate(names)),
        conflicts=(),
        waits=(),
    )
