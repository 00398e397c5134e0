"""The example for Alertmanager: routes, and one page for one fault, by a real Alertmanager."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.alerts import rules

EXAMPLE = rules.ALERTS / "alertmanager.example.yml"
AMTOOL, SERVER = shutil.which("amtool"), shutil.which("prometheus-alertmanager")
AMLINT = Path(__file__).parents[2] / ".venv" / "bin" / "amlint"

needs_amtool = pytest.mark.skipif(AMTOOL is None, reason="amtool is missing: apt-get install prometheus-alertmanager")
needs_server = pytest.mark.skipif(
    SERVER is None, reason="Alertmanager is missing: apt-get install prometheus-alertmanager"
)
needs_amlint = pytest.mark.skipif(not AMLINT.exists(), reason="amlint is missing: pip install amlint")

PAGERS = {"critical": "pager", "warning": "chat", "info": "chat"}

VIP = {"cluster": "www", "vip": "web"}
NODE = {"cluster": "www", "node": "www1"}
ELSEWHERE = {"cluster": "db", "vip": "web"}

FAULTS: dict[str, tuple[list[tuple[str, dict[str, str]]], set[str]]] = {
    "partition": (
        [
            ("MolehillSplitBrain", VIP),
            ("MolehillWitnessTwoAnswers", VIP),
            ("MolehillVipConflictPersists", VIP),
            ("MolehillVipConflict", VIP | NODE),
            ("MolehillViewDisagreement", {"cluster": "www"}),
            ("MolehillWitnessViewsDiffer", {"cluster": "www"}),
            ("MolehillMemberMissing", {"cluster": "www"}),
            ("MolehillHeartbeatsLost", NODE | {"peer": "www2"}),
        ],
        {"MolehillSplitBrain"},
    ),
    "partition that only the witness sees": (
        [
            ("MolehillWitnessTwoAnswers", VIP),
            ("MolehillVipConflictPersists", VIP),
            ("MolehillViewDisagreement", {"cluster": "www"}),
        ],
        {"MolehillWitnessTwoAnswers"},
    ),
    "foreign host": (
        [("MolehillVipConflictPersists", VIP), ("MolehillVipConflict", VIP | NODE)],
        {"MolehillVipConflictPersists"},
    ),
    "dead node": ([("MolehillAgentDown", NODE), ("MolehillMemberMissing", {"cluster": "www"})], {"MolehillAgentDown"}),
    "all dead": (
        [
            ("MolehillClusterDown", {"cluster": "www"}),
            ("MolehillAgentDown", NODE),
            ("MolehillVipUncovered", VIP),
            ("MolehillVipUnanswered", VIP),
        ],
        {"MolehillClusterDown"},
    ),
    "no quorum": (
        [
            ("MolehillNoQuorum", {"cluster": "www"}),
            ("MolehillNotQuorate", NODE),
            ("MolehillVipUncovered", VIP),
            ("MolehillVipUnanswered", VIP),
            ("MolehillVipsUnplaced", {"cluster": "www"}),
        ],
        {"MolehillNoQuorum"},
    ),
    "nobody takes it": (
        [
            ("MolehillVipUncovered", VIP),
            ("MolehillVipUnanswered", VIP),
            ("MolehillVipsUnplaced", {"cluster": "www"}),
            ("MolehillAcquireFailures", NODE | VIP),
        ],
        {"MolehillVipUncovered", "MolehillAcquireFailures"},
    ),
    "crash loop": (
        [
            ("MolehillAgentRestarts", NODE),
            ("MolehillViewFlapping", {"cluster": "www"}),
            ("MolehillVipFlapping", VIP),
        ],
        {"MolehillAgentRestarts"},
    ),
    "service down everywhere": (
        [("MolehillAllUnfit", {"cluster": "www"}), ("MolehillCheckDown", NODE | {"check": "nginx"})],
        {"MolehillAllUnfit"},
    ),
    "starved node": (
        [("MolehillLeaseExpired", NODE), ("MolehillLeaseNearExpiry", NODE), ("MolehillLoopLag", NODE)],
        {"MolehillLeaseExpired"},
    ),
    "witness dead": (
        [("MolehillWitnessDown", {"cluster": "www"}), ("MolehillWitnessBlind", {"cluster": "www"})],
        {"MolehillWitnessDown"},
    ),
}
"""Alerts that fire together, and those that are told."""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=rules.ALERTS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_amtool
def test_amtool_accepts_it() -> None:
    assert "SUCCESS" in run(str(AMTOOL), "check-config", EXAMPLE.name)


@needs_amlint
def test_amlint_finds_nothing() -> None:
    names = [path.name for path in rules.RULE_FILES]
    run(str(AMLINT), "check", "--strict", *(word for name in names for word in ("--rules", name)), EXAMPLE.name)


@needs_amtool
@pytest.mark.parametrize("name", rules.alerts())
def test_critical_alerts_page_and_others_chat(name: str) -> None:
    severity = rules.alerts()[name]["labels"]["severity"]
    labels = (f"alertname={name}", f"severity={severity}", "cluster=www")
    out = run(str(AMTOOL), "config", "routes", "test", f"--config.file={EXAMPLE.name}", *labels)
    assert out.split() == [PAGERS[severity]]


@needs_amtool
def test_alerts_of_others_do_not_page() -> None:
    labels = ("alertname=NodeDown", "severity=critical")
    out = run(str(AMTOOL), "config", "routes", "test", f"--config.file={EXAMPLE.name}", *labels)
    assert out.split() == ["chat"]


def test_inhibitions_name_alerts_that_exist() -> None:
    import re

    for rule in yaml.safe_load(EXAMPLE.read_text())["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            pattern = re.fullmatch(r'alertname=~?"(.*)"', matcher)
            assert pattern is not None
            for word in re.fullmatch(r"(\w+)(?:\((.*)\))?", pattern[1]).groups()[1:]:  # type: ignore[union-attr]
                each = [f"Molehill{part}" for part in word.split("|")] if word else [pattern[1]]
                assert set(each) <= rules.alerts().keys()


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real one with the example's configuration; it notifies nobody, for its receivers are replaced."""
    folder = tmp_path_factory.mktemp("alertmanager")
    configuration = yaml.safe_load(EXAMPLE.read_text())
    configuration["receivers"] = [{"name": receiver["name"]} for receiver in configuration["receivers"]]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(configuration))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(SERVER), "--config.file=alertmanager.yml", "--storage.path=data", f"--web.listen-address={address}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--cluster.listen-address="], cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/-/ready", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


@needs_server
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_told_once(fault: str, alertmanager: str) -> None:
    alerts, told = FAULTS[fault]
    tag = fault.replace(" ", "-")

    def body(cluster: dict[str, str], name: str) -> dict[str, object]:
        labels = cluster | {"alertname": name, "severity": rules.alerts()[name]["labels"]["severity"]}
        return {"labels": labels | {"cluster": f"{labels['cluster']}-{tag}"}}

    # The same follow-up alerts of another cluster must not be silenced by this one's fault.
    others = [(name, labels | {"cluster": "db"}) for name, labels in alerts if name not in told]
    sent = [body(labels, name) for name, labels in [*alerts, *others]]
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{alertmanager}/api/v2/alerts", json.dumps(sent).encode(), headers)
    urllib.request.urlopen(request, timeout=30).close()

    def active(cluster: str) -> set[str]:
        query = f"{alertmanager}/api/v2/alerts?inhibited=false&filter=cluster%3D%22{cluster}-{tag}%22"
        with urllib.request.urlopen(query, timeout=30) as answer:
            return {alert["labels"]["alertname"] for alert in json.load(answer)}

    deadline = time.monotonic() + 30
    while active("www") != told and time.monotonic() < deadline:
        time.sleep(0.05)
    assert active("www") == told
    assert active("db") <= {name for name, _ in others}
    first = min((name for name, _ in others), key=[name for name, _ in alerts].index)
    assert first in active("db")
