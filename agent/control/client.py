"""Asks a running agent. Synchronous and light: it is what makes `molehill status` quick."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from io import BufferedReader

from agent.control.protocol import DEFAULT_PATH, encode

TIMEOUT = 10.0
"""Seconds for an answer that needs nobody else."""

PATIENCE = 60.0
"""Seconds for what the whole group takes part in: hand-over of everything on `leave` or `drain`."""

SLOW = ("leave", "join", "drain", "undrain", "move", "balance", "reload")


class Failed(Exception):
    """Not done; the text is one line that says why."""


def default_path() -> str:
    return os.environ.get("MOLEHILL_CONTROL") or DEFAULT_PATH


def ask(path: str, verb: str, timeout: float | None = None, **args: object) -> object:
    """The result of one request. Raises `Failed`."""
    limit = timeout if timeout is not None else PATIENCE if verb in SLOW else TIMEOUT
    with _connect(path, limit) as sock, sock.makefile("rb") as answers:
        _send(sock, verb, args)
        return _result(answers, path, limit)


def follow(path: str, verb: str, **args: object) -> Iterator[object]:
    """Results as they come, until the agent ends. Raises `Failed`."""
    with _connect(path, TIMEOUT) as sock, sock.makefile("rb") as answers:
        _send(sock, verb, args)
        sock.settimeout(None)
        while answers.peek(1):
            yield _result(answers, path, TIMEOUT)


def _connect(path: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        raise Failed(
            f"no agent listens on {path}: is molehill running? (another path: --control or MOLEHILL_CONTROL)"
        ) from None
    except PermissionError:
        sock.close()
        raise Failed(f"{path} may not be opened by you: become root or a member of the group molehill") from None
    except OSError as error:
        sock.close()
        raise Failed(f"{path} cannot be opened: {error.strerror or error}") from None
    return sock


def _send(sock: socket.socket, verb: str, args: dict[str, object]) -> None:
    try:
        sock.sendall(encode({"verb": verb, "args": args}))
    except OSError as error:
        raise Failed(f"the agent hung up: {error.strerror or error}") from None


def _result(answers: BufferedReader, path: str, timeout: float) -> object:
    try:
        line = answers.readline()
        if not line.endswith(b"\n"):
            raise Failed(f"the agent at {path} hung up before it answered: did it stop?")
        answer = json.loads(line)
    except TimeoutError:
        raise Failed(
            f"the agent at {path} did not answer within {timeout:g} s; it may still do it: see `molehill events`"
        ) from None
    except OSError as error:
        raise Failed(f"the agent at {path} hung up: {error.strerror or error}") from None
    except ValueError:
        raise Failed(f"what answers at {path} is not molehill") from None
    match answer:
        case {"ok": True, "result": result}:
            return result
        case {"ok": False, "error": str(reason)}:
            raise Failed(reason)
        case _:
            raise Failed(f"what answers at {path} is not molehill")
