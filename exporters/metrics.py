"""Prometheus metrics of one node. The names are a contract: dashboards and alerts are built on them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from agent.core import events as e
from agent.core.effects import Occasion
from agent.core.ids import VipName
from agent.core.view import Cause, Move
from exporters.bus import Bus
from exporters.families import Counts, Labels, families, render
from exporters.instruments import Instruments
from exporters.status import Status

CACHED = 0.5
"""Seconds for which an exposition is served again: many scrapers cost as much as one."""

BALANCING = (Cause.BALANCE, Cause.PREFER)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A registry whose samples all bear further labels, which prometheus_client itself cannot do."""

    registry: CollectorRegistry
    labels: Labels

    def collect(self) -> Iterator[Metric]:
        for metric in self.registry.collect():
            metric.samples = [sample._replace(labels=dict(self.labels) | sample.labels) for sample in metric.samples]
            yield metric


class Metrics:
    """Subscriber of the bus, and the exposition of what it counted together with what `status` knows."""

    def __init__(
        self,
        status: Status,
        bus: Bus,
        *,
        reject_reasons: Sequence[str],
        checks: Iterable[str] = (),
        hooks: Iterable[str] = (),
        spans_dropped: Callable[[], int] = lambda: 0,
        exemplar: Callable[[], dict[str, str] | None] = lambda: None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """`reject_reasons`: the engine's closed set; `checks` and `hooks`: the configured ones.

        `exemplar`: what leads to the trace of the event that is being observed.
        """
        self._status = status
        self._bus = bus
        self._spans_dropped = spans_dropped
        self._exemplar = exemplar
        self.configure(checks, hooks)
        self._timer = timer
        self._count = Instruments(status.settings, status.engine, reject_reasons)
        self._const: Labels = (("cluster", status.settings.cluster), ("node", status.settings.node))
        self._acquired: Tally[tuple[str, str]] = Tally()
        self._released: Tally[tuple[str, str]] = Tally()
        self._failed: Tally[tuple[str, str]] = Tally()
        self._conflicts: Tally[str] = Tally()
        self._unannounced: dict[VipName, tuple[Cause, float]] = {}
        """Acquired, but no frame is out: cause, and since when clients may have missed the VIP."""
        self._rounds = 0
        """Balance rounds under way in this view."""
        self._rejected: Callable[[], Mapping[str, int]] | None = None
        self._rejected_before: Tally[str] = Tally()
        self._scraping = asyncio.Lock()
        self._cache: dict[str, tuple[float, bytes]] = {}

    def configure(self, checks: Iterable[str], hooks: Iterable[str]) -> None:
        """Names of the health checks and paths of the hooks, at the start and after a reload."""
        self._checks = dict.fromkeys(checks, True)
        self._hooks = dict.fromkeys(hooks, 0)

    def count_rejections(self, rejected: Callable[[], Mapping[str, int]]) -> None:
        """`rejected`: the engine's own count by reason. In a flood it makes fewer events than it refuses datagrams."""
        self._rejected = rejected

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Body and content type, made in a thread so that the loop goes on."""
        _, content_type = choose_encoder(accept)
        async with self._scraping:
            made, body = self._cache.get(content_type, (-CACHED, b""))
            if self._timer() - made >= CACHED:
                status, counts = self._status.copy(), self._counts()
                body = await asyncio.to_thread(self.exposition, accept, status, counts)
                self._cache = {content_type: (self._timer(), body)} | {
                    other: entry
                    for other, entry in self._cache.items()
                    if other != content_type and len(self._cache) < 4
                }
        return body, content_type

    def exposition(self, accept: str, status: Status, counts: Counts) -> bytes:
        """On any thread: `status` and `counts` are copies."""
        encode, content_type = choose_encoder(accept)
        openmetrics = content_type.startswith("application/openmetrics-text")
        body = encode(Labelled(self._count.registry, self._const))
        mine = render(families(status, counts), self._const, openmetrics=openmetrics).encode()
        return body.removesuffix(b"# EOF\n") + mine + b"# EOF\n" if openmetrics else body + mine

    def _counts(self) -> Counts:
        if self._rejected is not None:
            now = Tally(self._rejected())
            for reason, more in (now - self._rejected_before).items():
                self._count.datagrams_rejected[(reason,)].inc(more)
            self._rejected_before = now
        return Counts(
            acquired=dict(self._acquired),
            released=dict(self._released),
            failed=dict(self._failed),
            conflicts=dict(self._conflicts),
            dropped=self._bus.dropped,
            broken=len(self._bus.failed),
            spans_dropped=self._spans_dropped(),
            checks=dict(self._checks),
            hooks=dict(self._hooks),
        )

    def __call__(self, event: e.Event) -> None:
        count = self._count
        match event:
            case e.ViewInstalled(cause=cause, at=at, gather_started=begun):
                count.view_changes[(cause.value,)].inc()
                count.view_change_duration.observe(max(0.0, at - begun), self._exemplar())
                count.balance_rounds[("interrupted",)].inc(self._rounds)
                self._rounds = 0
            case e.BalanceRound(moves=moves):
                self._round(moves)
            case e.BalanceRoundDone():
                if self._rounds:
                    self._rounds -= 1
                    count.balance_rounds[("done",)].inc()
            case e.VipAcquired(vip=vip, cause=cause, at=at, started=started, since=since):
                self._acquired[(vip, cause.value)] += 1
                self._unannounced[vip] = (cause, since)
                count.acquire_duration.observe(max(0.0, at - started), self._exemplar())
            case e.VipAcquireFailed(vip=vip, reason=reason):
                self._failed[(vip, reason)] += 1
            case e.VipReleased(vip=vip, cause=cause):
                self._released[(vip, cause.value)] += 1
                self._unannounced.pop(vip, None)
            case e.ArpSent():
                self._sent(event)
            case e.HeartbeatSent():
                count.heartbeats_sent.inc()
            case e.HeartbeatReceived():
                self._heard(event)
            case e.DatagramRejected(reason=reason):
                if self._rejected is None:
                    count.datagrams_rejected[(reason,)].inc()
            case e.LeaseRenewed(layer=layer, margin=margin):
                if layer == "fast":
                    count.lease_renewal_margin.observe(margin)
            case e.ConflictSeen(vip=vip):
                self._conflicts[vip] += 1
            case e.LoopLag(seconds=seconds):
                count.loop_lag.observe(seconds)
            case e.Reloaded(error=error):
                count.reloads[("error" if error else "ok",)].inc()
            case (
                # Told by gauges that are rendered from the status.
                e.OwnersChanged()
                | e.StandingsChanged()
                | e.StateChanged()
                | e.BecameMature()
                | e.ArpCacheChanged()
                | e.ConfigDiffers()
                | e.QuorumChanged()
                | e.LeaseLayer()
                | e.LeaseTaken()
                | e.LeaseLost()
            ):
                pass
            case (
                # Steps on the way to what is counted above, and what only log and history tell.
                e.Started()
                | e.Stalled()
                | e.MemberSuspected()
                | e.MemberHeard()
                | e.GatherStarted()
                | e.JoinHeard()
                | e.PlacementDiffers()
                | e.Decided()
                | e.Excluded()
                | e.AcquireStarted()
                | e.ReleaseStarted()
                | e.VipLost()
                | e.VipWaits()
                | e.Announced()
                | e.LimitReached()
                | e.OperatorAnswered()
                | e.NameClash()
                | e.StrayRemoved()
                | e.InterfaceChanged()
            ):
                pass
            case _:
                assert_never(event)

    def _round(self, moves: tuple[Move, ...]) -> None:
        balancing = sum(move.cause in BALANCING for move in moves)
        if balancing:
            self._rounds += 1
            self._count.balance_moves.inc(balancing)

    def _heard(self, event: e.HeartbeatReceived) -> None:
        peer = (event.peer,)
        self._count.heartbeats_received[peer].inc()
        if event.missed:
            self._count.heartbeats_missed[peer].inc(event.missed)
        if event.rtt is not None:
            self._count.peer_rtt[peer].observe(event.rtt)

    def _sent(self, event: e.ArpSent) -> None:
        self._count.arp_sent[(event.interface, event.kind, "error" if event.error else "ok")].inc()
        if event.occasion is Occasion.ACQUIRE and event.kind != "probe" and not event.error:
            cause, since = self._unannounced.pop(event.vip, (None, 0.0))
            if cause is not None:
                self._count.failover_duration[(cause.value,)].observe(max(0.0, event.at - since), self._exemplar())
