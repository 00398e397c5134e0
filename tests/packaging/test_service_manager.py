"""What a service manager hears from a real agent that has the unit's two capabilities and no other.

It stays user 0 here, which without capabilities may no more than others; another user could not read every interpreter.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.lab import formation, network
from agent.lab.lab import HTTP_PORT, Lab, down, molehill, node_directory
from agent.lab.plan import Host, Plan, generate
from agent.lab.processes import stopped
from tests.lab.clusters import until

pytestmark = [pytest.mark.netns, pytest.mark.lab]

CAPABILITIES = "-all,+net_admin,+net_raw"
WATCHDOG = 0.6
"""Seconds."""


def as_in_the_unit(plan: Plan, host: Host, directory: Path) -> list[str]:
    """The agent's command line, with the unit's capabilities and the manager's variables."""
    notify = node_directory(directory, host.name) / "notify"
    return [
        *("setpriv", "--no-new-privs", "--bounding-set", CAPABILITIES, "--inh-caps", CAPABILITIES),
        *("env", f"NOTIFY_SOCKET={notify}", f"WATCHDOG_USEC={int(WATCHDOG * 1e6)}"),
        *molehill(plan, host, directory),
    ]


@pytest.fixture
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("setpriv") is None:
        pytest.skip("needs root, iproute2 and util-linux")
    name = f"m{os.getpid() % 1_000_000}"
    down(name)
    try:
        yield Lab.create(generate(name, 1, 2, network.free_management_network()), as_in_the_unit, agents=False)
    finally:
        down(name)


class Manager:
    """The socket that NOTIFY_SOCKET names."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(60)
        self.socket.bind(str(node_directory(lab.directory, "www1") / "notify"))

    def hear(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def until(self, word: str) -> list[list[str]]:
        """What came, up to and with the first message that begins with `word`."""
        heard: list[list[str]] = []
        while not heard or not heard[-1][0].startswith(word):
            try:
                heard.append(self.hear())
            except TimeoutError:
                pytest.fail(f"no {word} after {heard}\n{self._lab.log('www1').read_text()}")
        return heard

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long, besides what has come already."""
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while self.socket.recv(4096):
                pass
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(60)
        return False


def kinds(heard: list[list[str]]) -> list[str]:
    return [message[0].partition("=")[0] for message in heard]


def test_a_life_as_the_manager_hears_it(lab: Lab) -> None:
    manager = Manager(lab)
    with manager.socket:
        lab.start("www1")
        heard = manager.until("READY=1")
        assert set(kinds(heard)) <= {"STATUS", "READY"}
        assert heard[0][0].startswith("STATUS=")
        assert heard[-1] == ["READY=1"], "what the node is doing was said before and stays said"
        formation.wait_formed(lab, timeout=60)
        assert effective(lab) == {"cap_net_admin", "cap_net_raw"}
        running = manager.until("STATUS=RUN") + manager.until("WATCHDOG=1")
        assert set(kinds(running)) == {"STATUS", "WATCHDOG"}

        lab.kill("www1", signal.SIGHUP)
        *_, reloading = manager.until("RELOADING=1")
        before, now = int(reloading[1].removeprefix("MONOTONIC_USEC=")), manager_clock()
        assert now - 20_000_000 < before <= now
        assert manager.until("READY=1"), "reloading ends"
        assert sorted(who for (who,) in lab.holders().values()) == ["www1", "www1"], "no VIP moved"

        assert kinds(manager.until("WATCHDOG=1"))[-1] == "WATCHDOG", "it is fed after a reload too"
        lab.kill("www1", signal.SIGTERM)
        manager.until("STOPPING=1")
        assert lab.wait_ended("www1", 30)
        until(lambda: not any(lab.holders().values()), why=lambda: f"nothing stays behind: {lab.holders()}")


def effective(lab: Lab) -> set[str]:
    """The capabilities that the agent has."""
    process = lab.agent("www1")
    assert process is not None
    (line,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line[:6] == "CapEff"]
    bits = int(line.split()[1], 16)
    numbers = {12: "cap_net_admin", 13: "cap_net_raw"}
    return {numbers.get(bit, f"capability {bit}") for bit in range(64) if bits >> bit & 1}


def manager_clock() -> int:
    """Microseconds of the clock that systemd compares with."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_stopped_agent_does_not_feed_the_watchdog(lab: Lab) -> None:
    manager = Manager(lab)
    with manager.socket:
        lab.start("www1")
        manager.until("WATCHDOG=1")
        agent = lab.agent("www1")
        assert agent is not None
        lab.kill("www1", signal.SIGSTOP)
        until(lambda: stopped(agent))
        assert manager.silent(2 * WATCHDOG)
        lab.kill("www1", signal.SIGCONT)
        assert kinds(manager.until("WATCHDOG=1"))[-1] == "WATCHDOG"


def test_the_address_that_container_health_checks_ask(lab: Lab) -> None:
    """`/-/healthy` answers as soon as the agent is ready, in whatever state the group is."""
    manager = Manager(lab)
    with manager.socket:
        lab.start("www1")
        manager.until("READY=1")
        address = f"http://{lab.plan.node('www1').management}:{HTTP_PORT}/-/healthy"
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.status == 200
        lab.kill("www1", signal.SIGTERM)
        assert lab.wait_ended("www1", 30)
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(address, timeout=30)
