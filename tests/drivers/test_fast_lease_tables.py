"""The fast lease's tables beside other programs', with nft(8) as the judge of what the rules are."""

from __future__ import annotations

import asyncio
import re
import select
import subprocess
import sys
from contextlib import closing

import pytest
from asking import Asker, Service
from cable import PATIENCE, Cable, Heard, inside
from leasing import FOUR, LONG, MAIL, SHORT, SIX, WEB, clock, keys, lapse, lease, load, nft_, put_up, timeless, vip

from agent.core.events import LeaseLayer, LeaseRenewed
from agent.core.inputs import LeaseLapsed
from agent.drivers import nftables as nft
from agent.drivers.lease import LeaseUnavailable
from agent.drivers.lease_table import remove_table
from agent.drivers.records import AddressKey

pytestmark = pytest.mark.netns


FOREIGN = """
table inet firewalld {
    chain in {
        type filter hook input priority 10; policy accept
        udp dport 9 drop
    }
}
table inet early {
    chain pre {
        type filter hook prerouting priority -500; policy accept
        accept
    }
}
table inet late {
    chain pre {
        type filter hook prerouting priority 0; policy accept
        accept
    }
    chain out {
        type filter hook postrouting priority 400; policy accept
        accept
    }
}
table ip docker {
    chain before {
        type nat hook prerouting priority -100; policy accept
        ip daddr 10.9.0.50 udp dport 8 dnat to 10.9.0.1:7
    }
    chain after {
        type nat hook postrouting priority 100; policy accept
        ip saddr 172.17.0.0/16 masquerade
    }
}
table arp filter {
    chain in {
        type filter hook input priority 0; policy accept
        accept
    }
}
table inet ufw {
    set blocked {
        type ipv4_addr
        flags interval
        elements = { 192.0.2.0/24 }
    }
    chain in {
        type filter hook input priority 0; policy drop
        ip saddr @blocked drop
        accept
    }
}
"""


async def test_beside_other_rules(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    load(FOREIGN)
    before = nft_("list", "ruleset")
    async with lease(heard, WEB, MAIL) as made:
        made.cover(keys(WEB, MAIL))
        with Asker(cable) as ask, Service(cable, FOUR) as service:
            assert not ask.arp(FOUR), "somebody else's accept does not answer for us"
            assert not service.reached()
            assert not service.speaks()
            made.hold(clock() + LONG, True)
            assert ask.arp(FOUR)
            assert service.reached()
        saved = nft_("list", "ruleset")
        ours = re.compile(r"^table \w+ molehill_www \{\n.*?^\}\n", re.MULTILINE | re.DOTALL)
        assert len(ours.findall(saved)) == 3
        assert ours.sub("", saved) == before
        nft_("flush", "ruleset")
        load(saved)  # a person may save and load it
    assert nft_("list", "ruleset") == before


@pytest.mark.parametrize(
    "meddling",
    [
        "flush ruleset",
        "delete table inet molehill_www",
        "delete table arp molehill_www",
        "flush chain inet molehill_www deliver",
        "flush set inet molehill_www lease",
        "delete element inet molehill_www vips4 {10.9.0.50}",
        "add element arp molehill_www vips4 {10.9.0.1}",
        "insert rule arp molehill_www answer accept",
    ],
)
async def test_meddling_is_noticed_at_once_and_mended(cable: Cable, heard: Heard, meddling: str) -> None:
    put_up(cable)
    async with lease(heard, WEB) as made:
        made.cover(keys(WEB))
        made.hold(clock() + LONG, True)
        rules = timeless()
        del heard.said[:]
        nft_(*meddling.split())
        await heard.until(lambda: bool(heard.of(LeaseLayer)))
        (layer,) = heard.of(LeaseLayer)
        assert layer.active
        assert "put back" in layer.detail
        assert timeless() == rules
        with Asker(cable) as ask:
            assert ask.arp(FOUR), "the lease that was in force still is"
            made.hold(clock() + LONG, False)
            assert heard.of(LeaseLapsed) == []
            assert ask.arp(FOUR)


async def test_a_renewal_finds_the_tables_gone_before_any_notice_is_read(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    async with lease(heard, WEB, MAIL) as made:
        made.cover(keys(WEB))
        made.hold(clock() + LONG, True)
        nft_("flush", "ruleset")
        made.hold(clock() + LONG, False)
        assert heard.of(LeaseLapsed) == []
        assert "put back" in heard.of(LeaseLayer)[-1].detail
        assert heard.of(LeaseRenewed), "it is renewed as well"
        nft_("flush", "ruleset")
        made.cover(keys(MAIL))
        assert "10.9.0.60" in nft_("list", "set", "inet", "molehill_www", "vips4")
        nft_("flush", "ruleset")
        made.hold(clock() + LONG, True)
        with Asker(cable) as ask:
            assert ask.arp(FOUR)


async def test_our_own_changes_wake_nobody_and_others_need_no_mending(cable: Cable, heard: Heard) -> None:
    async with lease(heard, WEB) as made:
        made.cover(keys(WEB))
        made.hold(clock() + LONG, True)
        for _ in range(100):
            made.hold(clock() + LONG, False)
        assert select.select([made._notices], [], [], 0) == ([], [], [])
        del heard.said[:]
        nft_("add", "table", "inet", "molehill_www2")  # another's, of a name that begins like ours
        nft_("delete", "table", "inet", "molehill_www2")
        assert select.select([made._notices], [], [], PATIENCE)[0], "others' changes are heard"
        made._on_readable()
        assert heard.said == []


async def test_overrun_notices_count_as_meddling(cable: Cable, heard: Heard) -> None:
    async with lease(heard, WEB, notice_buffer=2048) as made:
        made.cover(keys(WEB))
        elements = ", ".join(f"10.1.{number // 200}.{number % 200}" for number in range(1000))
        table = f"table inet crowd {{\nset s {{\ntype ipv4_addr\nelements = {{ {elements} }}\n}}\n}}"
        load(table)
        await heard.until(lambda: any("put back" in each.detail for each in heard.of(LeaseLayer)))


async def test_what_a_dead_agent_leaves_stays_silent(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    cable.ip("addr add 10.9.0.60/24 dev eth0")
    async with lease(heard, WEB, MAIL, remove=False) as made:
        made.cover(keys(WEB, MAIL))
        made.hold(clock() + SHORT, True)
    lapse()
    with Asker(cable) as ask:
        assert not ask.arp(FOUR)
        cable.ip("addr del 10.9.0.60/24 dev eth0")  # one of the two is gone when the next life begins
        async with lease(heard, WEB, strays=(FOUR, SIX), remove=False) as made:
            assert not ask.arp(FOUR)
            assert "10.9.0.60" not in nft_("list", "ruleset")
            made.cover(keys(WEB))
            made.keep_strays((FOUR,))
            await asyncio.sleep(0)
            assert not ask.arp(FOUR)
            made.keep_strays(())
            await asyncio.sleep(0)
            assert not ask.arp(FOUR), "covered by a VIP as well"
            made.uncover(keys(WEB))
            made.cover(keys(WEB))
            await asyncio.sleep(0)
            assert not ask.arp(FOUR), "covered again in the same turn"
            made.uncover(keys(WEB))
            await asyncio.sleep(0)
            assert ask.arp(FOUR)
            made.cover(keys(WEB))
        assert not ask.arp(FOUR)
        remove_table("www")
        assert ask.arp(FOUR)
    assert nft_("list", "ruleset") == ""
    remove_table("www")  # nothing there: no error


async def test_two_clusters_on_one_host(cable: Cable, heard: Heard) -> None:
    put_up(cable)
    async with lease(heard, MAIL, cluster="b c/ü" * 30) as other, lease(heard, WEB) as made:
        other.cover(keys(MAIL))
        made.cover(keys(WEB))
        made.hold(clock() + LONG, True)
        other.hold(clock() + SHORT, True)
        lapse("b c/ü" * 30)
        with Asker(cable) as ask:
            assert ask.arp(FOUR)
        rules = nft_("list", "ruleset")
        nft_("flush", "ruleset")
        load(rules)


async def test_thousands_are_covered_each_for_as_long_as_it_is_anywhere(cable: Cable, heard: Heard) -> None:
    many = [vip(f"v{n}", f"eth0:10.8.{n // 200}.{n % 200}/32", f"eth0:fd00:8::{n:x}/128") for n in range(2500)]

    def covered() -> set[bytes]:
        with closing(nft.FilterSocket()) as channel:
            return {key for name in ("vips4", "vips6") for key in channel.elements(nft.INET, "molehill_www", name)}

    async with lease(heard, *many) as made:
        made.cover(keys(*many))
        every = {key.packed for key in keys(*many)}
        assert covered() == every
        first = keys(*many)[0]
        elsewhere = first._replace(ifindex=99)
        made.cover([elsewhere])
        made.uncover([*keys(*many), AddressKey(99, bytes(4), 32)])
        await asyncio.sleep(0)
        assert len(covered()) > 1, "so many take more than one turn of the loop"
        for _ in range(30):
            await asyncio.sleep(0)
        assert covered() == {first.packed}
        made.uncover([elsewhere])
        await asyncio.sleep(0)
        assert covered() == set()
        assert [each.detail for each in heard.of(LeaseLayer)] == [""], "nothing had to be mended"


async def test_interfaces_of_a_new_configuration(cable: Cable, heard: Heard) -> None:
    async with lease(heard, WEB) as made:
        assert 'device "eth0"' in nft_("list", "ruleset")
        made.reconfigure((vip("lo", "lo:10.9.0.50/32"), vip("absent", "eth7:10.9.0.51/32")))
        rules = nft_("list", "ruleset")
        assert 'device "eth0"' not in rules
        assert 'device "lo"' in rules
        cable.ip("link add eth7 type veth peer name eth8")
        made.link_changed("eth7")
        assert 'device "eth7"' in nft_("list", "ruleset")


def test_without_the_right_it_says_so(cable: Cable) -> None:
    program = (
        "import asyncio, os, time\n"
        "from agent.drivers.lease import FastLease\n"
        "async def main():\n"
        "    os.setuid(65534)\n"
        "    FastLease('www', (), clock=time.monotonic, on_input=print, on_event=print).open()\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert "LeaseUnavailable: [Errno 1] CAP_NET_ADMIN is missing" in done.stderr
    assert issubclass(LeaseUnavailable, OSError)
    with inside(cable.node):
        assert nft_("list", "ruleset") == ""
