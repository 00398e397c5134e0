"""What the witness tells Prometheus: one finished round at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent import __version__
from exporters.witness_agents import Said

MACS_MAX = 8
"""Hardware addresses told per VIP: more than two are a broken network, not news."""


@dataclass(slots=True)
class Heard:
    """What a round's question for one address brought."""

    macs: list[bytes] = field(default_factory=list)
    """Distinct, in the order of their answers."""
    seconds: float | None = None
    """To the first answer."""


@dataclass(frozen=True, slots=True)
class Round:
    """Never changed: another thread renders it."""

    heard: dict[str, tuple[Heard, ...]]
    """By VIP, one for each address that could be asked."""
    said: Said
    number: int
    """Rounds so far in which every address could be asked."""


class RoundCollector(Collector):
    """Families of the last round; before the first one only what is known without it."""

    def __init__(self, cluster: str, vips: tuple[str, ...], agents: int) -> None:
        self._cluster = cluster
        self._vips = vips
        self._agents = agents
        self.round: Round | None = None

    def registry(self) -> CollectorRegistry:
        """A registry of its own with nothing else in it."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        last = self.round
        yield self._gauge("build_info", "The version of the witness.", ("version",), [((__version__,), 1.0)])
        yield self._gauge("agents_configured", "Agents that are asked.", (), [((), self._agents)])
        rounds = CounterMetricFamily(
            "molehill_witness_rounds",
            "Finished rounds in which every VIP could be asked for; stands still when the witness is blind.",
            labels=("cluster",),
        )
        rounds.add_metric((self._cluster,), last.number if last else 0)
        yield rounds
        if last is not None:
            yield from self._segment(last)
            yield from self._group(last.said)

    def _segment(self, last: Round) -> Iterable[Metric]:
        known = [(vip, last.heard[vip]) for vip in self._vips if last.heard.get(vip)]
        yield self._gauge(
            "answering_macs",
            "Distinct hardware addresses that answered for the VIP in the last round: 1 is right, 2 is a split brain.",
            ("vip",),
            [((vip,), _answering(heard)) for vip, heard in known],
        )
        yield self._gauge(
            "answer_seconds",
            "Time from the question to the first answer; of several addresses the slowest. Absent: nobody answered.",
            ("vip",),
            [
                ((vip,), max(one.seconds or 0.0 for one in heard))
                for vip, heard in known
                if all(one.seconds is not None for one in heard)
            ],
        )
        yield self._gauge(
            "probe_info",
            f"Who answered for the VIP in the last round; at most {MACS_MAX} of them.",
            ("vip", "mac"),
            [
                ((vip, mac.hex(":")), 1.0)
                for vip, heard in known
                for mac in list(dict.fromkeys(mac for one in heard for mac in one.macs))[:MACS_MAX]
            ],
        )

    def _group(self, said: Said) -> Iterable[Metric]:
        yield self._gauge("agents_reached", "Agents that answered in the last round.", (), [((), said.reached)])
        yield self._gauge(
            "views",
            "Distinct views among the agents reached: 1 is right, 2 for more than a moment is a partition.",
            (),
            [((), len(said.views))],
        )
        yield self._gauge(
            "vip_claims",
            "Agents that say they hold the VIP.",
            ("vip",),
            [((vip,), said.claims[vip]) for vip in self._vips] if self._agents else [],
        )

    def _gauge(
        self, name: str, text: str, labels: tuple[str, ...], samples: list[tuple[tuple[str, ...], float]]
    ) -> Metric:
        family = GaugeMetricFamily(f"molehill_witness_{name}", text, labels=("cluster", *labels))
        for values, value in samples:
            family.add_metric((self._cluster, *values), value)
        return family


def _answering(heard: tuple[Heard, ...]) -> int:
    """A VIP of several addresses is as bad as its worst one: doubled before unanswered."""
    counts = [len(one.macs) for one in heard]
    return max(counts) if max(counts) > 1 else min(counts)
