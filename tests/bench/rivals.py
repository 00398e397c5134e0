"""A strange host claims a VIP by one gratuitous ARP: how soon that is reported, and how long the client goes astray."""

from __future__ import annotations

from collections import Counter

from agent.lab.lab import Lab, now
from tests.bench.scenarios import TAKE_OVER_SECONDS, Bench, Trial, back, seen_by_client, victim, watch_on
from tests.bench.system import wait_holders
from tests.lab.clusters import events, until
from tests.lab.rival_host import RivalHost

WATCHED = 1.5
"""Seconds after the claim: beyond the second round of a defence."""


def reported(lab: Lab, node: str, address: str, mac: str) -> str:
    """What the node's history says was done about the latest claim; empty: nothing is said yet."""
    seen = [each["fields"] for each in events(lab, node) if each["type"] == "conflict_seen"]
    return next((str(one["answer"]) for one in reversed(seen) if (one["address"], one["mac"]) == (address, mac)), "")


def least_claimed(lab: Lab, addresses: list[str]) -> str:
    """A VIP that every node has yielded is nobody's for some seconds: so each is claimed in turn."""
    seen = [each for host in lab.plan.nodes for each in events(lab, host.name) if each["type"] == "conflict_seen"]
    claimed = Counter(each["fields"]["address"] for each in seen)
    return min(addresses, key=lambda address: claimed[address])


def rival(bench: Bench, number: int) -> list[Trial]:
    """Whichever policy the agents have. Each trial has a MAC of its own, so that its report is told from others'."""
    node, others, hit = victim(bench, number)
    address = least_claimed(bench.lab, hit)
    with RivalHost(bench.lab.plan, mac=f"02:6d:68:fe:{number // 256:02x}:{number % 256:02x}") as host:
        since = now()
        host.claim(address)
        until(lambda: reported(bench.lab, node, address, host.mac))
        told = now() - since
        answer = reported(bench.lab, node, address, host.mac)
        if answer == "yielded":
            wait_holders(bench.lab, [address], others, TAKE_OVER_SECONDS)
        watch_on(WATCHED)
        trial = seen_by_client(bench, f"rival ({answer})", node, since, [address])
    trial.details["reported_within"] = told
    back(bench)
    return [trial]


RIVALS = {"rival": rival}
