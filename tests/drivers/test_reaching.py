"""Entries of peers that the kernel asks for in vain, in the real kernel: only these go, and the next packet asks."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest
from cable import Cable

from agent.drivers.reaching import ask_again

pytestmark = pytest.mark.netns

AWAY = {"10.9.0.77": "10.9.0.78", "fd00:9::77": "fd00:9::78"}
"""Nobody has these: the peer, and somebody else."""


def states(cable: Cable) -> dict[str, list[str]]:
    entries = json.loads(cable.ip("-json neigh show dev eth0 nud all"))
    return {entry["dst"]: entry["state"] for entry in entries if not entry["dst"].startswith(("ff", "224."))}


def speak(address: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as speaking:
        speaking.sendto(b"heartbeat", (address, 9))


@pytest.mark.parametrize("peer", AWAY)
def test_only_a_peers_incomplete_entry_goes(cable: Cable, peer: str) -> None:
    other = AWAY[peer]
    for address in (peer, other):
        speak(address)
    cable.ip(f"neigh replace 10.9.0.2 lladdr {cable.client_mac} nud stale dev eth0")
    cable.ip(f"neigh replace 10.9.0.3 lladdr {cable.client_mac} nud permanent dev eth0")
    before = states(cable)
    assert before[peer] == before[other] == ["INCOMPLETE"]
    assert asyncio.run(ask_again([peer, "10.9.0.2", "10.9.0.3"])) == 1
    after = states(cable)
    assert peer not in after
    assert after == {address: state for address, state in before.items() if address != peer}
    assert asyncio.run(ask_again([peer])) == 0


def test_the_next_packet_asks_at_once(cable: Cable) -> None:
    """The kernel alone asks again a second after each request: four of them take three seconds."""
    peer = "10.9.0.77"
    asked = []
    with cable.capture() as packets:
        packets.settimeout(5)
        while len(asked) < 4:
            speak(peer)
            while not requests(packets.recv(2048), peer):
                pass
            asked.append(time.monotonic())
            assert asyncio.run(ask_again([peer])) == 1
    assert asked[-1] - asked[0] < 2.5


def requests(frame: bytes, address: str) -> bool:
    """Whether it is an ARP request for this address."""
    return frame[12:14] == b"\x08\x06" and frame[38:42] == socket.inet_aton(address)
