"""What is inside a seal: who is meant, whom the sender has heard, and a message or a part of one."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from agent.engines.embedded.fragments import Part
from agent.engines.embedded.rejections import Reason, Rejected
from agent.engines.embedded.seal import SESSION_SIZE
from agent.engines.embedded.trust import Echo

HELLO: Final = 1
"""No message: only the echoes. Makes peers trust each other."""
WHOLE: Final = 2
FRAGMENT: Final = 3
ECHOES_MAX: Final = 8
"""In one datagram; a broadcast names its peers by turns."""

_DIRECTED: Final = 0x80
_ECHO: Final = Struct(f">4s{SESSION_SIZE}s")
_PART: Final = Struct(">IHH")
PART_SIZE: Final = _PART.size


class Envelope(NamedTuple):
    kind: int
    directed: bool
    """Meant for the member of the first echo, and for nobody else."""
    echoes: list[Echo]
    part: Part | None
    content: bytes


def seal_in(kind: int, directed: bool, echoes: list[Echo], part: Part | None, content: bytes) -> bytes:
    """The body of a datagram."""
    head = bytes((kind | _DIRECTED if directed else kind, len(echoes)))
    named = b"".join([tag + session for tag, session in echoes])
    return head + named + (b"" if part is None else _PART.pack(*part)) + content


def size(echoes: int) -> int:
    """Bytes of an envelope without its content, with so many echoes and a part."""
    return 2 + echoes * _ECHO.size + PART_SIZE


def take_out(body: bytes) -> Envelope:
    """Reads a body. Raises `Rejected` (malformed)."""
    if len(body) < 2:
        raise Rejected(Reason.MALFORMED, "empty body")
    kind, directed, count = body[0] & ~_DIRECTED, bool(body[0] & _DIRECTED), body[1]
    start = 2 + count * _ECHO.size
    if count > ECHOES_MAX or (directed and count != 1) or len(body) < start:
        raise Rejected(Reason.MALFORMED, "echoes")
    echoes = [Echo(*_ECHO.unpack_from(body, 2 + index * _ECHO.size)) for index in range(count)]
    if kind == WHOLE:
        return Envelope(kind, directed, echoes, None, body[start:])
    if kind == FRAGMENT:
        if len(body) < start + PART_SIZE:
            raise Rejected(Reason.MALFORMED, "fragment header")
        part = Part(*_PART.unpack_from(body, start))
        return Envelope(kind, directed, echoes, part, body[start + PART_SIZE :])
    if kind == HELLO and len(body) == start:
        return Envelope(kind, directed, echoes, None, b"")
    raise Rejected(Reason.MALFORMED, f"body kind {kind}")
