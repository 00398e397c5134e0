"""The real server on loopback, asked by a real client."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace

import aiohttp
import pytest

from agent.core import events as e
from exporters import http, listen
from exporters.bus import Bus
from exporters.history import History
from exporters.http import Http
from exporters.metrics import Metrics
from exporters.schema import ErrorResponse, EventsResponse, StatusResponse
from exporters.status import Status
from exporters.wall import Wall
from tests.exporters.events_of_every_kind import EVERY, installed, settings

WALL = Wall(clock=lambda: 100.0, wall=lambda: 1_800_000_000.0)


class Running(SimpleNamespace):
    """The server, what it shows, and a client whose URLs start at its root."""

    client: aiohttp.ClientSession
    server: Http
    status: Status
    history: History
    idle: float

    def see(self, *events: e.Event) -> None:
        for event in events:
            self.status(event)
            self.history(event)

    async def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        async with self.client.get(path, headers=headers) as response:
            return response.status, response.content_type, await response.text()


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    it = Running(idle=0.0)
    it.status = Status(settings(), WALL, engine="embedded")
    it.history = History(WALL)
    metrics = Metrics(it.status, Bus(asyncio.get_running_loop()), reject_reasons=())
    it.server = Http(it.status, metrics, it.history, idle=lambda: it.idle)
    await it.server.start("127.0.0.1:0")
    async with aiohttp.ClientSession(f"http://127.0.0.1:{it.server.port}/") as it.client:
        yield it
    await it.server.close()


async def test_healthy_while_the_agent_turns(running: Running) -> None:
    assert (await running.get("-/healthy"))[0] == 200
    running.idle = 1.99
    assert (await running.get("-/healthy"))[0] == 200
    running.idle = 2.0
    status, _, text = await running.get("-/healthy")
    assert (status, text) == (503, "not healthy: the agent took no turn for 2.0 s\n")


async def test_ready_when_mature_and_in_a_view(running: Running) -> None:
    assert (await running.get("-/ready"))[::2] == (503, "not ready: in no view yet\n")
    running.see(installed(mature=False))
    assert (await running.get("-/ready"))[0] == 503
    running.see(e.BecameMature(11.0))
    assert (await running.get("-/ready"))[::2] == (200, "ready\n")


async def test_an_answer_waits_for_what_has_happened_already(running: Running) -> None:
    bus = Bus(asyncio.get_running_loop())
    bus.subscribe("status", running.status)
    metrics = Metrics(running.status, bus, reject_reasons=())
    server = Http(running.status, metrics, running.history, idle=lambda: 0.0, caught_up=bus.caught_up)
    await server.start("127.0.0.1:0")
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}/") as client:
            bus.publish(installed())
            async with client.get("-/ready") as response:
                assert (response.status, await response.text()) == (200, "ready\n")
            bus.publish(e.StateChanged(12.0, "LEFT"))
            async with client.get("api/v1/status") as response:
                assert (await response.json())["state"] == "LEFT"
    finally:
        await server.close()


async def test_status_is_what_its_schema_says(running: Running) -> None:
    running.see(installed())
    status, kind, text = await running.get("api/v1/status")
    assert (status, kind) == (200, "application/json")
    assert StatusResponse.model_validate_json(text) == running.status.snapshot()


async def test_events_since(running: Running) -> None:
    running.see(*(e.StateChanged(float(n), "RUN") for n in range(1, 6)))
    for query, expected in (
        ("", [1, 2, 3, 4, 5]),
        ("?since=3", [4, 5]),
        ("?since=5", []),
        ("?since=99", [1, 2, 3, 4, 5]),
    ):
        status, kind, text = await running.get(f"api/v1/events{query}")
        answer = EventsResponse.model_validate_json(text)
        assert (status, kind, [event.seq for event in answer.events]) == (200, "application/json", expected)
        assert (answer.first, answer.last) == (1, 5)


@pytest.mark.parametrize(
    "query",
    ["since=x", "since=-1", "since=", "since=1.5", "since=²", "since=1&since=2", "until=3", "since=" + 30 * "9"],
)
async def test_a_bad_query_is_400_and_says_what_is_wrong(running: Running, query: str) -> None:
    status, kind, text = await running.get(f"api/v1/events?{query}")
    assert (status, kind) == (400, "application/json")
    assert ErrorResponse.model_validate_json(text).error
    status, _, _ = await running.get(f"api/v1/events?{query}", Accept="text/event-stream")
    assert status == 400


async def test_nothing_can_be_changed_and_what_is_not_there_is_told(running: Running) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        async with running.client.request(method, "api/v1/status") as response:
            assert response.status == 405
            assert response.headers["Allow"] == "GET, HEAD"
            assert "only reads" in (await response.json())["error"]
    status, _, text = await running.get("api/v2/status")
    assert (status, json.loads(text)["error"]) == (404, "/api/v2/status is not here: see / for what is")


async def test_metrics_in_the_format_that_is_asked_for(running: Running) -> None:
    status, kind, text = await running.get("metrics")
    assert (status, kind) == (200, "text/plain")
    assert 'molehill_vip_held{cluster="www",node="www1",vip="10.0.0.1"} 0' in text
    status, kind, text = await running.get("metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert (status, kind) == (200, "application/openmetrics-text")
    assert text.endswith("# EOF\n")


async def test_the_page_leads_everywhere(running: Running) -> None:
    _, kind, text = await running.get("")
    assert kind == "text/html"
    running.see(installed())
    links = [piece.split('"')[0] for piece in text.split('href="')[1:]]
    links = [link for link in dict.fromkeys(links) if not link.startswith(("#", "data:"))]
    assert len(links) == 6
    assert [(await running.get(link))[0] for link in links] == [200] * 6


def pieces(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.strip().splitlines())


async def test_the_stream_tells_what_was_what_comes_and_ends_with_the_agent(running: Running) -> None:
    running.see(*EVERY[:3])
    last = running.history.last
    async with (
        asyncio.timeout(30),
        running.client.get(f"api/v1/events?since={last - 1}", headers={"Accept": "text/event-stream"}) as response,
    ):
        assert response.content_type == "text/event-stream"
        first = pieces((await response.content.readuntil(b"\n\n")).decode())
        assert first["id"] == str(last)
        running.see(installed())
        second = pieces((await response.content.readuntil(b"\n\n")).decode())
        assert (second["id"], second["event"]) == (str(last + 1), "view_installed")
        assert json.loads(second["data"]) == running.history.since(last)[0]
        await running.server.close()
        assert await response.content.read() == b""


async def test_a_stream_is_taken_up_where_it_broke(running: Running) -> None:
    running.see(*(e.StateChanged(float(n), "RUN") for n in range(1, 6)))
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "4"}
    async with asyncio.timeout(30), running.client.get("api/v1/events?since=0", headers=headers) as response:
        assert (await response.content.readuntil(b"\n\n")).startswith(b"id: 5\n")


async def test_an_idle_stream_is_kept_alive(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEEPALIVE", 0.01)
    async with (
        asyncio.timeout(30),
        running.client.get("api/v1/events", headers={"Accept": "text/event-stream"}) as response,
    ):
        assert await response.content.readuntil(b"\n\n") == b": still here\n\n"


async def test_streams_are_bounded_and_their_places_are_freed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STREAMS_MAX", 2)
    running.see(installed())
    accept = {"Accept": "text/event-stream"}
    async with asyncio.timeout(30):
        open_ones = [await running.client.get("api/v1/events", headers=accept) for _ in range(2)]
        for response in open_ones:
            await response.content.readuntil(b"\n\n")
        status, _, text = await running.get("api/v1/events", **accept)
        assert (status, "follow the events already" in text) == (503, True)
        assert (await running.get("api/v1/events"))[0] == 200
        open_ones[0].close()
        while (response := await running.client.get("api/v1/events", headers=accept)).status == 503:
            # The server notices at its next write that the client has gone.
            running.see(installed())
            response.close()
        assert response.status == 200
        response.close()
        open_ones[1].close()


async def test_closing_does_not_wait_for_clients(running: Running) -> None:
    async with running.client.get("api/v1/events", headers={"Accept": "text/event-stream"}):
        async with asyncio.timeout(10):
            await running.server.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":9748", (None, 9748)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:9748", ("::1", 9748)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses_are_read(text: str, expected: tuple[str | None, int]) -> None:
    assert listen.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "9748", "host:", "host:x", "host:65536", "::1:9748", "[::1]", "host:-1", "host:²"]
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(listen.ListenError, match=r"write it like|goes in brackets, like"):
        listen.parse(text)


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(listen.ListenError, match=f"port {port} is in use: stop the other program"):
            listen.open_socket(f"127.0.0.1:{port}")


def test_an_address_of_another_host_is_told() -> None:
    with pytest.raises(listen.ListenError, match=r"203\.0\.113\.7 is not an address of this host"):
        listen.open_socket("203.0.113.7:0")


@pytest.mark.parametrize("text", [":0", "[::1]:0", "127.0.0.1:0"])
def test_it_listens_where_it_was_told(text: str) -> None:
    with listen.open_socket(text) as listening:
        port = listening.getsockname()[1]
        hosts = {":0": ("127.0.0.1", "::1"), "[::1]:0": ("::1",), "127.0.0.1:0": ("127.0.0.1",)}[text]
        for host in hosts:
            socket.create_connection((host, port), timeout=30).close()
