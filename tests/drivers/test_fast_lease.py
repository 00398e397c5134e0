"""The fast lease against the real kernel: what answers when."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from contextlib import closing
from ipaddress import ip_address

import pytest
from asking import OWN, Asker, Service, mac
from cable import PATIENCE, Cable, Heard, run
from leasing import FOUR, LONG, SHORT, SIX, WEB, clock, keys, lapse, lease, nft_, put_up

from agent.core.events import LeaseLayer, LeaseRenewed
from agent.core.inputs import LeaseLapsed
from agent.drivers import frames
from agent.drivers import nftables as nft
from agent.drivers.lease_table import STEPS, TIMED, LeaseTable

pytestmark = pytest.mark.netns


async def test_covered_addresses_answer_exactly_while_leased(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    cable.ready()
    async with lease(heard, WEB) as made:
        with Asker(cable) as ask, Service(cable, FOUR) as service, Service(cable, SIX) as service6:
            everything = (
                lambda: ask.arp(FOUR),
                lambda: ask.solicit(SIX),
                service.reached,
                service6.reached,
                service.speaks,
                service6.speaks,
            )
            assert [each() for each in everything] == [True] * 6, "nothing is covered yet"
            made.cover(keys(WEB))
            assert [each() for each in everything] == [False] * 6
            made.hold(clock() + LONG, True)
            assert [each() for each in everything] == [True] * 6
            made.uncover(keys(WEB))
            await asyncio.sleep(0)
            assert [each() for each in everything] == [True] * 6


async def test_a_lease_ends_by_itself(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    async with lease(heard, WEB) as made:
        made.cover(keys(WEB))
        with Asker(cable) as ask, Service(cable, FOUR) as service:
            until = clock() + 0.5
            made.hold(until, True)
            while ask.arp(FOUR) and service.reached():
                assert clock() < until + PATIENCE
            assert until - 0.5 / STEPS * 2 <= clock(), "not before its time"
            assert not ask.arp(FOUR)
            assert not service.reached()


async def test_other_interfaces_are_silent_too_whenever_they_came(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    async with lease(heard, WEB) as made:
        made.cover(keys(WEB))
        cable.ip(f"link add eth1 type veth peer name eth1 address 02:00:00:00:09:03 netns {cable.client}")
        cable.ip("link set eth1 up")
        cable.client_ip("link set eth1 up")
        cable.client_ip(f"route add {FOUR} dev eth1 src 10.9.0.2")
        cable.client_ip(f"route add {OWN} dev eth1 src 10.9.0.2")
        with Asker(cable, "eth1", "02:00:00:00:09:03") as ask, Service(cable, FOUR, "eth1") as service:
            assert not ask.arp(FOUR)
            assert not service.reached()
            made.hold(clock() + LONG, True)
            assert not ask.arp(FOUR), "only where there are VIPs"
            assert service.reached()


async def test_a_lapsed_node_cannot_announce(cable: Cable, heard: Heard) -> None:
    node_mac = mac(cable.node_mac)
    four, six, own = (ip_address(each).packed for each in (FOUR, SIX, OWN))
    claims = [
        frames.gratuitous_request(node_mac, four),
        frames.gratuitous_reply(node_mac, four),
        frames.advertisement(node_mac, six, router=False),
        frames.solicitation(node_mac, six, ip_address("fd00:9::2").packed),
    ]
    last = frames.gratuitous_request(node_mac, own)

    def arriving(ask: Asker) -> list[bytes]:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind(("eth0", 0))
            for frame in (*claims, last):
                try:
                    sender.send(frame)
                except OSError as error:
                    assert error.errno == 105  # noqa: PT017  ENOBUFS: what the sender is told of a dropped frame
        found = []
        while (frame := ask.frame()) != last:
            found.append(frame)
        return [frame for frame in found if frame in claims]

    async with lease(heard, WEB) as made:
        made.cover(keys(WEB))
        with Asker(cable) as ask:
            assert arriving(ask) == []
        cable.unplug()
        cable.plug()
        made.link_changed("eth0")
        with Asker(cable) as ask:
            assert arriving(ask) == [], "the interface was made anew"
            made.hold(clock() + LONG, True)
            assert arriving(ask) == claims


async def test_a_renewal_says_what_was_left(cable: Cable, heard: Heard) -> None:
    async with lease(heard, WEB) as made:
        first = clock() + 10.0
        made.hold(first, True)
        assert heard.of(LeaseRenewed) == []
        until = clock() + 20.0
        before = clock()
        made.hold(until, False)
        after = clock()
        (renewed,) = heard.of(LeaseRenewed)
        assert renewed.layer == "fast"
        assert renewed.until == until
        assert first - after <= renewed.margin <= first - before
        assert heard.of(LeaseLapsed) == []


async def test_what_has_lapsed_is_not_renewed(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    async with lease(heard, WEB) as made:
        made.cover(keys(WEB))
        made.hold(clock() + LONG, False)
        assert heard.of(LeaseLapsed) == [LeaseLapsed()], "there never was one"
        made.hold(clock() + SHORT, True)
        lapse()
        made.hold(clock() + LONG, False)
        assert heard.of(LeaseLapsed) == [LeaseLapsed()] * 2
        with Asker(cable) as ask:
            assert not ask.arp(FOUR)
            made.hold(clock() + LONG, True)
            assert ask.arp(FOUR)


async def test_a_stop_between_clock_and_call_leases_nothing(cable: Cable, heard: Heard) -> None:
    """What the agent read before the stop is old when the kernel hears of it: the wall clock decides."""
    put_up(cable)
    stopped = 2 * LONG
    async with lease(
        heard, WEB, clock=lambda: clock() - stopped, wall=lambda: time.time_ns() - int(stopped * 1e9)
    ) as made:
        made.cover(keys(WEB))
        with Asker(cable) as ask:
            made.hold(clock() - stopped + LONG, True)
            assert not ask.arp(FOUR)
            stopped = LONG / 2
            made.hold(clock() - stopped + LONG, True)
            assert ask.arp(FOUR)


async def test_wall_clock_steps_never_prolong(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    step = 3600 * 10**9
    async with lease(heard, WEB, wall=lambda: time.time_ns() + step) as made:
        made.cover(keys(WEB))
        with Asker(cable) as ask:
            for _ in range(2):  # the first makes the tables for leases so long, the second goes by frames
                made.hold(clock() + SHORT, True)
            lapse()  # the clock was set back by an hour: all moments are to come, but the kernel's timeouts end them
            assert not ask.arp(FOUR)
            step = -step  # it was set forward
            made.hold(clock() + LONG, True)
            assert not ask.arp(FOUR)
            step = 0
            made.hold(clock() + LONG, False)
            assert ask.arp(FOUR), "the next renewal goes by the new time"


async def test_a_wall_clock_set_back_is_followed(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    step = int(LONG / 2 * 1e9)
    async with lease(heard, WEB, wall=lambda: time.time_ns() + step) as made:
        made.cover(keys(WEB))
        with Asker(cable) as ask:
            made.hold(clock() + LONG, True)
            assert not ask.arp(FOUR), "leased is a time to come"
            step = 0
            made.hold(clock() + LONG, False)
            assert ask.arp(FOUR)


async def test_renewals_disturb_no_reader_of_the_rules(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    async with lease(heard, WEB) as made:
        made.cover(keys(WEB))
        with closing(nft.notice_socket(0, 1 << 20)) as everything, Asker(cable) as ask:
            made.hold(clock() + LONG, True)
            while select.select([everything], [], [], 0)[0]:
                everything.recv(65536)  # the tables were made for a lease so long
            for more in range(100):
                made.hold(clock() + LONG + more / 100, False)
            made.hold(clock() + LONG, True)
            assert select.select([everything], [], [], 0) == ([], [], []), "no transaction at all"
            assert ask.arp(FOUR)
            assert not heard.of(LeaseLapsed)


async def test_where_frames_do_not_arrive_transactions_renew(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    async with lease(heard, WEB) as made:
        made.cover(keys(WEB))
        made.hold(clock() + LONG, True)
        cable.ip("link set lo down")
        nft_("flush", "set", "inet", "molehill_www", "lease")
        await heard.until(lambda: len(heard.of(LeaseLayer)) == 2)
        for _ in range(3):
            made.hold(clock() + LONG, True)
        assert [each.active for each in heard.of(LeaseLayer)] == [True] * 3
        assert "by transactions" in heard.of(LeaseLayer)[-1].detail
        with Asker(cable) as ask:
            assert ask.arp(FOUR)
        cable.ip("link set lo up")
        made.link_changed("lo")
        assert heard.of(LeaseLayer)[-1].detail == ""
        with closing(nft.notice_socket(0, 1 << 20)) as everything:
            made.hold(clock() + LONG + 1, False)
            assert select.select([everything], [], [], 0) == ([], [], []), "by frames again"
        assert len(heard.of(LeaseLayer)) == 4


async def test_frames_that_another_processor_takes_in_arrive_a_little_later(cable: Cable, heard: Heard) -> None:
    """Receive packet steering, which some hosts set on all interfaces (net.core.rps_default_mask)."""
    ours, *others = sorted(os.sched_getaffinity(0))
    if not others:
        pytest.skip("needs two processors")
    steering = f"echo {1 << others[0]:x} > /sys/class/net/lo/queues/rx-0/rps_cpus"
    run("ip", "netns", "exec", cable.node, "sh", "-c", steering)
    os.sched_setaffinity(0, {ours})
    try:
        async with lease(heard, WEB) as made:
            made.cover(keys(WEB))
            for more in range(100):
                made.hold(clock() + LONG + more, not more)
            assert [each.detail for each in heard.of(LeaseLayer)] == [""]
    finally:
        os.sched_setaffinity(0, {ours, *others})


async def test_nobody_else_renews(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    async with lease(heard, WEB) as made:
        made.cover(keys(WEB))
        made.hold(clock() + SHORT, True)
        lapse()
        guesses = LeaseTable("www")
        guesses.size(made._table.bound, 0.0)
        now = time.time_ns()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind(("lo", 0))
            for frame in guesses.frames(guesses.moments(now, now + 10**10)):
                sender.send(frame)
        with closing(nft.FilterSocket()) as channel:
            assert [channel.elements(family, "molehill_www", "lease") for family in TIMED] == [[], []]
