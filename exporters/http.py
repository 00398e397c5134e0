"""HTTP for people, probes and Prometheus. It reads; nothing can be changed by it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from exporters import listen, openapi, page, web_config
from exporters.history import History, Recorded
from exporters.metrics import Metrics
from exporters.schema import ErrorResponse
from exporters.status import Status

STREAMS_MAX = 32
"""Clients of the event stream at a time."""

TURN_MAX = 2.0
"""Seconds without a turn of the agent after which it is not healthy."""

KEEPALIVE = 15.0
"""Seconds between comments on an idle stream, so that proxies keep it and dead clients are found."""

STUCK = 10.0
"""Seconds that a client of the stream may take for one write."""

COMPRESS_OFF_LOOP = 4_096
"""Bytes from which on an answer is compressed in a thread."""

HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
"""Of every answer."""

WATCH_INTERVAL = 2.0
"""Seconds between two looks at the web-config file and those that it names."""

SETTLE_MAX = 1.0
"""Seconds that an answer waits at most for the observers to catch up with what has happened."""


async def nothing_waits() -> None:
    """For who has no bus: everything that happened is known."""


class Http:
    """`start`, then `close`."""

    def __init__(
        self,
        status: Status,
        metrics: Metrics,
        history: History,
        *,
        idle: Callable[[], float],
        caught_up: Callable[[], Awaitable[None]] = nothing_waits,
        web_config_file: str | None = None,
        complain: Callable[[str], None] = lambda text: print(f"molehill: {text}", file=sys.stderr),
    ) -> None:
        """`idle`: for how many seconds the agent has not taken a turn. `caught_up`: `status` and `history` know all.

        `complain` is told of a web-config file that was changed for the worse.
        """
        self._status = status
        self._metrics = metrics
        self._history = history
        self._idle = idle
        self._caught_up = caught_up
        self._file = None if web_config_file is None else Path(web_config_file)
        self._complain = complain
        self._web = web_config.WebConfig()
        self._door = web_config.Door()
        self._site: web.SockSite | None = None
        self._watching: asyncio.Task[None] | None = None
        self._page = page.assemble()
        self._document = json.dumps(openapi.document(), indent=1)
        self._streams = 0
        self._runner: web.AppRunner | None = None
        self.port = 0
        """Where it listens; of use when port 0 was asked for."""

    async def start(self, address: str) -> None:
        """`address` as in `http.listen`. Raises `listen.ListenError`, also for a web-config file that is wrong."""
        if self._file is not None:
            self._web = await asyncio.to_thread(web_config.read, self._file)
        sock = listen.open_socket(address)
        self.port = sock.getsockname()[1]
        app = web.Application(middlewares=[_errors, self._admit])
        app.add_routes(
            [
                web.get("/", self._show),
                web.get("/-/healthy", self._healthy),
                web.get("/-/ready", self._ready),
                web.get("/metrics", self._scrape),
                web.get("/api/v1/status", self._snapshot),
                web.get("/api/v1/events", self._events),
                web.get("/api/v1/openapi.json", self._describe),
            ]
        )
        app.on_response_prepare.append(self._add_headers)
        self._runner = web.AppRunner(app, access_log=None, logger=_logger(), shutdown_timeout=0.5)
        await self._runner.setup()
        self._site = web.SockSite(self._runner, sock, ssl_context=self._web.tls)
        await self._site.start()
        if self._file is not None:
            watching = web_config.watch(
                self._web, self._file, interval=WATCH_INTERVAL, use=self._use, complain=self._complain
            )
            self._watching = asyncio.create_task(watching)
            self._listening, self._socket = sock, sock.dup()

    async def _use(self, config: web_config.WebConfig) -> None:
        """New connections are taken as the new file says; those that are open end as they began."""
        assert self._runner is not None
        assert self._site is not None
        listening = self._socket.dup()
        site = web.SockSite(self._runner, listening, ssl_context=config.tls)
        await site.start()
        old, self._site, self._web = self._site, site, config
        # What the old one has accepted gets a turn first: asyncio loses a connection that comes up in a closed server.
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening = listening
        await asyncio.sleep(0)
        await old.stop()

    async def close(self) -> None:
        """Ends the streams too."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
            self._socket.close()
        self._history.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)
        response.headers.update(self._web.headers)

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if await self._door.admits(self._web.users, request.headers.get("Authorization", "")):
            return await handler(request)
        response = _error(401, "who asks must give a name and password of basic_auth_users in the web-config file")
        response.headers["WWW-Authenticate"] = 'Basic realm="molehill"'
        return response

    async def _show(self, request: web.Request) -> web.Response:
        shown = self._page
        headers = {"Content-Security-Policy": shown.policy, "ETag": shown.tag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == shown.tag:
            return web.Response(status=304, headers=headers)
        response = web.Response(
            body=shown.body,
            content_type="text/html",
            charset="utf-8",
            headers=headers,
            zlib_executor_size=COMPRESS_OFF_LOOP,
        )
        response.enable_compression()
        return response

    async def _healthy(self, request: web.Request) -> web.Response:
        idle = self._idle()
        if idle >= TURN_MAX:
            return web.Response(status=503, text=f"not healthy: the agent took no turn for {idle:.1f} s\n")
        return web.Response(text="healthy\n")

    async def _ready(self, request: web.Request) -> web.Response:
        await self._settle()
        reason = self._status.not_ready
        return web.Response(status=503, text=f"not ready: {reason}\n") if reason else web.Response(text="ready\n")

    async def _scrape(self, request: web.Request) -> web.Response:
        body, content_type = await self._metrics.scrape(request.headers.get("Accept", ""))
        response = web.Response(body=body, headers={"Content-Type": content_type}, zlib_executor_size=COMPRESS_OFF_LOOP)
        response.enable_compression()
        return response

    async def _snapshot(self, request: web.Request) -> web.Response:
        await self._settle()
        status = self._status.copy()
        body = await asyncio.to_thread(lambda: status.snapshot().model_dump_json())
        return _json(body)

    async def _describe(self, request: web.Request) -> web.Response:
        return _json(self._document)

    async def _settle(self) -> None:
        """Who asks right after something happened is told of it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_MAX):
                await self._caught_up()

    async def _events(self, request: web.Request) -> web.StreamResponse:
        since = _since(request)
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await self._stream(request, since)
        await self._settle()
        events = self._history.since(since)
        answer = {"first": self._history.first, "last": self._history.last, "events": events}
        return _json(await asyncio.to_thread(json.dumps, answer))

    async def _stream(self, request: web.Request, since: int) -> web.StreamResponse:
        if self._streams >= STREAMS_MAX:
            return _error(503, f"{STREAMS_MAX} clients follow the events already: end one of them or ask later")
        self._streams += 1
        try:
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            )
            await response.prepare(request)
            async with aclosing(self._history.follow(since)) as events:
                await _pour(response, events)
            return response
        finally:
            self._streams -= 1


async def _pour(response: web.StreamResponse, events: AsyncGenerator[Recorded, None]) -> None:
    """Until the history closes, the client goes (aiohttp cancels this handler or a write fails), or it is stuck."""
    coming = asyncio.ensure_future(anext(events))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=KEEPALIVE)
            if not done:
                piece = b": still here\n\n"
            else:
                event = coming.result()
                piece = f"id: {event['seq']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
                coming = asyncio.ensure_future(anext(events))
            async with asyncio.timeout(STUCK):
                await response.write(piece)
    except (StopAsyncIteration, TimeoutError, ConnectionError):
        return
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


def _since(request: web.Request) -> int:
    """The query's `since`, or where a stream that is taken up again stopped; 0: from the beginning."""
    unknown = sorted(set(request.query) - {"since"})
    if unknown:
        raise BadQuery(f"unknown parameter {unknown[0]!r}: only `since` is known")
    text = request.headers.get("Last-Event-ID") or request.query.get("since", "0")
    if len(request.query.getall("since", [])) > 1 or not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadQuery(f"since={text!r} is not the number of an event: take a `seq` of an earlier answer, or 0")
    return int(text)


def _logger() -> logging.Logger:
    """For errors of ours: what is no HTTP is answered 400 and not worth a traceback, which a stranger could repeat."""

    def ours(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))

    logger = logging.Logger("molehill.http", logging.WARNING)
    logger.addHandler(logging.lastResort or logging.StreamHandler())
    logger.addFilter(ours)
    return logger


class BadQuery(Exception):
    pass


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as JSON."""
    try:
        return await handler(request)
    except BadQuery as error:
        return _error(400, str(error))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = _error(405, f"{error.method} is not allowed: HTTP only reads; to change something use `molehill`")
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        return _error(404, f"{request.path} is not here: see / for what is")


def _json(text: str) -> web.Response:
    """Never out of a cache; compressed, off the loop, when long."""
    response = web.Response(
        text=text,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
        zlib_executor_size=COMPRESS_OFF_LOOP,
    )
    response.enable_compression()
    return response


def _error(status: int, text: str) -> web.Response:
    return web.json_response(text=ErrorResponse(error=text).model_dump_json(), status=status)
