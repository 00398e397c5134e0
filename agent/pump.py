"""The only place where the core meets time: inputs in, effects carried out, events published, one timer armed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, assert_never

from agent.core.effects import (
    Acquire,
    Announce,
    Effect,
    ForgetNeighbours,
    HoldLease,
    KnowFellows,
    LearnNeighbours,
    Occasion,
    Release,
    Send,
    Stop,
)
from agent.core.events import Event
from agent.core.ids import NodeName, VipName
from agent.core.inputs import Input, Received, Timer
from agent.core.messages import Message
from agent.core.node import Node, Output
from agent.core.view import NeighbourEntry
from agent.journal import Recorded


class Transport(Protocol):
    """What an engine offers the pump."""

    def send(self, message: Message, to: tuple[NodeName, ...]) -> None: ...

    def drain(self) -> int: ...

    def discard(self) -> int: ...


class Holding(Protocol):
    """What this machine does about VIPs."""

    def acquire(self, vips: tuple[VipName, ...]) -> None: ...

    def release(self, vips: tuple[VipName, ...]) -> None: ...

    def hold(self, until: float, fresh: bool) -> None: ...

    def fellows(self, macs: tuple[tuple[str, NodeName], ...]) -> None: ...

    def announce(self, vips: tuple[VipName, ...], occasion: Occasion) -> None: ...

    def withdraw(self, vips: tuple[VipName, ...]) -> None: ...

    def learn(self, member: NodeName, entries: tuple[NeighbourEntry, ...]) -> None: ...

    def forget(self, member: NodeName) -> None: ...


class Pump:
    """Carries effects out in the core's order, and only then hands the events of the whole batch to observers."""

    def __init__(
        self,
        node: Node,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        publish: Callable[[Event], None],
        record: Callable[[Recorded], None],
        stopped: Callable[[], None],
        crashed: Callable[[Exception], None],
    ) -> None:
        """`record` sees every step; `crashed` gets what the core or a driver raised, after everything was given up."""
        self._node = node
        self._loop = loop
        self._clock = clock
        self._publish = publish
        self._record = record
        self._stopped = stopped
        self._crashed = crashed
        self._queue: deque[Input] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._running = True
        """Nothing is stepped before `start`: what drivers find while they open waits."""
        self._closed = False
        self.turned = clock()
        """When the core was last stepped."""

    def connect(self, transport: Transport, holding: Holding, alive: Callable[[], None]) -> None:
        """The drivers need `submit` and are therefore made after the pump. `alive` is called after each step."""
        self._transport = transport
        self._holding = holding
        self._alive = alive

    def start(self) -> None:
        self._queue.appendleft(Timer())
        self._run()

    def submit(self, item: Input) -> None:
        """An input; inputs that drivers make while an effect is carried out wait for their turn."""
        if self._wake() and isinstance(item, Received):
            return
        self._queue.append(item)
        if not self._running:
            self._run()

    def _wake(self) -> bool:
        """R11: whoever did not run for a failure timeout is out of his view, and what waits in the sockets is history.

        Taken for news, piece by piece, it would lead to views that nobody else is in. It is as good as lost.
        """
        if self._running or self._clock() - self.turned <= self._node.settings.timing.failure_timeout:
            return False
        self.turned = self._clock()
        self._transport.discard()
        return True

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def fail(self, error: Exception) -> None:
        """Nobody can tell any more what this node should hold: it gives everything up and steps no further."""
        if self._closed:
            return
        self.close()
        vips = tuple(vip.name for vip in self._node.settings.vips)
        try:
            self._holding.withdraw(vips)
            self._holding.release(vips)
        finally:
            self._crashed(error)

    def _run(self) -> None:
        if self._closed:
            return
        self._running = True
        events: list[Event] = []
        try:
            while self._queue and not self._closed:
                for output in self._step(self._queue.popleft()):
                    if isinstance(output, Effect):
                        self._carry_out(output)
                    else:
                        events.append(output)
        except Exception as error:
            self.fail(error)
        finally:
            self._running = False
        self._alive()
        for event in events:
            self._publish(event)
        self._arm()

    def _step(self, item: Input) -> list[Output]:
        now = self.turned = self._clock()
        try:
            outputs = self._node.step(now, item)
        except Exception:
            self._record((now, item, None))
            raise
        self._record((now, item, outputs))
        return outputs

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send(message=message, to=to):
                self._transport.send(message, to)
            case Acquire(vips=vips):
                self._holding.acquire(vips)
            case Release(vips=vips):
                self._holding.withdraw(vips)
                self._holding.release(vips)
            case Announce(vips=vips, occasion=occasion):
                self._holding.announce(vips, occasion)
            case HoldLease(until=until, fresh=fresh):
                self._holding.hold(until, fresh)
            case KnowFellows(macs=macs):
                self._holding.fellows(macs)
            case LearnNeighbours(member=member, entries=entries):
                self._holding.learn(member, entries)
            case ForgetNeighbours(member=member):
                self._holding.forget(member)
            case Stop():
                self._stopped()
            case _:
                assert_never(effect)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._closed:
            return
        delay = max(0.0, self._node.deadline() - self._clock())
        self._timer = self._loop.call_later(delay, self._fire)

    def _fire(self) -> None:
        # R11: who may have been late reads what is waiting before it judges anybody's silence.
        if not self._wake():
            self._transport.drain()
        self.submit(Timer())
