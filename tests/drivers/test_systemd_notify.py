"""What arrives at a service manager's socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.drivers.systemd import Notifier, watchdog_interval


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    name = f"@molehill-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:] if name.startswith("@") else name)
        listening.settimeout(30)
        yield name, listening


def test_each_word_arrives(manager: tuple[str, socket.socket]) -> None:
    name, listening = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    before = time.monotonic_ns() // 1000
    assert notifier.ready("holds 3 VIPs\nof 6")
    assert notifier.status("gathering")
    assert notifier.watchdog()
    assert notifier.reloading()
    assert notifier.stopping()
    assert listening.recv(999) == b"READY=1\nSTATUS=holds 3 VIPs of 6"
    assert listening.recv(999) == b"STATUS=gathering"
    assert listening.recv(999) == b"WATCHDOG=1"
    word, when = listening.recv(999).split(b"\n")
    assert word == b"RELOADING=1"
    assert before <= int(when.removeprefix(b"MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert listening.recv(999) == b"STOPPING=1"
    notifier.close()
    assert not notifier.ready()


def test_a_manager_that_does_not_read_delays_nobody(manager: tuple[str, socket.socket]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[0]})
    sent = 0
    while notifier.watchdog():
        sent += 1
        assert sent < 100_000
    notifier.close()
    assert sent > 0


def test_without_a_manager_nothing_is_said() -> None:
    assert not Notifier({}).ready()
    gone = Notifier({"NOTIFY_SOCKET": "/nonexistent/notify"})
    assert not gone.ready()
    gone.close()


def test_the_watchdog_is_for_the_process_that_it_names() -> None:
    own = str(os.getpid())
    assert watchdog_interval({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": own}) == 3.0
    assert watchdog_interval({"WATCHDOG_USEC": "3000000"}) == 3.0
    assert watchdog_interval({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_interval({"WATCHDOG_USEC": "soon"}) is None
    assert watchdog_interval({}) is None
