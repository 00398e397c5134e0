"""Real agents and a host that claims their VIPs: what the client believes, who is told, and who serves in the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.lab import network
from agent.lab.arp import Capture, Seen
from agent.lab.lab import Lab
from agent.lab.plan import generate
from tests.lab.clusters import cluster, events, held_once, metric, on, until
from tests.lab.rival_host import RivalHost

pytestmark = pytest.mark.lab

FOUR, SIX = "10.72.1.1", "fd72::1:1"
NODES = ("www1", "www2")


def run_lab(name: str, *settings: str) -> Iterator[Lab]:
    plan = generate(name, len(NODES), 2, network.free_management_network(), ipv6=True)
    with cluster(name, len(NODES), 2, *settings, plan=plan) as lab:
        yield lab


@pytest.fixture
def lab(lab_name: str, request: pytest.FixtureRequest) -> Iterator[Lab]:
    yield from run_lab(lab_name, *getattr(request, "param", ()))


def holder(lab: Lab, address: str) -> str:
    (found,) = [node for node in NODES if address in on(lab, node)]
    return found


def mac_of(lab: Lab, node: str) -> str:
    return lab.plan.node(node).ports[0].mac


def believed(lab: Lab, address: str) -> str:
    """The hardware address that the client sends to."""
    client = lab.plan.namespace("client")
    return "".join(str(entry.get("lladdr", "")) for entry in network.query(["neigh", "show", address], client))


def know(lab: Lab, address: str, mac: str) -> None:
    """The client has talked to the VIP."""
    client = lab.plan.namespace("client")
    network.batch([f"neigh replace {address} lladdr {mac} nud reachable dev eth0"], client)


def conflicts(lab: Lab, node: str) -> list[tuple[str, str, str]]:
    """Address, rival and answer, as the node's history has them."""
    found = [each for each in events(lab, node) if each["type"] == "conflict_seen"]
    return [(each["fields"]["address"], each["fields"]["mac"], each["fields"]["answer"]) for each in found]


@pytest.mark.parametrize("address", [FOUR, SIX])
def test_a_client_that_believes_a_rival_returns(lab: Lab, address: str) -> None:
    node = holder(lab, address)
    said: list[Seen] = []

    def answers() -> list[float]:
        """Seconds from the claim to each word of the node after it."""
        said.extend(seen for seen in capture.frames() if seen.address == address)
        claims = [seen.at for seen in said if seen.mac == rival.mac]
        return [seen.at - claims[0] for seen in said if seen.node == node and claims and seen.at > claims[0]]

    with RivalHost(lab.plan) as rival, Capture(lab.plan) as capture:
        know(lab, address, mac_of(lab, node))
        rival.claim(address)
        until(lambda: (address, rival.mac, "defended") in conflicts(lab, node), why=lambda: conflicts(lab, node))
        until(lambda: believed(lab, address) == mac_of(lab, node), why=lambda: believed(lab, address))
        until(answers)
        assert answers()[0] < 1.0, "at once, and not only when announcements are repeated"
    until(lambda: metric(lab, node, "molehill_vip_conflicts_total", vip=FOUR) >= 1)
    assert holder(lab, address) == node


@pytest.mark.parametrize("lab", [("conflict.policy=yield",)], indirect=True)
def test_who_yields_hands_the_vip_over(lab: Lab) -> None:
    node = holder(lab, FOUR)
    (other,) = set(NODES) - {node}
    with RivalHost(lab.plan) as rival:
        rival.claim(FOUR)
        until(lambda: FOUR in on(lab, other) and FOUR not in on(lab, node), why=lab.holders)
        assert (FOUR, rival.mac, "yielded") in conflicts(lab, node)
        until(lambda: SIX in on(lab, other), why=lambda: "a VIP moves as a whole")


def test_fellows_that_hand_over_are_no_rivals(lab: Lab) -> None:
    node = holder(lab, FOUR)
    (other,) = set(NODES) - {node}
    for taker in (other, node, other):
        lab.ask(taker, "move", {"vip": FOUR, "node": taker})
        until(lambda taker=taker: FOUR in on(lab, taker) and held_once(lab), why=lab.holders)  # type: ignore[misc]
    assert [conflicts(lab, each) for each in NODES] == [[], []]


@pytest.mark.parametrize("lab", [("conflict.probe=true",)], indirect=True)
def test_what_a_host_has_is_not_taken_over(lab: Lab) -> None:
    node = holder(lab, FOUR)
    (other,) = set(NODES) - {node}
    with RivalHost(lab.plan) as rival:
        rival.take(FOUR, 16)
        lab.kill(node, everything=True)
        network.flush_vips(lab.plan, node)
        until(lambda: (FOUR, rival.mac, "yielded") in conflicts(lab, other), why=lambda: conflicts(lab, other))
        assert FOUR not in on(lab, other)
        rival.give_up(FOUR, 16)
        until(lambda: FOUR in on(lab, other), 60, lab.holders)
