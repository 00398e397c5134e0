"""Prometheus, Alertmanager and what stands for the pager: processes of a test, on loopback, gone at the end."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

PROGRAMS = ("prometheus", "prometheus-alertmanager")


def require_programs() -> None:
    """Skips where Debian's packages are missing."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: apt-get install {' '.join(missing)}")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def until(holds: Callable[[], object], seconds: float, why: Callable[[], object] = lambda: "") -> None:
    """Polls. Fails after `seconds`, saying what `why` gives."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {why()}"
        time.sleep(0.05)


# The pager.


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a notification, as the webhook got it."""

    at: float
    """Seconds of CLOCK_BOOTTIME, when it came."""
    receiver: str
    firing: bool
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.labels["alertname"]

    def __str__(self) -> str:
        return f"{'firing' if self.firing else 'resolved'} {dict(self.labels)}"


class Webhook:
    """An HTTP server in a thread of its own: the labs are driven by blocking calls."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self._came = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> str:
        """The address, to which the name of the receiver is added."""
        self._thread.start()
        return f"http://127.0.0.1:{asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(30)}/"

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> int:
        app = web.Application()
        app.add_routes([web.post("/{receiver}", self._take)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _take(self, request: web.Request) -> web.Response:
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        receiver = request.match_info["receiver"]
        told = (await request.json())["alerts"]
        found = [Alert(at, receiver, one["status"] == "firing", one["labels"], one["annotations"]) for one in told]
        with self._came:
            self.alerts += found
            self._came.notify_all()
        return web.Response()

    def find(self, name: str, *, firing: bool = True, since: float = 0.0, **labels: str) -> list[Alert]:
        """What came so far, from the time `since` on."""
        with self._came:
            return [
                one
                for one in self.alerts
                if one.name == name
                and one.firing == firing
                and one.at >= since
                and labels.items() <= one.labels.items()
            ]

    def wait(self, name: str, seconds: float, *, firing: bool = True, since: float = 0.0, **labels: str) -> Alert:
        """The first such alert. Fails after `seconds` from now."""
        with self._came:
            came = self._came.wait_for(lambda: self.find(name, firing=firing, since=since, **labels), seconds)
        assert came, f"no {name} {labels} within {seconds:g} s; there were: {[str(one) for one in self.alerts]}"
        return came[0]

    def paged(self, **labels: str) -> list[str]:
        """What went to the pager, each name once."""
        found = [one.name for one in self.alerts if one.receiver == "pager" and labels.items() <= one.labels.items()]
        return sorted(set(found))


# Processes.


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextmanager
def process(words: Sequence[str], log: Path, ready: str) -> Iterator[None]:
    with log.open("wb") as output:
        running = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(lambda: answers(ready) or running.poll() is not None, 60, log.read_text)
        assert running.poll() is None, log.read_text()
        yield
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait(10)


@contextmanager
def alertmanager(directory: Path, configuration: Mapping[str, Any]) -> Iterator[str]:
    """Its address as Prometheus wants it."""
    directory.mkdir()
    (directory / "alertmanager.yml").write_text(yaml.safe_dump(dict(configuration)))
    address = f"127.0.0.1:{free_port()}"
    words = [
        "prometheus-alertmanager",
        f"--config.file={directory / 'alertmanager.yml'}",
        f"--storage.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",  # else it opens a port for peers
    ]
    with process(words, directory / "log", f"http://{address}/-/ready"):
        yield address


@dataclass(frozen=True, slots=True)
class Target:
    address: str
    cluster: str
    node: str
    job: str = "molehill"


class Prometheus:
    def __init__(self, address: str) -> None:
        self.address = f"http://{address}"

    def _get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.address}{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector."""
        found: list[dict[str, Any]] = self._get("/api/v1/query", query=expression)["result"]
        return found

    def evaluated(self, moment: float) -> bool:
        """Whether every group of rules was evaluated after `moment`, in seconds of CLOCK_REALTIME."""
        groups = self._get("/api/v1/rules")["groups"]
        return bool(groups) and all(_seconds(group["lastEvaluation"]) > moment for group in groups)

    def broken_rules(self) -> list[str]:
        """Rules whose last evaluation failed."""
        groups = self._get("/api/v1/rules")["groups"]
        return [
            f"{rule['name']}: {rule['lastError']}"
            for group in groups
            for rule in group["rules"]
            if rule.get("lastError")
        ]


def _seconds(text: str) -> float:
    # Nanoseconds are more than Python reads.
    return datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()


@contextmanager
def prometheus(
    directory: Path, name: str, targets: Sequence[Target], rules: Sequence[Path], alertmanager: str
) -> Iterator[Prometheus]:
    """Scrapes and evaluates every second. `name` is the external label `prometheus`."""
    directory.mkdir()
    jobs = {target.job for target in targets}
    configuration = {
        "global": {
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            "evaluation_interval": "1s",
            "external_labels": {"prometheus": name},
        },
        "rule_files": [str(path) for path in rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {
                "job_name": job,
                "honor_labels": True,
                "static_configs": [
                    {"targets": [one.address], "labels": {"cluster": one.cluster, "node": one.node}}
                    for one in targets
                    if one.job == job
                ],
            }
            for job in sorted(jobs)
        ],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    words = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        f"--web.external-url=http://{address}",
    ]
    with process(words, directory / "log", f"http://{address}/-/ready"):
        yield Prometheus(address)
