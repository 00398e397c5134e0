import asyncio
import gc
import io
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent.core import events as e
from agent.core.effects import Occasion
from agent.core.ids import NodeName, VipName
from agent.core.settings import PartitionPolicy, Settings
from agent.core.view import Cause, Move, View, ViewCause
from exporters.bus import Bus
from exporters.families import VIPS_FULL
from exporters.lines import ACQUIRE_ADVICE
from exporters.metrics import CACHED, Metrics
from exporters.observers import SWITCH_INTERVAL
from exporters.rivals import KEPT, PER_VIP, RIVALS_MAX
from exporters.status import Status
from exporters.wall import Wall
from tests.bench import scraping
from tests.exporters.events_of_every_kind import EVERY, W1, W2, W3, installed, settings, vip_name

A, B = vip_name(0), vip_name(1)
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

CONTRACT = {
    "molehill_build_info": {"version", "engine", "python"},
    "molehill_state": {"state"},
    "molehill_mature": set(),
    "molehill_fit": set(),
    "molehill_draining": set(),
    "molehill_view_info": {"view"},
    "molehill_view_members": set(),
    "molehill_configured_members": set(),
    "molehill_config_info": {"hash"},
    "molehill_view_changes_total": {"cause"},
    "molehill_view_change_duration_seconds_count": set(),
    "molehill_failover_duration_seconds_count": {"cause"},
    "molehill_vip_held": {"vip"},
    "molehill_vip_acquired_timestamp_seconds": {"vip"},
    "molehill_vip_owner_info": {"vip", "owner"},
    "molehill_vip_acquisitions_total": {"vip", "cause"},
    "molehill_vip_releases_total": {"vip", "cause"},
    "molehill_vip_acquire_failures_total": {"vip", "reason"},
    "molehill_vip_acquire_duration_seconds_count": set(),
    "molehill_vips_uncovered": set(),
    "molehill_vip_spread": set(),
    "molehill_balance_rounds_total": {"result"},
    "molehill_balance_moves_total": set(),
    "molehill_arp_sent_total": {"interface", "kind", "result"},
    "molehill_arp_cache_entries": {"scope"},
    "molehill_heartbeats_sent_total": set(),
    "molehill_heartbeats_received_total": {"peer"},
    "molehill_heartbeats_missed_total": {"peer"},
    "molehill_peer_rtt_seconds_count": {"peer"},
    "molehill_datagrams_rejected_total": {"reason"},
    "molehill_event_loop_lag_seconds_count": set(),
    "molehill_reloads_total": {"result"},
    "molehill_quorate": set(),
    "molehill_sealed": set(),
    "molehill_votes": set(),
    "molehill_votes_needed": set(),
    "molehill_vip_conflicts_total": {"vip"},
    "molehill_vip_conflict_info": {"vip", "mac"},
    "molehill_lease_layer_active": {"layer"},
    "molehill_lease_expired_total": {"layer"},
    "molehill_lease_renewal_margin_seconds_count": set(),
    "molehill_check_up": {"check"},
    "molehill_hook_failures_total": {"hook"},
    "molehill_spans_dropped_total": set(),
    "molehill_events_dropped_total": set(),
    "molehill_exporters_failed": set(),
}
"""Sample names and labels, besides `cluster` and `node`. Dashboards and alerts are built on them."""

Value = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Node:
    """Status and metrics of www1, fed by hand."""

    def __init__(self, about: Settings | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.exemplar: dict[str, str] | None = None
        wall = Wall(clock=lambda: 100.0, wall=lambda: 1_800_000_000.0)
        self.status = Status(about or settings(), wall, engine="embedded", sealed=True)
        self.bus = Bus(self.loop, limit=10, complaints=io.StringIO())
        self.metrics = Metrics(
            self.status,
            self.bus,
            reject_reasons=("unsealed", "replayed"),
            checks=("nginx",),
            hooks=("/etc/molehill/acquired.d/notify",),
            exemplar=lambda: self.exemplar,
            timer=lambda: self.now,
        )

    def see(self, *events: e.Event) -> "Node":
        for event in events:
            self.status(event)
            self.metrics(event)
        return self

    def text(self, accept: str = "") -> str:
        self.now += CACHED
        return self.loop.run_until_complete(self.metrics.scrape(accept))[0].decode()

    def values(self) -> Value:
        return {
            (sample.name, frozenset(sample.labels.items() - {("cluster", "www"), ("node", "www1")})): sample.value
            for family in parse_text(self.text())
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.values()[(name, frozenset(labels.items()))]


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.loop.run_until_complete(made.loop.shutdown_default_executor())
    made.loop.close()


def acquired(vip: VipName, at: float, cause: Cause = Cause.FAILOVER) -> e.VipAcquired:
    return e.VipAcquired(at, vip, cause, started=at - 0.004, since=at - 0.3)


def sent(vip: VipName, at: float, occasion: Occasion = Occasion.ACQUIRE, error: str = "") -> e.ArpSent:
    return e.ArpSent(at, vip, "eth4", "request", vip, occasion, error)


def claim(vip: VipName, at: float, mac: str = "02:00:00:00:00:66", answer: str = "defended") -> e.ConflictSeen:
    return e.ConflictSeen(at, vip, vip, "eth4", mac, answer)


def test_every_metric_of_the_contract_is_there_with_its_labels(node: Node) -> None:
    node.status.settings = replace(settings(), partition=PartitionPolicy.QUORUM)
    node.see(installed(), acquired(A, 11.0), claim(A, 12.0), e.QuorumChanged(10.0, True, 3, 2))
    labels: dict[str, set[str]] = {}
    for family in parse_text(node.text()):
        for sample in family.samples:
            assert sample.labels["cluster"] == "www"
            assert sample.labels["node"] == "www1"
            labels.setdefault(sample.name, set()).update(sample.labels.keys() - {"cluster", "node"})
    ours = {
        name: found
        for name, found in labels.items()
        if name.startswith("molehill_") and not name.endswith(("_bucket", "_sum"))
    }
    assert ours == CONTRACT
    assert {"process_resident_memory_bytes", "process_open_fds", "python_gc_collections_total"} <= labels.keys()


def test_every_metric_has_help(node: Node) -> None:
    families = list(parse_text(node.text()))
    assert len(families) > 30
    assert [family.name for family in families if len(family.documentation) < 10] == []


def test_both_formats_say_the_same(node: Node) -> None:
    node.see(*EVERY, installed())

    def samples(families: Iterable[Metric]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {(sample.name, frozenset(sample.labels.items())) for family in families for sample in family.samples}

    text, openmetrics = node.text(), node.text(OPENMETRICS)
    assert openmetrics.endswith("# EOF\n")
    assert openmetrics.count("# EOF") == 1
    families = parse_openmetrics(openmetrics)  # type: ignore[no-untyped-call]
    assert samples(families) == samples(parse_text(text))
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_exemplars_lead_from_durations_to_their_trace(node: Node) -> None:
    names = ("failover_duration", "view_change_duration", "vip_acquire_duration")

    def exemplars() -> list[str]:
        lines = node.text(OPENMETRICS).splitlines()
        return [line for name in names for line in lines if line.startswith(f"molehill_{name}") and " # {" in line]

    node.see(installed(), acquired(A, 20.0), sent(A, 20.01))
    assert exemplars() == [], "tracing is off, or the trace is not sampled"
    node.exemplar = {"trace_id": "d9" * 16, "span_id": "0f" * 8}
    node.see(installed(at=20.0), acquired(B, 21.0), sent(B, 21.01))
    found = exemplars()
    assert len(found) == 3
    for line in found:
        assert f'trace_id="{"d9" * 16}"' in line
        assert f'span_id="{"0f" * 8}"' in line
    parse_openmetrics(node.text(OPENMETRICS))  # type: ignore[no-untyped-call]
    assert " # {" not in node.text()


def test_layers_of_the_lease_and_what_is_left_of_it(node: Node) -> None:
    for layer in ("fast", "address", "guard"):
        assert node.value("molehill_lease_layer_active", layer=layer) == 0, "not before somebody says so"
    node.see(
        e.LeaseLayer(1.0, "fast", True, ""),
        e.LeaseLayer(1.0, "guard", True, ""),
        e.LeaseTaken(1.0, until=1.15),
        e.LeaseRenewed(1.1, "fast", margin=0.05, until=1.25),
        e.LeaseRenewed(1.2, "fast", margin=0.01, until=1.35),
        e.LeaseRenewed(1.2, "address", margin=2.0, until=4.2),
        e.LeaseLost(1.4, "fast"),
        e.LeaseLayer(1.5, "guard", False, "its process ended"),
    )
    active = {layer: node.value("molehill_lease_layer_active", layer=layer) for layer in ("fast", "address", "guard")}
    assert active == {"fast": 1, "address": 1, "guard": 0}, "what is renewed is in force"
    assert node.value("molehill_lease_expired_total", layer="fast") == 1
    assert node.value("molehill_lease_expired_total", layer="address") == 0
    assert node.value("molehill_lease_renewal_margin_seconds_count") == 2, "that of the fast lease alone"
    assert node.value("molehill_lease_renewal_margin_seconds_sum") == pytest.approx(0.06)


def test_a_layer_that_is_switched_off_is_not_missing(node: Node) -> None:
    node.see(e.LeaseLayer(1.0, "address", True, ""))
    node.status.configure(settings(), {}, True, ("address", "guard"))
    layers = {labels: value for (name, labels), value in node.values().items() if name == "molehill_lease_layer_active"}
    assert layers == {frozenset({("layer", "address")}): 1, frozenset({("layer", "guard")}): 0}


def test_rivals_are_counted_named_bounded_and_forgotten(node: Node) -> None:
    def macs() -> set[str]:
        return {dict(labels)["mac"] for (name, labels) in node.values() if name == "molehill_vip_conflict_info"}

    node.see(*(claim(A, 10.0 + n, f"02:00:00:00:00:0{n}") for n in range(PER_VIP)))
    node.see(claim(B, 50.0, "02:00:00:00:00:66"), claim(A, 51.0, "02:00:00:00:00:00"))
    assert node.value("molehill_vip_conflicts_total", vip=A) == PER_VIP + 1
    assert node.value("molehill_vip_conflicts_total", vip=B) == 1
    assert macs() == {*(f"02:00:00:00:00:0{n}" for n in range(PER_VIP)), "02:00:00:00:00:66"}
    node.see(claim(A, 60.0, "02:00:00:00:00:99"))
    assert "02:00:00:00:00:01" not in macs(), "the one that has been quiet for longest makes room"
    assert {"02:00:00:00:00:00", "02:00:00:00:00:66", "02:00:00:00:00:99"} <= macs()
    node.see(*(claim(VipName(f"10.9.{n}.1"), 70.0) for n in range(RIVALS_MAX)))
    assert len(node.status.rivals) == RIVALS_MAX
    node.see(claim(A, 100.0 - KEPT, "02:00:00:00:00:77"))
    assert "02:00:00:00:00:77" not in macs(), "forgotten after its time"


def test_quorum_and_votes(node: Node) -> None:
    node.see(e.QuorumChanged(1.0, False, 1, 2))
    assert node.value("molehill_quorate") == 1, "every component serves"
    assert not [name for (name, _) in node.values() if name.startswith("molehill_votes")]
    node.status.settings = replace(settings(), partition=PartitionPolicy.QUORUM)
    assert (node.value("molehill_votes"), node.value("molehill_votes_needed")) == (1, 2)
    assert node.value("molehill_quorate") == 0
    node.see(e.QuorumChanged(2.0, True, 2, 2))
    assert (node.value("molehill_quorate"), node.value("molehill_votes")) == (1, 2)


def test_whether_messages_are_sealed(node: Node) -> None:
    assert node.value("molehill_sealed") == 1
    node.status.configure(settings(), {}, False, ())
    assert node.value("molehill_sealed") == 0
    node.status.configure(settings(), {}, None, ())
    assert not [name for (name, _) in node.values() if name == "molehill_sealed"], "another engine's business"


def test_what_comes_later_has_its_neutral_value(node: Node) -> None:
    assert node.value("molehill_quorate") == 1
    for layer in ("fast", "address"):
        assert node.value("molehill_lease_expired_total", layer=layer) == 0
    assert node.value("molehill_lease_renewal_margin_seconds_count") == 0
    assert node.value("molehill_check_up", check="nginx") == 1
    assert node.value("molehill_hook_failures_total", hook="/etc/molehill/acquired.d/notify") == 0
    assert node.value("molehill_vip_conflicts_total", vip=A) == 0
    assert not [name for (name, _) in node.values() if name == "molehill_vip_conflict_info"]
    assert "# TYPE molehill_vip_conflict_info gauge" in node.text()
    assert node.value("molehill_spans_dropped_total") == 0
    node.metrics.configure(["mysql"], [])
    assert [labels for (name, labels) in node.values() if name == "molehill_check_up"] == [{("check", "mysql")}]


def test_label_values_are_escaped(node: Node) -> None:
    node.status.settings = replace(settings(), digest='a"b\\c\nd')
    assert node.value("molehill_config_info", hash='a"b\\c\nd') == 1


def test_promtool_finds_nothing_to_complain_of(node: Node) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (`make test` unpacks it)")
    node.see(*EVERY, installed())
    check = [promtool, "check", "metrics"]
    done = subprocess.run(check, input=node.text(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_what_can_happen_is_there_at_zero_before_it_happens(node: Node) -> None:
    values = node.values()

    def zeroes(name: str) -> int:
        found = [value for (sample, _), value in values.items() if sample == name]
        assert set(found) == {0.0}
        return len(found)

    assert zeroes("molehill_view_changes_total") == len(ViewCause)
    assert zeroes("molehill_vip_acquisitions_total") == 3 * len(Cause)
    assert zeroes("molehill_vip_releases_total") == 3 * len(Cause)
    assert zeroes("molehill_vip_acquire_failures_total") == 3 * len(ACQUIRE_ADVICE)
    assert zeroes("molehill_datagrams_rejected_total") == 2
    assert zeroes("molehill_arp_sent_total") == 5 * 2
    assert zeroes("molehill_heartbeats_received_total") == 2
    assert zeroes("molehill_failover_duration_seconds_count") == len(Cause)
    assert zeroes("molehill_vip_held") == 3


def test_state_is_a_set_of_which_one_is_true(node: Node) -> None:
    node.see(e.StateChanged(1.0, "GATHER"), e.StateChanged(2.0, "RUN"))
    values = [node.value("molehill_state", state=state) for state in ("boot", "gather", "run", "balance", "left")]
    assert values == [0, 0, 1, 0, 0]


def test_one_view_at_a_time(node: Node) -> None:
    node.see(installed(at=10.0))
    assert node.value("molehill_view_info", view="7-www1-3") == 1
    assert node.value("molehill_view_members") == 3
    smaller = View(installed().view.id._replace(epoch=8), (W1, W2))
    node.see(replace(installed(at=20.0, cause=ViewCause.DISCONNECT), view=smaller))
    views = [labels for (name, labels) in node.values() if name == "molehill_view_info"]
    assert views == [frozenset({("view", "8-www1-3")})]
    assert node.value("molehill_view_changes_total", cause="disconnect") == 1
    assert node.value("molehill_view_changes_total", cause="join") == 1
    assert node.value("molehill_view_change_duration_seconds_sum") == pytest.approx(0.04)
    node.see(e.StateChanged(21.0, "LEFT"))
    assert node.value("molehill_view_members") == 0
    assert not [name for (name, _) in node.values() if name == "molehill_view_info"]


def test_a_held_vip_and_since_when(node: Node) -> None:
    node.see(installed(), acquired(A, 90.0))
    assert (node.value("molehill_vip_held", vip=A), node.value("molehill_vip_held", vip=B)) == (1, 0)
    assert node.value("molehill_vip_acquired_timestamp_seconds", vip=A) == 1_800_000_000.0 - 10
    assert node.value("molehill_vip_owner_info", vip=B, owner="www2") == 1
    assert node.value("molehill_vip_acquisitions_total", vip=A, cause="failover") == 1
    assert node.value("molehill_vip_acquire_duration_seconds_sum") == pytest.approx(0.004)
    node.see(e.VipReleased(95.0, A, Cause.DRAIN, started=94.9))
    assert node.value("molehill_vip_held", vip=A) == 0
    assert node.value("molehill_vip_releases_total", vip=A, cause="drain") == 1
    assert not [labels for (name, labels) in node.values() if name == "molehill_vip_acquired_timestamp_seconds"]


def test_a_failover_lasts_until_the_first_announcement_that_left(node: Node) -> None:
    node.see(
        acquired(A, 20.0),
        sent(A, 20.001, error="ENETDOWN"),
        sent(B, 20.002),
        sent(A, 20.010),
        sent(A, 20.020),
        sent(A, 21.1, Occasion.REPEAT),
    )
    assert node.value("molehill_failover_duration_seconds_count", cause="failover") == 1
    assert node.value("molehill_failover_duration_seconds_sum", cause="failover") == pytest.approx(0.310)
    assert node.value("molehill_arp_sent_total", interface="eth4", kind="request", result="ok") == 4
    assert node.value("molehill_arp_sent_total", interface="eth4", kind="request", result="error") == 1
    node.see(acquired(A, 30.0), e.VipReleased(30.1, A, Cause.CONFLICT, started=30.0), sent(A, 30.2))
    assert node.value("molehill_failover_duration_seconds_count", cause="failover") == 1


def test_balance_rounds_count_what_balances(node: Node) -> None:
    view = installed().view.id
    balancing = (Move(A, W1.name, W2.name, Cause.BALANCE), Move(B, W1.name, W3.name, Cause.PREFER))
    node.see(
        e.BalanceRound(1.0, view, 1, balancing, timed=True),
        e.BalanceRoundDone(1.1, view, 1, 0.1),
        e.BalanceRound(2.0, view, 2, (Move(A, W1.name, W2.name, Cause.DRAIN),), timed=False),
        e.BalanceRoundDone(2.1, view, 2, 0.1),
        e.BalanceRound(3.0, view, 3, balancing[:1], timed=True),
        installed(at=3.1),
    )
    assert node.value("molehill_balance_moves_total") == 3
    assert node.value("molehill_balance_rounds_total", result="done") == 1
    assert node.value("molehill_balance_rounds_total", result="interrupted") == 1


def test_heartbeats_rejections_lag_and_reloads_are_counted(node: Node) -> None:
    node.see(
        e.HeartbeatSent(1.0),
        e.HeartbeatReceived(1.0, W2.name, rtt=0.0007, missed=3),
        e.HeartbeatReceived(1.1, W2.name, rtt=None, missed=0),
        e.HeartbeatReceived(1.1, NodeName("found"), rtt=None, missed=0),
        e.DatagramRejected(1.0, "replayed", "10.0.0.9:1"),
        e.LoopLag(1.0, 0.03),
        e.Reloaded(1.0, ""),
        e.Reloaded(1.0, "no"),
        e.OwnersChanged(1.0, (), (A, B), 2.5),
        e.ArpCacheChanged(1.0, local=4, shared=9),
        e.VipAcquireFailed(1.0, A, "no_carrier", "eth4", 1.0),
    )
    assert node.value("molehill_heartbeats_sent_total") == 1
    assert node.value("molehill_heartbeats_received_total", peer="www2") == 2
    assert node.value("molehill_heartbeats_received_total", peer="found") == 1
    assert node.value("molehill_heartbeats_missed_total", peer="www2") == 3
    assert node.value("molehill_peer_rtt_seconds_count", peer="www2") == 1
    assert node.value("molehill_peer_rtt_seconds_sum", peer="www2") == pytest.approx(0.0007)
    assert node.value("molehill_datagrams_rejected_total", reason="replayed") == 1
    assert node.value("molehill_event_loop_lag_seconds_bucket", le="0.05") == 1
    assert node.value("molehill_event_loop_lag_seconds_bucket", le="0.02") == 0
    assert node.value("molehill_reloads_total", result="ok") == 1
    assert node.value("molehill_reloads_total", result="error") == 1
    assert (node.value("molehill_vips_uncovered"), node.value("molehill_vip_spread")) == (2, 2.5)
    assert node.value("molehill_arp_cache_entries", scope="shared") == 9
    assert node.value("molehill_vip_acquire_failures_total", vip=A, reason="no_carrier") == 1


def test_lost_events_and_broken_exporters_are_told(node: Node) -> None:
    def broken(event: e.Event) -> None:
        raise ValueError

    node.bus.subscribe("broken", broken)
    for _ in range(13):
        node.bus.publish(e.BecameMature(1.0))
    node.bus.flush()
    assert node.value("molehill_events_dropped_total") == 3
    assert node.value("molehill_exporters_failed") == 1


def test_nodes_do_not_share_anything() -> None:
    first, second = Node(), Node()
    first.see(e.HeartbeatSent(1.0))
    assert second.value("molehill_heartbeats_sent_total") == 0
    for made in (first, second):
        made.loop.run_until_complete(made.loop.shutdown_default_executor())
        made.loop.close()


def test_scrapes_within_a_second_are_served_from_one(node: Node) -> None:
    before = node.text()
    node.see(e.HeartbeatSent(1.0))
    node.now += CACHED / 2
    again = node.loop.run_until_complete(node.metrics.scrape(""))[0].decode()
    assert again == before
    node.now += CACHED
    assert node.value("molehill_heartbeats_sent_total") == 1


def test_a_thousand_vips_cost_little_and_the_loop_goes_on() -> None:
    """The best of several scrapes: what else runs on this machine is not measured."""
    assert VIPS_FULL < 1_000
    switching = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        for scrapes in asyncio.run(scraping.measure(1_000, 20)).values():
            assert min(one.seconds for one in scrapes) < 0.25
            assert min(one.delay for one in scrapes) < 0.04
            assert max(one.size for one in scrapes) < 1_500_000
    finally:
        sys.setswitchinterval(switching)
        gc.unfreeze()
