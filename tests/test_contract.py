"""Rules and dashboards ask only for what is exported, and what is exported is asked for or left out on purpose."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from agent.config.models import Configuration
from agent.core import events as e
from agent.core.settings import PartitionPolicy
from agent.core.view import Cause, Move
from agent.engines.embedded.rejections import REASONS
from exporters.bus import Bus
from exporters.metrics import Metrics
from exporters.status import Status
from exporters.wall import Wall
from exporters.witness_agents import Said
from exporters.witness_metrics import Heard, Round, RoundCollector
from tests.alerts import rules
from tests.exporters.events_of_every_kind import EVERY, W1, W2, installed, settings, vip_name

ROOT = Path(__file__).parent.parent
BOARDS = sorted((ROOT / "dashboards").glob("*.json"))
UNUSED: dict[str, str] = yaml.safe_load((ROOT / "alerts" / "unused.yml").read_text())

TARGET = frozenset({"instance", "job", "cluster", "node"})
"""Labels that the scrape example gives every series."""

PROMETHEUS = {"up": TARGET, "ALERTS": frozenset({"alertname", "alertstate", "severity"})}
"""What Prometheus makes itself. An alert has the labels of its expression besides."""

VARIABLES = re.compile(r"\$\{?(__rate_interval|__interval|__range)\b\}?")


@cache
def exported() -> dict[str, frozenset[str]]:
    """Samples of agent and witness, with their labels."""
    found: dict[str, set[str]] = {}
    for metric in [*_agent(), *_witness()]:
        for sample in metric.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        if not metric.samples:
            found.setdefault(metric.name, set())
    return {name: frozenset(labels) for name, labels in found.items()}


def _agent() -> Iterator[Metric]:
    loop = asyncio.new_event_loop()
    about = replace(settings(), partition=PartitionPolicy.QUORUM)
    status = Status(about, Wall(lambda: 100.0, lambda: 1_800_000_000.0), engine="embedded", sealed=True)
    metrics = Metrics(status, Bus(loop), reject_reasons=REASONS, checks=("nginx",), hooks=("/etc/molehill/hook",))
    moved = e.BalanceRound(1.0, installed().view.id, 1, (Move(vip_name(0), W1.name, W2.name, Cause.BALANCE),), True)
    for event in (*EVERY, installed(), moved, replace(_one(e.VipAcquired), at=101.0)):
        status(event)
        metrics(event)
    body, _ = loop.run_until_complete(metrics.scrape(""))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    yield from text_string_to_metric_families(body.decode())


def _one(kind: type) -> Any:
    return next(event for event in EVERY if isinstance(event, kind))


def _witness() -> Iterator[Metric]:
    collector = RoundCollector("www", ("web",), 3)
    collector.round = Round({"web": (Heard([b"\x02\0\0\0\0\1"], 0.001),)}, _said(), 1)
    yield from collector.collect()


def _said() -> Said:
    said = Said(reached=3, views=frozenset({"5-www1-1"}))
    said.claims["web"] = 1
    return said


def base(name: str) -> str:
    """The family: a histogram is used when one of its samples is."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def expressions(board: Path) -> Iterator[tuple[str, str]]:
    """Title and expression of every target, variable and annotation of a dashboard, ready to be parsed."""

    def walk(node: Any, title: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, dict):
            title = node.get("title") or node.get("name") or title
            if isinstance(node.get("expr"), str) and node["expr"]:
                yield title, node["expr"]
            query = node.get("query")
            values = re.fullmatch(r"label_values\((.+), *\w+\)", query) if isinstance(query, str) else None
            if values:
                yield title, values[1]
            for part in node.values():
                yield from walk(part, title)
        elif isinstance(node, list):
            for part in node:
                yield from walk(part, title)

    for title, text in walk(json.loads(board.read_text()), board.name):
        yield title, re.sub(r"\$\{?\w+(:\w+)?\}?", "any", VARIABLES.sub("5m", text))


def asked() -> list[tuple[str, rules.Use]]:
    """Who asks for what; records are followed to what they are made of."""
    found = [
        (f"{path.name}: {rule.get('alert') or rule['record']}", use)
        for path, rule in rules.rules()
        for use in rules.uses(rule["expr"])
    ]
    found += [
        (f"{board.name}: {title}", use)
        for board in BOARDS
        for title, expression in expressions(board)
        for use in rules.uses(expression)
    ]
    return found


def known() -> dict[str, frozenset[str]]:
    records = {name: frozenset(name.split(":")[0].split("_")) for name in rules.records()}
    return {name: labels | TARGET for name, labels in exported().items()} | records


def test_what_is_asked_for_is_exported() -> None:
    names = known() | PROMETHEUS
    wrong = [f"{who} asks for {use.metric}" for who, use in asked() if use.metric not in names]
    wrong += [
        f"{who} asks for label {sorted(use.labels - names[use.metric])} of {use.metric}"
        for who, use in asked()
        if use.metric in names and use.metric != "ALERTS" and not use.labels <= names[use.metric]
    ]
    assert wrong == []


def test_values_that_are_asked_for_can_occur() -> None:
    """Of labels with a closed set of values that exists from the start."""
    values: dict[tuple[str, str], set[str]] = {}
    for metric in _agent():
        for sample in metric.samples:
            for label, value in sample.labels.items():
                values.setdefault((sample.name, label), set()).add(value)
    closed = {"cause", "result", "reason", "layer", "state", "scope", "kind", "le"}
    wrong = []
    for path, rule in rules.rules():
        for name, label, value in re.findall(r'(molehill_\w+)\{[^}]*?(\w+)="([^"]*)"', rule["expr"]):
            if label in closed and value not in values.get((name, label), set()):
                wrong.append(f"{path.name}: {name} never has {label}={value}")
        for label, value in re.findall(r'(\w+)="([^"]*)"', rule["expr"]):
            if label in closed:
                assert any(value in have for (_, known_label), have in values.items() if known_label == label), value
    assert wrong == []


def test_what_is_exported_is_asked_for_or_left_out_on_purpose() -> None:
    used = {base(use.metric) for _, use in asked()}
    ours = {base(name) for name in exported() if name.startswith(("molehill_", "process_", "python_"))}
    assert ours - used - UNUSED.keys() == set(), "use it, or say in alerts/unused.yml why not"
    assert UNUSED.keys() & used == set(), "it is used: take it out of alerts/unused.yml"
    assert UNUSED.keys() - ours == set(), "it is not exported: take it out of alerts/unused.yml"
    assert all(len(reason) > 10 for reason in UNUSED.values())


@pytest.mark.skipif(not BOARDS, reason="there are no dashboards yet")
@pytest.mark.parametrize("name", rules.alerts())
def test_every_alert_has_a_panel_on_the_dashboard_that_it_names(name: str) -> None:
    rule = rules.alerts()[name]
    board = re.search(r"/d/([\w-]+)", rule["annotations"]["dashboard_url"])
    assert board is not None
    path = ROOT / "dashboards" / f"{board[1]}.json"
    shown = {base(use.metric) for _, expression in expressions(path) for use in rules.uses(expression)}
    assert shown & _families(rule["expr"]), f"no panel of {path.name} shows anything that {name} looks at"


def _families(expression: str) -> set[str]:
    records = rules.records()
    found = set()
    for use in rules.uses(expression):
        found |= {base(use.metric)} | (_families(records[use.metric]) if use.metric in records else set())
    return found


@pytest.mark.skipif(not BOARDS, reason="there are no dashboards yet")
def test_addresses_of_dashboards_exist_with_their_variables() -> None:
    for rule in rules.alerts().values():
        match = re.search(r"/d/([\w-]+)(.*)", rule["annotations"]["dashboard_url"])
        assert match is not None
        board = json.loads((ROOT / "dashboards" / f"{match[1]}.json").read_text())
        assert board["uid"] == match[1]
        variables = {variable["name"] for variable in board["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", match[2])) <= variables


def test_ports_of_the_scrape_example_are_the_programs_own() -> None:
    example = (ROOT / "alerts" / "prometheus.example.yml").read_text()
    assert f"www1:{Configuration.model_fields['http'].default.listen.port}" in example
    assert "127.0.0.1:9749" in example
