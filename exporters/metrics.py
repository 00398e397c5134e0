"""Prometheus metrics of one node. The names are a contract: dashboards and alerts are built on them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
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

CACHED = 1.0
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
        self, status: Status, bus: Bus, *, reject_reasons: Sequence[str], timer: Callable[[], float] = time.monotonic
    ) -> None:
        """`reject_reasons`: the engine's closed set."""
        self._status = status
        self._bus = bus
        self._timer = timer
        self._count = Instruments(status.settings, status.engine, reject_reasons)
        self._const: Labels = (("cluster", status.settings.cluster), ("node", status.settings.node))
        self._acquired: Tally[tuple[str, str]] = Tally()
        self._released: Tally[tuple[str, str]] = Tally()
        self._failed: Tally[tuple[str, str]] = Tally()
        self._unannounced: dict[VipName, tuple[Cause, float]] = {}
        """Acquired, but no frame is out: cause, and since when clients may have missed the VIP."""
        self._first_sent: dict[VipName, float] = {}
        """Announced, but its acquisition not heard of yet: the pump carries effects out before it publishes events."""
        self._rounds = 0
        """Balance rounds under way in this view."""
        self._scraping = asyncio.Lock()
        self._cache: dict[str, tuple[float, bytes]] = {}

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
        return Counts(
            acquired=dict(self._acquired),
            released=dict(self._released),
            failed=dict(self._failed),
            dropped=self._bus.dropped,
            broken=len(self._bus.failed),
        )

    def __call__(self, event: e.Event) -> None:
        count = self._count
        match event:
            case e.ViewInstalled(cause=cause, at=at, gather_started=begun):
                count.view_changes[(cause.value,)].inc()
                count.view_change_duration.observe(max(0.0, at - begun))
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
                first = self._first_sent.pop(vip, None)
                self._announced(vip, first if first is not None and first >= at else None)
                count.acquire_duration.observe(max(0.0, at - started))
            case e.VipAcquireFailed(vip=vip, reason=reason):
                self._failed[(vip, reason)] += 1
            case e.VipReleased(vip=vip, cause=cause):
                self._released[(vip, cause.value)] += 1
                self._unannounced.pop(vip, None)
            case e.AcquireStarted(vip=vip):
                self._first_sent.pop(vip, None)
            case e.ArpSent():
                self._sent(event)
            case e.HeartbeatSent():
                count.heartbeats_sent.inc()
            case e.HeartbeatReceived(peer=peer, rtt=rtt, missed=missed):
                count.heartbeats_received[(peer,)].inc()
                if missed:
                    count.heartbeats_missed[(peer,)].inc(missed)
                if rtt is not None:
                    count.peer_rtt[(peer,)].observe(rtt)
            case e.DatagramRejected(reason=reason):
                count.datagrams_rejected[(reason,)].inc()
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

    def _sent(self, event: e.ArpSent) -> None:
        self._count.arp_sent[(event.interface, event.kind, "error" if event.error else "ok")].inc()
        if event.occasion is Occasion.ACQUIRE and not event.error:
            self._first_sent.setdefault(event.vip, event.at)
            self._announced(event.vip, event.at)

    def _announced(self, vip: VipName, sent: float | None) -> None:
        """The first frame and the acquisition are both known: the fail-over is over."""
        if sent is not None and vip in self._unannounced:
            cause, since = self._unannounced.pop(vip)
            self._count.failover_duration[(cause.value,)].observe(max(0.0, sent - since))
