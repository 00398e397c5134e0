"""The lower half of *Node*: its leases, what it tells others, what it costs."""

from __future__ import annotations

from dashboards.palette import (
    BAD,
    GOOD,
    INFO,
    KINDS,
    NEUTRAL,
    WARN,
    ending,
    fixed,
    matching,
    named,
    right,
    steps,
    words,
)
from dashboards.panels import Panel, query, series, timeline
from dashboards.queries import RATE, events, faults, quantile

N = 'cluster="$cluster", node="$node"'
V = 'cluster="$cluster", node="$node", vip=~"$vip"'
SENT, FAILED = f'{N}, result="ok"', f'{N}, result="error"'
RED_AT_ONE = steps((None, "transparent"), (1, BAD))


def leases() -> list[Panel]:
    return [
        timeline(
            30,
            "Which layers of the lease are active?",
            """fast: the kernel's packet path, sub-second. address: the kernel removes the address by its lifetime.
            guard: a process that cleans up after the agent. A layer that is switched off has no line.""",
            query(f"max by (layer) (molehill_lease_layer_active{{{N}}})", "{{layer}}"),
            mappings=[words({"1": ("in force", GOOD), "0": ("missing", BAD)})],
            width=6,
            height=8,
            alerts=("MolehillLeaseLayerDown", "MolehillGuardMissing"),
        ),
        series(
            31,
            "Do leases run out?",
            """Leases that expired, by layer (left, steps), and what was left of the fast lease at the tightest of a
            hundred renewals and at the median (right).""",
            query(events("molehill_lease_expired_total", N, "layer"), "expired: {{layer}}"),
            query(quantile(0.01, "molehill_lease_renewal_margin_seconds", N), "left at the tightest"),
            query(quantile(0.5, "molehill_lease_renewal_margin_seconds", N), "left at the median"),
            style="steps",
            width=6,
            high=1,
            thresholds=RED_AT_ONE,
            overrides=[right("left at the tightest", "s", WARN), right("left at the median", "s", INFO)],
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
            """By how much the latest acquisition that this node reports lies in the future of Prometheus. A clock
            ahead blinds the alert about split brains. Behind does not show.""",
            query(
                f"""clamp_min(max(molehill_vip_acquired_timestamp_seconds{{{N}}}) - time(), 0)
                  or max(molehill_fit{{{N}}}) * 0""",
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


def telling() -> list[Panel]:
    return [
        series(
            40,
            "Which ARP frames does it send, and do any fail?",
            "Frames sent, by interface and kind, and frames that could not be sent (red).",
            query(f"{events('molehill_arp_sent_total', SENT, 'interface, kind')} > 0", "{{interface}} {{kind}}"),
            query(faults("molehill_arp_sent_total", FAILED, "interface", "interface"), "{{interface}} failed"),
            unit="suffix: frames",
            style="bars",
            decimals=0,
            width=8,
            overrides=[*ending(KINDS, " "), matching("/ failed$/", fixed(BAD))],
            alerts=("MolehillArpSendFailures",),
        ),
        series(
            41,
            "What does it know of the network?",
            """Entries of its own neighbour tables and of the ARP cache that all members share: whom directed ARP
            reaches.""",
            query(f"max by (scope) (molehill_arp_cache_entries{{{N}}})", "{{scope}}"),
            query(events("molehill_vip_conflicts_total", V), "conflicting claims heard"),
            style="steps",
            width=8,
            overrides=named({"shared": INFO, "local": "purple", "conflicting claims heard": BAD}),
            alerts=("MolehillVipConflict",),
        ),
        series(
            42,
            "Is anything lost or failing on the way?",
            """Events that no exporter saw, spans that the collector did not take, hooks that failed, reloads refused,
            and exporters switched off after an error (that many until a restart).""",
            query(events("molehill_events_dropped_total", N), "events dropped"),
            query(events("molehill_spans_dropped_total", N), "spans dropped"),
            query(events("molehill_hook_failures_total", N, "hook"), "hook {{hook}} failed"),
            query(events("molehill_reloads_total", FAILED), "reloads refused"),
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


def resources() -> list[Panel]:
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
