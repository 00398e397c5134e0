"""The OpenAPI 3.1 document of the HTTP API, generated from the models that make the answers."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from agent import __version__
from exporters.schema import ErrorResponse, EventsResponse, StatusResponse

Json = dict[str, Any]

MODELS = (StatusResponse, EventsResponse, ErrorResponse)

SEQ_MAX = 10**18 - 1
"""Largest event number that a question may name."""

STREAM = """With `Accept: text/event-stream` the same as server-sent events, followed by each new one as it comes.
`id` is the event's `seq`, `event` its `type`, `data` the event as JSON. An idle stream says a comment every 15 s.
A gap in the numbers means that the reader was too slow, or away for longer than the history reaches back."""


def document() -> Json:
    """Paths relative to wherever the API is served."""
    _, schemas = models_json_schema(
        [(model, "serialization") for model in MODELS], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Molehill",
            "version": __version__,
            "description": "One node's view of its cluster. Read-only: the control socket alone changes anything.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/api/v1/status": {"get": _status()},
            "/api/v1/events": {"get": _events()},
            "/api/v1/openapi.json": {"get": _openapi()},
            "/metrics": {"get": _metrics()},
            "/-/healthy": {"get": _probe("healthy", "Whether the agent takes its turns; not whether it is in a view")},
            "/-/ready": {"get": _probe("ready", "Whether the node is mature, in a view and quorate")},
        },
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(name: str, summary: str, responses: Json, parameters: tuple[Json, ...] = ()) -> Json:
    operation: Json = {"operationId": name, "summary": summary, "responses": responses}
    return operation | {"parameters": list(parameters)} if parameters else operation


def _json(description: str, model: str) -> Json:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}}},
    }


def _text(description: str, *kinds: str) -> Json:
    return {"description": description, "content": {kind: {"schema": {"type": "string"}} for kind in kinds}}


def _status() -> Json:
    return _operation(
        "status", "Members, VIPs, and who holds what", {"200": _json("As this node sees it now", "StatusResponse")}
    )


def _events() -> Json:
    seq = {"type": "integer", "minimum": 0, "maximum": SEQ_MAX}
    answer = _json("Up to 1,000 events, oldest first", "EventsResponse")
    answer["description"] += ". " + STREAM
    answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return _operation(
        "events",
        "What has happened, with causes",
        {
            "200": answer,
            "400": _json("A parameter that is none", "ErrorResponse"),
            "503": _json("Too many clients follow the stream", "ErrorResponse"),
        },
        (
            {
                "name": "since",
                "in": "query",
                "description": "Only events after this `seq`; a future one is of a former life of the agent: all",
                "schema": seq | {"default": 0},
            },
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "Where a stream broke off; wins over `since`",
                "schema": seq,
            },
        ),
    )


def _openapi() -> Json:
    return _operation(
        "openapi",
        "This document",
        {"200": {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}}},
    )


def _metrics() -> Json:
    kinds = ("text/plain", "application/openmetrics-text")
    return _operation("metrics", "For Prometheus", {"200": _text("All metrics", *kinds)})


def _probe(name: str, summary: str) -> Json:
    return _operation(name, summary, {"200": _text("Yes", "text/plain"), "503": _text("No, and why", "text/plain")})
