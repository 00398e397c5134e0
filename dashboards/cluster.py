"""*Cluster*: is every VIP held exactly once, by whom, and what has moved?"""

from __future__ import annotations

from dashboards.links import datasource, empty, failover_link, node_link, variable
from dashboards.palette import (
    BAD,
    CAUSES,
    GOOD,
    INFO,
    NEUTRAL,
    WARN,
    by_node,
    named,
    node_names,
    pattern,
    steps,
    words,
    yes_no,
)
from dashboards.panels import Panel, figure, names, now, place, query, rows, series, sheet, timeline
from dashboards.sdk import build, model

C = 'cluster="$cluster"'
N = 'cluster="$cluster", node=~"$node"'
V = 'cluster="$cluster", vip=~"$vip"'
NV = 'cluster="$cluster", node=~"$node", vip=~"$vip"'
RATE = "[$__rate_interval]"

HOLDER = f"""
  max by (vip, who) (label_replace(molehill_vip_held{{{V}}} == 1, "who", "$1", "node", "(.+)"))
    and on (vip) (sum by (vip) (molehill_vip_held{{{V}}}) == 1)
  or label_replace(sum by (vip) (molehill_vip_held{{{V}}}) > 1, "who", "two holders", "", "")
  or label_replace(sum by (vip) (molehill_vip_held{{{V}}}) == 0, "who", "nobody", "", "")
"""

STATES = {
    "boot": ("boot", NEUTRAL),
    "gather": ("gather", WARN),
    "run": ("run", GOOD),
    "balance": ("balance", INFO),
    "left": ("left", "purple"),
}

SEEN = [
    pattern(r"/^0 of .*$/", NEUTRAL, "none"),
    pattern(r"/^(\d+) of 0$/", INFO, "$1, discovered", 1),
    pattern(r"/^(\d+) of \1$/", GOOD, "all $1", 2),
    pattern(r"/^1 of (\d+)$/", BAD, "itself alone of $1", 3),
    pattern(r"/^\d+ of \d+$/", WARN, index=4),
]


def state_of(selector: str) -> str:
    """The state of each node, as its label `state`."""
    return f"max by (node, state) (molehill_state{{{selector}}} == 1)"


def members_seen(selector: str) -> str:
    """How many members each node sees of how many are configured, as a label: '2 of 3'."""
    return f"""
      label_join(
        count_values by (node) ("now", molehill_view_members{{{selector}}})
          * on (node) group_left (configured)
        count_values by (node) ("configured", molehill_configured_members{{{selector}}}),
        "seen", " of ", "now", "configured")
    """


def dashboard() -> build.Dashboard:
    made = empty(
        "molehill-cluster",
        "Molehill / Cluster",
        "Whether every VIP is held exactly once, by whom, and what has moved why.",
        since="now-1h",
    )
    made.variables(
        [
            datasource(),
            variable("cluster", "Cluster", "molehill_build_info", several=False),
            variable("node", "Node", f"molehill_build_info{{{C}}}", several=True),
            variable("vip", "VIP", f"molehill_vip_held{{{C}}}", several=True),
        ]
    )
    return place(
        made,
        {
            "Is all well now?": _now(),
            "Who holds what, and who sees whom?": _holding(),
            "What has moved, why, and how fast?": _moving(),
            "Is the load even?": _load(),
            "Does the network learn of it?": _network(),
        },
    )


def _now() -> list[Panel]:
    return [
        figure(
            1,
            "Is any VIP held twice?",
            """VIPs that more than one node holds: a split brain if it lasts. A move that falls between the scrapes of
            two nodes may show here for one sample.""",
            now(f"sum(sum by (vip) (molehill_vip_held{{{V}}}) > bool 1)", "held twice"),
            mappings=[words({"0": ("no", GOOD)})],
            alerts=("MolehillSplitBrain",),
        ),
        figure(
            2,
            "Is any VIP held by nobody?",
            "VIPs that no scraped node holds: nobody answers for them. A VIP is without a holder during a fail-over.",
            now(f"sum(sum by (vip) (molehill_vip_held{{{V}}}) == bool 0)", "held by nobody"),
            mappings=[words({"0": ("no", GOOD)})],
            alerts=("MolehillVipUncovered",),
        ),
        figure(
            3,
            "Do all nodes agree on the view?",
            "Different views that are installed at the same time. More than one for long: the group is split.",
            now(f"count(count by (view) (molehill_view_info{{{C}}}))", "views"),
            thresholds=steps((None, GOOD), (2, BAD)),
            mappings=[words({"1": ("yes", GOOD)})],
            none="no view",
            alerts=("MolehillViewDisagreement",),
        ),
        figure(
            4,
            "How many members are missing?",
            """Configured members less those of the smallest view that any node has. Always 0 where members are
            discovered.""",
            now(
                f"clamp_min(max(molehill_configured_members{{{C}}}) - min(molehill_view_members{{{C}}}), 0)",
                "missing",
            ),
            thresholds=steps((None, GOOD), (1, WARN)),
            mappings=[words({"0": ("none", GOOD)})],
            alerts=("MolehillMemberMissing",),
        ),
        figure(
            5,
            "May every node serve?",
            """Nodes that may not hold VIPs: without a quorum (partition policy `quorum`), not mature yet, or unfit by a
            health check or a dead link.""",
            now(
                f"sum(1 - molehill_quorate{{{C}}} * molehill_mature{{{C}}} * molehill_fit{{{C}}})",
                "may not serve",
            ),
            thresholds=steps((None, GOOD), (1, WARN)),
            mappings=[words({"0": ("yes", GOOD)})],
            alerts=("MolehillNoQuorum", "MolehillNotQuorate", "MolehillAllUnfit"),
        ),
        figure(
            6,
            "Are all nodes configured alike?",
            "Different hashes of the cluster-wide settings. VIPs that not all members know are served by some only.",
            now(f"count(count by (hash) (molehill_config_info{{{C}}}))", "configurations"),
            thresholds=steps((None, GOOD), (2, WARN)),
            mappings=[words({"1": ("yes", GOOD)})],
            alerts=("MolehillConfigMismatch",),
        ),
        figure(
            7,
            "How uneven is the load?",
            "Weighted load of the fullest eligible member less that of the emptiest. 0 or 1 is the best there is.",
            now(f"max(molehill_vip_spread{{{C}}})", "spread"),
            thresholds=steps((None, GOOD), (2, WARN)),
            unit="suffix: VIPs",
            alerts=("MolehillImbalance",),
        ),
        figure(
            8,
            "How long was the worst fail-over?",
            """Of the fail-overs in the time range: from the last sign of the old holder to the first announcement by the
            new one, rounded up to the next bucket of the histogram. 0.6 s is what the profile lan promises.""",
            now(
                f"""histogram_quantile(1, sum by (le)
                  (increase(molehill_failover_duration_seconds_bucket{{{C}, cause="failover"}}[$__range])))""",
                "at most",
            ),
            unit="s",
            thresholds=steps((None, GOOD), (0.6001, WARN), (5.001, BAD)),
            none="none",
            link=failover_link(),
            alerts=("MolehillFailoverSlow",),
        ),
    ]


def _holding() -> list[Panel]:
    return [
        names(
            10,
            "Who holds each VIP?",
            """The node that holds the VIP, each in a colour of its own. Two holders is a split brain; nobody means that
            no node that is scraped holds it. A move between the scrapes of two nodes may show for one sample.""",
            HOLDER,
            row="vip",
            state="who",
            mappings=node_names(),
            width=24,
            height=8,
            link=failover_link(),
        ),
        names(
            11,
            "How many members does each node see?",
            """Members of the view that each node has installed, of those in its configuration. Rows that differ: the
            nodes do not agree. A gap: the node was not scraped.""",
            members_seen(N),
            row="node",
            state="seen",
            mappings=SEEN,
            width=8,
            link=node_link("${__field.name}"),
        ),
        names(
            12,
            "What is each node doing?",
            """BOOT: in no view yet. GATHER: agreeing on a new view. RUN: serving. BALANCE: handing VIPs over. LEFT: left
            by order.""",
            state_of(N),
            row="node",
            state="state",
            mappings=[words(STATES)],
            width=8,
            link=node_link("${__field.name}"),
        ),
        timeline(
            16,
            "Does every agent answer Prometheus?",
            """Scrapes of the agents. While an agent does not answer, the other panels do not know what it holds. Needs
            `cluster` and `node` as labels of the targets, as in the scrape example.""",
            query(f'max by (node) (up{{job="molehill", {N}}})', "{{node}}"),
            mappings=yes_no(),
            width=8,
            link=node_link("${__field.name}"),
            alerts=("MolehillAbsent", "MolehillClusterDown", "MolehillAgentDown"),
        ),
        series(
            13,
            "Is there a split brain, and who says so?",
            """Four independent witnesses. The nodes: VIPs with more than one holder. The views: how many there are beyond
            the one. The wire: foreign ARP claims to our VIPs that nodes heard. The witness (if it runs): VIPs that more
            than one machine answers for.""",
            query(f"sum(sum by (vip) (molehill_vip_held{{{V}}}) > bool 1)", "nodes: VIPs held twice"),
            query(f"count(count by (view) (molehill_view_info{{{C}}})) - 1", "views: beyond the one"),
            query(f"sum(increase(molehill_vip_conflicts_total{{{V}}}{RATE}))", "wire: conflicting claims"),
            query('sum(molehill_witness_answering_macs{vip=~"$vip"} > bool 1)', "witness: VIPs answered twice"),
            style="steps",
            high=2,
            thresholds=steps((None, "transparent"), (1, BAD)),
            overrides=named(
                {
                    "nodes: VIPs held twice": BAD,
                    "views: beyond the one": "purple",
                    "wire: conflicting claims": WARN,
                    "witness: VIPs answered twice": "yellow",
                }
            ),
            alerts=(
                "MolehillSplitBrain",
                "MolehillViewDisagreement",
                "MolehillVipConflictPersists",
                "MolehillWitnessTwoAnswers",
            ),
        ),
        series(
            14,
            "How many VIPs are not served?",
            """VIPs that no scraped node holds, and VIPs that the group itself says nobody owns (the highest number that
            a node gives). Short steps are fail-overs; a lasting one is an outage.""",
            query(f"sum(sum by (vip) (molehill_vip_held{{{V}}}) == bool 0)", "held by nobody"),
            query(f"max(molehill_vips_uncovered{{{C}}})", "owned by nobody"),
            style="steps",
            high=2,
            unit="suffix: VIPs",
            thresholds=steps((None, "transparent"), (1, BAD)),
            overrides=named({"held by nobody": BAD, "owned by nobody": WARN}),
            alerts=("MolehillVipUncovered", "MolehillVipsUnplaced"),
        ),
        sheet(
            15,
            "How is each node?",
            "One line for each node that is scraped now.",
            rows(state_of(N)),
            rows(f"max by (node, view) (molehill_view_info{{{N}}})"),
            rows(f"max by (node) (molehill_view_members{{{N}}})"),
            rows(f"sum by (node) (molehill_vip_held{{{NV}}})"),
            rows(f"max by (node) (molehill_mature{{{N}}})"),
            rows(f"max by (node) (molehill_fit{{{N}}})"),
            rows(f"max by (node) (molehill_draining{{{N}}})"),
            rows(f"max by (node, hash) (molehill_config_info{{{N}}})"),
            rows(f"max by (node, version, engine) (molehill_build_info{{{N}}})"),
            columns={
                "node": "Node",
                "state": "State",
                "Value #D": "VIPs held",
                "Value #C": "Members seen",
                "view": "View",
                "Value #E": "Mature",
                "Value #F": "Fit",
                "Value #G": "Draining",
                "hash": "Configuration",
                "engine": "Engine",
                "version": "Version",
            },
            overrides=_columns(),
        ),
    ]


def _columns() -> list[tuple[model.MatcherConfig, list[model.DynamicConfigValue]]]:
    """Colours of the table's cells; columns that only carry a label's name are hidden."""
    coloured = model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"})

    def column(name: str, mappings: list[object]) -> tuple[model.MatcherConfig, list[model.DynamicConfigValue]]:
        return model.MatcherConfig("byName", name), [coloured, model.DynamicConfigValue("mappings", mappings)]

    link = {"title": "Node", "url": node_link("${__value.raw}").build().url}
    return [
        (model.MatcherConfig("byName", "Node"), [model.DynamicConfigValue("links", [link])]),
        column("State", [words(STATES)]),
        column("Mature", yes_no()),
        column("Fit", yes_no()),
        column("Draining", yes_no(good=False)),
        (
            model.MatcherConfig("byRegexp", "/^Value #[ABHI]$/"),
            [model.DynamicConfigValue("custom.hidden", True)],
        ),
    ]


def _moving() -> list[Panel]:
    mean = "molehill_failover_duration_seconds"
    return [
        series(
            20,
            "How long was each VIP away?",
            """Mean time from the last sign of the old holder, or the order to move, to the first announcement by the new
            one, by cause, wherever VIPs moved; and the longest, rounded up to its bucket. Diamonds are exemplars: each
            leads to the trace of that fail-over.""",
            query(
                f"""sum by (cause) (rate({mean}_sum{{{C}, cause!="start"}}{RATE}))
                  / sum by (cause) (rate({mean}_count{{{C}, cause!="start"}}{RATE})) >= 0""",
                "{{cause}}",
            ),
            query(
                f"""histogram_quantile(1, sum by (le) (rate({mean}_bucket{{{C}, cause!="start"}}{RATE}))) > 0""",
                "longest, at most",
                exemplars=True,
            ),
            unit="s",
            style="points",
            log=True,
            thresholds=steps((None, "transparent"), (0.6, WARN), (5, BAD)),
            overrides=[*named(CAUSES), *named({"longest, at most": NEUTRAL})],
            none="nothing moved",
            link=failover_link(),
            alerts=("MolehillFailoverSlow",),
        ),
        series(
            21,
            "How long did agreeing on a view take?",
            "From the begin of gathering to the installed view: mean over the nodes, and the slowest one's bucket.",
            query(
                f"""sum(rate(molehill_view_change_duration_seconds_sum{{{C}}}{RATE}))
                  / sum(rate(molehill_view_change_duration_seconds_count{{{C}}}{RATE})) >= 0""",
                "mean",
            ),
            query(
                f"""histogram_quantile(1, sum by (le)
                  (rate(molehill_view_change_duration_seconds_bucket{{{C}}}{RATE}))) > 0""",
                "longest, at most",
                exemplars=True,
            ),
            unit="s",
            style="points",
            log=True,
            overrides=named({"mean": "purple", "longest, at most": NEUTRAL}),
            none="no view change",
            link=failover_link(),
        ),
        series(
            22,
            "Why did VIPs change hands?",
            """VIPs acquired, by cause. Warm colours are faults (failover, unfit, lease, conflict), blue and violet are
            orders of a person (leave, drain, move), teal and green the cluster's own doing (balance, start).""",
            query(
                f"sum by (cause) (increase(molehill_vip_acquisitions_total{{{NV}}}{RATE})) > 0",
                "{{cause}}",
            ),
            style="bars",
            unit="suffix: VIPs",
            decimals=0,
            overrides=named(CAUSES),
            none="nothing moved",
            link=failover_link(),
            alerts=("MolehillVipFlapping",),
        ),
        series(
            23,
            "Why did the view change?",
            """View changes by cause; each is counted once, however many nodes saw it. Many in a row: the group flaps.""",
            query(
                f"max by (cause) (increase(molehill_view_changes_total{{{C}}}{RATE})) > 0",
                "{{cause}}",
            ),
            style="bars",
            decimals=0,
            overrides=named(CAUSES),
            none="no view change",
            link=failover_link(),
            alerts=("MolehillViewFlapping",),
        ),
        series(
            24,
            "Could any node not put a VIP up?",
            "Failed acquisitions by node and reason. The VIP is given to another node, and this one backs off.",
            query(
                f"sum by (node, reason) (increase(molehill_vip_acquire_failures_total{{{NV}}}{RATE}))",
                "{{node}}: {{reason}}",
            ),
            style="steps",
            high=1,
            thresholds=steps((None, "transparent"), (1, BAD)),
            link=node_link("${__field.labels.node}"),
            alerts=("MolehillAcquireFailures",),
        ),
        series(
            25,
            "How long does putting a VIP up take?",
            "From the order to the driver until all addresses are up: median and longest bucket where VIPs were acquired.",
            query(
                f"""histogram_quantile(0.5, sum by (le)
                  (rate(molehill_vip_acquire_duration_seconds_bucket{{{N}}}{RATE}))) > 0""",
                "median",
            ),
            query(
                f"""histogram_quantile(1, sum by (le)
                  (rate(molehill_vip_acquire_duration_seconds_bucket{{{N}}}{RATE}))) > 0""",
                "longest, at most",
            ),
            style="points",
            unit="s",
            log=True,
            overrides=named({"median": INFO, "longest, at most": NEUTRAL}),
            none="nothing acquired",
        ),
    ]


def _load() -> list[Panel]:
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
            query(
                f"max(increase(molehill_balance_moves_total{{{C}}}{RATE})) > 0",
                "VIPs to move",
            ),
            query(
                f"max by (result) (increase(molehill_balance_rounds_total{{{C}}}{RATE})) > 0",
                "rounds {{result}}",
            ),
            style="points",
            width=8,
            decimals=0,
            overrides=named({"VIPs to move": INFO, "rounds done": GOOD, "rounds interrupted": WARN}),
            none="no round",
        ),
    ]


def _network() -> list[Panel]:
    kinds = {"request": "#5794F2", "reply": "#B877D9", "directed": "#37B6B0", "na": "#F2CC0C", "probe": NEUTRAL}
    return [
        series(
            40,
            "How many ARP frames go out, of which kind?",
            """Gratuitous requests and replies to all, directed replies to routers and hosts in the ARP cache, neighbour
            advertisements for IPv6, probes. A burst follows each move, and a repeat 1.1 s later.""",
            query(f'sum by (kind) (rate(molehill_arp_sent_total{{{N}, result="ok"}}{RATE}))', "{{kind}}"),
            unit="pps",
            width=8,
            overrides=named(kinds),
        ),
        series(
            41,
            "Do announcements fail?",
            "Frames that could not be sent, by node and interface: hosts there go on asking the old holder.",
            query(
                f'sum by (node, interface) (increase(molehill_arp_sent_total{{{N}, result="error"}}{RATE}))',
                "{{node}} {{interface}}",
            ),
            style="steps",
            width=8,
            high=1,
            thresholds=steps((None, "transparent"), (1, BAD)),
            link=node_link("${__field.labels.node}"),
            alerts=("MolehillArpSendFailures",),
        ),
        series(
            42,
            "Whom would directed ARP reach?",
            """Entries of the shared ARP cache (of all members), and the largest that a node contributes itself. Empty:
            only broadcasts tell the network of a move.""",
            query(f"max by (scope) (molehill_arp_cache_entries{{{C}}})", "{{scope}}"),
            style="steps",
            width=8,
            overrides=named({"shared": INFO, "local": "purple"}),
        ),
        series(
            43,
            "Does a stranger claim our VIPs?",
            "ARP or neighbour claims to our VIPs from foreign MAC addresses, heard by the nodes.",
            query(
                f"sum by (vip) (increase(molehill_vip_conflicts_total{{{NV}}}{RATE}))",
                "{{vip}}",
            ),
            style="steps",
            high=1,
            thresholds=steps((None, "transparent"), (1, BAD)),
            alerts=("MolehillVipConflict", "MolehillVipConflictPersists"),
        ),
        series(
            44,
            "How many machines answer for each VIP?",
            """What `molehill witness` hears when it asks by ARP from outside: 1 is right, 2 a split brain, 0 an
            outage.""",
            query('max by (vip) (molehill_witness_answering_macs{vip=~"$vip"})', "{{vip}}"),
            query("max(molehill_witness_views)", "views of the agents"),
            style="steps",
            high=2,
            thresholds=steps((None, "transparent"), (2, BAD)),
            overrides=named({"views of the agents": "purple"}),
            none="no witness is scraped",
            alerts=("MolehillWitnessTwoAnswers", "MolehillVipUnanswered", "MolehillWitnessViewsDiffer"),
        ),
    ]
