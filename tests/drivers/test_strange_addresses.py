"""Addresses of VIPs that somebody else puts on this node: all are named, to be silenced before they can answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
from asking import Asker
from cable import Cable, Heard
from leasing import LONG, WEB, clock, lease, nft_, put_up, vip

from agent.core.events import VipAcquireFailed
from agent.core.inputs import AddressesAdded, AddressesRemoved, AddressLost, VipsUnable
from agent.drivers import sweep
from agent.drivers.lease import FastLease
from agent.drivers.lease_table import silenced
from agent.drivers.netlink import AddressDriver

pytestmark = pytest.mark.netns

BOTH = vip("both", "eth0:10.9.0.60/24", "eth0:fd00:9::60/64")
FOUR, SIX = (ip_address(address.address).packed for address in BOTH.addresses)


@asynccontextmanager
async def driver(heard: Heard, strange: frozenset[bytes] = frozenset()) -> AsyncIterator[AddressDriver]:
    """Says each set of strange addresses among the rest."""
    made = AddressDriver((BOTH,), clock=clock, on_input=heard, on_event=heard, on_strange=heard)
    await made.open(strange)
    try:
        yield made
    finally:
        made.close()


async def test_every_address_of_a_vip_is_strange_not_just_one(cable: Cable, heard: Heard) -> None:
    async with driver(heard):
        cable.ip("addr add 10.9.0.60/24 dev eth0")
        cable.ip("addr add fd00:9::60/64 dev eth0 nodad")
        await heard.until(lambda: frozenset({FOUR, SIX}) in heard.said)
        cable.ip("addr del fd00:9::60/64 dev eth0")
        await heard.until(lambda: heard.of(frozenset)[-1] == frozenset({FOUR}))
        assert len(heard.of(VipAcquireFailed)) == 1, "told once"


@pytest.mark.parametrize("beside", ["10.9.0.60/16 dev eth0", "10.9.0.60/24 dev lo"])
async def test_one_put_beside_a_held_vip_is_silenced_before_the_vip_is_given_away(
    cable: Cable, heard: Heard, beside: str
) -> None:
    async with driver(heard) as made:
        made.acquire((BOTH.name,))
        assert heard.of(AddressesAdded)
        cable.ip(f"addr add {beside}")
        await heard.until(lambda: heard.of(VipsUnable)[-1].vips == (("both", "exists_here"),))
        assert heard.of(frozenset) == [], "as long as it is held here it is answered here"
        made.release((BOTH.name,))
        assert heard.of(frozenset) == [frozenset({FOUR})]
        (removed,) = heard.of(AddressesRemoved)
        assert heard.said.index(frozenset({FOUR})) < heard.said.index(removed)
        assert [each.reason for each in heard.of(VipAcquireFailed)] == ["exists_here"], "and told"
        cable.ip(f"addr del {beside}")
        await heard.until(lambda: heard.of(VipsUnable)[-1].vips == ())
        assert heard.of(frozenset)[-1] == frozenset()


async def test_one_put_beside_a_vip_that_is_then_deleted_is_silenced(cable: Cable, heard: Heard) -> None:
    async with driver(heard) as made:
        made.acquire((BOTH.name,))
        cable.ip("addr add 10.9.0.60/24 dev lo")
        await heard.until(lambda: heard.of(VipsUnable)[-1].vips == (("both", "exists_here"),))
        cable.ip("addr del 10.9.0.60/24 dev eth0")
        cable.ip("addr del fd00:9::60/64 dev eth0")
        await heard.until(lambda: len(heard.of(AddressLost)) > 0 and heard.of(frozenset) == [frozenset({FOUR})])


async def test_what_was_strange_in_a_former_life_still_is(cable: Cable, heard: Heard) -> None:
    """And what was not is the node's own: it may live by it."""
    cable.ip("addr add 10.9.0.60/24 dev eth0")
    cable.ip("addr add fd00:9::60/64 dev eth0 nodad")
    async with driver(heard, strange=frozenset({FOUR, ip_address("10.9.0.61").packed})) as made:
        assert heard.of(frozenset) == [frozenset({FOUR})]
        assert made.strange == frozenset({FOUR})


async def test_tables_that_silence_strange_addresses_stay(cable: Cable, heard: Heard) -> None:
    """Until these are gone, whoever ends: else they would answer beside the VIP's holder."""
    put_up(cable)
    both = frozenset(ip_address(address.address).packed for address in WEB.addresses)
    async with lease(heard, WEB) as made:
        assert len(made.removal()) == 3
        made.silence(both)
        assert made.removal() == ()
    assert silenced("www") == both
    with Asker(cable) as ask:
        assert not ask.arp("10.9.0.50")
        assert sweep.remove_tables() == 0
        assert not ask.arp("10.9.0.50"), "nor is it swept away"
        made = FastLease("www", (WEB,), clock=clock, on_input=heard, on_event=heard)
        made.open((), silenced("www"))
        assert not ask.arp("10.9.0.50")
        made.hold(clock() + LONG, True)
        assert not ask.arp("10.9.0.50"), "lease or no lease"
        made.silence(frozenset())
        assert ask.arp("10.9.0.50")
        made.close(remove=True)
    assert silenced("www") == frozenset()
    assert sweep.remove_tables() == 0
    assert nft_("list", "ruleset") == ""
