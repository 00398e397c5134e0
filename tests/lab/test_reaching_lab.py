"""A member that is cut off is looked for more often than the kernel would, so that a heal does not wait for it."""

from __future__ import annotations

import pytest

from agent.lab import network
from agent.lab.arp import Capture, Seen
from agent.lab.lab import Lab
from tests.lab.clusters import cluster, members, until

pytestmark = pytest.mark.lab

LOOKS = 8
"""Requests awaited. The kernel alone makes one a second."""


def looked_for(lab: Lab, capture: Capture, node: str, found: list[Seen]) -> list[Seen]:
    """Adds the node's ARP requests from its own address, which are no announcements of VIPs."""
    own = lab.plan.node(node).ports[0].addresses[0].split("/")[0]
    found += [seen for seen in capture.frames() if (seen.node, seen.kind, seen.address) == (node, "request", own)]
    return found


def test_who_is_cut_off_is_looked_for_five_times_a_second(lab_name: str) -> None:
    with cluster(lab_name, 2, 2) as lab, Capture(lab.plan) as capture:
        away = lab.plan.node("www2").ports[0].addresses[0].split("/")[0]
        lab.cut("www2")
        until(lambda: members(lab, "www1") == ["www1"])
        # As it is some seconds later, when the kernel does not believe the old hardware address any more.
        network.batch([f"neigh del {away} dev eth0"], lab.plan.namespace("www1"))
        capture.frames()
        found: list[Seen] = []
        until(lambda: len(looked_for(lab, capture, "www1", found)) >= LOOKS)
        # The first may be the kernel's own, before the agent begins to look.
        assert found[LOOKS - 1].at - found[1].at < LOOKS - 3
        lab.heal()
        until(lambda: members(lab, "www1") == members(lab, "www2") == ["www1", "www2"])
        looked_for(lab, capture, "www1", found).clear()
        entries = network.query(["neigh", "show", away], lab.plan.namespace("www1"))
        assert [entry["lladdr"] for entry in entries] == [lab.plan.node("www2").ports[0].mac]
