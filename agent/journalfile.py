"""The form of a journal in a file, and its reader. See docs/replay.md.

A line with the version of the form, then frames: length, CRC-32 and payload, so that a damaged or shortened file is
told as such. Payloads are MessagePack, never pickle: a journal may come from anybody.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import msgspec

from agent.core.ids import Member
from agent.core.inputs import Input, Received
from agent.core.node import Output
from agent.engines.embedded import codec

FORM: Final = 1
MAGIC: Final = b"molehill-journal "
FRAME: Final = struct.Struct(">cII")
FRAME_MAX: Final = 256 * 2**20
"""Bytes of a frame once unpacked: a hostile file must not fill the memory."""

HEADER, CORE, STEPS, END = b"H", b"C", b"S", b"E"

INPUTS: Final[dict[str, type]] = {kind.__name__: kind for kind in get_args(Input)}


class Unreadable(Exception):
    """The file is no whole journal of this form; the text says what is wrong and what to do."""


class Header(msgspec.Struct, frozen=True):
    program: str
    """Version of molehill that wrote it."""
    node: str
    cluster: str
    incarnation: int
    reason: str
    """request, signal, crash."""
    wall: float
    """Unix seconds of the dump."""
    clock: float
    """Seconds of the node's clock at the same moment."""
    first: int
    """Number of the first step in the file, counted from the start of the agent; 0: from its start on."""
    error: str = ""
    """Of a crash: the exception."""


class Step(NamedTuple):
    """One step as recorded. `digest` None: it raised."""

    number: int
    now: float
    item: Input
    digest: int | None


@dataclass(frozen=True, slots=True)
class Core:
    """The state before the next step, as `snapshot.plain` gives it."""

    data: object


_encoder: Final = msgspec.msgpack.Encoder()
_bodies: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    name: msgspec.msgpack.Decoder(kind) for name, kind in INPUTS.items() if kind is not Received
}
_received: Final = msgspec.msgpack.Decoder(tuple[Member, bytes])
_steps: Final = msgspec.msgpack.Decoder(list[tuple[float, str, msgspec.Raw, int | None]])


def digest(outputs: list[Output]) -> int:
    """Checksum of a step's outputs: names and all values, in order."""
    return zlib.crc32(_encoder.encode([(type(output).__name__, output) for output in outputs]))


def encode_step(now: float, item: Input, outputs: list[Output] | None) -> bytes:
    body: Any = (item.sender, codec.encode(item.message)) if isinstance(item, Received) else item
    return _encoder.encode((now, type(item).__name__, body, None if outputs is None else digest(outputs)))


def frame(kind: bytes, payload: bytes) -> bytes:
    return FRAME.pack(kind, len(payload), zlib.crc32(payload)) + payload


def steps_frame(steps: list[bytes]) -> bytes:
    return frame(STEPS, zlib.compress(_array(steps), 1))


def _array(encoded: list[bytes]) -> bytes:
    """A MessagePack array of what is encoded already."""
    return b"\xdd" + len(encoded).to_bytes(4, "big") + b"".join(encoded)


def core_frame(data: object) -> bytes:
    return frame(CORE, zlib.compress(_encoder.encode(data), 1))


def whole(header: Header, frames: Iterable[bytes], count: int) -> Iterator[bytes]:
    """The pieces of a file."""
    yield MAGIC + str(FORM).encode() + b"\n"
    yield frame(HEADER, _encoder.encode(header))
    yield from frames
    yield frame(END, _encoder.encode(count))


def open_journal(path: Path) -> tuple[Header, Iterator[Step | Core]]:
    """The header, and what follows as it is read. Both raise `Unreadable`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None
    start = data.find(b"\n", 0, 64) + 1
    if not data.startswith(MAGIC) or not start:
        raise Unreadable(f"{path} is no journal: take a file that `molehill journal` or a crash of the agent has made")
    form = data[len(MAGIC) : start - 1]
    if form != str(FORM).encode():
        raise Unreadable(
            f"{path} has form {form.decode('ascii', 'replace')}, this molehill reads form {FORM}: "
            "use the version of molehill that wrote it"
        )
    frames = _frames(path, data, start)
    kind, payload = next(frames, (b"", b""))
    if kind != HEADER:
        raise Unreadable(f"{path} has no header: it is damaged")
    header = _read(path, msgspec.msgpack.Decoder(Header).decode, payload)
    return header, _content(path, header.first, frames)


def _frames(path: Path, data: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    while position < len(data):
        end = position + FRAME.size
        if end <= len(data):
            kind, length, checksum = FRAME.unpack_from(data, position)
            end += length
        if end > len(data):
            raise Unreadable(f"{path} breaks off at byte {len(data)} in the middle of a frame: it was not copied whole")
        payload = data[end - length : end]
        if zlib.crc32(payload) != checksum:
            raise Unreadable(f"{path} is damaged between bytes {position} and {end}: the checksum does not fit")
        yield kind, payload
        position = end


def _content(path: Path, number: int, frames: Iterator[tuple[bytes, bytes]]) -> Iterator[Step | Core]:
    first = number
    for kind, payload in frames:
        if kind == END:
            count = _read(path, msgspec.msgpack.Decoder(int).decode, payload)
            if count != number - first or next(frames, None) is not None:
                raise Unreadable(
                    f"{path} tells of {count} steps and has {number - first}: frames are missing or doubled"
                )
            return
        if kind == CORE:
            yield Core(_read(path, msgspec.msgpack.decode, _unpacked(path, payload)))
        elif kind == STEPS:
            for now, name, body, check in _read(path, _steps.decode, _unpacked(path, payload)):
                yield Step(number, now, _item(path, name, body), check)
                number += 1
        else:
            raise Unreadable(f"{path} has a frame of unknown kind {kind!r}: it is damaged")
    raise Unreadable(
        f"{path} breaks off after step {number - 1}: its end is missing, it was not copied or written whole"
    )


def _unpacked(path: Path, payload: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(payload, FRAME_MAX)
    except zlib.error as error:
        raise Unreadable(f"{path} is damaged: {error}") from None
    if not unpacking.eof:
        raise Unreadable(f"{path} is damaged: a frame unpacks to more than {FRAME_MAX} bytes")
    return data


def _item(path: Path, name: str, body: msgspec.Raw) -> Input:
    if name == Received.__name__:
        sender, message = _read(path, _received.decode, body)
        return Received(sender, _read(path, codec.decode, message))
    decoder = _bodies.get(name)
    if decoder is None:
        raise Unreadable(f"{path} has an input {name!r} that this version of molehill does not know: use the writer's")
    return _read(path, decoder.decode, body)  # type: ignore[no-any-return]


def _read(path: Path, decode: Callable[[Any], Any], payload: object) -> Any:
    try:
        return decode(payload)
    except (msgspec.MsgspecError, codec.Malformed, ValueError, RecursionError) as error:
        raise Unreadable(f"{path} does not fit this version of molehill, or is damaged: {error}") from None
