"""This node's part of the shared ARP cache: the hosts on VIPs' networks that the kernel has talked to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address

from agent.core.settings import Vip
from agent.core.view import NeighbourEntry
from agent.drivers import rtnetlink
from agent.drivers.audience import ENTRIES_MAX, net

USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT; without INCOMPLETE, FAILED, NOARP and NONE."""


async def read(vips: tuple[Vip, ...]) -> tuple[NeighbourEntry, ...]:
    """The usable entries of both families on the interfaces and networks of these VIPs, in order, at most 4,096.

    VIPs and the node's own addresses are left out. Leaves the event loop after each part of the dump (about 400
    entries). A dump that the kernel's changes interrupt is taken as it is: the next reading fills it up. Raises
    OSError.
    """
    requests = rtnetlink.RequestSocket()
    try:
        return await _read(requests, vips)
    finally:
        requests.close()


async def _read(requests: rtnetlink.RequestSocket, vips: tuple[Vip, ...]) -> tuple[NeighbourEntry, ...]:
    addresses = [address for vip in vips for address in vip.addresses]
    nets = {net(address.interface, address.network) for address in addresses}
    left_out = {ip_address(address.address).packed for address in addresses}
    indexes: dict[int, str] = {}
    async for data, at in _dump(requests, rtnetlink.DUMP_LINKS):
        link = rtnetlink.read_link(data, at)
        if link:
            indexes[link.ifindex] = link.name
    async for data, at in _dump(requests, rtnetlink.DUMP_ADDRESSES):
        own = rtnetlink.read_address(data, at)
        if own:
            left_out.add(own.key.packed)
    found: dict[bytes, bytes] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        async for data, at in _dump(requests, rtnetlink.dump_neighbours(family)):
            entry = rtnetlink.read_neighbour(data, at)
            if entry is None or not entry.mac or not entry.state & USABLE or entry.packed in left_out:
                continue
            name = indexes.get(entry.ifindex)
            if any(each.interface == name and each.holds(entry.packed) for each in nets):
                found[entry.packed] = entry.mac
    kept = sorted(found.items(), key=lambda item: (len(item[0]), item[0]))[:ENTRIES_MAX]
    return tuple(NeighbourEntry(str(ip_address(packed)), mac.hex(":")) for packed, mac in kept)


async def _dump(requests: rtnetlink.RequestSocket, request: bytes) -> AsyncIterator[tuple[bytes, rtnetlink.Message]]:
    try:
        for data, found in requests.query(request):
            for at in found:
                yield data, at
            await asyncio.sleep(0)
    except InterruptedError:
        return
