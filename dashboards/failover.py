"""*Fail-over*: one incident taken apart. The time range is the incident."""

from __future__ import annotations

from dashboards.cluster import HOLDER, NV, SEEN, C, N, V, members_seen, state_of
from dashboards.cluster import STATES as NODE_STATES
from dashboards.links import datasource, empty, variable
from dashboards.node import RATE, mean, quantile
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
    node_patterns,
    pattern,
    steps,
    words,
)
from dashboards.panels import Panel, bars, figure, names, now, place, prose, query, rows, series, sheet
from dashboards.sdk import build, model

OUTAGE = "molehill_failover_duration_seconds"
RANGE = "[$__range]"

TEXT = """Set the **time range to the incident** (drag over it in any panel), then read from top to bottom: who stopped \
being **heard**, when the survivors **agreed** on a new view, who **acquired** what, and when it was **announced**. \
Purple lines are view changes. Diamonds lead to the traces: one view change is one trace on all nodes."""


def dashboard() -> build.Dashboard:
    made = empty(
        "molehill-failover",
        "Molehill / Fail-over",
        "One incident taken apart: detection, view change, acquisitions, announcements, who lost and gained what.",
        since="now-15m",
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
            "What happened?": _summary(),
            "1. Detection: who stopped being heard?": _detection(),
            "2. View change: who agreed with whom, and when?": _agreement(),
            "3. Acquisition: who lost and who gained what?": _acquisition(),
            "4. Announcement: when did the network learn of it?": _announcement(),
        },
    )


def _over_range(metric: str, selector: str) -> str:
    """The mean of a histogram over the time range."""
    return f"sum(increase({metric}_sum{{{selector}}}{RANGE})) / sum(increase({metric}_count{{{selector}}}{RANGE}))"


def _summary() -> list[Panel]:
    failed = f'{C}, cause="failover"'
    whole = _over_range(OUTAGE, failed)
    view = _over_range("molehill_view_change_duration_seconds", C)
    up = _over_range("molehill_vip_acquire_duration_seconds", C)
    return [
        prose(1, "How is this read?", "How to use this dashboard.", TEXT, width=24, height=3),
        figure(
            2,
            "How often did the view change?",
            "View changes in the time range, as the node counted that saw most of them.",
            now(f"round(max(sum by (node) (increase(molehill_view_changes_total{{{C}}}{RANGE}))))", "changes"),
            thresholds=steps((None, INFO)),
            width=4,
        ),
        figure(
            3,
            "How many VIPs changed hands?",
            "Acquisitions in the time range, for whatever cause.",
            now(f"round(sum(increase(molehill_vip_acquisitions_total{{{NV}}}{RANGE})))", "moved"),
            thresholds=steps((None, INFO)),
            unit="suffix: VIPs",
            width=4,
        ),
        figure(
            4,
            "How long was the longest outage?",
            """Of the fail-overs in the time range, from the last sign of the old holder to the first announcement by the
            new one, rounded up to its bucket.""",
            now(f"histogram_quantile(1, sum by (le) (increase({OUTAGE}_bucket{{{failed}}}{RANGE})))", "at most"),
            unit="s",
            thresholds=steps((None, GOOD), (0.6001, WARN), (5.001, BAD)),
            none="no fail-over",
            width=4,
            alerts=("MolehillFailoverSlow",),
        ),
        bars(
            5,
            "Where did the time of the fail-over go?",
            """Means over the time range. All: from the last sign of the old holder to the first announcement. View change:
            from gathering to the installed view (of all view changes in the range). Addresses: from the order to the
            driver until they are up. Detection is what is left: the silence until the old holder was suspected.""",
            now(f"{whole} >= 0", "all"),
            now(f"clamp_min({whole} - {view} - {up}, 0) >= 0", "detection"),
            now(f"{view} >= 0", "view change"),
            now(f"{up} >= 0", "addresses up"),
            unit="s",
            height=8,
            width=12,
            overrides=named({"all": "#E02F44", "detection": WARN, "view change": "purple", "addresses up": INFO}),
            none="no fail-over in this time range",
        ),
        figure(
            6,
            "Is every VIP held once now?",
            "VIPs that are not held by exactly one node at the end of the time range.",
            now(f"sum(sum by (vip) (molehill_vip_held{{{V}}}) != bool 1)", "not once"),
            mappings=[words({"0": ("yes", GOOD)})],
            width=4,
        ),
        figure(
            7,
            "Did anything fail?",
            "Acquisitions and ARP frames that failed in the time range.",
            now(
                f"""round(sum(increase(molehill_vip_acquire_failures_total{{{NV}}}{RANGE}))
                  + sum(increase(molehill_arp_sent_total{{{N}, result="error"}}{RANGE})))""",
                "failures",
            ),
            mappings=[words({"0": ("no", GOOD)})],
            width=4,
        ),
        figure(
            8,
            "How many frames told of it?",
            "ARP frames and neighbour advertisements sent in the time range.",
            now(f'round(sum(increase(molehill_arp_sent_total{{{N}, result="ok"}}{RANGE})))', "sent"),
            thresholds=steps((None, INFO)),
            unit="suffix: frames",
            width=4,
        ),
    ]


def _detection() -> list[Panel]:
    return [
        series(
            10,
            "Whose heartbeats stopped?",
            "Heartbeats of each member that all the others together received. Who drops to 0 is gone or cut off.",
            query(f"sum by (peer) (rate(molehill_heartbeats_received_total{{{N}}}{RATE}))", "{{peer}}"),
            unit="suffix: /s",
            overrides=by_node(),
        ),
        series(
            11,
            "Who missed heartbeats before?",
            """Heartbeats that never came although later ones did, by the peer they were of: a network that lost some
            before it lost all.""",
            query(f"sum by (peer) (increase(molehill_heartbeats_missed_total{{{N}}}{RATE}))", "of {{peer}}"),
            query(quantile(1, "molehill_event_loop_lag_seconds", N), "latest loop, at most"),
            style="steps",
            high=1,
            overrides=[
                *[
                    (model.MatcherConfig("byRegexp", regex.replace("/^", "/^of ")), [_colour(colour)])
                    for regex, colour in node_patterns()
                ],
                (
                    model.MatcherConfig("byName", "latest loop, at most"),
                    [
                        _colour(NEUTRAL),
                        model.DynamicConfigValue("unit", "s"),
                        model.DynamicConfigValue("custom.axisPlacement", "right"),
                    ],
                ),
            ],
        ),
    ]


def _agreement() -> list[Panel]:
    epochs = [pattern(rf"/^\d*{digit}-.*$/", colour, index=digit) for digit, (_, colour) in enumerate(node_patterns())]
    return [
        names(
            20,
            "Which view is each node in?",
            """The installed view as epoch-coordinator-incarnation, a colour for each epoch. Nodes in the same view have the
            same colour; the view's name is also what its trace is derived from.""",
            f"max by (node, view) (molehill_view_info{{{N}}})",
            row="node",
            state="view",
            mappings=epochs,
            width=24,
            height=5,
        ),
        names(
            21,
            "How many members does each node see?",
            "Members of the installed view of those configured. A gap: the node was not scraped.",
            members_seen(N),
            row="node",
            state="seen",
            mappings=SEEN,
            width=8,
        ),
        names(
            22,
            "What was each node doing?",
            """GATHER: agreeing on a new view, in which nothing is acquired. BALANCE: handing VIPs over. Shorter than a
            scrape interval it does not show.""",
            state_of(N),
            row="node",
            state="state",
            mappings=[words(NODE_STATES)],
            width=8,
        ),
        series(
            23,
            "How long did each node take to agree?",
            "From the begin of gathering to the installed view, mean by node.",
            query(mean("molehill_view_change_duration_seconds", N, "node"), "{{node}}"),
            query(quantile(1, "molehill_view_change_duration_seconds", N), "longest, at most", exemplars=True),
            style="points",
            unit="s",
            width=8,
            height=6,
            log=True,
            overrides=[*by_node(), *named({"longest, at most": NEUTRAL})],
            none="no view change",
        ),
    ]


def _acquisition() -> list[Panel]:
    before, after = (
        f"""max by (vip, {word}) (label_replace(molehill_vip_held{{{V}}}{offset} == 1, "{word}", "$1", "node", "(.+)"))"""
        for word, offset in (("before", " offset $__range"), ("after", ""))
    )
    return [
        names(
            30,
            "Who held each VIP?",
            "The holder, in the node's colour. Nobody: no scraped node held it. Two holders: a split brain if it lasts.",
            HOLDER,
            row="vip",
            state="who",
            mappings=node_names(),
            width=14,
            height=9,
        ),
        sheet(
            31,
            "Who lost and who gained what?",
            """Holders at the begin and at the end of the time range, how often the VIP was acquired in between, and when the
            present holder got it.""",
            rows(before),
            rows(after),
            rows(f"round(sum by (vip) (increase(molehill_vip_acquisitions_total{{{V}}}{RANGE})))"),
            rows(f"max by (vip) (molehill_vip_acquired_timestamp_seconds{{{V}}}) * 1000"),
            columns={
                "vip": "VIP",
                "before": "Held before by",
                "after": "Held now by",
                "Value #C": "Times acquired",
                "Value #D": "Held since",
            },
            width=10,
            height=9,
            overrides=[
                (model.MatcherConfig("byRegexp", "/^Value #[AB]$/"), [model.DynamicConfigValue("custom.hidden", True)]),
                (model.MatcherConfig("byName", "Held since"), [model.DynamicConfigValue("unit", "dateTimeAsIso")]),
                (
                    model.MatcherConfig("byRegexp", "/^Held (before|now) by$/"),
                    [
                        model.DynamicConfigValue("mappings", node_names()),
                        model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
                    ],
                ),
            ],
        ),
        series(
            32,
            "Who acquired VIPs, and why?",
            "VIPs acquired by each node, by cause.",
            query(
                f"sum by (node, cause) (increase(molehill_vip_acquisitions_total{{{NV}}}{RATE})) > 0",
                "{{node}}: {{cause}}",
            ),
            style="bars",
            decimals=0,
            unit="suffix: VIPs",
            overrides=_by_cause(),
            none="nothing acquired",
        ),
        series(
            33,
            "Who released VIPs, and why?",
            "VIPs released by each node, by cause. A node that was killed releases nothing itself.",
            query(
                f"sum by (node, cause) (increase(molehill_vip_releases_total{{{NV}}}{RATE})) > 0",
                "{{node}}: {{cause}}",
            ),
            style="bars",
            decimals=0,
            unit="suffix: VIPs",
            overrides=_by_cause(),
            none="nothing released",
        ),
    ]


def _announcement() -> list[Panel]:
    return [
        series(
            40,
            "When were frames sent, and by whom?",
            """ARP frames and neighbour advertisements by node. The burst follows the acquisition at once; the second is
            the repeat after 1.1 s.""",
            query(f'sum by (node) (rate(molehill_arp_sent_total{{{N}, result="ok"}}{RATE}))', "{{node}}"),
            unit="pps",
            width=8,
            overrides=by_node(),
        ),
        series(
            41,
            "Which frames, and did any fail?",
            "Frames by kind; those that could not be sent in red.",
            query(f'sum by (kind) (rate(molehill_arp_sent_total{{{N}, result="ok"}}{RATE}))', "{{kind}}"),
            query(f'sum by (node) (rate(molehill_arp_sent_total{{{N}, result="error"}}{RATE})) > 0', "{{node}} failed"),
            unit="pps",
            width=8,
            overrides=[(model.MatcherConfig("byRegexp", "/ failed$/"), [_colour(BAD)])],
        ),
        series(
            42,
            "How long was each VIP away?",
            """Mean from the last sign of the old holder, or the order to move, to the first announcement, by cause. Diamonds
            lead to the trace.""",
            query(mean(OUTAGE, f'{N}, cause!="start"', "cause"), "{{cause}}"),
            query(quantile(1, OUTAGE, f'{N}, cause!="start"'), "longest, at most", exemplars=True),
            style="points",
            unit="s",
            width=8,
            log=True,
            thresholds=steps((None, "transparent"), (0.6, WARN), (5, BAD)),
            overrides=[*named(CAUSES), *named({"longest, at most": NEUTRAL})],
            none="nothing moved",
            alerts=("MolehillFailoverSlow",),
        ),
    ]


def _colour(colour: str) -> model.DynamicConfigValue:
    return model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})


def _by_cause() -> list[tuple[model.MatcherConfig, list[model.DynamicConfigValue]]]:
    """Series named `node: cause` get the cause's colour."""
    return [(model.MatcherConfig("byRegexp", f"/: {cause}$/"), [_colour(colour)]) for cause, colour in CAUSES.items()]
