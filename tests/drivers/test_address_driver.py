"""The address driver against the real kernel."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from cable import PATIENCE, Cable, Heard, run, valid_seconds
from pyroute2 import AsyncIPRoute

from agent.core.events import InterfaceChanged, StrayRemoved
from agent.core.ids import VipName
from agent.core.inputs import AddressesAdded, AddressesFailed, AddressesRemoved, AddressLost, VipsUnable
from agent.core.settings import Address, Vip
from agent.drivers.addresses import TAG
from agent.drivers.netlink import SLICE, AddressDriver
from agent.drivers.records import LinkRecord

pytestmark = pytest.mark.netns


def vip(name: str, *entries: str) -> Vip:
    """From `interface:address/prefix` entries."""
    addresses = []
    for entry in entries:
        interface, _, rest = entry.partition(":")
        address, _, prefix = rest.partition("/")
        addresses.append(Address(interface, address, int(prefix), rest))
    return Vip(VipName(name), tuple(addresses))


WEB = vip("web", "eth0:10.9.0.50/24")
BOTH = vip("both", "eth0:10.9.0.60/24", "eth0:fd00:9::60/64")
MANY = tuple(vip(f"v{number}", f"eth0:10.9.{1 + number // 200}.{1 + number % 200}/32") for number in range(300))


@asynccontextmanager
async def driver(
    heard: Heard,
    *vips: Vip,
    event_buffer: int = 1 << 20,
    lifetime: int = 0,
    on_link: Callable[[str, LinkRecord | None], None] | None = None,
) -> AsyncIterator[AddressDriver]:
    made = AddressDriver(
        vips,
        clock=time.monotonic,
        on_input=heard,
        on_event=heard,
        on_link=on_link,
        lifetime=lifetime,
        event_buffer=event_buffer,
    )
    await made.open()
    try:
        yield made
    finally:
        made.close()


async def tagged() -> set[str]:
    """Addresses with our tag, as pyroute2 sees them."""
    async with AsyncIPRoute() as netlink:
        found = [message async for message in await netlink.addr("dump")]
    assert {"10.9.0.1", "fd00:9::1"} <= {each.get_attr("IFA_ADDRESS") for each in found}, "an incomplete dump"
    return {each.get_attr("IFA_ADDRESS") for each in found if each.get_attr("IFA_PROTO") == TAG}


def names(*vips: Vip) -> tuple[VipName, ...]:
    return tuple(each.name for each in vips)


async def test_a_small_batch_is_done_when_the_call_returns(cable: Cable, heard: Heard) -> None:
    before = cable.addresses()
    async with driver(heard, WEB, BOTH) as made:
        assert heard.of(VipsUnable) == [VipsUnable(())]
        made.acquire(names(WEB, BOTH))
        assert heard.said[-1] == AddressesAdded(("web", "both"))
        assert cable.addresses() == before | {"10.9.0.50/24", "10.9.0.60/24", "fd00:9::60/64"}
        made.release(names(BOTH, WEB))
        assert isinstance(heard.said[-1], AddressesRemoved)
        assert set(heard.said[-1].vips) == {"web", "both"}
        assert cable.addresses() == before
        await settle(cable, heard)
        assert heard.of(AddressLost) == []


async def settle(cable: Cable, heard: Heard) -> None:
    """Waits for the news of a change that the kernel tells after all others."""
    count = len(heard.of(VipsUnable))
    cable.ip("addr add 10.99.99.99/32 dev lo")  # concerns nobody
    cable.ip("link set eth0 down")
    await heard.until(lambda: len(heard.of(VipsUnable)) > count)


async def test_addresses_bear_the_tag_and_no_tentative_state(cable: Cable, heard: Heard) -> None:
    async with driver(heard, BOTH) as made:
        made.acquire(names(BOTH))
        assert await tagged() == {"10.9.0.60", "fd00:9::60"}
        told = cable.ip("-d -o addr show dev eth0")
        line = next(line for line in told.split("\n") if "10.9.0.60" in line)
        assert "secondary" in line
        line = next(line for line in told.split("\n") if "fd00:9::60" in line)
        assert "deprecated" in line
        assert "nodad" in line
        assert "tentative" not in line


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.mark.parametrize("entry", ["10.9.0.50/32", "10.9.0.50/28", "10.9.0.50/24", "fd00:9::50/128", "fd00:9::50/64"])
async def test_a_vip_is_no_source_of_the_nodes_own_connections(cable: Cable, heard: Heard, entry: str) -> None:
    cable.ip("route add default via 10.9.0.49")
    mine = vip("mine", f"eth0:{entry}")
    async with driver(heard, mine) as made:
        made.acquire(names(mine))
        assert heard.of(AddressesAdded)
        for target in ("10.9.0.2", "10.9.0.49", "198.51.100.1", "fd00:9::2", "fd00:9::4f"):
            with socket.socket(family_of(target), socket.SOCK_DGRAM) as asked:
                asked.connect((target, 9))
                assert asked.getsockname()[0] == ("fd00:9::1" if ":" in target else "10.9.0.1")
        with socket.socket(family_of(entry), socket.SOCK_DGRAM) as server, cable.client_socket(entry) as client:
            server.bind((entry.split("/")[0], 7))
            client.sendto(b"?", (entry.split("/")[0], 7))
            server.settimeout(PATIENCE)
            question, peer = server.recvfrom(9)
            server.sendto(question, peer)
            assert client.recv(9) == b"?", "but it serves"


async def test_acquiring_twice_and_releasing_twice_is_harmless(cable: Cable, heard: Heard) -> None:
    async with driver(heard, BOTH) as made:
        for _ in range(2):
            made.acquire(names(BOTH))
        for _ in range(2):
            made.release(names(BOTH))
        answers = [AddressesAdded(("both",))] * 2 + [AddressesRemoved(("both",))] * 2
        assert [each for each in heard.said if isinstance(each, AddressesAdded | AddressesRemoved)] == answers


async def test_overlapping_calls_are_answered_once_each_in_order(cable: Cable, heard: Heard) -> None:
    async with driver(heard, *MANY) as made:
        made.acquire(names(*MANY))
        assert 0 < sum(len(each.vips) for each in heard.of(AddressesAdded)) < 100, "a large batch is cut into slices"
        made.release(names(*MANY))
        made.acquire(names(*MANY[:5]))
        made.release(names(MANY[2]))

        def answers() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            for each in heard.said:
                if isinstance(each, AddressesAdded | AddressesRemoved):
                    for name in each.vips:
                        found.setdefault(name, []).append(type(each).__name__[9:])
            return found

        await heard.until(lambda: sum(map(len, answers().values())) == 606)
        await asyncio.sleep(0)
        expected = {each.name: ["Added", "Removed"] for each in MANY}
        for each in MANY[:5]:
            expected[each.name].append("Added")
        expected[MANY[2].name].append("Removed")
        assert answers() == expected
        mine = {f"{each.addresses[0].address}/32" for each in MANY}
        up = {f"{MANY[number].addresses[0].address}/32" for number in (0, 1, 3, 4)}
        assert cable.addresses() & mine == up
        assert heard.of(AddressLost) == []


async def test_deletion_by_another_hand_is_reported_and_repaired(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB, BOTH) as made:
        made.acquire(names(WEB, BOTH))
        cable.ip("addr del fd00:9::60/64 dev eth0")
        await heard.until(lambda: bool(heard.of(AddressLost)))
        assert heard.of(AddressLost) == [AddressLost(VipName("both"), "fd00:9::60/64 left eth0")]
        assert "10.9.0.60/24" in cable.addresses(), "the rest of the VIP is still up"
        made.acquire(names(BOTH))
        assert heard.said[-1] == AddressesAdded(("both",))
        assert {"10.9.0.60/24", "fd00:9::60/64"} <= cable.addresses()


async def test_own_deletion_followed_by_an_addition_is_no_loss(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB) as made:
        for _ in range(20):
            made.acquire(names(WEB))
            made.release(names(WEB))
            await asyncio.sleep(0)
        made.acquire(names(WEB))
        await settle(cable, heard)
        assert heard.of(AddressLost) == []


async def test_a_primary_that_goes_leaves_its_secondaries_up(cable: Cable, heard: Heard) -> None:
    """The VIP is the oldest of its network; another VIP and an address of the node's own came after it."""
    first, second = vip("first", "eth0:10.8.0.1/24"), vip("second", "eth0:10.8.0.2/24")
    assert int(run("cat", "/proc/sys/net/ipv4/conf/eth0/promote_secondaries")) == 0, "else this tests nothing"
    async with driver(heard, first, second) as made:
        made.acquire(names(first, second))
        cable.ip("addr add 10.8.0.77/24 dev eth0")
        made.release(names(first))
        assert {"10.8.0.2/24", "10.8.0.77/24"} <= cable.addresses()
        assert "10.8.0.1/24" not in cable.addresses()
        await settle(cable, heard)
        assert heard.of(AddressLost) == []
    assert int(run("cat", "/proc/sys/net/ipv4/conf/eth0/promote_secondaries")) == 0


async def test_secondaries_lost_with_a_foreign_primary_are_reported(cable: Cable, heard: Heard) -> None:
    other = vip("other", "eth0:10.9.0.51/24")
    async with driver(heard, WEB, other) as made:
        made.acquire(names(WEB, other))
        cable.ip("addr del 10.9.0.1/24 dev eth0")
        await heard.until(lambda: len(heard.of(AddressLost)) == 2)
        made.acquire(names(WEB, other))
        assert heard.said[-1] == AddressesAdded(("web", "other"))


async def test_an_address_that_is_not_ours_is_neither_taken_nor_removed(cable: Cable, heard: Heard) -> None:
    cable.ip("addr add 10.9.0.50/24 dev eth0")
    async with driver(heard, WEB) as made:
        assert heard.of(VipsUnable) == [VipsUnable((("web", "exists_here"),))]
        assert made.remove_strays() == ()
        made.acquire(names(WEB))
        (failed,) = heard.of(AddressesFailed)
        assert (failed.vip, failed.reason) == ("web", "exists_here")
        made.release(names(WEB))
        assert heard.said[-1] == AddressesRemoved(("web",))
        assert "10.9.0.50/24" in cable.addresses()
        cable.ip("addr del 10.9.0.50/24 dev eth0")
        await heard.until(lambda: heard.of(VipsUnable)[-1] == VipsUnable(()))
        made.acquire(names(WEB))
        assert heard.said[-1] == AddressesAdded(("web",))


async def test_the_nodes_own_base_address_configured_as_a_vip_stays_untouched(cable: Cable, heard: Heard) -> None:
    own = vip("own", "eth0:10.9.0.1/32")  # another prefix: the kernel itself would not object
    async with driver(heard, own) as made:
        made.remove_strays()
        made.acquire(names(own))
        made.release(names(own))
        assert heard.of(AddressesFailed)[0].reason == "exists_here"
        assert "10.9.0.1/24" in cable.addresses()
        assert "UP" in cable.ip("-o link show dev eth0")


async def test_what_appears_between_the_last_news_and_the_request_is_seen(cable: Cable, heard: Heard) -> None:
    """The kernel says EEXIST before the event was read."""
    async with driver(heard, BOTH) as made:
        cable.ip("addr add fd00:9::60/64 dev eth0 nodad")
        made.acquire(names(BOTH))
        (failed,) = heard.of(AddressesFailed)
        assert failed.reason == "exists_here"
        assert "10.9.0.60/24" not in cable.addresses(), "what was added of the VIP is taken off again"
        assert "fd00:9::60/64" in cable.addresses()


async def test_strays_of_a_former_life_are_removed_and_nothing_else(cable: Cable, heard: Heard) -> None:
    former = vip("former", "eth0:10.9.0.90/24", "eth0:fd00:9::90/64")
    async with driver(heard, WEB, former) as made:
        made.acquire(names(WEB, former))
    before = cable.addresses()
    heard.said.clear()
    async with driver(heard, WEB) as made:
        assert heard.of(VipsUnable) == [VipsUnable(())]
        removed = made.remove_strays()
        assert set(removed) == {("eth0", "10.9.0.50"), ("eth0", "10.9.0.90"), ("eth0", "fd00:9::90")}
        assert {(each.interface, each.address) for each in heard.of(StrayRemoved)} == set(removed)
        assert cable.addresses() == before - {"10.9.0.50/24", "10.9.0.90/24", "fd00:9::90/64"}
        assert {"10.9.0.1/24", "fd00:9::1/64"} <= cable.addresses()


async def test_a_crash_and_a_release_without_acquisition(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB) as made:
        made.acquire(names(WEB))
    async with driver(heard, WEB) as made:
        made.release(names(WEB))
        assert heard.said[-1] == AddressesRemoved(("web",))
        assert "10.9.0.50/24" not in cable.addresses()


async def test_a_link_that_goes_down_comes_up_and_vanishes(cable: Cable, heard: Heard) -> None:
    links: list[tuple[str, LinkRecord | None]] = []
    async with driver(heard, WEB, on_link=lambda name, link: links.append((name, link))) as made:
        for change, reason, words in (
            (lambda: cable.client_ip("link set eth0 down"), "no_carrier", "no carrier"),
            (lambda: cable.ip("link set eth0 down"), "interface_down", "interface down"),
            (cable.unplug, "interface_missing", "interface missing"),
        ):
            change()
            await heard.until(lambda reason=reason: heard.of(VipsUnable)[-1].vips == (("web", reason),))
            changed = heard.of(InterfaceChanged)[-1]
            assert (changed.interface, changed.usable, changed.reason) == ("eth0", False, reason)
            made.acquire(names(WEB))
            assert heard.said[-1] == AddressesFailed(VipName("web"), reason, f"interface eth0: {words}")
        assert links[-1] == ("eth0", None)
        cable.plug()
        await heard.until(lambda: heard.of(VipsUnable)[-1] == VipsUnable(()))
        assert links[-1][1] is not None
        made.acquire(names(WEB))
        assert heard.said[-1] == AddressesAdded(("web",)), "requests are packed anew for the new interface"
        assert "10.9.0.50/24" in cable.addresses()


async def test_an_interface_that_vanishes_takes_held_vips_along(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB) as made:
        made.acquire(names(WEB))
        cable.unplug()
        await heard.until(lambda: bool(heard.of(AddressLost)) and heard.of(VipsUnable)[-1].vips != ())
        made.release(names(WEB))
        assert heard.said[-1] == AddressesRemoved(("web",))


async def test_an_interface_without_notion_of_carrier_is_usable(cable: Cable, heard: Heard) -> None:
    cable.ip("link add ifb7 type ifb")
    cable.ip("link set ifb7 up")
    assert "state UNKNOWN" in cable.ip("link show ifb7")
    quiet = vip("quiet", "ifb7:10.7.0.1/24")
    async with driver(heard, quiet) as made:
        made.acquire(names(quiet))
        assert heard.said[-1] == AddressesAdded(("quiet",))


async def test_a_renamed_interface_is_missing_under_its_old_name(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB):
        cable.ip("link set eth0 down")
        cable.ip("link set eth0 name other0")
        await heard.until(lambda: heard.of(VipsUnable)[-1].vips == (("web", "interface_missing"),))


async def test_leaving_a_bridge_is_not_vanishing(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB):
        cable.ip("link add br0 type bridge")
        cable.ip("link set eth0 master br0")
        cable.ip("link set eth0 nomaster")
        await settle(cable, heard)
        assert [each.vips for each in heard.of(VipsUnable)] == [(), (("web", "interface_down"),)]


async def test_a_kernel_that_refuses_one_address_gets_the_others_taken_back(cable: Cable, heard: Heard) -> None:
    run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
    async with driver(heard, BOTH) as made:
        made.acquire(names(BOTH))
        (failed,) = heard.of(AddressesFailed)
        assert failed.reason == "netlink"
        assert "IPv6 is disabled on this device" in failed.detail
        assert "10.9.0.60/24" not in cable.addresses()


async def test_without_the_capability_the_reason_is_denied(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB) as made:
        with without_net_admin():
            made.acquire(names(WEB))
        (failed,) = heard.of(AddressesFailed)
        assert (failed.reason, failed.detail) == ("denied", "10.9.0.50/24 on eth0: Operation not permitted")


async def test_a_refused_deletion_is_asked_for_again_and_not_confirmed_before(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB) as made:
        made.acquire(names(WEB))
        with without_net_admin():
            made.release(names(WEB))
        assert heard.of(AddressesRemoved) == []
        made.acquire(names(WEB))
        assert heard.of(AddressesFailed)[0].reason == "netlink"
        await heard.until(lambda: bool(heard.of(AddressesRemoved)))
        assert "10.9.0.50/24" not in cable.addresses()


class without_net_admin:
    """Gives up CAP_NET_ADMIN in this thread for a while, as capset(2) allows it."""

    def __enter__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        self._data = (ctypes.c_uint32 * 6)()
        assert self._libc.capget(self._header, self._data) == 0
        self._data[0] &= ~(1 << 12)
        assert self._libc.capset(self._header, self._data) == 0

    def __exit__(self, *_: object) -> None:
        self._data[0] |= 1 << 12
        assert self._libc.capset(self._header, self._data) == 0


async def test_an_overrun_of_the_listening_socket_loses_nothing(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB, event_buffer=4096) as made:
        made.acquire(names(WEB))
        for number in range(40):  # the loop does not turn meanwhile, so nobody reads
            cable.ip(f"addr add 10.6.0.{number}/32 dev lo")
        cable.ip("addr del 10.9.0.50/24 dev eth0")
        cable.client_ip("link set eth0 down")
        await heard.until(lambda: bool(heard.of(AddressLost)))
        await heard.until(lambda: heard.of(VipsUnable)[-1].vips == (("web", "no_carrier"),))


async def test_a_changed_definition_takes_the_old_address_along(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB, BOTH) as made:
        made.acquire(names(WEB, BOTH))
        made.reconfigure((vip("web", "eth0:10.9.0.51/24"),))
        assert {"10.9.0.50/24", "10.9.0.60/24"} <= cable.addresses(), "a reload moves nothing by itself"
        made.acquire(names(WEB))
        assert heard.said[-1] == AddressesAdded(("web",))
        assert "10.9.0.51/24" in cable.addresses()
        assert "10.9.0.50/24" not in cable.addresses()
        made.release(names(WEB, BOTH))
        assert not {"10.9.0.51/24", "10.9.0.60/24", "fd00:9::60/64"} & cable.addresses()
        made.acquire(names(BOTH))
        assert heard.of(AddressesFailed)[-1].vip == "both"


async def test_a_lifetime_runs_out_unless_it_is_renewed(cable: Cable, heard: Heard) -> None:
    async with driver(heard, BOTH, lifetime=100) as made:
        made.acquire(names(BOTH))
        left = valid_seconds(cable.ip("addr show dev eth0"))
        assert len(left) == 2
        assert all(0 < seconds <= 100 for seconds in left)
    async with driver(heard, BOTH, lifetime=300) as made:
        made.acquire(names(BOTH))  # ours: taken over as it is
        made.renew()
        told = cable.ip("-d addr show dev eth0")
        left = valid_seconds(told)
        assert len(left) == 2
        assert all(200 < seconds <= 300 for seconds in left)
        assert await tagged() == {"10.9.0.60", "fd00:9::60"}
        assert "deprecated" in told, "a renewal keeps the VIP from becoming a source"


async def test_the_kernel_runs_a_lifetime_out(cable: Cable, heard: Heard) -> None:
    async with driver(heard, WEB, lifetime=1) as made:
        made.acquire(names(WEB))
        await heard.until(lambda: bool(heard.of(AddressLost)))
        made.renew()
        assert "10.9.0.50/24" not in cable.addresses(), "what has lapsed is not put up by a renewal"


async def test_slices_leave_the_loop_free(cable: Cable, heard: Heard) -> None:
    thousand = tuple(
        vip(f"v{number}", f"eth0:10.{10 + number // 250}.0.{1 + number % 250}/32") for number in range(1000)
    )
    async with driver(heard, *thousand) as made:
        for ask, kind in ((made.acquire, AddressesAdded), (made.release, AddressesRemoved)):
            ask(names(*thousand))
            turns = [sum(len(each.vips) for each in heard.of(kind))]
            while turns[-1] < 1000:
                await asyncio.sleep(0)
                turns.append(sum(len(each.vips) for each in heard.of(kind)))
            # The loop had its turn after every slice; how long one takes is for the benchmark to say.
            assert max(after - before for before, after in pairwise(turns)) <= SLICE


async def test_closed_in_the_turn_of_a_change(cable: Cable, heard: Heard) -> None:
    """What was put off to the end of that turn finds no sockets any more, and is not tried."""
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    async with driver(heard, WEB) as made:
        made.acquire((WEB.name,))
        cable.ip("addr add 10.9.0.77/24 dev eth0")
        made.release((WEB.name,))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert troubles == []
