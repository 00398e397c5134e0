"""From the agents to the pager for real: two labs, Debian's Prometheus and Alertmanager, and a webhook.

    duty       three nodes, six VIPs: fail-over, leave and join, balance rounds, then a partition;
               Prometheus `full` reaches all of it
    crooked    two nodes, and three of four VIPs may be on the first one only; Prometheus `side` reaches just that node,
               and the witness on their segment

Both scrape every second over the management links, which no cut touches.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.lab import formation, network, processes
from agent.lab.lab import HTTP_PORT, Lab, down, now
from agent.lab.plan import Plan, generate, with_arguments
from tests.alerts.monitoring import (
    Prometheus,
    Target,
    Webhook,
    alertmanager,
    prometheus,
    require_programs,
    until,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

ROOT = Path(__file__).parents[2]
RULES = ROOT / "alerts"

REACHES_THE_PAGER = 15.0
"""Seconds from a partition to the page: the promise, at a scrape interval of 1 s."""

WINDOW = 45.0
"""Seconds that the rules look back: an alert cannot resolve before."""

SETTLED = 8.0
"""Seconds after which a critical alert about something that is over would have fired: the longest wait of those
that fire within seconds (MolehillSplitBrain, 5 s) and two evaluations."""


def routes(webhook: str) -> dict[str, Any]:
    """The shipped example with the webhook as both receivers; what is over is told after 2 s, not 30 s or more."""
    document: dict[str, Any] = yaml.safe_load((RULES / "alertmanager.example.yml").read_text())
    for route in (document["route"], *document["route"]["routes"]):
        if "group_interval" in route:
            route["group_interval"] = "2s"
    names = [receiver["name"] for receiver in document["receivers"]]
    assert names == ["pager", "chat"]
    document["receivers"] = [
        {"name": name, "webhook_configs": [{"url": webhook + name, "send_resolved": True}]} for name in names
    ]
    return document


def hurried(directory: Path) -> list[Path]:
    """The rules as they are, but for the minutes of one: an imbalance counts after 10 s for 5 s, not 10 m for 5 m."""
    copies = []
    changed = 0
    for path in sorted(RULES.glob("*.rules.yml")):
        document = yaml.safe_load(path.read_text())
        for rule in (rule for group in document["groups"] for rule in group["rules"]):
            if rule.get("alert") == "MolehillImbalance":
                assert "[10m]" in rule["expr"]
                rule["expr"] = rule["expr"].replace("[10m]", "[10s]")
                rule["for"] = "5s"
                changed += 1
        copies.append(directory / path.name)
        copies[-1].write_text(yaml.safe_dump(document))
    assert changed == 1
    return copies


# The cast.


@dataclass(frozen=True, slots=True)
class Stage:
    duty: Lab
    crooked: Lab
    full: Prometheus
    side: Prometheus
    webhook: Webhook


@contextmanager
def running_lab(plan: Plan) -> Iterator[Lab]:
    down(plan.name)
    try:
        yield Lab.create(plan)
    finally:
        down(plan.name)


def targets(lab: Lab, *nodes: str) -> list[Target]:
    chosen = [host for host in lab.plan.nodes if not nodes or host.name in nodes]
    return [Target(f"{host.management}:{HTTP_PORT}", cluster(lab), host.name) for host in chosen]


def cluster(lab: Lab) -> str:
    return f"lab-{lab.plan.name}"


def start_witness(lab: Lab) -> Target:
    """In the client's namespace, which gets a management link for it."""
    link, middle = "mwitness", lab.plan.namespace("net")
    address = f"{lab.plan.management.rpartition('.')[0]}.9"
    client = lab.plan.namespace("client")
    network.batch(
        [
            f"link add name {link} type veth peer name mgmt0 netns {client}",
            f"link set dev {link} master mgmt up",
        ],
        middle,
    )
    network.batch([f"addr add {address}/24 dev mgmt0", "link set dev mgmt0 up"], client)
    vips = ",".join(f"{name}=eth0:{vip}" for name, vip in lab.plan.addresses())
    agents = ",".join(f"http://{target.address}" for target in targets(lab, "www1"))
    words = [sys.executable, "-P", "-m", "agent", "witness", "--cluster", cluster(lab), "--vips", vips]
    words += ["--agents", agents, "--listen", f"{address}:9749"]
    processes.spawn(words, lab.directory / "witness.log", namespace=client)
    return Target(f"{address}:9749", cluster(lab), "", "molehill-witness")


def even(lab: Lab) -> bool:
    """Whether every node has two VIPs."""
    having = [nodes[0] for nodes in lab.holders().values() if len(nodes) == 1]
    return all(having.count(host.name) == 2 for host in lab.plan.nodes)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nft") is None:
        pytest.skip("needs root, iproute2 and nftables")
    require_programs()
    directory = tmp_path_factory.mktemp("monitoring")
    number = os.getpid() % 1_000_000
    # Three of four VIPs may be on www1 only: no balancing brings the spread below two.
    bound = [part for index in range(3) for part in ("--set", f"vips.{index}.nodes=[www1]")]
    with ExitStack() as stack:
        duty = stack.enter_context(running_lab(generate(f"d{number}", 3, 6, network.free_management_network())))
        second = generate(f"c{number}", 2, 4, network.free_management_network())
        crooked = stack.enter_context(running_lab(with_arguments(second, *bound)))
        webhook = Webhook()
        address = webhook.start()
        stack.callback(webhook.close)
        manager = stack.enter_context(alertmanager(directory / "alertmanager", routes(address)))
        rules = hurried(directory)
        witness, witness_log = start_witness(crooked), crooked.directory / "witness.log"
        unreachable = [Target("127.0.0.1:9", cluster(crooked), "www2")]
        one_side = [*targets(crooked, "www1"), *unreachable, witness]
        full = stack.enter_context(prometheus(directory / "full", "full", targets(duty), rules, manager))
        side = stack.enter_context(prometheus(directory / "side", "side", one_side, rules, manager))
        for lab in (duty, crooked):
            formation.wait_formed(lab, timeout=90)
        # The first scrape comes five seconds after the start at the earliest.
        until(lambda: len(full.query("molehill_view_members == 3")) == 3, 60, lambda: full.query("up"))
        until(lambda: len(side.query("molehill_witness_answering_macs == 1")) == 4, 60, witness_log.read_text)
        yield Stage(duty, crooked, full, side, webhook)


@pytest.fixture(scope="module")
def deaf(stage: Stage) -> float:
    """Since when the nodes of `crooked` do not hear each other while clients hear both: UDP is filtered."""
    rules = "table inet deaf { chain arriving { type filter hook input priority 0; udp dport 4803 drop; }; }"
    for node in stage.crooked.plan.nodes:
        words = ["ip", "netns", "exec", stage.crooked.plan.namespace(node.name), "nft", "-f", "-"]
        done = subprocess.run(words, input=rules, text=True, check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
    return now()


# The play, in this order: a later act takes time in which an earlier one's false alarms would come.


def test_a_failover_a_leave_and_balance_rounds_page_nobody(stage: Stage) -> None:
    lab = stage.duty
    until(lambda: even(lab), 60, lab.holders)
    lab.lose("www3")
    formation.wait_formed(lab, ["www1", "www2"], timeout=60)
    lab.ask("www2", "leave")
    formation.wait_formed(lab, ["www1"], timeout=60)
    lab.ask("www2", "join")
    formation.wait_formed(lab, ["www1", "www2"], timeout=60)
    lab.ask("www1", "balance")
    lab.reboot("www3")
    formation.wait_formed(lab, timeout=60)
    lab.ask("www1", "balance")
    until(lambda: even(lab), 60, lab.holders)
    over = time.time()
    until(lambda: stage.full.evaluated(over + SETTLED), SETTLED + 60)
    moves = stage.full.query("sum by (cluster, cause) (molehill_vip_acquisitions_total) > 0")
    causes = {one["metric"]["cause"] for one in moves if one["metric"]["cluster"] == cluster(lab)}
    assert {"failover", "leave", "balance"} <= causes, "Prometheus has seen what happened"
    assert stage.webhook.paged(cluster=cluster(lab)) == []


def test_an_imbalance_that_balancing_does_not_cure_is_told(stage: Stage) -> None:
    alert = stage.webhook.wait("MolehillImbalance", 90, cluster=cluster(stage.crooked))
    assert alert.receiver == "chat"
    # The other cluster was uneven too, when a node came back with nothing.
    assert stage.webhook.find("MolehillImbalance", cluster=cluster(stage.duty)) == []


@pytest.mark.usefixtures("deaf")  # its alert takes as long as this act
def test_a_partition_reaches_the_pager_within_15_seconds(stage: Stage) -> None:
    lab = stage.duty
    assert stage.webhook.paged(cluster=cluster(lab)) == [], "no late page for the fail-over"
    split = lab.split(["www3"])
    alert = stage.webhook.wait("MolehillSplitBrain", REACHES_THE_PAGER + 30, cluster=cluster(lab))
    assert alert.at - split < REACHES_THE_PAGER
    assert alert.receiver == "pager"
    assert alert.labels["severity"] == "critical"
    assert "www3" in alert.annotations["description"], "it says who"
    assert {"summary", "runbook_url", "dashboard_url"} <= alert.annotations.keys()

    def pages() -> set[str]:
        return {one.labels["vip"] for one in stage.webhook.find("MolehillSplitBrain", cluster=cluster(lab))}

    until(lambda: pages() == {vip.name for vip in lab.plan.vips}, 30, pages)
    healed = lab.heal()
    formation.wait_formed(lab, timeout=60)
    over = stage.webhook.wait(
        "MolehillSplitBrain", WINDOW + 60, firing=False, since=healed, cluster=cluster(lab), vip=alert.labels["vip"]
    )
    assert over.at - healed < WINDOW + REACHES_THE_PAGER
    assert stage.webhook.paged(cluster=cluster(lab)) == ["MolehillSplitBrain"], "and for nothing else"


def test_a_split_brain_is_seen_by_a_prometheus_that_reaches_one_side_only(stage: Stage, deaf: float) -> None:
    """The agents' own metrics cannot tell it what the other side holds; the witness hears both answer."""
    lab = stage.crooked
    alert = stage.webhook.wait("MolehillWitnessTwoAnswers", 90, cluster=cluster(lab), prometheus="side")
    assert alert.at >= deaf
    assert alert.receiver == "pager"
    assert alert.labels["vip"] == lab.plan.vips[3].name, "the one that both may hold"
    assert stage.webhook.find("MolehillSplitBrain", prometheus="side") == [], "it sees one holder"
    assert "MolehillVipUncovered" not in stage.webhook.paged()


def test_every_rule_could_be_evaluated(stage: Stage) -> None:
    assert stage.full.broken_rules() == []
    assert stage.side.broken_rules() == []
