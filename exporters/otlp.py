"""Spans to a collector by OTLP over HTTP, in a thread of its own. Heavy: imported only where tracing is configured.

The SDK's batch processor is not used: its shutdown waits up to 30 s for a dead collector, it drops what one failed
request held, and it does not say how much it dropped. Here the queue is bounded by what it holds, a batch that a
collector could not take waits for it, and the end waits at most as long as it is told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context

from agent import __version__
from exporters.spans import Span

QUEUE_MAX = 16_384
"""Spans and their events that wait for a collector, together: 10 MB."""

BATCH_MAX = 192
"""Spans and events of one request: 5 to 10 ms of encoding, during which the event loop waits for the interpreter."""

LINGER = 0.5
"""Seconds that a first span waits for others."""

TIMEOUT = 1.0
"""Seconds for one request, all attempts of the exporter included."""

PAUSE_MAX = 30.0
"""Seconds between two attempts while a collector does not take anything; doubled from one second on."""

SAID_PAUSE = 60.0
"""Seconds between two log lines about the collector."""

LOGGERS = ("opentelemetry", "urllib3")

PATH = "/v1/traces"


def url(endpoint: str) -> str:
    """Where spans go: the path of OTLP is added to a bare endpoint."""
    return endpoint if endpoint.rstrip("/").endswith(PATH) else endpoint.rstrip("/") + PATH


class Outbox:
    """`put` spans from the event loop; `close` at the end. `dropped` counts those that no collector took."""

    def __init__(
        self,
        endpoint: str,
        *,
        cluster: str,
        node: str,
        seconds: Callable[[float], float],
        say: Callable[[str], None],
        limit: int = QUEUE_MAX,
    ) -> None:
        """`seconds`: Unix time of the node's clock. `say`: a line for the log, from any thread."""
        self._endpoint = url(endpoint)
        self._say = say
        self._limit = limit
        self._maker = Maker(cluster, node, seconds)
        self._session = requests.Session()
        self._status: int | None = None
        self._session.hooks["response"].append(self._answered)
        self._exporter = OTLPSpanExporter(endpoint=self._endpoint, timeout=TIMEOUT, session=self._session)
        self._quiet = Quiet(say)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._quiet)
            logging.getLogger(name).propagate = False
        self._queue: deque[Span] = deque()
        self._weight = 0
        self._lock = threading.Condition()
        self._closing = False
        self._finished: Callable[[], object] = lambda: None
        self._failures = 0
        self._given_up = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    @property
    def pressed(self) -> bool:
        """Half full although the collector takes what it gets: who makes spans may wait."""
        return self._weight > self._limit // 2 and not self._failures

    def put(self, span: Span) -> None:
        with self._lock:
            self._queue.append(span)
            self._weight += weight(span)
            self._trim()
            self._lock.notify()

    async def close(self, seconds: float) -> None:
        """Sends what waits, for at most so many seconds, and gives up the rest."""
        loop, finished = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._closing = True
            self._finished = lambda: loop.call_soon_threadsafe(finished.set)
            self._lock.notify()
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(finished.wait(), seconds)
        with self._lock:
            left, self._limit = len(self._queue), 0
            self._trim()
        if left:
            self._say(f"{left} spans are given up: the collector at {self._endpoint} did not take them in time")

    def _trim(self) -> None:
        """The oldest go first. With the lock held."""
        while self._weight > self._limit and self._queue:
            self._weight -= weight(self._queue.popleft())
            self.dropped += 1

    # In the thread.

    def _run(self) -> None:
        while self._wait():
            batch = self._take()
            try:
                self._send(batch)
            except Exception as error:
                self.dropped += len(batch)
                self._quiet.told(f"spans could not be sent: {error!r}")
        for name in LOGGERS:  # not before: an attempt under way at the end may still have something to say
            logging.getLogger(name).removeHandler(self._quiet)
        with contextlib.suppress(RuntimeError):  # the loop may be gone by now
            self._finished()

    def _wait(self) -> bool:
        """Until there is something to send and it may be sent; False: it is over."""
        with self._lock:
            self._lock.wait_for(lambda: bool(self._queue) or self._closing)
            if self._failures:
                self._lock.wait_for(lambda: self._closing, min(PAUSE_MAX, 2.0 ** (self._failures - 1)))
            else:
                self._lock.wait_for(lambda: self._closing or self._weight >= BATCH_MAX, LINGER)
            return bool(self._queue) and not self._given_up if self._closing else True

    def _take(self) -> list[Span]:
        batch: list[Span] = []
        taken = 0
        with self._lock:
            while self._queue and (not batch or taken + weight(self._queue[0]) <= BATCH_MAX):
                taken += weight(self._queue[0])
                batch.append(self._queue.popleft())
            self._weight -= taken
        return batch

    def _send(self, batch: list[Span]) -> None:
        self._status = None
        made = [self._maker.make(span) for span in batch]
        if not made or self._exporter.export(made) is SpanExportResult.SUCCESS:
            self._recovered()
            return
        with self._lock:
            if self._status is not None and 400 <= self._status < 500 and self._status not in (408, 429):
                self.dropped += len(batch)  # it will never want these
                self._quiet.told(f"the collector at {self._endpoint} refuses spans with status {self._status}")
                return
            self._failures += 1
            self._given_up = self._closing
            self._queue.extendleft(reversed(batch))
            self._weight += sum(weight(span) for span in batch)
            self._trim()

    def _recovered(self) -> None:
        if self._failures:
            self._failures = 0
            self._say(f"the collector at {self._endpoint} takes spans again; {self.dropped} were dropped so far")

    def _answered(self, response: requests.Response, *args: object, **more: object) -> None:
        self._status = response.status_code


def weight(span: Span) -> int:
    return 1 + len(span.points)


class Maker(IdGenerator, SpanProcessor):
    """Spans of the SDK out of ours: with the numbers that they have already, and without its limits."""

    def __init__(self, cluster: str, node: str, seconds: Callable[[float], float]) -> None:
        self._seconds = seconds
        self._next = (0, 0)
        self._made: ReadableSpan | None = None
        resource = Resource.create(
            {
                "service.name": "molehill",
                "service.version": __version__,
                "service.namespace": cluster,
                "service.instance.id": node,
                "host.name": socket.gethostname(),
                "cluster": cluster,
                "node": node,
            }
        )
        no = SpanLimits.UNSET
        limits = SpanLimits(no, no, no, no, no, no, no, no)
        provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, id_generator=self, span_limits=limits
        )
        provider.add_span_processor(self)
        self._tracer = provider.get_tracer("molehill", __version__)

    def make(self, span: Span) -> ReadableSpan:
        trace = span.incident.identity.trace
        self._next = (trace, span.span)
        context = Context()
        if span.parent is not None:
            remote = span.parent == span.incident.identity.root and not span.incident.rooted_here
            context = set_span_in_context(NonRecordingSpan(_context(trace, span.parent, remote)), context)
        made = self._tracer.start_span(
            span.name,
            context=context,
            attributes=span.attributes,
            links=[Link(_context(*link, True)) for link in span.links],
            start_time=self._nanoseconds(span.start),
        )
        for point in span.points:
            made.add_event(point.name, point.attributes, self._nanoseconds(point.at))
        if span.error:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(self._nanoseconds(span.end))
        assert self._made is not None
        return self._made

    def generate_trace_id(self) -> int:
        return self._next[0]

    def generate_span_id(self) -> int:
        return self._next[1]

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        self._made = span

    def _nanoseconds(self, at: float) -> int:
        return int(self._seconds(at) * 1e9)


def _context(trace: int, span: int, remote: bool) -> SpanContext:
    return SpanContext(trace, span, remote, TraceFlags(TraceFlags.SAMPLED))


class Quiet(logging.Handler):
    """Lets one line of the libraries through, and none for a while: a dead collector must not fill the log."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._out = say
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self.told(record.getMessage())

    def told(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + SAID_PAUSE
            self._out(f"{text} (spans wait, as far as there is room; further lines of this kind are held back)")
