"""The watch on real interfaces: the host at the other end of the cable claims what is not its own."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise

import pytest
from cable import Cable, Heard, inside

from agent.core.effects import Occasion
from agent.core.events import ArpSent, ConflictSeen
from agent.core.ids import NodeName, VipName
from agent.core.inputs import HardwareKnown, RivalSeen
from agent.core.settings import Address, Vip
from agent.drivers import frames
from agent.drivers.announcer import Announcer
from agent.drivers.ear import PAUSE, READS
from agent.drivers.netlink import AddressDriver
from agent.drivers.watch import ConflictWatch, Policy, Sighting

pytestmark = pytest.mark.netns

WEB = Vip(VipName("web"), (Address("eth0", "10.9.0.50", 24, "10.9.0.0/24"),))
SIX = Vip(VipName("six"), (Address("eth0", "fd00:9::50", 64, "fd00:9::/64"),))
ALL = (WEB, SIX)
NAMES = (WEB.name, SIX.name)
RIVAL = bytes.fromhex("020000000099")
MARKS = (
    Vip(VipName("mark4"), (Address("eth0", "10.9.0.99", 24, "10.9.0.0/24"),)),
    Vip(VipName("mark6"), (Address("eth0", "fd00:9::99", 64, "fd00:9::/64"),)),
)
"""Watched and never held: a claim to them tells that all before it was judged."""

PACKED = {
    vip.name: socket.inet_pton(family, vip.addresses[0].address)
    for vip, family in zip((WEB, SIX, *MARKS), (2, 10, 2, 10), strict=True)
}


class Host:
    """The client's end of the cable, as a host that says what it likes."""

    def __init__(self, cable: Cable) -> None:
        with inside(cable.client):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.bind(("eth0", 0))

    def close(self) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def claim(self, vip: VipName, mac: bytes = RIVAL) -> None:
        packed = PACKED[vip]
        made = (
            frames.gratuitous_request(mac, packed)
            if len(packed) == 4
            else frames.advertisement(mac, packed, router=False)
        )
        self.send(made)


@pytest.fixture
def host(cable: Cable) -> Iterator[Host]:
    made = Host(cable)
    yield made
    made.close()


@asynccontextmanager
async def watching(
    heard: Heard, vips: tuple[Vip, ...] = ALL, policy: Policy = "defend"
) -> AsyncIterator[ConflictWatch]:
    """Holds all; `heard` also hears of defences, as tuples of names, and of sightings."""
    everything = (*vips, *MARKS)
    made = ConflictWatch(everything, policy, clock=time.monotonic, on_input=heard, on_event=heard, defend=heard)
    made.on_sighting = heard
    await made.open()
    made.held(tuple(vip.name for vip in vips))
    try:
        yield made
    finally:
        made.close()


def seen(heard: Heard) -> list[tuple[str, str, str, str, str]]:
    return [(each.vip, each.address, each.interface, each.mac, each.answer) for each in heard.of(ConflictSeen)]


def defences(heard: Heard) -> list[object]:
    return [each for each in heard.of(tuple) if not isinstance(each, Sighting)]


async def judged(heard: Heard, host: Host) -> None:
    """Everything that was sent until now has been judged; on a busy machine the kernel delivers later."""

    def marks() -> list[str]:
        return [each.vip for each in heard.of(Sighting) if each.vip in (MARKS[0].name, MARKS[1].name)]

    before = marks()
    for mark in MARKS:
        host.claim(mark.name)
    await heard.until(lambda: len(marks()) == len(before) + 2)


@pytest.mark.parametrize("name", NAMES)
async def test_a_rival_is_reported_and_met(cable: Cable, heard: Heard, host: Host, name: VipName) -> None:
    async with watching(heard) as made:
        host.claim(name)
        await heard.until(lambda: heard.of(ConflictSeen) != [])
        text = {vip.name: vip.addresses[0].address for vip in ALL}[name]
        assert seen(heard) == [(name, text, "eth0", RIVAL.hex(":"), "defended")]
        assert defences(heard) == [(name,)]
        assert heard.of(RivalSeen) == []
        assert made.claims == {name: 1}


@pytest.mark.parametrize("name", NAMES)
async def test_who_yields_tells_the_core(cable: Cable, heard: Heard, host: Host, name: VipName) -> None:
    async with watching(heard, policy="yield"):
        host.claim(name)
        await heard.until(lambda: heard.of(RivalSeen) != [])
        assert heard.of(RivalSeen) == [RivalSeen(name, RIVAL.hex(":"))]
        assert [each.answer for each in heard.of(ConflictSeen)] == ["yielded"]
        assert defences(heard) == []


async def test_every_form_of_claim_counts_and_no_question_does(cable: Cable, heard: Heard, host: Host) -> None:
    four, six = PACKED[WEB.name], PACKED[SIX.name]
    claims = (
        frames.gratuitous_request(RIVAL, four),
        frames.gratuitous_reply(RIVAL, four),
        frames.directed_request(RIVAL, four, bytes((10, 9, 0, 7))),
        frames.advertisement(RIVAL, six, router=True),
        frames.advertisement(RIVAL, six, router=False, everyone=False),
    )
    questions = (
        frames.directed_request(RIVAL, bytes((10, 9, 0, 7)), four),
        frames.probe(RIVAL, four),
        frames.duplicate_solicitation(RIVAL, six),
        frames.gratuitous_request(RIVAL, bytes((10, 9, 0, 51))),
    )
    async with watching(heard) as made:
        for frame in questions:
            host.send(frame)
        await judged(heard, host)
        assert made.claims == {}
        for frame in claims:
            host.send(frame)
        await judged(heard, host)
        assert made.claims == {WEB.name: 3, SIX.name: 2}


async def test_a_forged_checksum_is_no_claim(cable: Cable, heard: Heard, host: Host) -> None:
    async with watching(heard) as made:
        frame = bytearray(frames.advertisement(RIVAL, PACKED[SIX.name], router=False))
        frame[56] ^= 1
        host.send(bytes(frame))
        await judged(heard, host)
        assert made.claims == {}


@pytest.mark.parametrize("name", NAMES)
async def test_this_machine_and_fellows_are_no_rivals(cable: Cable, heard: Heard, host: Host, name: VipName) -> None:
    cable.ip("link add ifb7 address 02:00:00:00:00:77 type ifb")
    fellow = bytes.fromhex("020000000055")
    async with watching(heard) as made:
        made.fellows(((fellow.hex(":"), NodeName("www2")),))
        for mac in (bytes.fromhex("020000000901"), bytes.fromhex("020000000077"), fellow):
            host.claim(name, mac)  # the filter does not know the fellow yet
        await judged(heard, host)
        await asyncio.sleep(0)
        host.claim(name, fellow)  # now it does
        await judged(heard, host)
        assert (made.claims, heard.of(ConflictSeen), defences(heard)) == ({}, [], [])
        made.fellows(())
        host.claim(name, fellow)
        await asyncio.sleep(0)
        host.claim(name, fellow)
        await judged(heard, host)
        assert made.claims[name] >= 1


async def test_only_held_vips_are_defended(cable: Cable, heard: Heard, host: Host) -> None:
    async with watching(heard) as made:
        made.not_held((WEB.name,))
        host.claim(WEB.name)
        await judged(heard, host)
        assert (made.claims, heard.of(ConflictSeen)) == ({}, [])
        made.held((WEB.name,))
        host.claim(WEB.name)
        await judged(heard, host)
        assert defences(heard) == [(WEB.name,)]


async def test_no_second_round_for_a_vip_that_was_released(cable: Cable, heard: Heard, host: Host) -> None:
    async with watching(heard) as made:
        host.claim(WEB.name)
        host.claim(SIX.name)
        await judged(heard, host)
        made.not_held((WEB.name,))
        await heard.until(lambda: len(defences(heard)) == 3)
        assert sorted(defences(heard)[:2]) == [(SIX.name,), (WEB.name,)]
        assert defences(heard)[2] == (SIX.name,)


async def test_a_reload_changes_what_is_watched(cable: Cable, heard: Heard, host: Host) -> None:
    other = Vip(VipName("other"), (Address("eth0", "10.9.0.51", 24, "10.9.0.0/24"),))
    async with watching(heard) as made:
        made.reconfigure((other, *MARKS), "yield")
        made.held((other.name,))
        host.claim(WEB.name)
        host.claim(SIX.name)
        host.send(frames.gratuitous_request(RIVAL, bytes((10, 9, 0, 51))))
        await judged(heard, host)
        assert [each.vip for each in heard.of(ConflictSeen)] == ["other"]
        assert heard.of(RivalSeen) == [RivalSeen(other.name, RIVAL.hex(":"))]


async def test_an_interface_that_comes_back_is_watched(cable: Cable, heard: Heard) -> None:
    """Its new hardware address is ours, its old one no longer; the node's is told each time."""
    macs = (cable.node_mac, "02:00:00:00:09:05")
    async with watching(heard, (WEB,)) as made:
        addresses = AddressDriver(
            (WEB,), clock=time.monotonic, on_input=heard, on_event=heard, on_link=made.link_changed
        )
        await addresses.open()
        try:
            assert heard.of(HardwareKnown) == [HardwareKnown((macs[0],))]
            cable.unplug()
            await heard.until(lambda: heard.of(HardwareKnown)[-1] == HardwareKnown(()))
            cable.plug()
            await heard.until(lambda: heard.of(HardwareKnown)[-1] == HardwareKnown((macs[0],)))
            cable.ip(f"link set eth0 address {macs[1]}")
            await heard.until(lambda: heard.of(HardwareKnown)[-1] == HardwareKnown((macs[1],)))
            cable.ready()
            await asyncio.sleep(0)
            with opened(cable) as host:
                host.claim(WEB.name, bytes.fromhex(macs[1].replace(":", "")))
                await judged(heard, host)
                assert made.claims == {}
                host.claim(WEB.name, bytes.fromhex(macs[0].replace(":", "")))
                await judged(heard, host)
                assert made.claims == {WEB.name: 1}
        finally:
            addresses.close()


@contextmanager
def opened(cable: Cable) -> Iterator[Host]:
    made = Host(cable)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("name", NAMES)
async def test_a_misled_client_comes_back(cable: Cable, heard: Heard, host: Host, name: VipName) -> None:
    """What the client believes is in its neighbour table, and it believed the rival a moment ago."""
    cable.ready()
    text = {vip.name: vip.addresses[0].address for vip in ALL}[name]
    family = "-6" if ":" in text else "-4"

    def known() -> str:
        return cable.client_ip(f"{family} neigh show {text} dev eth0")

    announcer = Announcer(ALL, (), False, clock=time.monotonic, on_event=heard)
    await announcer.open()

    def defend(vips: tuple[VipName, ...]) -> None:
        announcer.announce(vips, Occasion.DEFEND)

    made = ConflictWatch(ALL, "defend", clock=time.monotonic, on_input=heard, on_event=heard, defend=defend)
    await made.open()
    made.held(NAMES)
    try:
        cable.client_ip(f"neigh replace {text} lladdr {RIVAL.hex(':')} nud reachable dev eth0")
        host.claim(name)
        assert RIVAL.hex(":") in known()
        await heard.until(lambda: heard.of(ArpSent) != [])
        cable.delivered()
        assert cable.node_mac in known()
        assert {(each.vip, each.occasion) for each in heard.of(ArpSent)} == {(name, Occasion.DEFEND)}
        await heard.until(lambda: len(heard.of(ArpSent)) == 4)
    finally:
        made.close()
        announcer.close()


async def test_a_burst_is_read_in_parts_with_pauses(cable: Cable, heard: Heard, host: Host) -> None:
    count = 5 * READS
    async with asyncio.timeout(60), watching(heard) as made:
        started = time.monotonic()
        for _ in range(count):
            host.claim(WEB.name)
        read = [0]
        while made.claims.total() < count:
            await asyncio.sleep(0)
            read.append(made.claims.total())
        assert max(later - before for before, later in pairwise(read)) <= READS
        assert time.monotonic() - started >= PAUSE


async def test_a_flood_is_counted_and_told_now_and_then(cable: Cable, heard: Heard, host: Host) -> None:
    """Far more than are read: none is lost from the count."""
    count = 20_000
    async with asyncio.timeout(60), watching(heard) as made:
        started = time.monotonic()
        for _ in range(10):
            # More than fits into the socket, whatever the speed of the machine: nobody reads meanwhile.
            for _ in range(count // 10):
                host.claim(WEB.name)
            await asyncio.sleep(0)
        while made.claims.total() + made.missed() + cable.undelivered() < count:  # noqa: ASYNC110  (the kernel's count has no event)
            await asyncio.sleep(PAUSE)
        assert len(heard.of(ConflictSeen)) <= 2 + time.monotonic() - started
        assert defences(heard)[0] == (WEB.name,)
        assert made.missed() > 0
        assert made.claims.total() + made.missed() + cable.undelivered() == count


async def test_what_the_filter_keeps_out_wakes_nobody(cable: Cable, heard: Heard, host: Host) -> None:
    """Frames for others, frames of fellows and other protocols never reach this program."""
    fellow = bytes.fromhex("020000000055")
    async with watching(heard) as made:
        made.fellows(((fellow.hex(":"), NodeName("www2")),))
        await asyncio.sleep(0)
        woken: list[bytes] = []
        for ear in made._ears.values():
            ear._on_frame = lambda interface, frame, on=ear._on_frame: (woken.append(frame), on(interface, frame))
        for number in range(100):
            host.send(frames.gratuitous_request(RIVAL, bytes((10, 9, 0, 101 + number))))
            host.claim(WEB.name, fellow)
            host.claim(SIX.name, fellow)
        cable.ip("neigh flush dev eth0")
        await judged(heard, host)
        assert len(woken) == len(MARKS)
        host.claim(WEB.name)
        await judged(heard, host)
        assert len(woken) == 2 * len(MARKS) + 1


async def test_a_kernel_with_little_room_gets_a_shorter_filter(cable: Cable, heard: Heard, host: Host) -> None:
    """net.core.optmem_max was 20 KiB for long: what does not fit is matched by ranges here and exactly above."""
    scattered = tuple(
        Vip(VipName(f"v{number}"), (Address("eth0", f"10.9.{number // 100}.{2 * (number % 100)}", 16, "10.9.0.0/16"),))
        for number in range(2000)
    )
    async with watching(heard, scattered) as made:
        host.send(frames.gratuitous_request(RIVAL, bytes((10, 9, 7, 6))))
        host.send(frames.gratuitous_request(RIVAL, bytes((10, 9, 7, 7))))
        await judged(heard, host)
        assert made.claims == {VipName("v703"): 1}
