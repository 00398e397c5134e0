"""Asking before acquiring, with the real address driver and a host at the other end of the cable that has the VIP."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from cable import Cable, Heard
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether

from agent.core.events import ArpSent, ConflictSeen
from agent.core.ids import NodeName, VipName
from agent.core.inputs import AddressesAdded, AddressesFailed, AddressesRemoved
from agent.core.settings import Address, Vip
from agent.drivers import frames
from agent.drivers.netlink import AddressDriver
from agent.drivers.probing import Prober
from agent.drivers.watch import ConflictWatch

WEB = Vip(VipName("web"), (Address("eth0", "10.9.0.50", 24, "10.9.0.0/24"),))
SIX = Vip(VipName("six"), (Address("eth0", "fd00:9::50", 64, "fd00:9::/64"),))
PAIR = Vip(
    VipName("pair"),
    (Address("eth0", "10.9.0.60", 24, "10.9.0.0/24"), Address("eth0", "fd00:9::60", 64, "fd00:9::/64")),
)
ALL = (WEB, SIX, PAIR)
netns = pytest.mark.netns


@dataclass(frozen=True, slots=True)
class Parts:
    prober: Prober
    watch: ConflictWatch
    driver: AddressDriver


@asynccontextmanager
async def probing(
    heard: Heard, vips: tuple[Vip, ...] = ALL, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Parts]:
    driver = AddressDriver(vips, clock=clock, on_input=heard, on_event=heard)
    watch = ConflictWatch(vips, "defend", clock=clock, on_input=heard, on_event=heard, defend=heard)
    await driver.open()
    await watch.open()
    prober = Prober(vips, driver, watch, clock=clock, on_input=heard, on_event=heard)
    try:
        yield Parts(prober, watch, driver)
    finally:
        prober.close()
        watch.close()
        driver.close()


def added(heard: Heard) -> list[VipName]:
    return [vip for each in heard.of(AddressesAdded) for vip in each.vips]


@netns
async def test_silence_is_followed_by_the_acquisition(cable: Cable, heard: Heard) -> None:
    async with probing(heard) as parts:
        parts.prober.acquire((WEB.name, SIX.name, PAIR.name))
        assert parts.prober.busy
        assert "10.9.0.50/24" not in cable.addresses()
        await heard.until(lambda: len(added(heard)) == 3)
        assert cable.addresses() >= {"10.9.0.50/24", "fd00:9::50/64", "10.9.0.60/24", "fd00:9::60/64"}
        assert not parts.prober.busy
    asked = [(each.vip, each.kind, each.target, each.error) for each in heard.of(ArpSent)]
    once = [
        ("web", "probe", "10.9.0.50", ""),
        ("six", "probe", "fd00:9::50", ""),
        ("pair", "probe", "10.9.0.60", ""),
        ("pair", "probe", "fd00:9::60", ""),
    ]
    assert asked == 2 * once
    assert heard.of(ConflictSeen) == []


@netns
@pytest.mark.parametrize(("vip", "address"), [(WEB, "10.9.0.50/24"), (SIX, "fd00:9::50/64"), (PAIR, "fd00:9::60/64")])
async def test_what_somebody_has_is_left_to_him(cable: Cable, heard: Heard, vip: Vip, address: str) -> None:
    cable.ready()
    cable.client_ip(f"addr add {address} dev eth0 nodad")
    async with probing(heard) as parts:
        parts.prober.acquire(tuple(each.name for each in ALL))
        await heard.until(lambda: len(added(heard)) == 2)
        assert vip.name not in added(heard)
        assert not set(cable.addresses()) & {f"{each.address}/{each.prefix}" for each in vip.addresses}
    (failed,) = heard.of(AddressesFailed)
    assert (failed.vip, failed.reason) == (vip.name, "conflict")
    assert cable.client_mac in failed.detail
    (seen,) = heard.of(ConflictSeen)
    assert (seen.vip, seen.mac, seen.answer) == (vip.name, cable.client_mac, "yielded")
    assert f"{seen.address}/" in address


@netns
async def test_a_fellow_that_answers_does_not_count(cable: Cable, heard: Heard) -> None:
    """The group has settled whose it is; its old holder may be about to remove it."""
    cable.client_ip("addr add 10.9.0.50/24 dev eth0")
    async with probing(heard) as parts:
        parts.watch.fellows(((cable.client_mac, NodeName("www2")),))
        parts.prober.acquire((WEB.name,))
        await heard.until(lambda: added(heard) == [WEB.name])
    assert (heard.of(AddressesFailed), heard.of(ConflictSeen)) == ([], [])


@netns
async def test_a_release_takes_the_question_back(cable: Cable, heard: Heard) -> None:
    async with probing(heard) as parts:
        parts.prober.acquire((WEB.name, SIX.name))
        parts.prober.release((WEB.name,))
        await heard.until(lambda: added(heard) != [])
        assert heard.of(AddressesRemoved) == [AddressesRemoved((WEB.name,))]
        assert added(heard) == [SIX.name]
        assert "10.9.0.50/24" not in cable.addresses()
        parts.prober.release((SIX.name,))
        assert heard.of(AddressesRemoved)[1:] == [AddressesRemoved((SIX.name,))]
        assert "fd00:9::50/64" not in cable.addresses()


@netns
async def test_acquired_again_after_a_release_is_asked_again(cable: Cable, heard: Heard) -> None:
    async with probing(heard) as parts:
        for _ in range(3):
            parts.prober.acquire((WEB.name,))
            parts.prober.release((WEB.name,))
        parts.prober.acquire((WEB.name,))
        await heard.until(lambda: added(heard) != [])
        assert added(heard) == [WEB.name]
        assert len(heard.of(AddressesRemoved)) == 3
        assert len(heard.of(ArpSent)) == 3 + 2


@netns
async def test_what_is_held_is_mended_without_a_question(cable: Cable, heard: Heard) -> None:
    """Its other addresses are up: a failed acquisition would promise that they are not."""
    async with probing(heard) as parts:
        parts.prober.acquire((PAIR.name,))
        await heard.until(lambda: added(heard) == [PAIR.name])
        parts.watch.held((PAIR.name,))
        asked = len(heard.of(ArpSent))
        cable.ip("addr del fd00:9::60/64 dev eth0")
        parts.prober.acquire((PAIR.name,))
        assert added(heard) == [PAIR.name, PAIR.name]
        assert "fd00:9::60/64" in cable.addresses()
        assert len(heard.of(ArpSent)) == asked


@netns
async def test_many_are_asked_for_in_slices_and_all_acquired(cable: Cable, heard: Heard) -> None:
    many = tuple(
        Vip(
            VipName(f"v{number}"), (Address("eth0", f"10.9.{1 + number // 200}.{1 + number % 200}", 16, "10.9.0.0/16"),)
        )
        for number in range(300)
    )
    names = [vip.name for vip in many]
    cable.client_ip("addr add 10.9.2.50/32 dev eth0")
    async with probing(heard, many) as parts:
        parts.prober.acquire(tuple(names))
        await heard.until(lambda: len(added(heard)) == 299)
        assert sorted(added(heard)) == sorted(set(names) - {"v249"})
        assert [each.vip for each in heard.of(AddressesFailed)] == ["v249"]


@netns
async def test_without_an_interface_the_driver_says_so(cable: Cable, heard: Heard) -> None:
    async with probing(heard) as parts:
        cable.unplug()
        parts.prober.acquire((WEB.name,))
        await heard.until(lambda: heard.of(AddressesFailed) != [])
        (failed,) = heard.of(AddressesFailed)
        assert failed.reason in ("interface_missing", "interface_down", "no_carrier")


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=6, max_size=6), st.binary(min_size=16, max_size=16))
def test_the_question_is_that_of_scapy(mac: bytes, vip: bytes) -> None:
    text = socket.inet_ntop(socket.AF_INET6, vip)
    group = socket.inet_ntop(socket.AF_INET6, frames.SOLICITED_NODE + vip[-3:])
    ether = Ether(dst="33:33:ff:" + vip[-3:].hex(":"), src=mac.hex(":"))
    assert frames.duplicate_solicitation(mac, vip) == bytes(
        ether / IPv6(src="::", dst=group, hlim=255) / ICMPv6ND_NS(tgt=text)
    )
    assert Ether(frames.probe(mac, vip[:4]))[ARP].psrc == "0.0.0.0"
