"""What the recorder costs and when it works; the pump that feeds it; the agent's crash."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.core.effects import Occasion
from agent.core.events import Event, VipAcquired
from agent.core.ids import NodeName, VipName
from agent.core.inputs import AddressesAdded, BalanceRequested, Input, LeaveRequested, Timer
from agent.core.messages import Message
from agent.core.node import Node
from agent.core.settings import Timing
from agent.core.view import NeighbourEntry
from agent.journal import BLOCK, PENDING_MAX, SLICE, Journal
from agent.journalfile import open_journal
from agent.pump import Pump
from agent.recorder import Recorder
from agent.replay import replay
from tests.core.cluster import settings, vips


def test_nothing_is_encoded_while_the_group_changes() -> None:
    node = Node(settings(["a"], vips(2), Timing(mature=10.0))[0], 1)
    journal = Journal(node, clock=lambda: 0.0)
    now = 0.0
    while node.state != "RUN":
        journal.record((now, Timer(), node.step(now, Timer())))
        assert node.state == "RUN" or not journal.tend()
        now = node.deadline()
    assert (journal.steps > 2 * SLICE, journal.size) == (True, 0)
    assert journal.tend()
    assert journal.size > 0


def test_what_waits_is_bounded_whatever_the_group_does() -> None:
    node = Node(settings(["a"], vips(2))[0], 1)
    journal = Journal(node, clock=lambda: 0.0)
    node.step(0.0, Timer())
    for _ in range(PENDING_MAX - 1):
        journal.record((0.0, Timer(), []))
    assert (journal.tend(), journal.size) == (False, 0)
    journal.record((0.0, Timer(), []))
    assert journal.tend()
    size = journal.size
    assert size > 0
    assert not journal.tend()
    assert journal.tend(now=True)  # somebody asked
    assert journal.size > size


def test_one_turn_is_one_slice() -> None:
    node = Node(settings(["a"], vips(2))[0], 1)
    journal = Journal(node, clock=lambda: 0.0)
    for number in range(BLOCK + SLICE):
        journal.record((float(number), Timer(), []))
    turns = 0
    while journal.tend(now=True):
        turns += 1
    assert turns == (BLOCK + SLICE) // SLICE  # and one that compresses


class Drivers:
    """A transport, addresses that come at once or break, and an announcer; what each was told."""

    def __init__(self) -> None:
        self.pump: Pump
        self.told: list[tuple[str, tuple[VipName, ...]]] = []
        self.broken = False

    def send(self, message: Message, to: tuple[NodeName, ...]) -> None: ...

    def drain(self) -> int:
        return 0

    def acquire(self, vips: tuple[VipName, ...]) -> None:
        if self.broken:
            raise OSError("netlink is gone")
        self.told.append(("acquire", vips))
        self.pump.submit(AddressesAdded(vips))

    def release(self, vips: tuple[VipName, ...]) -> None:
        self.told.append(("release", vips))

    def announce(self, vips: tuple[VipName, ...], occasion: Occasion) -> None:
        self.told.append(("announce", vips))

    def withdraw(self, vips: tuple[VipName, ...]) -> None:
        self.told.append(("withdraw", vips))

    def discard(self) -> int:
        return 0

    def hold(self, until: float, fresh: bool) -> None: ...

    def fellows(self, macs: tuple[tuple[str, NodeName], ...]) -> None: ...

    def learn(self, member: NodeName, entries: tuple[NeighbourEntry, ...]) -> None: ...

    def forget(self, member: NodeName) -> None: ...


class Rig:
    """A node alone, its pump on the running loop with a clock that jumps from deadline to deadline."""

    def __init__(self, directory: Path) -> None:
        self.node = Node(settings(["a"], vips(3))[0], 1)
        self.now = 100.0
        self.recorder = Recorder(self.node, directory, clock=lambda: self.now)
        self.drivers = Drivers()
        self.events: list[Event] = []
        self.crashes: list[Exception] = []
        self.pump = Pump(
            self.node,
            loop=asyncio.get_running_loop(),
            clock=lambda: self.now,
            publish=self.events.append,
            record=self.recorder.journal.record,
            stopped=lambda: None,
            crashed=self.crashes.append,
        )
        self.drivers.pump = self.pump
        self.pump.connect(self.drivers, self.drivers, lambda: None)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.node.deadline() <= end and not self.crashes:
            self.now = max(self.now, self.node.deadline())
            self.pump.submit(Timer())


async def test_the_pump_records_every_step(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.pump.start()
    rig.run(8.0)
    rig.pump.submit(BalanceRequested())
    rig.pump.submit(LeaveRequested(stop=False))
    rig.run(1.0)
    rig.pump.close()
    assert sum(isinstance(event, VipAcquired) for event in rig.events) == 3
    dump = await rig.recorder.dump("request")
    header, content = open_journal(dump.path)
    played = list(replay(content))
    assert (header.first, len(played), dump.steps) == (0, rig.recorder.journal.steps, rig.recorder.journal.steps)
    assert all(one.equal for one in played)
    kinds = [type(one.step.item) for one in played]
    order: list[type[Input]] = [Timer, AddressesAdded, BalanceRequested, LeaveRequested]
    assert sorted(order, key=kinds.index) == order


async def test_a_driver_that_raises_ends_it_with_everything_given_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.drivers.broken = True
    rig.pump.start()
    rig.run(8.0)
    assert [str(error) for error in rig.crashes] == ["netlink is gone"]
    everything = tuple(vip.name for vip in rig.node.settings.vips)
    assert rig.drivers.told == [("withdraw", everything), ("release", everything)]
    steps = rig.recorder.journal.steps
    rig.pump.submit(Timer())
    rig.pump.fail(RuntimeError("later"))
    assert (rig.recorder.journal.steps, len(rig.crashes)) == (steps, 1)


async def test_a_core_that_raises_leaves_a_journal_that_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    rig.pump.start()
    rig.run(8.0)
    assert [verb for verb, _ in rig.drivers.told].count("acquire") >= 1

    def broken(*_: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(rig.node, "_ask", broken)
    rig.pump.submit(BalanceRequested())
    assert [repr(error) for error in rig.crashes] == ["KeyError('planted')"]
    assert [verb for verb, _ in rig.drivers.told][-2:] == ["withdraw", "release"]
    dump = await rig.recorder.dump("crash", repr(rig.crashes[0]))
    header, content = open_journal(dump.path)
    *before, last = replay(content)
    assert all(one.equal for one in before)
    assert isinstance(last.step.item, BalanceRequested)
    assert (last.step.digest, header.reason, header.error) == (None, "crash", "KeyError('planted')")
