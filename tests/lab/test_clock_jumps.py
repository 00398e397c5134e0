"""Clocks that are wrong or jump: the agent's own is CLOCK_BOOTTIME, and the wall clock only labels its events."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.core.effects import Occasion
from agent.core.events import Event, Stalled
from agent.core.ids import NodeName, VipName
from agent.core.inputs import AddressesAdded, AddressesRemoved, Input
from agent.core.messages import Heartbeat, Message
from agent.core.node import Node
from agent.core.settings import Address, Settings, Timing, Vip
from agent.core.view import NeighbourEntry
from agent.lab import formation
from agent.pump import Pump
from tests.lab.clusters import cluster, even, held_once, log, metric, on, until, view


@pytest.mark.netns
@pytest.mark.lab
def test_wrong_and_jumping_clocks_change_nothing(lab_name: str) -> None:
    """www1 has been up for twelve days longer, by its own time namespace; the wall clock of www2 jumps."""
    wall = Path(__file__).with_name("wall_clock.py")
    directory = Path("/run/molehill-lab") / lab_name
    wrappers = {
        "www1": ["unshare", "--time", "--boottime", "1000000"],
        "www2": ["env", f"PYTHONPATH={Path.cwd()}", sys.executable, "-P", str(wall), str(directory / "offset")],
    }
    with cluster(lab_name, 3, 3, wrappers=wrappers, agents=False) as lab:
        offset = directory / "offset"
        offset.write_text("-3600")
        for node in lab.plan.nodes:
            lab.start(node.name)
        formation.wait_formed(lab, timeout=60)
        even(lab)
        before, holders = view(lab, "www1"), lab.holders()
        dates = set(re.findall(r"time=(\d+-\d+-\d+T\d+)", log(lab, "www2")))
        for seconds in ("86400", "-86400", "0"):
            offset.write_text(seconds)
            since = metric(lab, "www2", "molehill_heartbeats_sent_total")
            until(lambda since=since: metric(lab, "www2", "molehill_heartbeats_sent_total") > since + 3)  # type: ignore[misc]
            assert (view(lab, "www3"), lab.holders()) == (before, holders)
        (lost,) = on(lab, "www1")
        began = lab.lose("www1")
        until(lambda: held_once(lab, ("www2", "www3")))
        taken = max(change.at for change in lab.changes() if change.address == lost)
        assert taken - began < 2.0
        assert dates - set(re.findall(r"time=(\d+-\d+-\d+T\d+)", log(lab, "www1"))), "the clock was wrong indeed"


@dataclass
class Quiet:
    """A transport, an address driver and an announcer without a world: additions succeed at once."""

    sent: list[Message] = field(default_factory=list)
    held: set[VipName] = field(default_factory=set)
    submit: Callable[[Input], None] = lambda item: None

    beaten: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, message: Message, to: tuple[NodeName, ...]) -> None:
        self.sent.append(message)
        self.beaten.set()

    def drain(self) -> int:
        return 0

    def acquire(self, vips: tuple[VipName, ...]) -> None:
        self.held |= set(vips)
        self.submit(AddressesAdded(vips))

    def release(self, vips: tuple[VipName, ...]) -> None:
        self.held -= set(vips)
        self.submit(AddressesRemoved(vips))

    def announce(self, vips: tuple[VipName, ...], occasion: Occasion) -> None: ...

    def withdraw(self, vips: tuple[VipName, ...]) -> None: ...

    def discard(self) -> int:
        return 0

    def hold(self, until: float, fresh: bool) -> None: ...

    def fellows(self, macs: tuple[tuple[str, NodeName], ...]) -> None: ...

    def learn(self, member: NodeName, entries: tuple[NeighbourEntry, ...]) -> None: ...

    def forget(self, member: NodeName) -> None: ...


@pytest.mark.parametrize("jump", [3600.0, 0.3, -0.05, -3600.0])
async def test_the_pump_survives_a_clock_that_jumps(jump: float) -> None:
    """CLOCK_BOOTTIME jumps forwards when a suspended machine wakes up, and never backwards; both must not end it."""
    ahead = 0.0
    events: list[Event] = []
    crashes: list[Exception] = []
    world = Quiet()
    loop = asyncio.get_running_loop()
    address = Address("eth0", "192.0.2.1", 24, "192.0.2.0/24")
    timing = Timing(heartbeat=0.01, failure_timeout=0.05, mature=0.0)
    settings = Settings(
        "www", NodeName("a"), (Vip(VipName("web"), (address,)),), (NodeName("a"), NodeName("b")), timing
    )
    pump = Pump(
        Node(settings, 1),
        loop=loop,
        clock=lambda: loop.time() + ahead,
        publish=events.append,
        record=lambda step: None,
        crashed=crashes.append,
        stopped=lambda: None,
    )
    world.submit = pump.submit
    pump.connect(world, world, lambda: None)
    pump.start()

    async def beats(count: int) -> None:
        before = len(world.sent)
        async with asyncio.timeout(60):
            while sum(isinstance(message, Heartbeat) for message in world.sent[before:]) < count:
                world.beaten.clear()
                await world.beaten.wait()

    await beats(10)
    assert world.held == {"web"}
    ahead, told = jump, len(events)
    if jump > -1:
        await beats(10)
        assert world.held == {"web"}, "alone nobody can take over, so there is nothing to yield"
        assert jump < 0 or any(isinstance(event, Stalled) for event in events[told:])
    else:
        ahead = 0.0  # nothing but the time can bring it back
        pump._fire()
        await beats(10)
    pump.close()
    assert crashes == []
