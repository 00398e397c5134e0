"""What a node's own host may do to its agent: disks, interfaces, addresses, signals, a log that nobody reads."""

from __future__ import annotations

import array
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.lab import arp, formation, network
from agent.lab.lab import Lab, now
from agent.lab.plan import LabError, VipPlan, lay_out
from tests.lab.clusters import (
    always,
    cluster,
    exit_code,
    get,
    granted,
    held_once,
    metric,
    on,
    raw_http,
    status,
    until,
    view,
    wait_logged,
)


def netns(lab: Lab, node: str, *lines: str) -> None:
    network.batch(lines, lab.plan.namespace(node))


def away_from(lab: Lab, node: str) -> bool:
    """Whether each VIP is on exactly one other node."""
    others = [host.name for host in lab.plan.nodes if host.name != node]
    return held_once(lab, others)


def own_addresses(lab: Lab, node: str) -> set[str]:
    vips = {address for _, address in lab.plan.addresses()}
    return {address for _, address, _ in network.kernel_addresses(lab.plan, node)} - vips


# The state directory.


def refused_start(tmp_path: Path, prepare: str, state: str) -> subprocess.CompletedProcess[str]:
    """An agent's start in a mount namespace of its own, after the shell commands; it never gets to its network."""
    vips = [{"addresses": ["eth0:10.72.1.1/16"]}]
    text = {"cluster": "www", "node": "a", "engine": {"members": {"a": "10.72.0.1"}, "insecure": True}, "vips": vips}
    (tmp_path / "molehill.yaml").write_text(json.dumps(text))
    told = [
        "--set",
        f"state_dir={state}",
        "--set",
        f"control={tmp_path}/control.sock",
        "--set",
        "http.listen=127.0.0.1:9749",
    ]
    line = [sys.executable, "-P", "-m", "agent", "run", "--config", str(tmp_path / "molehill.yaml"), *told]
    shell = ["unshare", "--mount", "sh", "-ec", f'{prepare}\nexec "$@"', "sh", *line]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.mark.netns
@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        ("mount -t tmpfs -o ro,size=64k none DIR", "Read-only file system; make state_dir writable"),
        (
            "mount -t tmpfs -o size=8k none DIR; dd if=/dev/zero of=DIR/fill 2>/dev/null || :",
            "No space left.*disk full",
        ),
        ("rmdir DIR; echo > DIR", "Not a directory.*make state_dir"),
        ("echo twelve > DIR/incarnation", "'twelve' is no incarnation; remove the file"),
        ("echo -n > DIR/incarnation", "'' is no incarnation; remove the file"),
        ("echo 99999999999999999999 > DIR/incarnation", "is no incarnation; remove the file"),
        ("echo '\\0377\\0376' > DIR/incarnation", "make state_dir readable"),
        ("mkdir DIR/incarnation", "Is a directory"),
    ],
)
def test_a_state_directory_that_cannot_be_used_ends_the_start_in_one_line(
    tmp_path: Path, prepare: str, says: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    directory = tmp_path / "state"
    directory.mkdir()
    ended = refused_start(tmp_path, prepare.replace("DIR", str(directory)), str(directory))
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if "level=" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"molehill: {directory}")
    assert re.search(says, lines[0])


def fill(path: Path) -> None:
    """Takes all that the disk has left."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        write_on(file)


def write_on(file: io.FileIO) -> None:
    while file.write(bytes(4096)):
        pass


@pytest.mark.netns
@pytest.mark.lab
def test_a_disk_that_fills_up_later_stops_no_fail_over(lab_name: str) -> None:
    state = Path("/run/molehill-lab") / lab_name / "nodes" / "www1" / "state"
    shell = ["unshare", "--mount", "sh", "-ec", f'mount -t tmpfs -o size=64k none {state}; exec "$@"', "sh"]
    with cluster(lab_name, 3, 3, wrappers={"www1": shell}) as lab:
        agent = lab.agent("www1")
        assert agent is not None
        inside = Path(f"/proc/{agent.pid}/root{state}")
        assert (inside / "incarnation").exists()
        fill(inside / "fill")
        with pytest.raises(LabError, match=r"draining: No space left on device.*is its disk full\?"):
            lab.ask("www1", "drain")
        assert len(on(lab, "www1")) == 1, "a drain that cannot be kept is not begun"
        lab.lose("www2")
        lab.lose("www3")
        until(lambda: len(on(lab, "www1")) == 3)
        (inside / "fill").unlink()
        lab.ask("www1", "drain")
        until(lambda: (inside / "draining").exists())
        lab.ask("www1", "undrain")


# Interfaces and addresses.


def recreate(lab: Lab, node: str) -> None:
    """The node's first interface, made anew under its old name, as a driver does that is loaded again."""
    port = lab.plan.node(node).ports[0]
    name = network.port_name(lab.plan, node, 0)
    space = lab.plan.namespace(node)
    network.batch(
        [
            f"link add name {name} type veth peer name {port.interface} address {port.mac} netns {space}",
            f"link set dev {name} master s0 up",
        ],
        lab.plan.namespace("net"),
    )
    addresses = [f"addr add {address} brd + dev {port.interface}" for address in port.addresses]
    netns(lab, node, f"link set dev {port.interface} up", *addresses)


@pytest.mark.netns
@pytest.mark.lab
def test_an_interface_is_removed_and_made_anew_under_a_running_agent(lab_name: str) -> None:
    with cluster(lab_name, 3, 3) as lab, arp.Capture(lab.plan) as capture:
        assert len(on(lab, "www2")) == 1
        agent = lab.agent("www2")
        netns(lab, "www2", "link delete eth0")
        until(lambda: away_from(lab, "www2"))
        wait_logged(
            lab, "www2", "level=warning", "interface eth0 is not usable: no such interface here: correct its name"
        )
        wait_logged(lab, "www2", r"somebody took an address of 10\.72\.1\.\d away \(10\.72\.1\.\d/16 left eth0")
        assert get(lab, "www2", "/-/healthy") == b"healthy\n"
        always(lambda: on(lab, "www2") == [], 0.5)
        recreate(lab, "www2")
        formation.wait_formed(lab)
        wait_logged(lab, "www2", "interface eth0 is usable")
        assert held_once(lab)
        assert on(lab, "www2") == []
        capture.frames()
        until(lambda: granted(lab, "www1", "balance") and len(on(lab, "www2")) == 1)
        (address,) = on(lab, "www2")
        seen: list[str] = []

        def announced() -> bool:
            seen.extend(frame.node for frame in capture.frames() if frame.address == address and frame.gratuitous)
            return "www2" in seen

        until(announced)
        assert lab.agent("www2") == agent
        assert own_addresses(lab, "www2") == {"10.72.0.2"}


@pytest.mark.netns
@pytest.mark.lab
def test_an_interface_that_is_down_hands_its_vips_over_and_no_others(lab_name: str) -> None:
    """The group speaks on eth0; eth1 carries the second half of the VIPs."""
    vips = tuple(
        VipPlan(
            f"10.7{2 + number % 2}.1.{number + 1}", ((f"eth{number % 2}", f"10.7{2 + number % 2}.1.{number + 1}", 16),)
        )
        for number in range(6)
    )
    members = {f"www{number}": f"10.72.0.{number}" for number in (1, 2, 3)}
    text = json.dumps(
        {
            "cluster": f"lab-{lab_name}",
            "engine": {"members": members, "secret_file": "{state}/secret"},
            "vips": [{"name": v.name, "addresses": [f"{i}:{a}/{p}" for i, a, p in v.addresses]} for v in vips],
        }
    )
    management = network.free_management_network()
    plan = lay_out(lab_name, members, vips, management, ("--config", "{state}/molehill.yaml"), configuration=text)
    with cluster(lab_name, plan=plan) as lab:
        before, own = view(lab, "www1"), own_addresses(lab, "www2")
        lab.ask("www1", "move", {"vip": vips[1].name, "node": "www2"})
        until(lambda: vips[1].name in on(lab, "www2"))
        kept = [address for address in on(lab, "www2") if address.startswith("10.72")]
        netns(lab, "www2", "link set dev eth1 down")
        until(lambda: not [a for a in on(lab, "www2") if a.startswith("10.73")] and held_once(lab))
        assert [address for address in on(lab, "www2") if address.startswith("10.72")] == kept
        assert view(lab, "www1") == before
        wait_logged(lab, "www2", "level=warning", "interface eth1 is not usable: the interface is down: `ip link set")
        with pytest.raises(LabError, match="may not or cannot hold"):
            lab.ask("www1", "move", {"vip": vips[1].name, "node": "www2"})
        netns(lab, "www2", "link set dev eth1 up")
        wait_logged(lab, "www2", "interface eth1 is usable")
        until(lambda: granted(lab, "www1", "move", vip=vips[1].name, node="www2"))
        until(lambda: vips[1].name in on(lab, "www2") and held_once(lab))
        assert own_addresses(lab, "www2") == own
        # The interface that the group speaks on: the others take everything over, and it comes back without a trace.
        netns(lab, "www2", "link set dev eth0 down")
        until(lambda: away_from(lab, "www2"))
        netns(lab, "www2", "link set dev eth0 up")
        formation.wait_formed(lab)
        assert view(lab, "www2") != before
        assert own_addresses(lab, "www2") == own


@pytest.mark.netns
@pytest.mark.lab
def test_an_address_that_is_there_by_hand_is_reported_and_left_alone(lab_name: str) -> None:
    by_hand = "10.72.1.1"
    with cluster(lab_name, 2, 2, agents=False) as lab:
        netns(lab, "www1", f"addr add {by_hand}/16 dev eth0")
        # One after the other: who was alone for a while would have both until a balance round.
        lab.start("www1")
        until(lambda: set(on(lab, "www1")) == {by_hand, "10.72.1.2"})
        lab.start("www2")
        until(lambda: on(lab, "www2") == [by_hand] and set(on(lab, "www1")) == {by_hand, "10.72.1.2"})
        told = (
            "level=error",
            f"could not acquire {re.escape(by_hand)}: the address is there already and not ours: take it",
        )
        wait_logged(lab, "www1", *told, rf"{re.escape(by_hand)}/16 on eth0")
        until(
            lambda: metric(lab, "www1", "molehill_vip_acquire_failures_total", vip=by_hand, reason="exists_here") == 1
        )
        with pytest.raises(LabError, match="may not or cannot hold"):
            lab.ask("www2", "move", {"vip": by_hand, "node": "www1"})
        lab.kill("www1", signal.SIGTERM)
        assert exit_code(lab, "www1") == 0
        assert by_hand in on(lab, "www1"), "not ours, also at the end"
        lab.start("www1")
        formation_of = {"www1", "www2"}
        until(lambda: alive_in(lab, "www2") == formation_of)
        netns(lab, "www1", f"addr del {by_hand}/16 dev eth0")
        lab.kill("www2", signal.SIGTERM)
        until(lambda: set(on(lab, "www1")) == {by_hand, "10.72.1.2"} and held_once(lab))
        since = now()
        netns(lab, "www1", f"addr del {by_hand}/16 dev eth0")
        until(lambda: any(c.present and c.address == by_hand and c.at > since for c in lab.changes()))
        wait_logged(lab, "www1", "level=warning", f"somebody took an address of {by_hand} away", "use `molehill move`")
        assert own_addresses(lab, "www1") == {"10.72.0.1"}


def alive_in(lab: Lab, node: str) -> set[str]:
    found = status(lab, node)["view"]
    return set(found["members"]) if found else set()


# Signals.


@pytest.mark.netns
@pytest.mark.lab
def test_signals_and_departures(lab_name: str) -> None:
    timeout = 3.0
    with cluster(lab_name, 3, 3, f"engine.failure_timeout={timeout:g}s") as lab:
        # Twice is as good as once, and no harm when it has ended in between.
        agent = lab.agent("www3")
        assert agent is not None
        since = now()
        hit = on(lab, "www3")
        for _ in range(2):
            os.kill(agent.pid, signal.SIGTERM)
        assert exit_code(lab, "www3") == 0
        assert on(lab, "www3") == []
        ended = now()
        until(lambda: away_from(lab, "www3"))
        taken = [c.at for c in lab.changes() if c.at > since and c.address in hit and c.present]
        assert max(taken) < ended, "handed over before the process ended"
        assert max(taken) - since < timeout / 2, "nobody waited for a timeout"
        # After `leave` there is nothing left to hand over.
        lab.ask("www2", "leave")
        assert on(lab, "www2") == []
        assert status(lab, "www2")["state"] == "LEFT"
        lab.kill("www2", signal.SIGTERM)
        assert exit_code(lab, "www2") == 0
        until(lambda: len(on(lab, "www1")) == 3)
        # An agent killed with its guard leaves everything; its next life removes that first, then takes it again.
        lab.kill("www1", signal.SIGKILL, everything=True)
        assert exit_code(lab, "www1") == -signal.SIGKILL
        assert len(on(lab, "www1")) == 3
        since = now()
        lab.start("www1")
        until(lambda: len([c for c in lab.changes() if c.at > since and not c.present]) == 3)
        wait_logged(lab, "www1", "level=warning", r"removed 10\.72\.1\.1 from eth0: left by a killed agent")
        until(lambda: len(on(lab, "www1")) == 3)
        assert own_addresses(lab, "www1") == {"10.72.0.1"}


# The log.


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[Path]:
    """A pipe of one page that somebody holds open and never reads."""
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
    yield pipe
    os.close(end)


@pytest.mark.netns
@pytest.mark.lab
def test_a_log_that_nobody_reads_stops_nothing(lab_name: str, unread: Path) -> None:
    """The agent of www1 logs each heartbeat into a pipe that is full: it takes over, is stopped, and ends."""
    wrappers = {"www1": ["sh", "-c", f'exec "$@" 2>>{unread}', "sh"]}
    with cluster(lab_name, 3, 3, own={"www1": ["--debug"]}, wrappers=wrappers) as lab:
        end = os.open(unread, os.O_RDONLY | os.O_NONBLOCK)
        try:
            until(lambda: pending(end) > 2500, why=lambda: pending(end))
        finally:
            os.close(end)
        for _ in range(50):
            assert raw_http(lab, "www1", b"nonsense " + b"x" * 20_000 + b"\r\n\r\n").startswith(b"HTTP/1.0 400")
        lost = on(lab, "www2")
        began = lab.lose("www2")
        lab.lose("www3")
        until(lambda: len(on(lab, "www1")) == 3)
        taken = [c.at for c in lab.changes() if c.node == "www1" and c.present and c.address in lost]
        assert max(taken) - began < 2.0
        assert status(lab, "www1")["state"] == "RUN"
        lab.kill("www1", signal.SIGTERM)
        assert exit_code(lab, "www1") == 0
        assert on(lab, "www1") == []


def pending(pipe: int) -> int:
    """Bytes that wait in the pipe."""
    waiting = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0]
