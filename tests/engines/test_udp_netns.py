"""Broadcast and multicast segments between network namespaces on one bridge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
ROOT = Path(__file__).parents[2]
PREFIX = f"mhe{os.getpid()}"


def ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr}")


@pytest.fixture
def segment() -> Iterator[list[str]]:
    """Three namespaces with 10.77.0.1 to .3/24 on a bridge in a fourth."""
    names = [f"{PREFIX}-{index}" for index in (1, 2, 3)]
    switch = f"{PREFIX}-sw"
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        ip("-n", switch, "link", "set", "br0", "up")
        for index, name in enumerate(names, 1):
            ip("netns", "add", name)
            ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"p{index}", "netns", switch)
            ip("-n", switch, "link", "set", f"p{index}", "master", "br0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{index}/24", "broadcast", "10.77.0.255", "dev", "eth0")
            ip("-n", name, "addr", "add", f"fe80::77:{index}/64", "dev", "eth0", "nodad")
            ip("-n", name, "link", "set", "eth0", "up")
        yield names
    finally:
        for name in (*names, switch):
            ip("netns", "del", name, check=False)


@pytest.mark.parametrize(
    ("bind", "broadcast", "configured"),
    [
        ("10.77.0.{}", "10.77.0.255", True),
        ("10.77.0.{}", "10.77.0.255", False),
        ("10.77.0.{}", "255.255.255.255", True),
        ("0.0.0.0", "10.77.0.255", True),
        ("10.77.0.{}", "239.255.72.3", True),
        ("10.77.0.{}", "239.255.72.3", False),
        ("fe80::77:{}%eth0", "ff02::4803%eth0", True),
        ("fe80::77:{}%eth0", None, True),
    ],
)
def test_everyone_hears_everyone_once(segment: list[str], bind: str, broadcast: str | None, configured: bool) -> None:
    address = bind if "{}" in bind else "10.77.0.{}"
    members = {f"n{index}": address.format(index) for index in (1, 2, 3)} if configured else {}
    running = []
    try:
        for index, name in enumerate(segment, 1):
            told = {"index": index, "bind": bind.format(index), "broadcast": broadcast, "members": members}
            command = ["ip", "netns", "exec", name, sys.executable, "-m", "tests.engines.wire_talker", json.dumps(told)]
            running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        results = [json.loads(process.communicate(timeout=90)[0]) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for index, result in enumerate(results, 1):
        others = {f"n{other}" for other in (1, 2, 3) if other != index}
        for kind in ("everyone", "named"):
            assert set(result[kind]) == others, result
            assert all(numbers == sorted(set(numbers)) for numbers in result[kind].values()), result
        assert set(result["rejected"]) <= {"untrusted", "unknown_member"}, result
        assert result["clashes"] == 0
        expected = "segment" if broadcast else "peers"
        assert result["sent_to"] == expected
