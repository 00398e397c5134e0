"""One of each event, and a small cluster that they are about."""

import dataclasses
import types
from typing import Union, get_args, get_origin, get_type_hints

from agent.core import events as e
from agent.core.effects import Occasion
from agent.core.ids import Member, NodeName, ViewId, VipName
from agent.core.settings import Address, Settings, Vip
from agent.core.view import Cause, HandedOver, Move, View, ViewCause

W1, W2, W3 = Member(NodeName("www1"), 3), Member(NodeName("www2"), 5), Member(NodeName("www3"), 2)


def vip_name(number: int) -> VipName:
    return VipName(f"10.0.{number // 250}.{number % 250 + 1}")


def settings(vips: int = 3) -> Settings:
    return Settings(
        cluster="www",
        node=W1.name,
        vips=tuple(
            Vip(vip_name(n), (Address("eth4", vip_name(n), 16, "10.0.0.0/16"),), prefer=(W2.name,) if n == 0 else ())
            for n in range(vips)
        ),
        members=(W1.name, W2.name, W3.name),
        digest="d1g35t",
    )


def installed(
    at: float = 10.0, *, cause: ViewCause = ViewCause.JOIN, mature: bool = True, vips: int = 3
) -> e.ViewInstalled:
    """Round robin over the three."""
    return e.ViewInstalled(
        at=at,
        view=View(ViewId(7, W1), (W1, W2, W3)),
        previous=None,
        joined=(W1, W2, W3),
        left=(),
        cause=cause,
        together=((W1,), (W2, W3)),
        mature=mature,
        gather_started=at - 0.02,
        failed_since=None,
        owners=tuple((vip_name(n), (W1, W2, W3)[n % 3].name) for n in range(vips)),
    )


SAMPLES: dict[object, object] = {
    float: 1.5,
    int: 4,
    bool: True,
    str: "word",
    Member: W2,
    ViewId: ViewId(7, W1),
    View: View(ViewId(7, W1), (W1, W2)),
    Cause: Cause.FAILOVER,
    ViewCause: ViewCause.DISCONNECT,
    Occasion: Occasion.ACQUIRE,
    Move: Move(vip_name(0), W1.name, W2.name, Cause.BALANCE),
    NodeName: W2.name,
    VipName: vip_name(0),
}


def sample(hint: object) -> object:
    """A value of a field's type, never an empty one."""
    if hint in SAMPLES:
        return SAMPLES[hint]
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        return (sample(inner[0]),) if inner[-1] is ... else tuple(sample(part) for part in inner)
    if get_origin(hint) in (types.UnionType, Union):
        kinds = get_args(hint)
        return (
            HandedOver((Move(vip_name(0), W1.name, W2.name, Cause.MOVE),)) if HandedOver in kinds else sample(kinds[0])
        )
    raise TypeError(f"no sample of {hint}")


def one(kind: type, at: float = 100.0) -> e.Event:
    hints = get_type_hints(kind)
    values = {field.name: sample(hints[field.name]) for field in dataclasses.fields(kind)}
    event: e.Event = kind(**(values | {"at": at}))
    return event


KINDS: tuple[type, ...] = get_args(e.Event)
EVERY: tuple[e.Event, ...] = tuple(one(kind) for kind in KINDS)
