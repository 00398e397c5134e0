"""Messages to bytes and back: one version byte, one tag byte, MessagePack arrays.

The shape on the wire is derived from the type hints of the core's values, so a field is written down once. Every bound
is checked: sizes, lengths and numbers by msgspec while it decodes (so that a hostile length allocates nothing), what
spans several fields afterwards. See docs/wire.md.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import pairwise
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from agent.core.ids import Member, NodeName, VipName
from agent.core.messages import Decide, Heartbeat, Install, Join, Leave, Lost, Message, Recovered
from agent.core.settings import MEMBERS_MAX, UNSTABLE_MAX, VIPS_MAX
from agent.core.view import (
    Answered,
    Assigned,
    Entry,
    HandedOver,
    Matured,
    MemberState,
    Move,
    Moves,
    NeighbourEntry,
    NeighboursShared,
    OperatorRequest,
    StandingChanged,
    View,
    VipSpec,
)
from agent.engines.embedded.rejections import Reason, Rejected

VERSION: Final = 2
"""Of the messages; raised whenever a message changes. All nodes of a cluster speak one version."""

NAME_MAX: Final = 64
"""Characters of a node's or VIP's name."""
TEXT_MAX: Final = 256
"""Characters of any other string: digests, addresses, verbs."""
INTEGER_MAX: Final = 2**53
"""Epochs, sequences, incarnations, counts: what a JSON reader of the status can still tell apart."""
FLOAT_MAX: Final = 1e9
"""Seconds or weight: about 30 years."""
TEXTS_MAX: Final = 1024
"""Addresses of one VIP; pending operator requests of one member."""
NEIGHBOURS_MAX: Final = 4096
"""Entries of one neighbour table: four times the kernel's default for a whole table (gc_thresh3)."""
ENTRIES_MAX: Final = 2 * UNSTABLE_MAX
"""Log entries in one message. The unstable tail is half of it; a union of tails may reach further back."""

MESSAGE_TAGS: Final[dict[type, int]] = {Heartbeat: 1, Join: 2, Install: 3, Decide: 4, Leave: 5}
DECISION_TAGS: Final[dict[type, int]] = {
    Matured: 1,
    StandingChanged: 2,
    Moves: 3,
    HandedOver: 4,
    Assigned: 5,
    NeighboursShared: 6,
    Answered: 7,
}

_LENGTHS: Final[dict[object, int]] = {
    Member: MEMBERS_MAX,
    NodeName: MEMBERS_MAX,
    MemberState: MEMBERS_MAX,
    Recovered: MEMBERS_MAX,
    Lost: MEMBERS_MAX,
    tuple[Member, int, float]: MEMBERS_MAX,
    tuple[str, tuple[VipSpec, ...]]: MEMBERS_MAX,
    VipName: VIPS_MAX,
    VipSpec: VIPS_MAX,
    Move: VIPS_MAX,
    tuple[VipName, NodeName]: VIPS_MAX,
    tuple[VipName, float]: VIPS_MAX,
    tuple[NodeName, int]: TEXTS_MAX,
    int: MEMBERS_MAX,
    str: TEXTS_MAX,
    OperatorRequest: TEXTS_MAX,
    NeighbourEntry: NEIGHBOURS_MAX,
    Entry: ENTRIES_MAX,
}
"""Most elements of a tuple, by what it is made of."""


class Malformed(Rejected):
    """Not a legal message of this version."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.MALFORMED, detail)


Convert = Callable[[Any], Any]


class _Shape(NamedTuple):
    """How values of one type travel. `pack` and `unpack` are None where MessagePack carries the value as it is."""

    wire: Any
    pack: Convert | None
    unpack: Convert | None


def encode(message: Message) -> bytes:
    """Bytes of a message. A message beyond the limits is encoded all the same: its receivers refuse it."""
    tag = MESSAGE_TAGS[type(message)]
    return _PREFIXES[tag] + _encoder.encode(_PACKERS[tag](message))


def decode(payload: bytes) -> Message:
    """The message in `payload`. Raises `Malformed` for everything else, and nothing but that."""
    if len(payload) < 3:
        raise Malformed("too short")
    if payload[0] != VERSION:
        raise Malformed(f"message version {payload[0]}, not {VERSION}")
    decoder = _DECODERS.get(payload[1])
    if decoder is None:
        raise Malformed(f"unknown message tag {payload[1]}")
    try:
        return cast("Message", decoder(memoryview(payload)[2:]))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(str(error)) from None


def _name(value: str) -> str:
    if not value.isprintable():
        raise Malformed("unprintable characters in a string")
    return value


def _names(values: tuple[str, ...]) -> tuple[str, ...]:
    if values and not "".join(values).isprintable():
        raise Malformed("unprintable characters in a string")
    return values


def _shape(hint: Any) -> _Shape:
    """The shape of any type that the core's messages are made of."""
    if hint is int:
        return _Shape(Annotated[int, msgspec.Meta(ge=0, le=INTEGER_MAX)], None, None)
    if hint is float:
        # msgspec's bounds refuse NaN and the infinities too.
        return _Shape(Annotated[float, msgspec.Meta(ge=0.0, le=FLOAT_MAX)], None, None)
    if hint in (NodeName, VipName):
        return _Shape(Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX)], None, _name)
    if hint is str:
        return _Shape(Annotated[str, msgspec.Meta(max_length=TEXT_MAX)], None, _name)
    if hint is bool or (isinstance(hint, type) and issubclass(hint, Enum)):
        return _Shape(hint, None, None)
    origin = get_origin(hint)
    if origin is tuple:
        return _tuple_shape(hint)
    if origin in (types.UnionType, Union):
        return _union_shape(hint)
    return _record_shape(hint)


def _tuple_shape(hint: Any) -> _Shape:
    arguments = get_args(hint)
    if arguments[-1] is not Ellipsis:
        return _fixed_shape(arguments, None, lambda values: values)
    element = arguments[0]
    shape = _shape(element)
    array = types.GenericAlias(tuple, (shape.wire, ...))
    wire: Any = Annotated[array, msgspec.Meta(max_length=_LENGTHS[element])]
    if shape.unpack is _name:
        return _Shape(wire, None, _names)
    return _Shape(wire, _each(shape.pack), _each(shape.unpack))


def _each(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None
    return lambda values: tuple([convert(value) for value in values])


def _union_shape(hint: Any) -> _Shape:
    """`X | None` is X or nil; a union of decisions is its tag and the decision."""
    arguments = get_args(hint)
    if types.NoneType in arguments:
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        shape = _shape(inner)
        return _Shape(shape.wire | None, _unless_none(shape.pack), _unless_none(shape.unpack))
    packers = {kind: _packer(_shape(kind)) for kind in arguments}
    decoders = {DECISION_TAGS[kind]: _decoder(_shape(kind)) for kind in arguments}

    def pack(value: Any) -> Any:
        return DECISION_TAGS[type(value)], packers[type(value)](value)

    def unpack(tagged: tuple[int, msgspec.Raw]) -> Any:
        tag, raw = tagged
        if tag not in decoders:
            raise Malformed(f"unknown decision tag {tag}")
        return decoders[tag](raw)

    return _Shape(tuple[int, msgspec.Raw], pack, unpack)


def _unless_none(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None
    return lambda value: None if value is None else convert(value)


def _record_shape(kind: Any) -> _Shape:
    """Dataclasses and named tuples: an array of their fields."""
    hints = get_type_hints(kind)
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        getter = attrgetter(*names)
        single = len(names) == 1
        take: Convert | None = (lambda value: (getter(value),)) if single else getter
    elif issubclass(kind, tuple):
        names = list(kind._fields)
        take = None  # already an array
    else:
        raise TypeError(f"the codec has no shape for {kind!r}")
    check = _CHECKS.get(kind)
    if check is None:
        return _fixed_shape([hints[name] for name in names], take, lambda values: kind(*values))

    def build(values: Any) -> Any:
        value = kind(*values)
        check(value)
        return value

    return _fixed_shape([hints[name] for name in names], take, build)


def _fixed_shape(hints: Any, take: Convert | None, build: Convert) -> _Shape:
    """An array of fixed length: `take` makes it from a value, `build` a value from it."""
    shapes = [_shape(hint) for hint in hints]
    packs = [(index, shape.pack) for index, shape in enumerate(shapes) if shape.pack is not None]
    unpacks = [(index, shape.unpack) for index, shape in enumerate(shapes) if shape.unpack is not None]

    def pack(value: Any) -> Any:
        values = list(value if take is None else take(value))
        for index, convert in packs:
            values[index] = convert(values[index])
        return values

    def unpack(array: Any) -> Any:
        values = list(array)
        for index, convert in unpacks:
            values[index] = convert(values[index])
        return build(tuple(values))

    return _Shape(types.GenericAlias(tuple, tuple(shape.wire for shape in shapes)), pack if packs else take, unpack)


def _check_view(view: View) -> None:
    names = view.names()
    if not names:
        raise Malformed("a view without members")
    if any(first >= second for first, second in pairwise(names)):
        raise Malformed("members of a view not sorted by name, or not unique")


def _check_entries(entries: tuple[Entry, ...]) -> None:
    if entries and entries[0].seq < 1:
        raise Malformed("a log entry before the first")
    if any(first.seq + 1 != second.seq for first, second in pairwise(entries)):
        raise Malformed("log entries not consecutive")


def _check_join(join: Join) -> None:
    _check_entries(join.tail)


def _check_recovered(recovered: Recovered) -> None:
    _check_entries(recovered.entries)


def _check_decide(decide: Decide) -> None:
    _check_entries(decide.entries)


def _check_install(install: Install) -> None:
    if not len(install.states) == len(install.sizes) == len(install.view.members):
        raise Malformed("an install whose states or sizes do not match its members")


_CHECKS: Final[dict[type, Callable[[Any], None]]] = {
    View: _check_view,
    Join: _check_join,
    Recovered: _check_recovered,
    Decide: _check_decide,
    Install: _check_install,
}


def _packer(shape: _Shape) -> Convert:
    return shape.pack if shape.pack is not None else lambda value: value


def _decoder(shape: _Shape) -> Convert:
    decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(shape.wire)
    unpack = shape.unpack
    return decoder.decode if unpack is None else lambda raw: unpack(decoder.decode(raw))


_encoder: Final = msgspec.msgpack.Encoder()
_SHAPES: Final = {tag: _shape(kind) for kind, tag in MESSAGE_TAGS.items()}
_PREFIXES: Final = {tag: bytes((VERSION, tag)) for tag in _SHAPES}
_PACKERS: Final = {tag: _packer(shape) for tag, shape in _SHAPES.items()}
_DECODERS: Final = {tag: _decoder(shape) for tag, shape in _SHAPES.items()}
