"""A part of *Cluster*: would every node fall silent in time, may it speak, and does a stranger speak for it?"""

from __future__ import annotations

from dashboards.palette import BAD, GOOD, WARN, by_node, fixed, matching, steps, words
from dashboards.panels import Panel, figure, now, query, rows, series, sheet
from dashboards.queries import NV, C, N

ALL = words({"0": ("yes", GOOD)})


def safety() -> list[Panel]:
    return [*_now(), *_over_time()]


def _now() -> list[Panel]:
    return [
        figure(
            60,
            "Would every node fall silent in time?",
            """Layers of the lease that are missing on any node: the packet filter, the lifetime of the addresses, the
            guard. A layer that is switched off is not missing.""",
            now(f"sum(1 - molehill_lease_layer_active{{{C}}})", "missing"),
            thresholds=steps((None, GOOD), (1, WARN)),
            mappings=[ALL],
            alerts=("MolehillLeaseLayerDown", "MolehillGuardMissing"),
        ),
        figure(
            61,
            "Did any lease run out?",
            "Leases of all nodes that ran out in the time range: the node's kernel stopped answering for its VIPs.",
            now(f"round(sum(increase(molehill_lease_expired_total{{{C}}}[$__range])))", "ran out"),
            mappings=[words({"0": ("no", GOOD)})],
            alerts=("MolehillLeaseExpired",),
        ),
        figure(
            62,
            "Does every node have a quorum?",
            "Nodes without one, which hold nothing. Under the partition policy `component` none needs any.",
            now(f"sum(1 - molehill_quorate{{{C}}})", "without"),
            thresholds=steps((None, GOOD), (1, WARN)),
            mappings=[ALL],
            alerts=("MolehillNoQuorum", "MolehillNotQuorate"),
        ),
        figure(
            63,
            "Are all messages sealed?",
            "Nodes that neither encrypt their messages nor check who sent them: anybody on the network can move VIPs.",
            now(f"sum(1 - molehill_sealed{{{C}}})", "unsealed"),
            thresholds=steps((None, GOOD), (1, WARN)),
            mappings=[ALL],
            alerts=("MolehillUnsealed",),
        ),
    ]


def _over_time() -> list[Panel]:
    return [
        series(
            64,
            "How far is each node from losing its quorum?",
            """Votes in the view of each node, and the votes that it needs (red). Only under the partition policy
            `quorum`.""",
            query(f"max by (node) (molehill_votes{{{N}}})", "{{node}}"),
            query(f"max(molehill_votes_needed{{{C}}})", "needed"),
            style="steps",
            unit="suffix: votes",
            decimals=0,
            overrides=[*by_node(), matching("/^needed$/", fixed(BAD))],
            none="votes are not counted",
            alerts=("MolehillNotQuorate",),
        ),
        sheet(
            65,
            "Which strangers claim our VIPs?",
            """Hosts outside the group that claimed a VIP in the last 15 minutes, and the holder that heard it. The
            switch knows the port of the MAC address.""",
            rows(f"max by (vip, mac, node) (molehill_vip_conflict_info{{{NV}}})"),
            columns={"vip": "VIP", "mac": "MAC address", "node": "Heard by"},
            width=12,
            height=8,
            sort="VIP",
            alerts=("MolehillVipConflict", "MolehillVipConflictPersists"),
        ),
    ]
