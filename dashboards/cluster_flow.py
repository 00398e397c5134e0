"""The lower half of *Cluster*: what moved, how even the load is, and what the network was told."""

from __future__ import annotations

from dashboards.links import failover_link, node_link
from dashboards.palette import BAD, CAUSES, GOOD, INFO, KINDS, NEUTRAL, WARN, by_node, named, steps, yes_no
from dashboards.panels import Panel, query, series, timeline
from dashboards.queries import NV, C, N, V, each, events, faults, longest

SENT, FAILED = f'{N}, result="ok"', f'{N}, result="error"'
RED_AT_ONE = steps((None, "transparent"), (1, BAD))


def moving() -> list[Panel]:
    return [*_durations(), *_causes(), *_acquiring()]


def _durations() -> list[Panel]:
    moved = f'{C}, cause!="start"'
    return [
        series(
            20,
            "How long was each VIP away?",
            """From the last sign of the old holder, or the order to move, to the first announcement by the new one:
            the mean by cause, and the longest, rounded up to its bucket. Diamonds are exemplars: each leads to the
            trace of that fail-over.""",
            query(each("molehill_failover_duration_seconds", moved, "cause"), "{{cause}}"),
            query(longest("molehill_failover_duration_seconds", moved), "longest, at most", exemplars=True),
            unit="s",
            style="points",
            log=True,
            thresholds=steps((None, "transparent"), (0.6, WARN), (5, BAD)),
            overrides=[*named(CAUSES), *named({"longest, at most": NEUTRAL})],
            none="nothing moved",
            alerts=("MolehillFailoverSlow",),
            link=failover_link(),
        ),
        series(
            21,
            "How long did agreeing on a view take?",
            "From the begin of gathering to the installed view: mean over the nodes, and the slowest one's bucket.",
            query(each("molehill_view_change_duration_seconds", C), "mean"),
            query(longest("molehill_view_change_duration_seconds", C), "longest, at most", exemplars=True),
            unit="s",
            style="points",
            log=True,
            overrides=named({"mean": "purple", "longest, at most": NEUTRAL}),
            none="no view change",
            link=failover_link(),
        ),
    ]


def _causes() -> list[Panel]:
    return [
        series(
            22,
            "Why did VIPs change hands?",
            """VIPs acquired, by cause. Warm colours are faults (failover, unfit, lease, conflict), blue and violet
            are orders of a person (leave, drain, move), teal and green the cluster's own doing (balance, start).""",
            query(f"{events('molehill_vip_acquisitions_total', NV, 'cause')} > 0", "{{cause}}"),
            style="bars",
            unit="suffix: VIPs",
            decimals=0,
            overrides=named(CAUSES),
            none="nothing moved",
            alerts=("MolehillVipFlapping",),
            link=failover_link(),
        ),
        series(
            23,
            "Why did the view change?",
            "View changes by cause, as the node counted that saw most of them. Many in a row: the group flaps.",
            query(
                f"max by (cause) ({events('molehill_view_changes_total', C, 'node, cause')}) > 0",
                "{{cause}}",
            ),
            style="bars",
            decimals=0,
            overrides=named(CAUSES),
            none="no view change",
            alerts=("MolehillViewFlapping",),
            link=failover_link(),
        ),
    ]


def _acquiring() -> list[Panel]:
    return [
        series(
            24,
            "Could any node not put a VIP up?",
            "Failed acquisitions by node and reason. The VIP is given to another node, and this one backs off.",
            query(
                faults("molehill_vip_acquire_failures_total", NV, "node, reason", "reason"),
                "{{node}} {{reason}}",
            ),
            style="bars",
            high=1,
            decimals=0,
            thresholds=RED_AT_ONE,
            alerts=("MolehillAcquireFailures",),
            link=node_link("${__field.labels.node}"),
        ),
        series(
            25,
            "How long does putting a VIP up take?",
            """From the order to the driver until all addresses are up: the mean, and the longest, rounded up to its
            bucket.""",
            query(each("molehill_vip_acquire_duration_seconds", N), "mean"),
            query(longest("molehill_vip_acquire_duration_seconds", N), "longest, at most", exemplars=True),
            style="points",
            unit="s",
            log=True,
            overrides=named({"mean": INFO, "longest, at most": NEUTRAL}),
            none="nothing acquired",
        ),
    ]


def load() -> list[Panel]:
    return [
        series(
            30,
            "How many VIPs does each node hold?",
            "VIPs whose addresses are up on the node.",
            query(f"sum by (node) (molehill_vip_held{{{NV}}})", "{{node}}"),
            style="steps",
            unit="suffix: VIPs",
            width=8,
            overrides=by_node(),
            link=node_link("${__field.labels.node}"),
        ),
        series(
            31,
            "Does balancing cure the imbalance?",
            """Weighted load of the fullest eligible member less that of the emptiest. Above 1 for longer than a few
            balance intervals: balancing does not cure it.""",
            query(f"max(molehill_vip_spread{{{C}}})", "spread"),
            style="steps",
            unit="suffix: VIPs",
            width=8,
            high=2,
            thresholds=steps((None, "transparent"), (2, WARN)),
            overrides=named({"spread": INFO}),
            alerts=("MolehillImbalance",),
        ),
        series(
            32,
            "What do balance rounds do?",
            "VIPs that rounds were to move, and rounds by result. Interrupted: a view change came in between.",
            query(f"max({events('molehill_balance_moves_total', C, 'node')}) > 0", "VIPs to move"),
            query(
                f"max by (result) ({events('molehill_balance_rounds_total', C, 'node, result')}) > 0",
                "rounds {{result}}",
            ),
            style="points",
            width=8,
            decimals=0,
            overrides=named({"VIPs to move": INFO, "rounds done": GOOD, "rounds interrupted": WARN}),
            none="no round",
        ),
    ]


def network() -> list[Panel]:
    return [*_announcing(), *_outside()]


def _announcing() -> list[Panel]:
    return [
        series(
            40,
            "How many ARP frames go out, of which kind?",
            """Gratuitous requests and replies to all, directed replies to routers and hosts in the ARP cache,
            neighbour advertisements (na) for IPv6, probes. A burst follows each move, and a repeat 1.1 s later.""",
            query(f"{events('molehill_arp_sent_total', SENT, 'kind')} > 0", "{{kind}}"),
            unit="suffix: frames",
            style="bars",
            decimals=0,
            width=8,
            overrides=named(KINDS),
            none="none",
        ),
        series(
            41,
            "Do announcements fail?",
            "Frames that could not be sent, by node and interface: hosts there go on asking the old holder.",
            query(
                faults("molehill_arp_sent_total", FAILED, "node, interface", "interface"),
                "{{node}} {{interface}}",
            ),
            style="bars",
            decimals=0,
            width=8,
            high=1,
            thresholds=RED_AT_ONE,
            alerts=("MolehillArpSendFailures",),
            link=node_link("${__field.labels.node}"),
        ),
        series(
            42,
            "Whom would directed ARP reach?",
            """Entries of the ARP cache that all members share, and the most that a node contributes itself. Empty:
            only broadcasts tell the network of a move.""",
            query(f"max by (scope) (molehill_arp_cache_entries{{{C}}})", "{{scope}}"),
            style="steps",
            width=8,
            overrides=named({"shared": INFO, "local": "purple"}),
        ),
    ]


def _outside() -> list[Panel]:
    return [
        series(
            43,
            "Does a stranger claim our VIPs?",
            "ARP or neighbour claims to our VIPs from foreign MAC addresses, heard by the nodes.",
            query(faults("molehill_vip_conflicts_total", NV, "vip", "vip"), "{{vip}}"),
            style="bars",
            decimals=0,
            width=8,
            high=1,
            thresholds=RED_AT_ONE,
            alerts=("MolehillVipConflict", "MolehillVipConflictPersists"),
        ),
        series(
            44,
            "How many machines answer for each VIP?",
            """What `molehill witness` hears when it asks by ARP from outside: 1 is right, 2 a split brain, 0 an
            outage. And how many views the agents have that it reaches.""",
            query(f"max by (vip) (molehill_witness_answering_macs{{{V}}})", "{{vip}}"),
            query(f"max(molehill_witness_views{{{C}}})", "views of the agents"),
            style="steps",
            width=8,
            high=2,
            thresholds=steps((None, "transparent"), (2, BAD)),
            overrides=named({"views of the agents": NEUTRAL}),
            none="no witness is scraped",
            alerts=("MolehillWitnessTwoAnswers", "MolehillVipUnanswered", "MolehillWitnessViewsDiffer"),
        ),
        timeline(
            45,
            "Can the witness see?",
            "Whether `molehill witness` answers Prometheus, and whether it could ask for every VIP.",
            query(f'max(up{{job="molehill-witness", {C}}})', "answers"),
            query(f"sum(increase(molehill_witness_rounds_total{{{C}}}[$__rate_interval])) > bool 0", "asks"),
            mappings=yes_no(),
            width=8,
            height=8,
            alerts=("MolehillWitnessDown", "MolehillWitnessBlind"),
        ),
    ]
