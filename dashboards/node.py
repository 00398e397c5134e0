"""*Node*: is this one agent well, and does it hear its peers?"""

from __future__ import annotations

from dashboards.cluster import STATES, C
from dashboards.links import datasource, empty, failover_link, variable
from dashboards.palette import (
    BAD,
    CAUSES,
    GOOD,
    INFO,
    NEUTRAL,
    WARN,
    Override,
    by_node,
    named,
    steps,
    words,
    yes_no,
)
from dashboards.panels import Panel, figure, now, place, query, series, timeline
from dashboards.sdk import build, model

N = 'cluster="$cluster", node="$node"'
V = 'cluster="$cluster", node="$node", vip=~"$vip"'
RATE = "[$__rate_interval]"
RED_AT_ONE = steps((None, "transparent"), (1, BAD))


def quantile(share: float, metric: str, selector: str, by: str = "") -> str:
    """Of a histogram; nothing where nothing was observed."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}{RATE}))) >= 0"


def mean(metric: str, selector: str, by: str = "") -> str:
    """Of a histogram; nothing where nothing was observed."""
    group = f"sum by ({by})" if by else "sum"
    above, below = (f"{group} (rate({metric}_{part}{{{selector}}}{RATE}))" for part in ("sum", "count"))
    return f"{above} / {below} >= 0"


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
            "Is $node silenced in time if it hangs?": _leases(),
            "Does $node tell the network, and those who watch?": _telling(),
            "What does $node cost?": _resources(),
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
            """BOOT: in no view yet. GATHER: agreeing on a new view. RUN: serving. BALANCE: handing VIPs over. LEFT: left
            by order.""",
            now(f"max({numbered})", "state"),
            mappings=[words({str(number): look for number, look in enumerate(STATES.values(), 1)})],
            none="not scraped",
        ),
        figure(
            2,
            "May it be given VIPs?",
            """Mature (the group has been up long enough), fit (health checks and links), quorate, and not drained by a
            person.""",
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
            """How late the event loop ran 99 of 100 timers in the time range. Past the failure timeout the node gives its
            VIPs up.""",
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
            """Each line has to be green. A health check that fails makes the node unfit; so does a dead link. Checks are
            listed if any is configured.""",
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
            """VIPs acquired (upwards) and released (downwards), by cause. A killed agent releases nothing: its guard and
            its kernel do.""",
            query(f"sum by (cause) (increase(molehill_vip_acquisitions_total{{{V}}}{RATE})) > 0", "{{cause}}"),
            query(f"-sum by (cause) (increase(molehill_vip_releases_total{{{V}}}{RATE})) < 0", "{{cause}}, released"),
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
            """Failed acquisitions by reason (left), and the time from the order to the driver until all addresses were
            up (right, points).""",
            query(
                f"sum by (reason) (increase(molehill_vip_acquire_failures_total{{{V}}}{RATE}))",
                "failed: {{reason}}",
            ),
            query(quantile(1, "molehill_vip_acquire_duration_seconds", N), "longest, at most"),
            style="steps",
            high=1,
            thresholds=RED_AT_ONE,
            overrides=[_right("longest, at most", "s", INFO, points=True)],
            alerts=("MolehillAcquireFailures",),
        ),
    ]


def _peers() -> list[Panel]:
    return [
        series(
            20,
            "Does it hear each peer?",
            """Heartbeats received of each peer, and those that it sends itself. A line that drops to 0: the peer is gone
            or cut off.""",
            query(f"sum by (peer) (rate(molehill_heartbeats_received_total{{{N}}}{RATE}))", "{{peer}}"),
            query(f"sum(rate(molehill_heartbeats_sent_total{{{N}}}{RATE}))", "sent by itself"),
            unit="suffix: /s",
            overrides=[*by_node(), *named({"sent by itself": NEUTRAL})],
        ),
        series(
            21,
            "Does it miss heartbeats?",
            """Share of the heartbeats of each peer that never came although later ones did: a network that loses. Of a peer
            that is gone nothing can be said.""",
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
            """Datagrams that were refused and had no other effect, by reason. A wrong key, a replay or another cluster on
            the same port show here.""",
            query(f"sum by (reason) (rate(molehill_datagrams_rejected_total{{{N}}}{RATE}))", "{{reason}}"),
            unit="suffix: /s",
            high=1,
            alerts=("MolehillDatagramsRejected",),
        ),
    ]


def _leases() -> list[Panel]:
    return [
        timeline(
            30,
            "Which layers of the lease are active?",
            """fast: the kernel's packet path, sub-second. address: the kernel removes the address by its lifetime. guard: a
            process that cleans up after the agent. Off on purpose is grey.""",
            query(f"max by (layer) (molehill_lease_layer_active{{{N}}})", "{{layer}}"),
            mappings=[words({"1": ("active", GOOD), "0": ("off", NEUTRAL)})],
            width=6,
            height=8,
        ),
        series(
            31,
            "Do leases run out, and how near do they come?",
            """Leases that expired, by layer (left, steps), and what was left at the tightest of a hundred renewals and at
            the median (right).""",
            query(f"sum by (layer) (increase(molehill_lease_expired_total{{{N}}}{RATE}))", "expired: {{layer}}"),
            query(quantile(0.01, "molehill_lease_renewal_margin_seconds", N), "left at the tightest"),
            query(quantile(0.5, "molehill_lease_renewal_margin_seconds", N), "left at the median"),
            style="steps",
            width=6,
            high=1,
            thresholds=RED_AT_ONE,
            overrides=[_right("left at the tightest", "s", WARN), _right("left at the median", "s", INFO)],
            alerts=("MolehillLeaseExpired", "MolehillLeaseNearExpiry"),
        ),
        series(
            32,
            "Is the event loop late?",
            """How late the loop ran its timers: median, 99 of 100, and the latest one's bucket. An agent that is late
            renews late.""",
            query(quantile(0.5, "molehill_event_loop_lag_seconds", N), "median"),
            query(quantile(0.99, "molehill_event_loop_lag_seconds", N), "99 of 100"),
            query(quantile(1, "molehill_event_loop_lag_seconds", N), "latest, at most"),
            unit="s",
            width=6,
            log=True,
            thresholds=steps((None, "transparent"), (0.1, BAD)),
            overrides=named({"median": GOOD, "99 of 100": INFO, "latest, at most": NEUTRAL}),
            alerts=("MolehillLoopLag",),
        ),
        series(
            33,
            "Is its clock ahead?",
            """By how much the latest acquisition that this node reports lies in the future of Prometheus. A clock ahead
            blinds the alert about split brains. Behind does not show.""",
            query(
                f"clamp_min(max(molehill_vip_acquired_timestamp_seconds{{{N}}}) - time(), 0) or max(molehill_fit{{{N}}}) * 0",
                "ahead",
            ),
            unit="s",
            width=6,
            high=2,
            thresholds=steps((None, "transparent"), (2, BAD)),
            overrides=named({"ahead": INFO}),
            alerts=("MolehillClockAhead",),
        ),
    ]


def _telling() -> list[Panel]:
    return [
        series(
            40,
            "Which ARP frames does it send, and do any fail?",
            "Frames sent, by interface and kind, and frames that could not be sent (red).",
            query(
                f'sum by (interface, kind) (rate(molehill_arp_sent_total{{{N}, result="ok"}}{RATE}))',
                "{{interface}} {{kind}}",
            ),
            query(
                f'sum by (interface) (rate(molehill_arp_sent_total{{{N}, result="error"}}{RATE}))',
                "{{interface}} failed",
            ),
            unit="pps",
            width=8,
            overrides=[
                (
                    model.MatcherConfig("byRegexp", "/ failed$/"),
                    [model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": BAD})],
                )
            ],
            alerts=("MolehillArpSendFailures",),
        ),
        series(
            41,
            "What does it know of the network?",
            "Entries of its own neighbour tables and of the ARP cache that all members share: whom directed ARP reaches.",
            query(f"max by (scope) (molehill_arp_cache_entries{{{N}}})", "{{scope}}"),
            query(f"sum(increase(molehill_vip_conflicts_total{{{V}}}{RATE}))", "conflicting claims heard"),
            style="steps",
            width=8,
            overrides=named({"shared": INFO, "local": "purple", "conflicting claims heard": BAD}),
            alerts=("MolehillVipConflict",),
        ),
        series(
            42,
            "Is anything lost or failing on the way?",
            """Events that no exporter saw, spans that the collector did not take, hooks that failed, reloads refused, and
            exporters switched off after an error (that many until a restart).""",
            query(f"sum(increase(molehill_events_dropped_total{{{N}}}{RATE}))", "events dropped"),
            query(f"sum(increase(molehill_spans_dropped_total{{{N}}}{RATE}))", "spans dropped"),
            query(f"sum by (hook) (increase(molehill_hook_failures_total{{{N}}}{RATE}))", "hook {{hook}} failed"),
            query(f'sum(increase(molehill_reloads_total{{{N}, result="error"}}{RATE}))', "reloads refused"),
            query(f"max(molehill_exporters_failed{{{N}}})", "exporters off"),
            style="steps",
            width=8,
            high=1,
            thresholds=RED_AT_ONE,
            alerts=(
                "MolehillEventsDropped",
                "MolehillSpansDropped",
                "MolehillHookFailures",
                "MolehillReloadFailed",
                "MolehillExporterFailed",
            ),
        ),
    ]


def _resources() -> list[Panel]:
    return [
        series(
            50,
            "How much CPU does it use?",
            "Share of one core that the agent's process uses.",
            query(f"sum(rate(process_cpu_seconds_total{{{N}}}{RATE}))", "CPU"),
            unit="percentunit",
            width=6,
            height=7,
            overrides=named({"CPU": INFO}),
        ),
        series(
            51,
            "How much memory does it use?",
            "Resident memory of the agent's process. It is bounded: a steady rise is a fault.",
            query(f"max(process_resident_memory_bytes{{{N}}})", "resident"),
            unit="bytes",
            width=6,
            height=7,
            overrides=named({"resident": INFO}),
        ),
        series(
            52,
            "How many files does it keep open?",
            "Open file descriptors: sockets of the engine, of announcing, of HTTP clients.",
            query(f"max(process_open_fds{{{N}}})", "open"),
            style="steps",
            width=6,
            height=7,
            overrides=named({"open": INFO}),
        ),
        series(
            53,
            "How often is garbage collected?",
            "Runs of Python's collector by generation; those of generation 2 can delay the loop.",
            query(f"sum by (generation) (rate(python_gc_collections_total{{{N}}}{RATE}))", "generation {{generation}}"),
            unit="suffix: /s",
            width=6,
            height=7,
        ),
    ]


def _right(name: str, unit: str, colour: str, *, points: bool = False) -> Override:
    """A series on the right axis with a unit of its own."""
    properties: dict[str, object] = {
        "unit": unit,
        "custom.axisPlacement": "right",
        "color": {"mode": "fixed", "fixedColor": colour},
    }
    if points:
        properties |= {"custom.drawStyle": "points", "custom.pointSize": 6}
    return model.MatcherConfig("byName", name), [
        model.DynamicConfigValue(key, value) for key, value in properties.items()
    ]
