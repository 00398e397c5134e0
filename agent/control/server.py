"""The control socket: the only way to change anything in a running agent."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import os
import socket
import stat
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from agent.control.protocol import LINE_MAX, Refused, encode, request

CLIENTS_MAX = 64
"""Connections at a time."""

GROUP = "molehill"
MODE = 0o660


class Handler(Protocol):
    async def handle(self, verb: str, args: dict[str, object]) -> object:
        """The JSON-able result, or an AsyncIterator of results to be streamed. Raises `Refused`."""


class ControlError(Exception):
    """The socket cannot be served; the text says what to do."""


class Server:
    """`start`, then `close`, on the loop's thread."""

    def __init__(self, path: str | os.PathLike[str], handler: Handler) -> None:
        self._path = Path(path)
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._identity: tuple[int, int] | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises `ControlError`: another agent listens there, or the path cannot be used."""
        sock = _listen(self._path)
        status = self._path.stat()
        self._identity = (status.st_dev, status.st_ino)
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=LINE_MAX)

    async def close(self) -> None:
        """Ends all connections and removes the socket, unless it is another agent's by now."""
        if self._server is None:
            return
        self._server.close()
        for client in tuple(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            status = self._path.stat()
            if (status.st_dev, status.st_ino) == self._identity:
                self._path.unlink()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > CLIENTS_MAX:
                await _answer(writer, error=f"{CLIENTS_MAX} clients are connected already: try again later")
                return
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._clients.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                await _answer(writer, error=f"the request is longer than {LINE_MAX} bytes")
                return
            try:
                result = await self._handler.handle(*request(line))
                if isinstance(result, AsyncIterator):
                    await _stream(reader, writer, result)
                    return
                await _answer(writer, result=result)
            except Refused as refusal:
                await _answer(writer, error=str(refusal))
            except (ConnectionError, asyncio.CancelledError):
                raise
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                await _answer(writer, error=f"error inside the agent: {error!r}; its log has the details")


async def _answer(writer: asyncio.StreamWriter, *, result: object = None, error: str | None = None) -> None:
    writer.write(encode({"ok": True, "result": result} if error is None else {"ok": False, "error": error}))
    await writer.drain()


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, results: AsyncIterator[object]) -> None:
    """Until the results end or the client goes."""

    async def pour() -> None:
        async for result in results:
            await _answer(writer, result=result)

    pouring = asyncio.ensure_future(pour())
    gone = asyncio.ensure_future(reader.read())
    try:
        await asyncio.wait({pouring, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (pouring, gone):
            task.cancel()
        await asyncio.gather(pouring, gone, return_exceptions=True)
    if not pouring.cancelled() and (error := pouring.exception()) is not None:
        raise error


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`; what a dead agent left there is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ControlError(f"control {path}: its directory cannot be used: {error.strerror}") from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Two agents that start together must not both find the socket stale and remove each other's.
        fcntl.flock(directory, fcntl.LOCK_EX)
        _make_way(path)
        sock.bind(str(path))
        _permit(path)
        sock.listen(CLIENTS_MAX)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ControlError(f"control {path}: {error.strerror or error}") from error
    except ControlError:
        sock.close()
        raise
    finally:
        os.close(directory)
    return sock


def _make_way(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"control {path} exists and is no socket: remove it, or set `control` to another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except (BlockingIOError, TimeoutError):
            pass
    raise ControlError(
        f"an agent is already running and listens on {path}: stop it, or set `control` to another path for this one"
    )


def _permit(path: Path) -> None:
    """Root, and the group `molehill` where there is one."""
    path.chmod(MODE)
    try:
        group = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return
    with contextlib.suppress(PermissionError):
        os.chown(path, -1, group)
