"""The control socket's lines: one JSON object each way, `{"verb", "args"}` and `{"ok", "result" | "error"}`.

A verb that streams (`events` with `follow`) is answered by one such line after the other until either side closes.
"""

from __future__ import annotations

import json

LINE_MAX = 65_536
"""Bytes of a request with its newline. Answers have no limit: a status of 1,000 VIPs is 300 kB."""

DEFAULT_PATH = "/run/molehill/control.sock"

VERBS = (
    "status",
    "plan",
    "events",
    "journal",
    "leave",
    "join",
    "drain",
    "undrain",
    "move",
    "balance",
    "reload",
    "version",
)


class Refused(Exception):
    """The request is understood and not done; the text says why and goes to who asked."""


def encode(value: object) -> bytes:
    """ASCII, so that whatever a request may say (half a surrogate pair, too) can be said back."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def request(line: bytes) -> tuple[str, dict[str, object]]:
    """Verb and arguments of a request line. Raises `Refused`."""
    try:
        value = json.loads(line)
        # Half a surrogate pair is good JSON and no text: neither log nor journal could write it down.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"the request is not a line of JSON: {error}") from None
    match value:
        case {"verb": str(verb), "args": dict(args)} if len(value) == 2:
            pass
        case {"verb": str(verb)} if len(value) == 1:
            args = {}
        case _:
            raise Refused('a request looks like {"verb": "status", "args": {}}')
    if verb not in VERBS:
        raise Refused(f"unknown verb {verb!r}: known are {', '.join(VERBS)}")
    return verb, args
