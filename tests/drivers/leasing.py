"""What the fast lease's tests have in common."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from ipaddress import ip_address

from cable import PATIENCE, Cable, Heard, run

from agent.core.ids import VipName
from agent.core.settings import Address, Vip
from agent.drivers import nftables as nft
from agent.drivers.lease import FastLease
from agent.drivers.lease_table import TIMED, table_name
from agent.drivers.records import AddressKey

LONG = 60.0
"""Seconds: a lease that does not lapse during a test."""

SHORT = 0.2
"""Seconds: a lease that is soon over, but not before it has begun."""


def vip(name: str, *entries: str) -> Vip:
    """From `interface:address/prefix` entries."""
    addresses = []
    for entry in entries:
        interface, _, rest = entry.partition(":")
        address, _, prefix = rest.partition("/")
        addresses.append(Address(interface, address, int(prefix), rest))
    return Vip(VipName(name), tuple(addresses))


WEB = vip("web", "eth0:10.9.0.50/24", "eth0:fd00:9::50/64")
MAIL = vip("mail", "eth0:10.9.0.60/24")
FOUR, SIX = "10.9.0.50", "fd00:9::50"


def clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def keys(*vips: Vip) -> list[AddressKey]:
    return [
        AddressKey(socket.if_nametoindex("lo"), ip_address(address.address).packed, address.prefix)
        for vip in vips
        for address in vip.addresses
    ]


def nft_(*words: str) -> str:
    return run("nft", *words)


@asynccontextmanager
async def lease(
    heard: Heard,
    *vips: Vip,
    cluster: str = "www",
    clock: Callable[[], float] = clock,
    wall: Callable[[], int] = time.time_ns,
    strays: tuple[str, ...] = (),
    notice_buffer: int = 1 << 20,
    remove: bool = True,
) -> AsyncIterator[FastLease]:
    made = FastLease(cluster, vips, clock=clock, on_input=heard, on_event=heard, wall=wall, notice_buffer=notice_buffer)
    made.open(strays)
    try:
        yield made
    finally:
        made.close(remove=remove)


def put_up(cable: Cable) -> None:
    cable.ip(f"addr add {FOUR}/24 dev eth0")
    cable.ip(f"addr add {SIX}/64 dev eth0 nodad")


def lapse(cluster: str = "www") -> None:
    """Until the kernel's own clock has run every moment of a lease out; it tells nobody of that."""
    give_up = clock() + PATIENCE
    with closing(nft.FilterSocket()) as channel:
        for family in TIMED:
            while channel.elements(family, table_name(cluster), "lease"):
                assert clock() < give_up


def timeless() -> str:
    """The rules, but for the moments that are leased and the secret."""
    rules = re.sub(r"(set lease \{[^}]*?)\n\t\telements = \{[^}]*\}", r"\1", nft_("-s", "list", "ruleset"))
    return re.sub(r"@nh,160,128 0x[0-9a-f]+", "", rules)


def load(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
