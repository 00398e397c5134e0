"""*Cluster*: is every VIP held exactly once, by whom, and what has moved?"""

from __future__ import annotations

from dashboards.cluster_flow import load, moving, network
from dashboards.cluster_safety import safety
from dashboards.links import datasource, empty, failover_link, node_link, variable
from dashboards.palette import (
    BAD,
    GOOD,
    INFO,
    NEUTRAL,
    WARN,
    Override,
    named,
    node_names,
    pattern,
    steps,
    words,
    yes_no,
)
from dashboards.panels import Panel, figure, names, now, place, query, rows, series, sheet, timeline
from dashboards.queries import HOLDER, NOBODY_COUNT, NV, TWICE_COUNT, C, N, V, events, members_seen, state_of
from dashboards.sdk import build, model

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
    pattern(r"/^1 of (\d+)$/", BAD, "alone", 3),
    pattern(r"/^\d+ of \d+$/", WARN, index=4),
]


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
            "Is all well now?": [*_served_now(), *_agreed_now()],
            "Who holds what, and who sees whom?": [*_over_time(), *_split(), _nodes()],
            "What has moved, why, and how fast?": moving(),
            "Is the load even?": load(),
            "Is every node safe when it hangs or is cut off?": safety(),
            "Does the network learn of it?": network(),
        },
    )


def _served_now() -> list[Panel]:
    return [
        figure(
            1,
            "Is any VIP held twice?",
            """VIPs that more than one node holds: a split brain. A node counts if it was seen to hold the VIP after
            the last time that anybody acquired it, so a move between two scrapes does not.""",
            now(TWICE_COUNT, "held twice"),
            mappings=[words({"0": ("no", GOOD)})],
            alerts=("MolehillSplitBrain",),
        ),
        figure(
            2,
            "Is any VIP held by nobody?",
            "VIPs that no scraped node holds: nobody answers for them. In a fail-over that is so for a moment.",
            now(NOBODY_COUNT, "held by nobody"),
            mappings=[words({"0": ("no", GOOD)})],
            alerts=("MolehillVipUncovered",),
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
            "How long was the worst fail-over at most?",
            """Of the fail-overs in the time range: from the last sign of the old holder to the first announcement by
            the new one, rounded up to the next bucket of the histogram. The profile lan promises 0.6 s.""",
            now(
                f"""histogram_quantile(1, sum by (le)
                  (increase(molehill_failover_duration_seconds_bucket{{{C}, cause="failover"}}[$__range])))""",
                "at most",
            ),
            unit="s",
            thresholds=steps((None, GOOD), (0.6001, WARN), (5.0001, BAD)),
            none="none",
            alerts=("MolehillFailoverSlow",),
            link=failover_link(),
        ),
    ]


def _agreed_now() -> list[Panel]:
    return [
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
            """Nodes that may not hold VIPs: without a quorum (partition policy `quorum`), not mature yet, or unfit by
            a health check or a dead link.""",
            now(f"sum(1 - molehill_quorate{{{C}}} * molehill_mature{{{C}}} * molehill_fit{{{C}}})", "may not serve"),
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
    ]


def _over_time() -> list[Panel]:
    return [
        names(
            10,
            "Who holds each VIP?",
            """The node that holds the VIP, each in a colour of its own. Two holders is a split brain; nobody means
            that no node that is scraped holds it.""",
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
            """BOOT: in no view yet. GATHER: agreeing on a new view. RUN: serving. BALANCE: handing VIPs over. LEFT:
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
            """Scrapes of the agents. While an agent does not answer, the other panels do not know what it holds.
            Needs `cluster` and `node` as labels of the targets, as in the scrape example.""",
            query(f'max by (node) (up{{job="molehill", {N}}})', "{{node}}"),
            mappings=yes_no(),
            width=8,
            alerts=("MolehillAbsent", "MolehillClusterDown", "MolehillAgentDown"),
            link=node_link("${__field.name}"),
        ),
    ]


def _split() -> list[Panel]:
    answers = f"sum(molehill_witness_answering_macs{{{V}}} > bool 1)"
    return [
        series(
            13,
            "Is there a split brain, and who says so?",
            """Four independent witnesses. The nodes: VIPs that two hold. The views: how many there are beyond the
            one. The wire: foreign ARP claims to our VIPs that nodes heard. The witness (if it runs): VIPs that
            more than one machine answers for.""",
            query(TWICE_COUNT, "nodes: VIPs held twice"),
            query(f"count(count by (view) (molehill_view_info{{{C}}})) - 1", "views: beyond the one"),
            query(events("molehill_vip_conflicts_total", V), "wire: conflicting claims"),
            query(answers, "witness: VIPs answered twice"),
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
            """VIPs that no scraped node holds, and VIPs that the group itself says nobody owns (the highest number
            that a node gives). Short steps are fail-overs; a lasting one is an outage.""",
            query(NOBODY_COUNT, "held by nobody"),
            query(f"max(molehill_vips_uncovered{{{C}}})", "owned by nobody"),
            style="steps",
            high=2,
            unit="suffix: VIPs",
            thresholds=steps((None, "transparent"), (1, BAD)),
            overrides=named({"held by nobody": BAD, "owned by nobody": WARN}),
            alerts=("MolehillVipUncovered", "MolehillVipsUnplaced"),
        ),
    ]


def _nodes() -> Panel:
    return sheet(
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
            "Value #G": "Drained",
            "hash": "Configuration",
            "engine": "Engine",
            "version": "Version",
        },
        sort="Node",
        height=6,
        overrides=_columns(),
    )


def _columns() -> list[Override]:
    """Colours and widths of the table's columns."""
    coloured = model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"})

    def column(name: str, width: int, *properties: model.DynamicConfigValue) -> Override:
        sized = model.DynamicConfigValue("custom.width", width)
        return model.MatcherConfig("byName", name), [sized, *properties]

    def mapped(name: str, mappings: list[object]) -> Override:
        return column(name, 90, coloured, model.DynamicConfigValue("mappings", mappings))

    link = {"title": "Node", "url": node_link("${__value.raw}").build().url}
    return [
        column("Node", 140, model.DynamicConfigValue("links", [link])),
        mapped("State", [words(STATES)]),
        column("VIPs held", 90),
        column("Members seen", 115),
        mapped("Mature", yes_no()),
        mapped("Fit", yes_no()),
        mapped("Drained", yes_no(good=False)),
        column("Engine", 110),
        column("Version", 100),
        column("View", 190),
    ]
