"""Peers that the kernel looks for in vain: it asks for a hardware address once a second, which is too slow.

After a cut of some seconds the entries of those cut off are incomplete, and what is sent to them waits for the next
ARP request (or neighbour solicitation). A healed partition would last up to a second longer than the agents need to
settle it, with two holders of each VIP under `partition: component`. So the incomplete entry is deleted, and the next
heartbeat makes a new one and asks at once. No entry with a hardware address is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address

from agent.core.ids import NodeName
from agent.drivers import rtnetlink

NUD_INCOMPLETE = 0x01
INTERVAL = 0.2
"""Seconds between two looks, so between two requests for one peer at least."""
SHARE = 0.01
"""Of the processor, at most: some hosts have thousands of neighbours, and some members stay away for weeks."""
PATIENCE = 2.0
"""Seconds from a view to the first look: a fail-over is over by then, and no entry is incomplete so soon."""


class Reaching:
    """Looks as long as somebody is missing in the view. `peers`: names and numeric addresses of all others."""

    def __init__(self, peers: Callable[[], Iterable[tuple[NodeName, str]]], clock: Callable[[], float]) -> None:
        self._peers = peers
        self._clock = clock
        self._members: frozenset[NodeName] = frozenset()
        self._since = clock()

    def view(self, members: Collection[NodeName]) -> None:
        """Who is in the view from now on."""
        self._members, self._since = frozenset(members), self._clock()

    async def keep(self) -> None:
        """Until cancelled."""
        rest = INTERVAL
        while True:
            await asyncio.sleep(rest)
            rest, began = INTERVAL, self._clock()
            if began - self._since < PATIENCE:
                continue
            missing = [address for name, address in self._peers() if address and name not in self._members]
            if missing:
                with contextlib.suppress(OSError):  # without it the peer is reached as late as by anybody else
                    await ask_again(missing)
                rest = max(INTERVAL, (self._clock() - began) / SHARE)


async def ask_again(addresses: Collection[str]) -> int:
    """Deletes the incomplete entries of these numeric addresses; how many. Leaves the event loop after each part of
    the dump (about 400 entries). Raises OSError."""
    wanted = {ip_address(address).packed for address in addresses}
    requests = rtnetlink.RequestSocket()
    going = []
    try:
        for family in {rtnetlink.family_of(packed) for packed in wanted}:
            with contextlib.suppress(InterruptedError):  # the next look sees what this one missed
                for data, found in requests.query(rtnetlink.dump_neighbours(family)):
                    for at in found:
                        entry = rtnetlink.read_neighbour(data, at)
                        if entry is not None and entry.state == NUD_INCOMPLETE and entry.packed in wanted:
                            going.append(rtnetlink.delete_neighbour(entry))
                    await asyncio.sleep(0)
        requests.execute(going)
    finally:
        requests.close()
    return len(going)
