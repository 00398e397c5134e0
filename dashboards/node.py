"""*Node*: is this one agent well, and does it hear its peers?"""

from __future__ import annotations

from dashboards.cluster import STATES
from dashboards.links import datasource, empty, failover_link, variable
from dashboards.node_health import RED_AT_ONE, N, V, leases, resources, telling
from dashboards.palette import BAD, CAUSES, GOOD, INFO, NEUTRAL, WARN, by_node, named, right, steps, words, yes_no
from dashboards.panels import Panel, figure, now, place, query, series, timeline
from dashboards.queries import RATE, C, events, faults, longest, mean, quantile
from dashboards.sdk import build


def dashboard() -> build.Dashboard:
    made = empty(
        "molehill-node",
        "Molehill / Node",
        "Whether one agent is well: what it holds, how it hears its peers, its leases, its resources.",
        since="now-1h",
    )
    made.variables(
        [
            datasource(),
            variable("cluster", "Cluster", "molehill_build_info", several=False),
            variable("node", "Node", f"molehill_build_info{{{C}}}", several=False),
            variable("vip", "VIP", f"molehill_vip_held{{{C}}}", several=True),
        ]
    )
    return place(
        made,
        {
            "Is $node well now?": _now(),
            "What does $node hold and do?": _holding(),
            "Does $node hear its peers?": _peers(),
            "Is $node silenced in time if it hangs?": leases(),
            "Does $node tell the network, and those who watch?": telling(),
            "What does $node cost?": resources(),
        },
    )


def _now() -> list[Panel]:
    numbered = " or ".join(
        f'molehill_state{{{N}, state="{state}"}} * {number}' for number, state in enumerate(STATES, 1)
    )
    return [
        figure(
            1,
            "What is it doing?",
            """BOOT: in no view yet. GATHER: agreeing on a new view. RUN: serving. BALANCE: handing VIPs over. LEFT:
            left by order.""",
            now(f"max({numbered})", "state"),
            mappings=[words({str(number): look for number, look in enumerate(STATES.values(), 1)})],
            none="not scraped",
        ),
        figure(
            2,
            "May it be given VIPs?",
            """Mature (the group has been up long enough), fit (health checks and links), quorate, and not drained by
            a person.""",
            now(
                f"""max(molehill_mature{{{N}}} * molehill_fit{{{N}}} * molehill_quorate{{{N}}}
                  * (1 - molehill_draining{{{N}}}))""",
                "may serve",
            ),
            mappings=yes_no(),
            none="not scraped",
            alerts=("MolehillNotQuorate",),
        ),
        figure(
            3,
            "How many VIPs does it hold?",
            "VIPs whose addresses are up on this node.",
            now(f"sum(molehill_vip_held{{{V}}})", "held"),
            thresholds=steps((None, INFO)),
            unit="suffix: VIPs",
            none="not scraped",
        ),
        figure(
            4,
            "How many members does it miss?",
            "Configured members less those of its view. Always 0 where members are discovered.",
            now(
                f"clamp_min(max(molehill_configured_members{{{N}}}) - max(molehill_view_members{{{N}}}), 0)",
                "missing",
            ),
            thresholds=steps((None, GOOD), (1, WARN)),
            mappings=[words({"0": ("none", GOOD)})],
            none="not scraped",
            alerts=("MolehillMemberMissing",),
        ),
        figure(
            5,
            "Is its loop late?",
            """How late the event loop ran 99 of 100 timers in the time range. Past the failure timeout the node gives
            its VIPs up.""",
            now(
                f"""histogram_quantile(0.99, sum by (le)
                  (increase(molehill_event_loop_lag_seconds_bucket{{{N}}}[$__range])))""",
                "99 of 100",
            ),
            unit="s",
            thresholds=steps((None, GOOD), (0.05, WARN), (0.1, BAD)),
            none="not scraped",
            alerts=("MolehillLoopLag",),
        ),
        figure(
            6,
            "Did leases run out?",
            "Leases of this node that expired in the time range, of any layer: its kernel silenced it.",
            now(f"round(sum(increase(molehill_lease_expired_total{{{N}}}[$__range])))", "expired"),
            mappings=[words({"0": ("no", GOOD)})],
            none="not scraped",
            alerts=("MolehillLeaseExpired",),
        ),
        figure(
            7,
            "Was a reload refused?",
            "Reloads of the configuration that were refused in the time range; the old configuration stays in force.",
            now(f'round(sum(increase(molehill_reloads_total{{{N}, result="error"}}[$__range])))', "refused"),
            thresholds=steps((None, GOOD), (1, WARN)),
            mappings=[words({"0": ("no", GOOD)})],
            none="not scraped",
            alerts=("MolehillReloadFailed",),
        ),
        figure(
            8,
            "How long has it been up?",
            "Since the agent's process started.",
            now(f"time() - max(process_start_time_seconds{{{N}}})", "up"),
            unit="dtdurations",
            thresholds=steps((None, INFO)),
            none="not scraped",
            alerts=("MolehillAgentRestarts",),
        ),
    ]


def _holding() -> list[Panel]:
    return [
        timeline(
            10,
            "Which VIPs does it hold?",
            "Bars: the VIP's addresses are up on this node.",
            query(f"max by (vip) (molehill_vip_held{{{V}}})", "{{vip}}"),
            mappings=[words({"1": ("held", INFO), "0": (" ", "transparent")})],
            height=8,
            link=failover_link(),
        ),
        timeline(
            11,
            "Is it allowed to serve?",
            """Each line has to be green. A health check that fails makes the node unfit; so does a dead link. Checks
            are listed if any is configured.""",
            query(f"molehill_mature{{{N}}}", "mature"),
            query(f"molehill_fit{{{N}}}", "fit"),
            query(f"molehill_quorate{{{N}}}", "quorate"),
            query(f"1 - molehill_draining{{{N}}}", "not drained"),
            query(f"molehill_check_up{{{N}}}", "check {{check}}"),
            mappings=yes_no(),
            height=8,
            alerts=("MolehillCheckDown", "MolehillNotQuorate"),
        ),
        series(
            12,
            "Why did it gain and lose VIPs?",
            """VIPs acquired (upwards) and released (downwards), by cause. A killed agent releases nothing: its guard
            and its kernel do.""",
            query(f"{events('molehill_vip_acquisitions_total', V, 'cause')} > 0", "{{cause}}"),
            query(f"-({events('molehill_vip_releases_total', V, 'cause')}) < 0", "{{cause}}, released"),
            style="bars",
            low=None,
            decimals=0,
            unit="suffix: VIPs",
            overrides=[*named(CAUSES), *named({f"{cause}, released": colour for cause, colour in CAUSES.items()})],
            none="nothing moved",
            link=failover_link(),
        ),
        series(
            13,
            "Did it fail to put VIPs up, and how long does that take?",
            """Failed acquisitions by reason (left), and the time from the order to the driver until all addresses
            were up (right, points).""",
            query(faults("molehill_vip_acquire_failures_total", V, "reason", "reason"), "failed: {{reason}}"),
            query(longest("molehill_vip_acquire_duration_seconds", N), "longest, at most", exemplars=True),
            style="steps",
            high=1,
            thresholds=RED_AT_ONE,
            overrides=[right("longest, at most", "s", INFO, points=True)],
            alerts=("MolehillAcquireFailures",),
        ),
    ]


def _peers() -> list[Panel]:
    return [
        series(
            20,
            "Does it hear each peer?",
            """Heartbeats received of each peer, and those that it sends itself. A line that drops to 0: the peer is
            gone or cut off.""",
            query(f"sum by (peer) (rate(molehill_heartbeats_received_total{{{N}}}{RATE}))", "{{peer}}"),
            query(f"sum(rate(molehill_heartbeats_sent_total{{{N}}}{RATE}))", "sent by itself"),
            unit="suffix: /s",
            overrides=[*by_node(), *named({"sent by itself": NEUTRAL})],
        ),
        series(
            21,
            "Does it miss heartbeats?",
            """Share of the heartbeats of each peer that never came although later ones did: a network that loses. Of
            a peer that is gone nothing can be said.""",
            query(
                f"""sum by (peer) (rate(molehill_heartbeats_missed_total{{{N}}}{RATE})) / (
                  sum by (peer) (rate(molehill_heartbeats_missed_total{{{N}}}{RATE}))
                  + sum by (peer) (rate(molehill_heartbeats_received_total{{{N}}}{RATE}))) >= 0""",
                "{{peer}}",
            ),
            style="steps",
            unit="percentunit",
            high=0.1,
            thresholds=steps((None, "transparent"), (0.05, WARN)),
            overrides=by_node(),
            alerts=("MolehillHeartbeatsLost",),
        ),
        series(
            22,
            "How far away are the peers?",
            "Round trip by heartbeats: the mean for each peer, and what 99 of 100 of all stay below.",
            query(mean("molehill_peer_rtt_seconds", N, "peer"), "{{peer}}"),
            query(quantile(0.99, "molehill_peer_rtt_seconds", N), "99 of 100, all peers"),
            unit="s",
            overrides=[*by_node(), *named({"99 of 100, all peers": NEUTRAL})],
            none="no peer",
        ),
        series(
            23,
            "Are datagrams refused?",
            """Datagrams that were refused and had no other effect, by reason. A wrong key, a replay or another
            cluster on the same port show here.""",
            query(faults("molehill_datagrams_rejected_total", N, "reason", "reason"), "{{reason}}"),
            style="bars",
            decimals=0,
            high=1,
            alerts=("MolehillDatagramsRejected",),
        ),
    ]
