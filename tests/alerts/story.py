"""What Prometheus would scrape from real cores with real exporters in virtual time, as input of promtool's tests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from agent.core.events import LeaseLayer
from agent.core.ids import NodeName
from agent.core.inputs import JoinRequested, LeaveRequested
from exporters.bus import Bus
from exporters.leases import LAYERS
from exporters.metrics import Metrics
from exporters.status import Status
from exporters.wall import Wall
from tests.alerts import rules
from tests.core.cluster import Recorder, settings, vips
from tests.sim.world import Host, World

WARM_UP = 30.0
"""Seconds of the world before the story's time 0: the cluster is mature and balanced."""

NAMES = ["www1", "www2", "www3"]

Series = tuple[str, tuple[tuple[str, str], ...]]


class Observed(Recorder):
    """Feeds each host's events to exporters of its present life."""

    def __init__(self) -> None:
        super().__init__()
        self.agents: dict[NodeName, Agent] = {}
        self.world: World | None = None
        self.loop = asyncio.new_event_loop()

    def after(self, host: Host, now: float, item: object, outputs: list[object]) -> None:
        super().after(host, now, item, outputs)
        agent = self.agents.get(host.name)
        if agent is None or agent.incarnation != host.incarnation:
            agent = self.agents[host.name] = Agent(host, self._now, self.loop)
        for _, _, event in self.events:
            agent.status(event)
            agent.metrics(event)
        self.events.clear()

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def _now(self) -> float:
        assert self.world is not None
        return self.world.now


class Agent:
    """The exporters of one life of a node."""

    def __init__(self, host: Host, now: Callable[[], float], loop: asyncio.AbstractEventLoop) -> None:
        self.incarnation = host.incarnation
        self.started = now() - WARM_UP
        wall = Wall(clock=lambda: host.clock(now()), wall=lambda: now() - WARM_UP)
        self.status = Status(host.settings, wall, engine="embedded", sealed=True)
        for layer in LAYERS:
            self.status(LeaseLayer(host.clock(now()), layer, True, ""))
        self.loop = loop
        self.metrics = Metrics(self.status, Bus(self.loop), reject_reasons=(), timer=now)

    def scrape(self, wanted: set[str]) -> dict[Series, float]:
        """Samples of the metrics `wanted`; only these are parsed, which is most of the work."""
        body, _ = self.loop.run_until_complete(self.metrics.scrape(""))
        lines = [line for line in body.decode().splitlines() if line.partition("{")[0] in wanted]
        found = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for metric in text_string_to_metric_families("\n".join(lines) + "\n")
            for sample in metric.samples
        }
        # The one metric that is not of the story: all lives are in this process.
        return {
            series: self.started if series[0] == "process_start_time_seconds" else found[series] for series in found
        }


@dataclass(frozen=True, slots=True)
class Scraping:
    interval: int
    """Seconds between two scrapes of one target; the targets' scrapes are spread over it."""
    lost: float = 0.0
    """Share of scrapes that fail although the agent lives."""

    def __str__(self) -> str:
        return f"{self.interval}s" + (f", {self.lost:.0%} lost" if self.lost else "")


@dataclass
class Story:
    """Faults of a cluster of three with four VIPs, by second."""

    seconds: int
    faults: list[tuple[float, Callable[[World], object]]] = field(default_factory=list)

    def at(self, second: float, fault: Callable[[World], object]) -> Story:
        self.faults.append((second, fault))
        return self

    def series(self, scraping: Scraping) -> list[dict[str, str]]:
        """promtool's `input_series` of all metrics that a rule asks for, in steps of one second."""
        observed = Observed()
        world = observed.world = World(1, settings(NAMES, vips(4)), observed)
        observed.hosts = world.hosts
        for host in world.hosts.values():
            world.start(host)
        wanted = {use.metric for _, rule in rules.rules() for use in rules.uses(rule["expr"])}
        tape = Tape(self.seconds)
        lose = random.Random(1)
        for second, fault in self.faults:
            world.at(WARM_UP + second, lambda fault=fault: fault(world))  # type: ignore[misc]
        for second in range(self.seconds + 1):
            world.run(WARM_UP + second)
            for number, (name, host) in enumerate(world.hosts.items()):
                if second % scraping.interval == number * scraping.interval // len(NAMES):
                    alive = host.node is not None and lose.random() >= scraping.lost
                    found = observed.agents[name].scrape(wanted) if alive else {}
                    tape.scraped(name, second, found)
        observed.close()
        return tape.series()


class Tape:
    """Samples by series and second, with the marks that Prometheus makes when a series or a target is gone."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._samples: dict[Series, dict[int, str]] = {}
        self._last: dict[str, set[Series]] = {}

    def scraped(self, node: str, second: int, found: dict[Series, float]) -> None:
        target = (("instance", f"{node}:9748"), ("job", "molehill"))
        present = {(name, tuple(sorted((*labels, *target)))): value for (name, labels), value in found.items()}
        for series in self._last.get(node, set()) - present.keys():
            self._samples[series][second] = "stale"
        for series, value in present.items():
            self._samples.setdefault(series, {})[second] = repr(value)
        self._last[node] = set(present)
        up = ("up", (("cluster", "test"), *target, ("node", node)))
        self._samples.setdefault(up, {})[second] = "1" if found else "0"

    def series(self) -> list[dict[str, str]]:
        return [
            {
                "series": name + "{" + ",".join(f'{label}="{value}"' for label, value in labels) + "}",
                "values": self._values(samples),
            }
            for (name, labels), samples in sorted(self._samples.items())
        ]

    def _values(self, samples: dict[int, str]) -> str:
        """Runs are written short: promtool reads 50 characters faster than 900."""
        words: list[str] = []
        run, count = "", 0
        for second in range(self._seconds + 2):
            word = samples.get(second, "_") if second <= self._seconds else ""
            if word == run:
                count += 1
                continue
            if run:
                words += [run] * count if run == "stale" else [f"_x{count}" if run == "_" else f"{run}+0x{count - 1}"]
            run, count = word, 1
        return " ".join(words)


def fired(story: Story, scraping: Scraping, expected: list[dict[str, str]], folder: Path) -> str:
    """promtool's complaint if the alerts that fired at any time are not `expected` (labels alertname, severity)."""
    test: dict[str, object] = {
        "interval": "1s",
        "input_series": story.series(scraping),
        "promql_expr_test": [
            {
                "expr": "count by (alertname, severity) "
                f'(count_over_time(ALERTS{{alertstate="firing"}}[{story.seconds}s])) * 0',
                "eval_time": f"{story.seconds}s",
                "exp_samples": [
                    {"labels": "{" + ",".join(f'{key}="{value}"' for key, value in one.items()) + "}", "value": 0}
                    for one in expected
                ],
            }
        ],
    }
    return check(test, folder, 1 if scraping.interval == 1 else 5)


def check(test: dict[str, object], folder: Path, evaluation: int) -> str:
    """promtool's complaint about one test of all rules; empty: none."""
    document = {
        "rule_files": [str(path) for path in rules.RULE_FILES],
        "evaluation_interval": f"{evaluation}s",
        "tests": [test],
    }
    path = folder / "story.test.yml"
    path.write_text(rules.dump(document))
    done = rules.promtool("test", "rules", path.name, cwd=folder)
    return "" if done.returncode == 0 else done.stdout + done.stderr


# Faults.


def crash(name: str) -> Callable[[World], object]:
    return lambda world: world.crash(world.hosts[NodeName(name)])


def start(name: str) -> Callable[[World], object]:
    return lambda world: world.start(world.hosts[NodeName(name)])


def stop(name: str) -> Callable[[World], object]:
    """SIGTERM: everything is handed over, then the process ends."""
    return lambda world: world.feed(world.hosts[NodeName(name)], LeaveRequested(stop=True))


def leave(name: str) -> Callable[[World], object]:
    """`molehill leave`: the agent stays."""
    return lambda world: world.feed(world.hosts[NodeName(name)], LeaveRequested(stop=False))


def join(name: str) -> Callable[[World], object]:
    return lambda world: world.feed(world.hosts[NodeName(name)], JoinRequested())


def split(name: str) -> Callable[[World], object]:
    return lambda world: world.network.split({name}, set(world.hosts))


def heal(world: World) -> None:
    world.network.heal()
