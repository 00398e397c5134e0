"""*Fail-over*: one incident taken apart. The time range is the incident."""

from __future__ import annotations

from dashboards.cluster import SEEN, STATES
from dashboards.cluster_flow import FAILED, SENT
from dashboards.links import datasource, empty, variable
from dashboards.palette import (
    BAD,
    CAUSES,
    GOOD,
    INFO,
    KINDS,
    NEUTRAL,
    WARN,
    by_node,
    ending,
    fixed,
    matching,
    named,
    node_names,
    node_patterns,
    pattern,
    right,
    steps,
    words,
)
from dashboards.panels import Panel, bars, figure, names, now, place, prose, query, rows, series, sheet
from dashboards.queries import (
    HELD,
    HOLDER,
    NOBODY_COUNT,
    NV,
    RANGE,
    RATE,
    SINCE,
    TWICE_COUNT,
    C,
    N,
    V,
    each,
    events,
    faults,
    longest,
    members_seen,
    over_range,
    quantile,
    state_of,
)
from dashboards.sdk import build, model

OUTAGE = "molehill_failover_duration_seconds"

TEXT = (
    "Set the **time range to the incident** (drag over it in any panel), then read from top to bottom: who stopped "
    "being **heard**, when the survivors **agreed** on a new view, who **acquired** what, when it was **announced**. "
    "Purple lines are view changes. Diamonds lead to the traces: one view change is one trace on all nodes."
)


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
            "What happened?": [
                prose(1, "How is this read?", "How to use this dashboard.", TEXT, width=24, height=3),
                *_changed(),
                _shares(),
                *_outcome(),
            ],
            "1. Detection: who stopped being heard?": _detection(),
            "2. View change: who agreed with whom, and when?": _agreement(),
            "3. Acquisition: who lost and who gained what?": [*_holders(), _exchanged()],
            "4. Announcement: when did the network learn of it?": _announcement(),
        },
    )


def _changed() -> list[Panel]:
    failed = f'{C}, cause="failover"'
    return [
        figure(
            2,
            "How often did the view change?",
            "View changes in the time range, as the node counted that saw most of them.",
            now(f"round(max(sum by (node) (increase(molehill_view_changes_total{{{C}}}{RANGE}))))", "changes"),
            thresholds=steps((None, INFO)),
        ),
        figure(
            4,
            "How long was the longest outage at most?",
            """Of the fail-overs in the time range, from the last sign of the old holder to the first announcement by
            the new one, rounded up to its bucket.""",
            now(f"histogram_quantile(1, sum by (le) (increase({OUTAGE}_bucket{{{failed}}}{RANGE})))", "at most"),
            unit="s",
            thresholds=steps((None, GOOD), (0.6001, WARN), (5.0001, BAD)),
            none="no fail-over",
            alerts=("MolehillFailoverSlow",),
        ),
    ]


def _outcome() -> list[Panel]:
    return [
        figure(
            3,
            "How many VIPs changed hands?",
            "Acquisitions in the time range, for whatever cause.",
            now(f"round(sum(increase(molehill_vip_acquisitions_total{{{NV}}}{RANGE})))", "moved"),
            thresholds=steps((None, INFO)),
            unit="suffix: VIPs",
        ),
        figure(
            6,
            "Is every VIP held once now?",
            "VIPs that are not held by exactly one node at the end of the time range.",
            now(f"{NOBODY_COUNT} + {TWICE_COUNT}", "not once"),
            mappings=[words({"0": ("yes", GOOD)})],
        ),
        figure(
            7,
            "Did anything fail?",
            "Acquisitions and ARP frames that failed in the time range.",
            now(
                f"""round(sum(increase(molehill_vip_acquire_failures_total{{{NV}}}{RANGE}))
                  + sum(increase(molehill_arp_sent_total{{{FAILED}}}{RANGE})))""",
                "failures",
            ),
            mappings=[words({"0": ("no", GOOD)})],
        ),
        figure(
            8,
            "How many frames told of it?",
            "ARP frames and neighbour advertisements sent in the time range.",
            now(f"round(sum(increase(molehill_arp_sent_total{{{SENT}}}{RANGE})))", "sent"),
            thresholds=steps((None, INFO)),
            unit="suffix: frames",
        ),
    ]


def _shares() -> Panel:
    whole = over_range(OUTAGE, f'{C}, cause="failover"')
    view = over_range("molehill_view_change_duration_seconds", C)
    up = over_range("molehill_vip_acquire_duration_seconds", C)
    return bars(
        5,
        "Where did the time of the fail-over go?",
        """Means over the time range. All: from the last sign of the old holder to the first announcement. View
        change: from gathering to the installed view (of all view changes in the range). Addresses: from the
        order to the driver until they are up. Detection is what is left: the silence until the old holder
        was suspected.""",
        now(f"{whole} >= 0", "all"),
        now(f"clamp_min({whole} - {view} - {up}, 0) >= 0", "detection"),
        now(f"{view} >= 0", "view change"),
        now(f"{up} >= 0", "addresses up"),
        unit="s",
        height=9,
        overrides=named({"all": "#E02F44", "detection": WARN, "view change": "purple", "addresses up": INFO}),
        none="no fail-over in this time range",
    )


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
            "Was there loss or lateness before?",
            """Heartbeats that never came although later ones did, by the peer they were of (left): a network that
            lost some before it lost all. And how late the latest event loop was (right): an agent that is late
            seems dead.""",
            query(events("molehill_heartbeats_missed_total", N, "peer"), "lost of {{peer}}"),
            query(quantile(1, "molehill_event_loop_lag_seconds", N), "latest loop, at most"),
            style="steps",
            high=1,
            overrides=[*by_node("lost of "), right("latest loop, at most", "s", NEUTRAL)],
        ),
    ]


def _agreement() -> list[Panel]:
    epochs = [pattern(rf"/^\d*{digit}-.*$/", colour, index=digit) for digit, (_, colour) in enumerate(node_patterns())]
    return [
        names(
            20,
            "Which view is each node in?",
            """The installed view as epoch-coordinator-incarnation, a colour for each epoch. Nodes in the same view
            have the same colour. The trace of a view change is derived from this name.""",
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
            """GATHER: agreeing on a new view, in which nothing is acquired. BALANCE: handing VIPs over. What is
            shorter than a scrape interval does not show.""",
            state_of(N),
            row="node",
            state="state",
            mappings=[words(STATES)],
            width=8,
        ),
        series(
            23,
            "How long did each node take to agree?",
            "From the begin of gathering to the installed view, by node.",
            query(each("molehill_view_change_duration_seconds", N, "node"), "{{node}}"),
            query(longest("molehill_view_change_duration_seconds", N), "longest, at most", exemplars=True),
            style="points",
            unit="s",
            width=8,
            height=6,
            log=True,
            overrides=[*by_node(), *named({"longest, at most": NEUTRAL})],
            none="no view change",
        ),
    ]


def _holders() -> list[Panel]:
    def at(word: str, when: str) -> str:
        return f'max by (vip, {word}) (label_replace({HELD}{when} == 1, "{word}", "$1", "node", "(.+)"))'

    return [
        names(
            30,
            "Who held each VIP?",
            "The holder, in the node's colour. Nobody: no scraped node held it. Two holders: a split brain.",
            HOLDER,
            row="vip",
            state="who",
            mappings=node_names(),
            width=13,
            height=9,
        ),
        sheet(
            31,
            "Who lost and who gained what?",
            """Holders at the begin and at the end of the time range, how often the VIP was acquired in between, and
            when its present holder got it.""",
            rows(at("before", " offset $__range")),
            rows(at("after", "")),
            rows(f"round(sum by (vip) (increase(molehill_vip_acquisitions_total{{{V}}}{RANGE})))"),
            rows(f"max by (vip) ({SINCE}) * 1000"),
            columns={
                "vip": "VIP",
                "before": "Before",
                "after": "Now",
                "Value #C": "Moves",
                "Value #D": "Held since",
            },
            sort="VIP",
            width=11,
            height=9,
            overrides=[
                matching("/^Held since$/", model.DynamicConfigValue("unit", "dateTimeAsIso")),
                matching("/^(VIP|Before|Now)$/", model.DynamicConfigValue("custom.width", 120)),
                matching("/^Moves$/", model.DynamicConfigValue("custom.width", 75)),
                matching(
                    "/^(Before|Now)$/",
                    model.DynamicConfigValue("mappings", node_names()),
                    model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
                ),
            ],
        ),
    ]


def _exchanged() -> Panel:
    return series(
        32,
        "Who acquired and released VIPs, and why?",
        """VIPs acquired (upwards) and released (downwards) by each node, by cause. A node that was killed releases
        nothing itself.""",
        query(
            f"{events('molehill_vip_acquisitions_total', NV, 'node, cause')} > 0",
            "{{node}} acquired: {{cause}}",
        ),
        query(
            f"-({events('molehill_vip_releases_total', NV, 'node, cause')}) < 0",
            "{{node}} released: {{cause}}",
        ),
        style="bars",
        width=24,
        height=7,
        low=None,
        decimals=0,
        unit="suffix: VIPs",
        overrides=ending(CAUSES, ": "),
        none="nothing moved",
    )


def _announcement() -> list[Panel]:
    return [
        series(
            40,
            "When were frames sent, and by whom?",
            """ARP frames and neighbour advertisements by node. The first burst follows the acquisition at once; the
            second is the repeat after 1.1 s.""",
            query(f"{events('molehill_arp_sent_total', SENT, 'node')} > 0", "{{node}}"),
            style="bars",
            decimals=0,
            unit="suffix: frames",
            width=8,
            overrides=by_node(),
            none="none",
        ),
        series(
            41,
            "Which frames, and did any fail?",
            "Frames by kind; those that could not be sent in red.",
            query(f"{events('molehill_arp_sent_total', SENT, 'kind')} > 0", "{{kind}}"),
            query(faults("molehill_arp_sent_total", FAILED, "node", "node"), "failed: {{node}}"),
            style="bars",
            decimals=0,
            unit="suffix: frames",
            width=8,
            overrides=[*named(KINDS), matching("/^failed: /", fixed(BAD))],
        ),
        series(
            42,
            "How long was each VIP away?",
            """From the last sign of the old holder, or the order to move, to the first announcement: the mean by
            cause, and the longest, rounded up to its bucket. Diamonds lead to the trace.""",
            query(each(OUTAGE, f'{N}, cause!="start"', "cause"), "{{cause}}"),
            query(longest(OUTAGE, f'{N}, cause!="start"'), "longest, at most", exemplars=True),
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
