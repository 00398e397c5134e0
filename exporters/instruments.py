"""The metrics that are counted event by event: names, help and label sets, and nothing else.

Every label set that may come is there from the start, so that `rate()` sees the first event; children are kept,
because looking one up costs four times as much as counting.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from agent import __version__
from agent.core.settings import Settings
from agent.core.view import Cause, ViewCause

ARP_KINDS = ("request", "reply", "directed", "na", "probe")

QUICK = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds: netlink calls, round trips."""

LATE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0, 3.0)
"""Seconds: 0.02 is the most that a scrape may cost, 0.4 and 3.0 are failure timeouts of `lan` and `wan`."""

MARGIN = (
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1.0,
    2.0,
    3.0,
)
"""Seconds: close enough together for the ratio of two quantiles, from profile `fast` (some 10 ms) to `wan` (2 s)."""

OUTAGE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.08, 0.1, 0.25, 0.4, 0.6, 1.0, 2.5, 5.0, 10.0)
"""Seconds: from a hand-over to a detection at the slowest profile; 0.08 and 0.6 are what `fast` and `lan` promise."""

Instrument = TypeVar("Instrument", Counter, Histogram)


class Children(Generic[Instrument]):
    """Children of one metric by their label values; `known` exist from the start."""

    def __init__(self, parent: Instrument, known: Iterable[tuple[str, ...]]) -> None:
        self._parent: Instrument = parent
        self._children: dict[tuple[str, ...], Instrument] = {values: parent.labels(*values) for values in known}

    def __getitem__(self, values: tuple[str, ...]) -> Instrument:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._parent.labels(*values)
        return child


class Instruments:
    def __init__(self, settings: Settings, engine: str, reject_reasons: Iterable[str]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = Gauge(
            "molehill_build_info",
            "Version and engine; always 1.",
            ["version", "engine", "python"],
            registry=self.registry,
        )
        build.labels(__version__, engine, platform.python_version()).set(1)

        self.view_changes = Children(
            self._counter("view_changes", "Views installed.", "cause"), [(cause.value,) for cause in ViewCause]
        )
        self.view_change_duration = self._histogram(
            "view_change_duration_seconds", "From the begin of gathering to the installed view, on this node.", OUTAGE
        )
        self.failover_duration = Children(
            self._histogram(
                "failover_duration_seconds",
                "From the last sign of the old holder, or the order to move, to the first announcement by this node.",
                OUTAGE,
                "cause",
            ),
            [(cause.value,) for cause in Cause],
        )
        self.acquire_duration = self._histogram(
            "vip_acquire_duration_seconds", "From the order to the driver until all addresses of a VIP are up.", QUICK
        )
        self.balance_rounds = Children(
            self._counter("balance_rounds", "Balance rounds: done, or interrupted by a new view.", "result"),
            [("done",), ("interrupted",)],
        )
        self.balance_moves = self._counter("balance_moves", "VIPs that balance rounds of the group were to move.")
        interfaces = sorted({address.interface for vip in settings.vips for address in vip.addresses})
        self.arp_sent = Children(
            self._counter(
                "arp_sent", "ARP frames and neighbour advertisements, sent or failed.", "interface", "kind", "result"
            ),
            [(name, kind, result) for name in interfaces for kind in ARP_KINDS for result in ("ok", "error")],
        )
        peers = [(str(name),) for name in settings.members if name != settings.node]
        self.heartbeats_sent = self._counter("heartbeats_sent", "Heartbeats; one to all peers counts once.")
        self.heartbeats_received = Children(
            self._counter("heartbeats_received", "Heartbeats of the peer that came.", "peer"), peers
        )
        self.heartbeats_missed = Children(
            self._counter("heartbeats_missed", "Heartbeats of the peer that never came.", "peer"), peers
        )
        self.peer_rtt = Children(
            self._histogram("peer_rtt_seconds", "Round trip to the peer and back, by heartbeats.", QUICK, "peer"), peers
        )
        self.datagrams_rejected = Children(
            self._counter("datagrams_rejected", "Datagrams that were refused and had no other effect.", "reason"),
            [(reason,) for reason in reject_reasons],
        )
        self.lease_renewal_margin = self._histogram(
            "lease_renewal_margin_seconds", "What was left of the fast lease at each renewal.", MARGIN
        )
        self.loop_lag = self._histogram("event_loop_lag_seconds", "How late the event loop ran a timer.", LATE)
        self.reloads = Children(
            self._counter("reloads", "Reloads of the configuration: in force, or refused.", "result"),
            [("ok",), ("error",)],
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"molehill_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"molehill_{name}", text, labels, buckets=buckets, registry=self.registry)
