"""The lab's network, watch and prober against the kernel; addresses are moved by hand."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeLab

from agent.lab import arp, formation, namespaces, network, processes, state
from agent.lab.lab import Lab, down, now
from agent.lab.namespaces import entered
from agent.lab.plan import LabError, generate
from agent.lab.probing import Probing

pytestmark = pytest.mark.netns
VIP, SECOND, THIRD = "10.72.1.1", "10.72.1.2", "10.72.1.3"


def put(lab: Lab, node: str, *addresses: str) -> None:
    lines = [f"addr add {one} dev eth0{' nodad' if ':' in one else ''}" for one in addresses]
    network.batch(lines, lab.plan.namespace(node))


def take(lab: Lab, node: str, *addresses: str) -> None:
    network.batch([f"addr del {one} dev eth0" for one in addresses], lab.plan.namespace(node))


def announce(lab: Lab, node: str, address: str) -> float:
    """A gratuitous ARP request, as the agent sends it; returns when it was sent."""
    mac = bytes.fromhex(lab.plan.node(node).ports[0].mac.replace(":", ""))
    raw = socket.inet_aton(address)
    with entered(lab.plan.namespace(node)), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0x0806))
        at = now()
        body = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, raw, bytes(6), raw)
        sock.send(b"\xff" * 6 + mac + b"\x08\x06" + body)
    return at


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def until_seen(lab: Lab, address: str, nodes: list[str]) -> None:
    """Until the watch has it; it is a process of its own."""
    until(lambda: lab.holders()[address] == nodes)


def test_nothing_of_a_lab_is_left_after_down_and_down_again_does_nothing(make_lab: MakeLab, lab_name: str) -> None:
    lab = make_lab(agents=True)
    pids = [process.pid for process in (*lab.running().agents.values(), *lab.running().services.values())]
    formation.wait_formed(lab)
    helpers = [int((lab.directory / "nodes" / node.name / "helper").read_text()) for node in lab.plan.nodes]
    inside = subprocess.Popen(["ip", "netns", "exec", lab.plan.namespace("www1"), "sleep", "100"])
    until(lambda: inside.pid in namespaces.processes_in([lab.plan.namespace("www1")]))
    assert down(lab_name)
    assert inside.wait(30) == -signal.SIGKILL
    assert namespaces.with_prefix(f"mh-{lab_name}-") == []
    assert not Path(f"/sys/class/net/mh-{lab_name}").exists()
    assert not lab.directory.exists()
    until(lambda: all(gone(pid) for pid in pids + helpers))
    assert down(lab_name) == []


def gone(pid: int) -> bool:
    """Or a zombie."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_down_removes_what_a_crash_left_half_made(lab_name: str) -> None:
    network.batch([f"netns add mh-{lab_name}-net", f"netns add mh-{lab_name}-www1"])
    state.directory_of(lab_name).mkdir(parents=True)
    (state.directory_of(lab_name) / "running.json").write_text("{")
    with pytest.raises(LabError, match="is there already"):
        Lab.create(generate(lab_name, 1, 1, network.free_management_network()), agents=False)
    assert any("2 namespaces" in line for line in down(lab_name))
    assert namespaces.with_prefix(f"mh-{lab_name}-") == []


def test_a_build_that_fails_leaves_nothing(lab_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_addresses", lambda plan, name: ["addr add nonsense dev eth0"])
    with pytest.raises(LabError, match=r"valid prefix .*nonsense"):
        Lab.create(generate(lab_name, 2, 1, network.free_management_network()), agents=False)
    assert namespaces.with_prefix(f"mh-{lab_name}-") == []
    assert not state.directory_of(lab_name).exists()


def test_two_labs_do_not_meet(make_lab: MakeLab) -> None:
    first = make_lab(nodes=1)
    other = f"u{os.getpid() % 1_000_000}"
    try:
        second = Lab.create(generate(other, 1, 1, network.free_management_network()), agents=False)
        assert second.plan.management != first.plan.management
        put(second, "www1", f"{VIP}/16")
        until_seen(second, VIP, ["www1"])
        until(lambda: arp.who_answers(second.plan)[VIP] == ["www1"])
        assert first.holders()[VIP] == []
        assert arp.who_answers(first.plan)[VIP] == []
    finally:
        down(other)
    assert first.running().services
    assert processes.alive(first.running().services["watch"])


def test_cut_split_and_heal_change_who_answers(make_lab: MakeLab) -> None:
    lab = make_lab(ipv6=True)
    six = "fd72::1:1"
    put(lab, "www1", f"{VIP}/16", f"{six}/64")
    put(lab, "www2", f"{SECOND}/16")

    def answers() -> tuple[list[str], list[str], list[str]]:
        found = arp.who_answers(lab.plan)
        return found[VIP], found[six], found[SECOND]

    # A port forwards, and a carrier shows, when the kernel gets round to it.
    until(lambda: answers() == (["www1"], ["www1"], ["www2"]))
    lab.cut("www1")
    assert answers() == ([], [], ["www2"])
    assert carrier(lab, "www1")
    lab.heal()
    lab.cut("www1", link=True)
    assert answers() == ([], [], ["www2"])
    until(lambda: not carrier(lab, "www1"))
    lab.heal(["www1"])
    until(lambda: carrier(lab, "www1"))
    lab.split(["www1", "client"])
    until(lambda: answers() == (["www1"], ["www1"], []))
    assert not reaches(lab, "www1", "10.72.0.3")
    until(lambda: reaches(lab, "www2", "10.72.0.3"))
    with pytest.raises(LabError, match="split off already"):
        lab.split(["www2"])
    lab.heal()
    until(lambda: answers() == (["www1"], ["www1"], ["www2"]))
    assert [sorted(apart.nodes) for apart in lab.apart()] == [["www1"], ["www1"], ["client", "www1"]]
    assert all(apart.since < apart.until < now() for apart in lab.apart())


def carrier(lab: Lab, node: str) -> bool:
    links = network.query(["link", "show", "eth0"], lab.plan.namespace(node))
    return "NO-CARRIER" not in str(links[0]["flags"])


def reaches(lab: Lab, node: str, address: str) -> bool:
    """One datagram to the other node's echo."""
    with namespaces.socket_in(lab.plan.namespace(node), socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.sendto(b"hello!", (address, 7072))
        try:
            return sock.recv(64)[:6] == b"hello!"
        except TimeoutError:
            return False


def test_management_link_survives_every_cut(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2)
    lab.cut("www1", link=True)
    lab.split(["www2"])
    for node in lab.plan.nodes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(15)
            sock.sendto(b"hello!", (node.management, 7072))
            assert sock.recvfrom(64)[1] == (node.management, 7072)


def hears(sock: socket.socket, lab: Lab, node: str, address: str) -> bool:
    """Whether the node's announcement comes here."""
    announce(lab, node, address)
    try:
        return bool(sock.recv(64))
    except TimeoutError:
        return False


@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft")
def test_one_way_cut_drops_one_direction(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2)
    lab.one_way("www1", "www2")
    with namespaces.socket_in(lab.plan.namespace("www1"), socket.AF_PACKET, socket.SOCK_RAW) as at_one:
        at_one.bind(("eth0", 0x0806))
        at_one.settimeout(0.2)
        until(lambda: hears(at_one, lab, "www2", SECOND))  # a port of a new lab forwards after a while
    with namespaces.socket_in(lab.plan.namespace("www2"), socket.AF_PACKET, socket.SOCK_RAW) as at_two:
        at_two.bind(("eth0", 0x0806))
        at_two.settimeout(0.2)
        assert not hears(at_two, lab, "www1", VIP)
        lab.heal()
        until(lambda: hears(at_two, lab, "www1", VIP))


def test_watch_keeps_the_kernels_order_and_tells_overlap_from_hand_over(make_lab: MakeLab) -> None:
    lab = make_lab()
    began = now()
    put(lab, "www1", f"{VIP}/16", f"{SECOND}/16", f"{THIRD}/16")
    for _ in range(20):
        take(lab, "www1", f"{VIP}/16")
        put(lab, "www2", f"{VIP}/16")
        take(lab, "www2", f"{VIP}/16")
        put(lab, "www1", f"{VIP}/16")
    twice = now()
    put(lab, "www3", f"{SECOND}/16")
    until_seen(lab, SECOND, ["www1", "www3"])
    take(lab, "www1", f"{SECOND}/16")
    until_seen(lab, SECOND, ["www3"])
    once = now()
    lab.cut("www2")
    put(lab, "www2", f"{THIRD}/16")
    until_seen(lab, THIRD, ["www1", "www2"])
    take(lab, "www2", f"{THIRD}/16")
    until_seen(lab, THIRD, ["www1"])
    found = lab.held_twice(began, now())
    assert [(one.address, one.nodes) for one in found] == [(SECOND, ("www1", "www3"))]
    assert twice < found[0].since < found[0].until < once
    assert sum(1 for change in lab.changes() if change.address == VIP) == 81
    assert len([held for held in lab.periods(now()) if held.address == VIP]) == 41


def test_renewed_lifetimes_are_no_changes(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1)
    for seconds in (100, 200, 300):
        network.batch(
            [f"addr replace {VIP}/16 dev eth0 valid_lft {seconds} preferred_lft {seconds}"], lab.plan.namespace("www1")
        )
    put(lab, "www1", f"{SECOND}/16")
    until_seen(lab, SECOND, ["www1"])
    assert sum(1 for change in lab.changes() if change.address == VIP) == 1


def test_prober_sees_an_outage_last_until_the_announcement(make_lab: MakeLab) -> None:
    """The client's own neighbour entry decides: the address has moved long before it is told."""
    lab = make_lab(vips=2)
    put(lab, "www1", f"{VIP}/16", f"{SECOND}/16")
    with Probing(lab) as probing, arp.Capture(lab.plan) as capture:
        probing.wait_answered(30)
        since = now()
        take(lab, "www1", f"{VIP}/16")
        put(lab, "www2", f"{VIP}/16")
        until_seen(lab, VIP, ["www2"])
        removed = max(change.at for change in lab.changes() if (change.address, change.present) == (VIP, False))
        probing.recording(since, now() + 0.3)
        earliest = announce(lab, "www2", VIP)
        latest = now()
        end = latest + 0.2
        recording = probing.recording(since, end)
        moved, kept = probing.outages(since, end, recording)
        (told,) = [seen for seen in capture.frames() if seen.address == VIP and seen.gratuitous]
        slack = 0.020 + recording.worst_stall(since, end)
        assert moved.seconds == pytest.approx(told.at - removed, abs=slack)
        assert (moved.before, moved.after, moved.turns, moved.served) == ("www1", "www2", 1, True)
        assert kept.seconds < slack
        assert (kept.turns, kept.runs[0][0]) == (0, "www1")
    assert (told.node, told.kind, told.broadcast) == ("www2", "request", True)
    assert earliest - 0.001 < told.at < latest + 0.001


def test_prober_covers_ipv6(make_lab: MakeLab) -> None:
    lab = make_lab(vips=1, ipv6=True)
    put(lab, "www2", f"{VIP}/16", "fd72::1:1/64")
    with Probing(lab) as probing:
        probing.wait_answered(30)
        since = now()
        seen = probing.outages(since, since + 0.2)
    assert [(one.address, one.served, one.runs[0][0]) for one in seen] == [
        (VIP, True, "www2"),
        ("fd72::1:1", True, "www2"),
    ]


def test_asking_who_answers_leaves_the_clients_neighbour_cache_alone(make_lab: MakeLab) -> None:
    lab = make_lab(vips=1)
    put(lab, "www1", f"{VIP}/16")
    with entered(lab.plan.namespace("client")):
        # Else the kernel would ignore a second answer within a second of the first anyhow.
        Path("/proc/sys/net/ipv4/neigh/eth0/locktime").write_text("0")
    with Probing(lab) as probing:
        probing.wait_answered(30)
        take(lab, "www1", f"{VIP}/16")
        put(lab, "www2", f"{VIP}/16")
        until(lambda: arp.who_answers(lab.plan) == {VIP: ["www2"]})
        assert not probing.outages(now() - 0.05, now())[0].served


def test_signals_reach_the_agent_or_all_of_its_processes(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, vips=2, agents=True)
    formation.wait_formed(lab)
    helper = int((lab.directory / "nodes" / "www1" / "helper").read_text())
    first = lab.agent("www1")
    assert first is not None
    lab.kill("www1", signal.SIGSTOP)
    until(lambda: processes.stopped(first))
    lab.kill("www1", signal.SIGCONT)
    lab.kill("www1")
    assert lab.wait_ended("www1", 30)
    assert lab.agent("www1") is None
    assert Path(f"/proc/{helper}").exists()
    with pytest.raises(LabError, match="no agent runs on www1"):
        lab.kill("www1", signal.SIGTERM)
    lab.kill("www1", everything=True)
    until(lambda: gone(helper))
    assert lab.holders()[VIP] == ["www1"]
    network.flush_vips(lab.plan, "www1")
    lab.start("www1")
    with pytest.raises(LabError, match="runs already"):
        lab.start("www1")
    formation.wait_formed(lab)
    lab.kill("www1", signal.SIGTERM)
    assert lab.wait_ended("www1", 30)
    assert formation.last_words(lab, "www1") == "stood in to the end"
    with pytest.raises(LabError, match="the agent of www1 has ended: stood in to the end"):
        formation.wait_formed(lab)


def test_a_lost_host_leaves_the_network_and_boots_without_vips(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, vips=2, agents=True)
    formation.wait_formed(lab)
    lab.lose("www1")
    assert lab.wait_ended("www1", 30)
    until(lambda: not carrier(lab, "www1"))
    put(lab, "www2", f"{VIP}/16")
    until_seen(lab, VIP, ["www1", "www2"])
    assert lab.held_twice(0, now()) == []
    lab.stop_at_once("www1")
    until_seen(lab, VIP, ["www2"])
    take(lab, "www2", f"{VIP}/16")
    lab.reboot("www1")
    formation.wait_formed(lab)
    until(lambda: carrier(lab, "www1"))


def test_formation_names_what_is_missing(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, vips=2, agents=True)
    formation.wait_formed(lab)
    # It gives an agent a second to answer.
    until(lambda: formation.missing(lab, ["www1", "www2"]) == "")
    until(lambda: "is in view" in formation.missing(lab, ["www1"]))
    put(lab, "www2", f"{VIP}/16")
    until_seen(lab, VIP, ["www1", "www2"])
    until(lambda: formation.missing(lab, ["www1", "www2"]) == f"not held exactly once: {VIP} (www1 and www2)")
