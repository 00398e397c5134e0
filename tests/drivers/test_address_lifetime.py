"""The address lifetime: renewed in time and in slices, and noticed when it has run out all the same."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from ipaddress import ip_address

import pytest
from cable import PATIENCE, Cable, Heard, valid_seconds
from leasing import lease

from agent.core.events import LeaseLost, LeaseRenewed
from agent.core.ids import VipName
from agent.core.inputs import AddressesAdded, AddressLost
from agent.core.settings import Address, Vip
from agent.drivers import rtnetlink
from agent.drivers.addresses import TAG
from agent.drivers.lease_table import others
from agent.drivers.lifetime import LINEAR, QUADRATIC, RENEW_AT, SHARE, AddressLifetime, lifetimes
from agent.drivers.netlink import AddressDriver
from agent.drivers.records import AddressKey


def vip(name: str, *entries: str) -> Vip:
    addresses = []
    for entry in entries:
        interface, _, rest = entry.partition(":")
        address, _, prefix = rest.partition("/")
        addresses.append(Address(interface, address, int(prefix), rest))
    return Vip(VipName(name), tuple(addresses))


BOTH = vip("both", "eth0:10.9.0.60/24", "eth0:fd00:9::60/64")


@asynccontextmanager
async def driver(heard: Heard, *vips: Vip, lifetime: int) -> AsyncIterator[AddressDriver]:
    made = AddressDriver(vips, clock=time.monotonic, on_input=heard, on_event=heard, lifetime=lifetime)
    await made.open()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("count", [0, 1, 10, 100, 1000, 10_000])
def test_renewals_take_no_more_than_their_share(count: int) -> None:
    found = lifetimes(3, {4: count, 16: count})
    for length, seconds in ((4, found.version4), (16, found.version6)):
        assert seconds >= 3
        cost = LINEAR[length] * count + QUADRATIC[length] * count**2
        assert cost / (RENEW_AT * seconds) <= SHARE
    assert (found == (3, 3)) == (count <= 100)
    assert lifetimes(0, {4: count, 16: count}) == (0, 0), "for ever stays for ever"


async def test_slices_are_cut_to_what_they_may_take() -> None:
    now = 0.0
    slices: list[Sequence[AddressKey]] = []
    keys = [AddressKey(1, ip_address(number).packed, 32) for number in range(1, 501)]
    done = asyncio.Event()

    def renew(part: Sequence[AddressKey]) -> None:
        nonlocal now
        now += 0.001 * len(part)
        slices.append(part)

    life = AddressLifetime(1, clock=lambda: now, held=lambda: keys, renew=renew, on_event=lambda event: done.set())
    life.start()
    await asyncio.wait_for(done.wait(), PATIENCE)
    life.stop()
    assert [key for part in slices for key in part][:500] == keys, "each once, before any again"
    assert max(len(part) for part in slices[1:]) <= 6, "3 ms, or a slice after one that was below that"


@pytest.mark.netns
async def test_held_addresses_outlive_their_lifetime_and_only_while_renewed(cable: Cable, heard: Heard) -> None:
    async with driver(heard, BOTH, lifetime=3) as made:
        made.acquire((BOTH.name,))
        made.start_renewing()
        await heard.until(lambda: len(heard.of(LeaseRenewed)) >= 8)  # four rounds of two families, 4.8 s
        assert {"10.9.0.60/24", "fd00:9::60/64"} <= cable.addresses()
        for renewed in heard.of(LeaseRenewed):
            assert renewed.layer == "address"
            assert renewed.until > renewed.at
            assert renewed.margin < 3.0
        assert heard.of(AddressLost) == []
    await wait_until_gone(cable)


async def wait_until_gone(cable: Cable) -> None:
    """The agent is gone: the kernel takes the addresses off without it."""
    events = rtnetlink.event_socket(1 << 20)
    try:
        async with asyncio.timeout(PATIENCE):
            while {"10.9.0.60/24", "fd00:9::60/64"} & cable.addresses():
                await asyncio.get_running_loop().sock_recv(events, 65536)
    finally:
        events.close()


@pytest.mark.netns
async def test_what_ran_out_is_a_lost_lease_and_what_was_deleted_is_not(cable: Cable, heard: Heard) -> None:
    async with driver(heard, BOTH, lifetime=100) as made:
        made.acquire((BOTH.name,))
        cable.ip("addr del 10.9.0.60/24 dev eth0")
        await heard.until(lambda: bool(heard.of(AddressLost)))
        assert heard.of(LeaseLost) == []
    del heard.said[:]
    async with driver(heard, BOTH, lifetime=1) as made:
        made.acquire((BOTH.name,))
        await heard.until(lambda: bool(heard.of(AddressLost)))
        (lost,) = heard.of(LeaseLost)[:1]
        assert lost.layer == "address"
        assert heard.said.index(lost) < heard.said.index(heard.of(AddressLost)[0])


@pytest.mark.netns
async def test_an_address_of_a_former_life_gets_its_full_lifetime(cable: Cable, heard: Heard) -> None:
    with closing(rtnetlink.RequestSocket()) as former:
        key = AddressKey(socket.if_nametoindex("eth0"), ip_address("10.9.0.60").packed, 24)
        assert former.execute([rtnetlink.add_address(key, tag=TAG, lifetime=100)]) == [rtnetlink.DONE]
    async with driver(heard, BOTH, lifetime=300) as made:
        assert made.strays() == ("10.9.0.60",)
        made.acquire((BOTH.name,))
        assert heard.of(AddressesAdded)
        assert made.strays() == ()
        left = valid_seconds(cable.ip("addr show dev eth0"))
        assert len(left) == 2
        assert all(200 < seconds <= 300 for seconds in left)


@pytest.mark.netns
async def test_what_another_clusters_agent_looks_after_was_not_left_by_a_former_life(
    cable: Cable, heard: Heard
) -> None:
    ours, theirs = (AddressKey(socket.if_nametoindex("eth0"), ip_address(f"10.9.0.{n}").packed, 24) for n in (60, 61))
    with closing(rtnetlink.RequestSocket()) as former:
        former.execute([rtnetlink.add_address(key, tag=TAG) for key in (ours, theirs)])
    async with lease(heard, BOTH, cluster="other") as other:
        other.cover([theirs])
        assert others("other") == frozenset()
        async with driver(heard, BOTH, lifetime=0) as made:
            assert made.strays(others("www")) == ("10.9.0.60",)
            assert made.remove_strays(others("www")) == (("eth0", "10.9.0.60"),)
            assert "10.9.0.61/24" in cable.addresses()


@pytest.mark.netns
async def test_no_lifetime_no_renewal(cable: Cable, heard: Heard) -> None:
    async with driver(heard, BOTH, lifetime=0) as made:
        made.acquire((BOTH.name,))
        made.start_renewing()
        told = cable.ip("addr show dev eth0 to 10.9.0.60")
        assert "valid_lft forever" in told
