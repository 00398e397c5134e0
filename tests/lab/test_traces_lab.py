"""Traces of real agents at a real OTLP receiver, compared with what was on the wire and in the counters."""

from __future__ import annotations

import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.lab import arp, network
from agent.lab.lab import Lab, now
from agent.lab.plan import Plan, generate
from exporters.trace_ids import identify
from tests.exporters.collector import Collector, Received, collector, refusing_port
from tests.lab import clusters

pytestmark = [pytest.mark.netns, pytest.mark.lab]

NODES, VIPS = 3, 10


@contextmanager
def traced(name: str, port: int, *settings: str) -> Iterator[Lab]:
    plan = generate(name, NODES, VIPS, network.free_management_network())
    with clusters.cluster(
        name, NODES, VIPS, f"tracing.endpoint=http://{plan.host_address()}:{port}", *settings, plan=plan
    ) as lab:
        yield lab


@pytest.fixture
def receiver() -> Iterator[Collector]:
    with collector("0.0.0.0") as made:
        yield made


def frames(spans: list[Received]) -> Counter[tuple[str, str, str]]:
    """Node, kind and announced address of every frame that a span tells of."""
    return Counter(
        (span.node, event.attributes["arp.kind"], event.attributes["arp.target"])
        for span in spans
        for event in span.events
        if event.name == "frame sent"
    )


def sent(lab: Lab, node: str) -> float:
    return clusters.metric(lab, node, "molehill_arp_sent_total", result="ok")


def quiet(receiver: Collector, seconds: float = 1.5) -> None:
    """Until no span has come for a while."""
    count, since = len(receiver.all()), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.02)
        if len(receiver.all()) != count:
            count, since = len(receiver.all()), time.monotonic()


def test_one_failover_is_one_trace_with_every_frame_that_was_on_the_wire(lab_name: str, receiver: Collector) -> None:
    with traced(lab_name, receiver.port, "engine.profile=lan") as lab, arp.Capture(lab.plan) as capture:
        quiet(receiver, 3.0)
        survivors = ("www1", "www3")
        before = len(receiver.all())
        counted = {node: sent(lab, node) for node in survivors}
        mine = set(clusters.on(lab, "www2"))
        assert len(mine) >= 3
        capture.frames()
        lab.lose("www2")
        clusters.until(lambda: mine <= {a for node in survivors for a in clusters.on(lab, node)})
        new = receiver.until(
            lambda spans: len({s.attributes["vip.name"] for s in repeats(spans[before:])}) == len(mine), 60.0
        )[before:]
        quiet(receiver)
        new = receiver.all()[before:]
        view = clusters.view(lab, "www1")
        assert {span.trace for span in new} == {identify(f"lab-{lab_name}", view).trace_text}
        by_node = {node: Counter(span.name for span in new if span.node == node) for node in survivors}
        for names in by_node.values():
            assert (names["detect failure"], names["gather state"], names["place vips"]) == (1, 1, 1)
        assert [names["change view"] for names in by_node.values()] == [1, 0]
        assert sum(names["acquire vip"] for names in by_node.values()) == len(mine)
        a_tree(new)
        seen = Counter(
            (frame.node, frame.kind, frame.address)
            for frame in capture.frames()
            if frame.node in survivors and frame.address in mine and frame.broadcast
        )
        assert seen == frames(new), "every frame on the wire has its event, and the other way round"
        assert set(seen.values()) == {2}, "announced and repeated"
        for node in survivors:
            told = sum(count for (who, _, _), count in frames(new).items() if who == node)
            # A scrape is cached for a second.
            clusters.until(lambda node=node, told=told: sent(lab, node) - counted[node] == told)  # type: ignore[misc]
        linked = {link for span in new if span.name in ("change view", "gather state") for link in span.links}
        assert len(linked) == 1
        openmetrics_leads_to_the_trace(lab, new)


def repeats(spans: list[Received]) -> list[Received]:
    return [span for span in spans if span.attributes.get("announce.occasion") == "repeat"]


def a_tree(spans: list[Received]) -> None:
    """One root, and every parent is there."""
    ids = {span.span for span in spans}
    assert len(ids) == len(spans)
    (root,) = [span for span in spans if not span.parent]
    assert root.name == "change view"
    assert {span.parent for span in spans if span.parent} <= ids
    for span in spans:
        assert span.start <= span.end
        assert span.dropped == 0
        assert span.parent_is_remote == (span.parent == root.span and span.node != root.node)


def openmetrics_leads_to_the_trace(lab: Lab, spans: list[Received]) -> None:
    acquirer = next(span.node for span in spans if span.name == "acquire vip")
    request = urllib.request.Request(
        f"http://{lab.plan.node(acquirer).management}:9748/metrics",
        headers={"Accept": "application/openmetrics-text;version=1.0.0"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        text = answer.read().decode()
    for name in ("failover_duration", "view_change_duration", "vip_acquire_duration"):
        lines = [line for line in text.splitlines() if line.startswith(f"molehill_{name}_seconds_bucket")]
        exemplars = [line.partition(" # ")[2] for line in lines]
        assert any(f'trace_id="{spans[0].trace}"' in one and "span_id=" in one for one in exemplars), name


def test_a_departure_is_one_trace_and_its_last_span_arrives(lab_name: str, receiver: Collector) -> None:
    with traced(lab_name, receiver.port) as lab:
        quiet(receiver, 3.0)
        before = len(receiver.all())
        mine = len(clusters.on(lab, "www1"))
        lab.kill("www1", signal.SIGTERM)
        assert lab.wait_ended("www1", 30)
        receiver.until(
            lambda spans: [(s.name, s.node == "www1") for s in spans[before:]].count(("acquire vip", False)) >= mine,
            60.0,
        )
        quiet(receiver, 2.5)
        new = receiver.all()[before:]
        (root,) = [span for span in new if span.name == "hand over vips"]
        trace = [span for span in new if span.trace == root.trace]
        names = Counter((span.name, span.node == "www1") for span in trace)
        assert names[("release vip", True)] == names[("acquire vip", False)] == mine
        assert names[("release vip", False)] == names[("acquire vip", True)] == 0
        assert root.node == "www1"


FAULTS: dict[str, Callable[[Collector], None]] = {
    "refusing": lambda _: None,
    "hanging": lambda receiver: setattr(receiver, "hang", True),
    "503": lambda receiver: setattr(receiver, "status", 503),
}


def resident(lab: Lab, node: str) -> float:
    """MiB."""
    process = lab.agent(node)
    assert process is not None
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def outage(lab: Lab, node: str, plan: Plan) -> float:
    """Seconds from the loss of the host until the last of its VIPs was up elsewhere."""
    mine = set(clusters.on(lab, node))
    since = lab.lose(node)
    others = [host.name for host in plan.nodes if host.name != node]
    clusters.until(lambda: mine <= {address for other in others for address in clusters.on(lab, other)})
    return max(change.at for change in lab.changes() if change.at > since and change.address in mine) - since


@pytest.mark.parametrize("fault", FAULTS)
def test_a_collector_that_fails_delays_neither_failover_nor_exit(
    lab_name: str, receiver: Collector, fault: str
) -> None:
    FAULTS[fault](receiver)
    port = refusing_port("0.0.0.0") if fault == "refusing" else receiver.port
    with traced(lab_name, port) as lab:
        memory = resident(lab, "www1")
        assert outage(lab, "www3", lab.plan) < 0.4 + 0.4, "an exporter waits for a collector for seconds"
        for number in range(30):
            vip = lab.plan.vips[number % VIPS].name
            taker = "www2" if vip in {v["name"] for v in clusters.status(lab, "www1")["vips"] if v["held"]} else "www1"
            lab.ask("www1", "move", {"vip": vip, "node": taker})
        time.sleep(2.0)
        assert resident(lab, "www1") - memory < 20
        dropped = clusters.metric(lab, "www1", "molehill_spans_dropped_total")
        assert dropped == 0, "there is room for these"
        clusters.until(lambda: clusters.held_once(lab, ("www1", "www2")))
        mine = set(clusters.on(lab, "www1"))
        since = now()
        lab.kill("www1", signal.SIGTERM)
        assert lab.wait_ended("www1", 30)
        assert now() - since < 5.0, "it waits for a collector for 1.5 s"
        clusters.until(lambda: clusters.held_once(lab, ("www1", "www2")))
        gone = [
            c.at for c in lab.changes() if c.node == "www1" and not c.present and c.address in mine and c.at > since
        ]
        up = [c.at for c in lab.changes() if c.node == "www2" and c.present and c.address in mine and c.at > since]
        assert len(up) == len(mine) == len(gone)
        assert max(up) - since < 1.0, "handed over first"
        assert any("given up" in line for line in clusters.log(lab, "www1").splitlines())
        said = [line for line in clusters.log(lab, "www1").splitlines() if "event=tracing" in line]
        assert len(said) <= 3
        assert "Traceback" not in clusters.log(lab, "www1")
