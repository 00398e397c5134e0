"""Spans on their way to a collector that works, refuses, hangs, or is not there."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from agent.core import events as e
from agent.core.view import Cause
from exporters import otlp, traces
from exporters.bus import Bus
from exporters.history import History
from exporters.incidents import Incident
from exporters.log import Log
from exporters.otlp import Outbox, url
from exporters.spans import Point, Span, new_id
from exporters.trace_ids import identify
from exporters.traces import Traces
from exporters.wall import Wall
from tests.exporters.collector import Collector, collector, refusing_port
from tests.exporters.events_of_every_kind import settings
from tests.exporters.traced import NEW, OLD, acquired, failover

EXIT = traces.EXIT
INCIDENT = Incident(identify("www", str(NEW)), "change view", NEW, 0, 1.0, True, identify("www", str(OLD)), True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """And patient at the end: how long a slow machine takes to send all is not the matter of these tests."""
    monkeypatch.setattr(otlp, "LINGER", 0.01)
    monkeypatch.setattr(traces, "EXIT", 30.0)


@pytest.fixture
def receiver() -> Iterator[Collector]:
    with collector() as made:
        yield made


class Said(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


def outbox(port: int, said: Said, limit: int = otlp.QUEUE_MAX) -> Outbox:
    endpoint = f"http://127.0.0.1:{port}"
    return Outbox(endpoint, cluster="www", node="www1", seconds=lambda at: 1.8e9 + at, say=said, limit=limit)


def span(number: int = 0, points: int = 0, error: str = "") -> Span:
    made = Span("acquire vip", INCIDENT, new_id(), INCIDENT.identity.root, 1.0 + number, 2.0 + number, error=error)
    made.attributes = {"vip.name": f"v{number}", "vip.address": ("10.0.0.1", "fd00::1"), "view.id": str(NEW)}
    made.points = [Point(1.5 + number, "frame sent", {"arp.kind": "request"}) for _ in range(points)]
    return made


@pytest.mark.parametrize(
    ("endpoint", "full"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("http://c/otlp", "http://c/otlp/v1/traces"),
        ("http://c/v1/traces", "http://c/v1/traces"),
    ],
)
def test_the_path_of_otlp_is_added(endpoint: str, full: str) -> None:
    assert url(endpoint) == full


async def test_a_span_arrives_as_it_was_recorded(receiver: Collector) -> None:
    box = outbox(receiver.port, Said())
    sent = span(points=300, error="no carrier")
    root = Span("change view", INCIDENT, INCIDENT.identity.root, None, 0.25, 3.5, links=((5, 6),))
    box.put(sent)
    box.put(root)
    await box.close(30.0)
    found = {one.name: one for one in receiver.all()}
    one = found["acquire vip"]
    assert (one.trace, one.span) == (INCIDENT.identity.trace_text, f"{sent.span:016x}")
    assert (one.parent, one.parent_is_remote) == (INCIDENT.identity.root_text, False)
    assert (one.start, one.end) == (1.8e9 + 1, 1.8e9 + 2)
    assert one.attributes == {"vip.name": "v0", "vip.address": ["10.0.0.1", "fd00::1"], "view.id": str(NEW)}
    assert len(one.events) == 300, "the SDK's limit is 128"
    assert (one.failed, one.dropped) == (True, 0)
    assert one.resource["service.name"] == "molehill"
    assert one.resource["service.instance.id"] == one.resource["node"] == "www1"
    assert one.resource["cluster"] == "www"
    assert (found["change view"].span, found["change view"].parent) == (INCIDENT.identity.root_text, "")
    assert found["change view"].links == ((f"{5:032x}", f"{6:016x}"),)
    assert box.dropped == 0


async def test_a_collector_that_is_away_for_a_while_gets_everything_once(receiver: Collector) -> None:
    receiver.status = 503
    said = Said()
    box = outbox(receiver.port, said)
    for number in range(100):
        box.put(span(number))
    # Two requests may belong to one attempt, which still may succeed; the third one follows a failure.
    await asyncio.to_thread(receiver.until, lambda _: receiver.requests >= 3)
    receiver.status = 200
    await asyncio.to_thread(receiver.until, lambda spans: len(spans) >= 100)
    await box.close(30.0)
    assert sorted(one.attributes["vip.name"] for one in receiver.all()) == sorted(f"v{n}" for n in range(100))
    assert box.dropped == 0
    assert any("takes spans again" in text for text in said)
    assert len(said) <= 2


async def test_what_a_collector_will_never_take_is_dropped_and_counted(receiver: Collector) -> None:
    receiver.status = 400
    said = Said()
    box = outbox(receiver.port, said)
    for number in range(10):
        box.put(span(number))
    await asyncio.to_thread(receiver.until, lambda _: box.dropped == 10)
    receiver.status = 200
    box.put(span(10))
    await box.close(30.0)
    assert [one.attributes["vip.name"] for one in receiver.all()] == ["v10"]
    assert len(said) == 1


@pytest.mark.parametrize("fault", ["refusing", "hanging", "503"])
async def test_the_end_does_not_wait_for_a_collector_that_takes_nothing(receiver: Collector, fault: str) -> None:
    receiver.hang = fault == "hanging"
    receiver.status = 503
    said = Said()
    box = outbox(refusing_port() if fault == "refusing" else receiver.port, said)
    for number in range(500):
        box.put(span(number))
    begun = time.monotonic()
    await box.close(EXIT)
    assert time.monotonic() - begun < EXIT + 5.0
    # An attempt that is under way then ends by itself.
    await asyncio.to_thread(receiver.until, lambda _: box.dropped == 500)
    assert any("given up" in text for text in said)


async def test_the_queue_is_bounded_by_what_it_holds_and_the_oldest_go_first(receiver: Collector) -> None:
    receiver.status = 503
    box = outbox(receiver.port, Said(), limit=1_000)
    for number in range(500):
        box.put(span(number, points=9))
    assert box.dropped >= 370, "what is on its way is not in the queue"
    receiver.status = 200
    found = await asyncio.to_thread(
        receiver.until, lambda spans: any(s.attributes["vip.name"] == "v499" for s in spans)
    )
    await box.close(30.0)
    assert 90 <= len(found) <= 130
    assert box.dropped + len(receiver.all()) == 500


async def test_what_waits_for_a_dead_collector_stays_below_20_mib() -> None:
    box = outbox(refusing_port(), Said())
    tracemalloc.start()
    for number in range(otlp.QUEUE_MAX + 3_000):
        box.put(span(number))
    taken = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    assert box.dropped > 0
    assert taken < 20
    await box.close(0.1)


async def test_the_libraries_say_no_more_than_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = Said()
    box = outbox(refusing_port(), said)
    for number in range(300):
        box.put(span(number))
    for _ in range(50):
        logging.getLogger("opentelemetry.sdk").warning("Queue full, dropping Span.")
    await box.close(30.0)
    assert len(said) == 2, said
    assert capsys.readouterr().err == ""


class Agent:
    """Bus, log, history and traces, with a clock that tests set."""

    def __init__(self, port: int) -> None:
        self.said = Said()
        self.now = 100.0
        wall = Wall(lambda: self.now, lambda: 1.8e9 + self.now)
        loop = asyncio.get_running_loop()
        self.bus = Bus(loop)
        self.traces = Traces(
            self.bus,
            wall,
            settings(),
            loop=loop,
            endpoint=f"http://127.0.0.1:{port}",
            sample=1.0,
            say=self.said,
        )
        self.out = io.StringIO()
        self.log = Log(self.out, wall, as_json=True, trace_id=self.traces.incidents.trace_id)
        self.history = History(wall, trace_id=self.traces.incidents.trace_id)
        self.bus.subscribe("log", self.log)
        self.bus.subscribe("history", self.history)

    def publish(self, *events: e.Event) -> None:
        for event in events:
            self.bus.publish(event)


async def test_frames_published_before_the_step_that_caused_them_are_in_its_trace(receiver: Collector) -> None:
    """As the pump and the announcer publish them: frames first."""
    agent = Agent(receiver.port)
    events = failover()
    agent.publish(*[one for one in events if isinstance(one, e.ArpSent)])
    agent.publish(*[one for one in events if not isinstance(one, e.ArpSent)])
    agent.bus.flush()
    await agent.traces.close()
    agent.log.close()
    found = receiver.all()
    (announce,) = [one for one in found if one.name == "announce vip"]
    (acquire,) = [one for one in found if one.name == "acquire vip"]
    assert (announce.trace, announce.parent, len(announce.events)) == (INCIDENT.identity.trace_text, acquire.span, 2)
    assert agent.traces.dropped() == 0


async def test_log_and_history_lead_to_the_trace(receiver: Collector) -> None:
    agent = Agent(receiver.port)
    agent.publish(*failover(), e.StrayRemoved(100.0, "eth4", "10.0.0.9"))
    agent.bus.flush()
    await agent.traces.close()
    agent.log.close()
    lines = [json.loads(line) for line in agent.out.getvalue().splitlines()]
    marked = {line["event"]: line.get("trace_id") for line in lines}
    trace = INCIDENT.identity.trace_text
    assert marked["vip_acquired"] == marked["view_installed"] == marked["gather_started"] == trace
    assert marked["member_suspected"] == trace
    assert marked["stray_removed"] is None
    kept = {record["type"]: record["trace_id"] for record in agent.history.since(0)}
    assert kept["vip_acquired"] == kept["member_suspected"] == kept["arp_sent"] == trace
    assert kept["stray_removed"] is None


async def test_spans_are_made_after_the_failover_in_slices(receiver: Collector) -> None:
    """2,000 acquisitions: nothing is made while they are observed, then the loop goes on turning, and all arrive."""
    agent = Agent(receiver.port)
    agent.now = 110.0
    agent.publish(*failover()[:5])
    for number in range(2_000):
        agent.publish(*acquired(101.0 + number * 1e-3, f"v{number}", Cause.FAILOVER))
    agent.bus.flush()
    assert agent.traces.waiting == 4_005
    turns = 0
    deadline = time.monotonic() + 60
    while agent.traces.waiting:
        assert time.monotonic() < deadline
        turns += agent.traces.waiting < 4_005
        await asyncio.sleep(0)
    await agent.traces.close()
    agent.log.close()
    assert agent.traces.dropped() == 0
    assert turns > 20
    taken = [one for one in receiver.all() if one.name == "acquire vip"]
    assert len(taken) == 2_000
