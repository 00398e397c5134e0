"""A collector for tests: OTLP over HTTP, decoded with OpenTelemetry's own protobuf classes; it can also fail."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    at: float
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Received:
    """A span as it arrived; times in Unix seconds, numbers as hexadecimal text."""

    name: str
    node: str
    resource: dict[str, Any]
    trace: str
    span: str
    parent: str
    """Empty: a root."""
    parent_is_remote: bool
    start: float
    end: float
    attributes: dict[str, Any]
    events: tuple[Event, ...]
    links: tuple[tuple[str, str], ...]
    failed: bool
    dropped: int
    """Events, attributes and links that the SDK says it left out."""


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    kind = pair.value.WhichOneof("value")
    value = getattr(pair.value, kind)
    return [getattr(one, one.WhichOneof("value")) for one in value.values] if kind == "array_value" else value


def decode(body: bytes) -> Iterator[Received]:
    request = ExportTraceServiceRequest.FromString(body)
    for of_resource in request.resource_spans:
        resource = _values(of_resource.resource.attributes)
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.name,
                    resource["service.instance.id"],
                    resource,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    bool(span.flags & 0x200),
                    span.start_time_unix_nano / 1e9,
                    span.end_time_unix_nano / 1e9,
                    _values(span.attributes),
                    tuple(Event(e.name, e.time_unix_nano / 1e9, _values(e.attributes)) for e in span.events),
                    tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    span.status.code == 2,
                    span.dropped_events_count + span.dropped_attributes_count + span.dropped_links_count,
                )


@dataclass
class Collector:
    """`status` and `hang` may be changed at any time."""

    port: int = 0
    status: int = 200
    hang: bool = False
    """Takes requests and never answers."""
    requests: int = 0
    spans: list[Received] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ending: threading.Event = field(default_factory=threading.Event)

    def all(self) -> list[Received]:
        with self.lock:
            return list(self.spans)

    def until(self, holds: Callable[[list[Received]], object], seconds: float = 60.0) -> list[Received]:
        """All spans, once that is true of them; fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while not holds(found := self.all()):
            assert time.monotonic() < deadline, f"never came true of {len(found)} spans"
            time.sleep(0.02)
        return found


@contextmanager
def collector(address: str = "127.0.0.1", port: int = 0) -> Iterator[Collector]:
    state = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            with state.lock:
                state.requests += 1
            if state.hang:
                state.ending.wait()
                return
            if state.status == 200:
                with state.lock:
                    state.spans += decode(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(state.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((address, port), Handler)
    server.daemon_threads = True
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield state
    finally:
        state.ending.set()
        server.shutdown()
        thread.join()
        server.server_close()


def refusing_port(address: str = "127.0.0.1") -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
    return port
