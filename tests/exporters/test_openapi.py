"""The document against the real server: every operation asked in many ways, every answer held to what it promises."""

from __future__ import annotations

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from exporters import openapi
from exporters.bus import Bus
from exporters.history import History
from exporters.http import Http
from exporters.metrics import Metrics
from exporters.schema import StatusResponse
from exporters.status import Status
from exporters.wall import Wall
from tests.exporters.events_of_every_kind import EVERY, installed, settings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis")

DOCUMENT = openapi.document()
OPERATIONS = [path for path, item in DOCUMENT["paths"].items() if "get" in item]


class Served:
    """The server on a loop and thread of its own: schemathesis asks in the blocking way."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self.url = ""

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        wall = Wall(clock=lambda: 100.0, wall=lambda: 1_800_000_000.0)
        status, history = Status(settings(), wall, engine="embedded"), History(wall)
        for event in (installed(), *EVERY):
            status(event)
            history(event)
        metrics = Metrics(status, Bus(self._loop), reject_reasons=())
        self._server = Http(status, metrics, history, idle=lambda: 0.0)
        await self._server.start("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{self._server.port}"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served() as it:
        yield it


def test_it_is_built_from_the_models_that_answer() -> None:
    told = DOCUMENT["components"]["schemas"]["StatusResponse"]
    assert list(told["properties"]) == list(StatusResponse.model_fields)
    assert sorted(told["required"]) == sorted(StatusResponse.model_fields)
    assert DOCUMENT["components"]["schemas"]["MemberStatus"]["properties"]["rtt"]["description"].startswith("Seconds")


@pytest.mark.parametrize("path", OPERATIONS)
def test_the_server_does_what_the_document_says(served: Served, path: str) -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.config.update(base_url=served.url)
    operation = schema[path]["GET"]
    asked = []

    @hypothesis.settings(
        max_examples=40, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(case=operation.as_strategy())
    def ask(case: object) -> None:
        asked.append(case)
        case.call_and_validate()  # type: ignore[attr-defined]

    ask()
    assert asked


def test_the_bounds_of_an_event_number_are_those_of_the_server(served: Served) -> None:
    def told(since: int) -> int:
        try:
            with urllib.request.urlopen(f"{served.url}/api/v1/events?since={since}", timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    (bounds,) = [it["schema"] for it in DOCUMENT["paths"]["/api/v1/events"]["get"]["parameters"] if it["in"] == "query"]
    least, most = bounds["minimum"], bounds["maximum"]
    assert [told(number) for number in (least - 1, least, most, most + 1)] == [400, 200, 200, 400]


def test_an_answer_that_breaks_the_document_is_noticed(served: Served) -> None:
    document = openapi.document()
    properties = document["components"]["schemas"]["StatusResponse"]["properties"]
    properties["cluster"] = {"type": "integer"}
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=served.url)
    case = schema["/api/v1/status"]["GET"].Case()
    with pytest.raises(BaseExceptionGroup) as caught:
        case.call_and_validate()
    assert caught.group_contains(Exception, match="is not of type")
