import asyncio
import copy
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.cli import main
from agent.core.events import VipAcquired
from agent.core.settings import PartitionPolicy
from agent.core.view import Cause
from exporters.bus import Bus
from exporters.metrics import Metrics
from exporters.status import Status
from exporters.wall import Wall
from exporters.witness_agents import Said
from exporters.witness_metrics import Heard, Round, RoundCollector
from tests.exporters.events_of_every_kind import EVERY, installed, settings, vip_name

pytest.importorskip("grafana_foundation_sdk", reason="the SDK is a development dependency")
pytest.importorskip("promql_parser", reason="promql-parser is a development dependency")

from dashboards import FILES
from dashboards.generate import generate
from dashboards.sdk import JSONEncoder, model
from tests.dashboards.promql import parse
from tests.dashboards.strict import Json, expressions, faults, panels, queries

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
BOARDS: dict[str, Json] = {name: json.loads((ROOT / "dashboards" / name).read_text()) for name in FILES}

EVERYWHERE = {"cluster", "node"}
FOREIGN = {"up": {"job", "cluster", "node"}, "ALERTS": {"alertname", "alertstate", "cluster"}}
"""Of Prometheus itself; `cluster` and `node` of `up` come from the scrape configuration."""

NOT_SHOWN = {
    "molehill_vip_owner_info": "what the nodes believe; the dashboards show what they hold, alerts compare the two",
}


@pytest.fixture(params=FILES)
def board(request: pytest.FixtureRequest) -> Json:
    return BOARDS[request.param]


def exported() -> dict[str, set[str]]:
    """Every sample of a real agent's registry, with its labels."""
    loop = asyncio.new_event_loop()
    wall = Wall(clock=lambda: 100.0, wall=lambda: 1_800_000_000.0)
    about = replace(settings(), partition=PartitionPolicy.QUORUM)
    status = Status(about, wall, engine="embedded", sealed=True)
    bus = Bus(loop, limit=10, complaints=io.StringIO())
    metrics = Metrics(status, bus, reject_reasons=("unsealed",), checks=("nginx",), hooks=("notify",))
    for event in (*EVERY, installed(), VipAcquired(101.0, vip_name(0), Cause.FAILOVER, started=100.9, since=100.5)):
        status(event)
        metrics(event)
    text = loop.run_until_complete(metrics.scrape(""))[0].decode()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    return labels_of(text)


def exported_by_the_witness() -> dict[str, set[str]]:
    vip = "192.0.2.1"
    collector = RoundCollector("www", (vip,), 3)
    collector.round = Round({vip: (Heard([b"\2\0\0\0\0\1"], 0.001),)}, Said(), 1)
    return labels_of(generate_latest(collector.registry()).decode())


def labels_of(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_regenerating_changes_nothing() -> None:
    made = generate()
    assert made.keys() == set(FILES)
    for name, text in made.items():
        assert (ROOT / "dashboards" / name).read_text() == text, f"python -m dashboards would change {name}"
    assert made == generate()


def test_the_rules_are_kept(board: Json) -> None:
    assert faults(board) == []
    assert len(panels(board)) > 15


def break_expression(board: Json) -> None:
    panels(board)[-1]["targets"][0]["expr"] = "rate(molehill_mature)"


def fix_window(board: Json) -> None:
    target = next(t for p in panels(board) for t in p.get("targets", []) if "$__rate_interval" in t["expr"])
    target["expr"] = target["expr"].replace("$__rate_interval", "5m")


def overlap(board: Json) -> None:
    panels(board)[3]["gridPos"] = panels(board)[2]["gridPos"]


def lose_label(board: Json) -> None:
    target = next(t for p in panels(board) for t in p.get("targets", []) if t["legendFormat"] == "{{node}}"
                  or "{{cause}}" in t["legendFormat"])  # fmt: skip
    target["legendFormat"] = "{{interface}}"


def pin(board: Json) -> None:
    panels(board)[5]["targets"][0]["datasource"] = {"type": "prometheus", "uid": "P1809F7CD0C75ACF3"}


FAULTS: list[tuple[Callable[[Json], Any], str]] = [
    (break_expression, "rate"),
    (fix_window, "300 s instead of a variable"),
    (overlap, "overlaps"),
    (lose_label, "interface is aggregated away"),
    (pin, "data source"),
    (lambda board: panels(board)[4].pop("description"), "no description"),
    (lambda board: panels(board)[4].update(id=panels(board)[5]["id"]), "2 times"),
    (lambda board: panels(board)[4].update(title="Status"), "no question"),
    (lambda board: panels(board)[4]["fieldConfig"]["defaults"].update(unit="secs"), "unit 'secs'"),
    (lambda board: panels(board)[-2]["options"].update(legend={"showLegend": False}), "no legend"),
    (lambda board: panels(board)[4]["targets"][0].update(refId="Z"), "refIds"),
    (lambda board: board["links"].clear(), "no link to the runbook"),
    (lambda board: queries(board)[0].update(refresh=1), "not asked for anew"),
    (lambda board: board.update(editable=True), "editable"),
]


@pytest.mark.parametrize(("plant", "word"), FAULTS)
def test_the_rules_find_a_planted_fault(plant: Callable[[Json], Any], word: str) -> None:
    broken = copy.deepcopy(BOARDS["molehill-cluster.json"])
    plant(broken)
    found = faults(broken)
    assert any(word in fault for fault in found), found


def test_the_sdk_reads_the_files_and_writes_them_alike(board: Json) -> None:
    """Unknown keys do not survive that."""
    again = json.loads(json.dumps(model.Dashboard.from_json(board), cls=JSONEncoder))
    for panel in again["panels"]:
        panel.pop("repeatDirection", None)  # The SDK's own ideas; see dashboards/generate.py.
    for shown in (*again["links"], *again["annotations"]["list"], *data_links(again)):
        shown.pop("placement", None)
    assert again == board


def data_links(board: Json) -> list[Json]:
    return [
        link for panel in panels(board) for link in panel.get("fieldConfig", {}).get("defaults", {}).get("links", [])
    ]


def test_the_official_schemas_accept_the_files() -> None:
    validator = SHARED / "tools/grafana-render/validate.py"
    if not validator.exists():
        pytest.skip("../shared is not here")
    pytest.importorskip("jsonschema")
    paths = [str(ROOT / "dashboards" / name) for name in FILES]
    done = subprocess.run([sys.executable, "-B", str(validator), *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_every_metric_and_label_that_is_asked_for_is_exported() -> None:
    known = exported() | exported_by_the_witness() | FOREIGN
    wrong = []
    for name, board in BOARDS.items():
        for where, expr in expressions(board):
            asked = parse(expr)
            labels = {label for metric in asked.metrics for label in known.get(metric, ())} | asked.made | EVERYWHERE
            wrong += [f"{name}: {where}: no metric {metric}" for metric in asked.metrics if metric not in known]
            wrong += [f"{name}: {where}: {metric} has no label {label}" for metric, matched in asked.metrics.items()
                      for label in matched - known.get(metric, set())]  # fmt: skip
            wrong += [f"{name}: {where}: groups by {label}" for label in asked.grouped - labels]
    assert wrong == []


def test_every_exported_metric_is_shown_or_left_out_on_purpose() -> None:
    shown = {base(metric) for board in BOARDS.values() for _, expr in expressions(board)
             for metric in parse(expr).metrics}  # fmt: skip
    ours = {base(metric) for metric in exported() if metric.startswith("molehill_")}
    assert ours - shown == NOT_SHOWN.keys() & ours
    assert NOT_SHOWN.keys() & shown == set()


def base(metric: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", metric)


def rules() -> list[Json]:
    files = sorted((ROOT / "alerts").glob("*.rules.yml"))
    return [rule for path in files for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def metrics_of(expr: str, recorded: dict[str, str]) -> set[str]:
    """What a rule watches, seen through recording rules."""
    names = set(parse(expr).metrics)
    return {base(name) for name in names - recorded.keys()}.union(
        *(metrics_of(recorded[name], recorded) for name in names & recorded.keys())
    )


def test_every_critical_and_warning_alert_has_a_panel() -> None:
    """One that names the alert in its description and shows a metric that the alert watches."""
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    alerts = {
        rule["alert"]: rule for rule in rules() if rule.get("labels", {}).get("severity") in ("critical", "warning")
    }
    if not alerts:
        pytest.skip("alerts/ has no rules")
    named: dict[str, set[str]] = {}
    for board in BOARDS.values():
        for panel in panels(board):
            shown = {base(name) for target in panel.get("targets", []) for name in parse(target["expr"]).metrics}
            for alert in re.findall(r"\bMolehill[A-Z]\w+", panel["description"]):
                named.setdefault(alert, set()).update(shown)
    assert sorted(alerts.keys() - named.keys()) == []
    assert sorted(named.keys() - {rule.get("alert") for rule in rules()}) == []
    assert [name for name, rule in alerts.items() if not metrics_of(rule["expr"], recorded) & named[name]] == []


def test_the_alerts_lead_to_dashboards_that_are_there() -> None:
    urls = [rule["annotations"]["dashboard_url"] for rule in rules() if "alert" in rule]
    assert {url.split("/d/")[1].split("?")[0] + ".json" for url in urls} <= set(FILES)
    assert {name for url in urls for name in re.findall(r"[?&]var-(\w+)=", url)} <= {"cluster", "node", "vip"}


def test_the_command_writes_the_dashboards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "dashboards"
    assert main(["dashboards", str(target)]) == 0
    assert capsys.readouterr().out.split() == [str(target / name) for name in FILES]
    for name in FILES:
        assert (target / name).read_bytes() == (ROOT / "dashboards" / name).read_bytes()


def test_the_command_puts_the_runbooks_address_in(tmp_path: Path) -> None:
    assert main(["dashboards", str(tmp_path), "--runbook-base", "https://wiki.example.org/molehill/"]) == 0
    for name in FILES:
        links = json.loads((tmp_path / name).read_text())["links"]
        assert [link["url"] for link in links if link["title"] == "Runbook"] == ["https://wiki.example.org/molehill"]


def test_the_command_says_why_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["dashboards", str(tmp_path / "file")]) == 1
    assert "cannot write the dashboards" in capsys.readouterr().err
