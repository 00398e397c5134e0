"""Virtual time: n real cores, their kernels, and the network between them. One seed, one run."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.core.effects import Acquire, Announce, HoldLease, Release, Send, Stop
from agent.core.events import Event
from agent.core.ids import Member, NodeName, VipName
from agent.core.inputs import (
    AddressesAdded,
    AddressesFailed,
    AddressesRemoved,
    AddressLost,
    Fenced,
    Input,
    LeaseLapsed,
    Received,
    Reconfigured,
    Timer,
)
from agent.core.messages import Leave, Message
from agent.core.node import Node
from agent.core.settings import Address, Settings
from tests.sim.network import Network

LATE_COPY = 0.06
"""Seconds of delay that only a copy has which a switch kept."""

EARLY = 0.007
"""Seconds by which the kernel may end a lease early (BASELINE 11)."""

PATIENCE = 1.25
"""Failure timeouts that a guard leaves to an agent that does not move."""

SOCKET_BUFFER = 500
"""Messages that wait for a paused agent."""


@dataclass(eq=False)
class Host:
    """A machine: its kernel stays when the agent dies."""

    name: NodeName
    settings: Settings
    node: Node | None = None
    incarnation: int = 0
    up: set[VipName] = field(default_factory=set)
    """Addresses that the kernel has."""
    defined: dict[VipName, tuple[Address, ...]] = field(default_factory=dict)
    """As what they were put up."""
    leased_until: float = float("-inf")
    """In true time: the kernel answers for nothing after that (where leases are in force)."""
    robbed: bool = False
    """Its guard has removed the addresses, and the agent does not know yet."""
    guarded: bool = False
    """A guard lives beside the agent."""
    paused: bool = False
    paused_at: float = 0.0
    catching_up: bool = False
    """It reads what came while it was paused; what comes now waits behind that."""
    pauses: int = 0
    freezes: bool = False
    """It is stopped in its next step, between the core's word and what the pump makes of it."""
    undone: list[object] = field(default_factory=list)
    """Effects that wait for it to run again."""
    heard: dict[Member, float] = field(default_factory=dict)
    """When the last message of each other one came that was no late copy."""
    backlog: list[Input] = field(default_factory=list)
    rate: float = 1.0
    offset: float = 0.0
    due: float = float("inf")
    """By its clock: when its core wants the next Timer."""
    armed: float = float("inf")
    busy_until: float = 0.0
    """Netlink is one queue."""
    fails: float = 0.0
    """Share of acquisitions that the kernel refuses."""
    dies_releasing: float = 0.0
    """Chance that the agent dies between the kernel's removal and its word of it."""
    doomed: type | None = None
    """The agent dies as soon as it has sent a message of this kind."""

    def clock(self, now: float) -> float:
        return now * self.rate + self.offset

    def answers(self, now: float) -> frozenset[VipName]:
        """What a client gets answers for, whatever state the agent is in."""
        silent = self.settings.lease_bound > 0.0 and now >= self.leased_until
        return frozenset() if silent else frozenset(self.up)

    def answered(self, now: float) -> frozenset[str]:
        """The addresses of these: two nodes may know one by different names."""
        return frozenset(each.address for vip in self.answers(now) for each in self.defined[vip])

    def from_clock(self, local: float) -> float:
        return (local - self.offset) / self.rate


class Observer:
    """What the checkers see of each step."""

    def before(self, host: Host, now: float, item: Input) -> None: ...

    def after(self, host: Host, now: float, item: Input, outputs: list[object]) -> None: ...

    def crashed(self, host: Host, member: Member) -> None: ...


class World:
    def __init__(self, seed: int, settings: list[Settings], observer: Observer) -> None:
        self.rng = random.Random(seed)
        self.network = Network(random.Random(seed ^ 0x5EED))
        self.hosts = {settings.node: Host(settings.node, settings) for settings in settings}
        self.observer = observer
        self.now = 0.0
        self.steps = 0
        self.guards = False
        self.events: list[tuple[float, NodeName, Event]] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    # Time.

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            when, _, action = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            action()
        self.now = max(self.now, until)

    # Hosts.

    def start(self, host: Host, *, draining: bool = False) -> None:
        host.incarnation += 1
        host.up.clear()  # strays are removed at start
        host.leased_until, host.guarded = float("-inf"), self.guards
        host.paused, host.catching_up, host.backlog, host.doomed = False, False, [], None
        host.freezes, host.undone, host.robbed = False, [], False
        host.rate = 1.0 + self.rng.uniform(-5e-4, 5e-4)
        host.offset = self.rng.uniform(0.0, 1000.0)
        host.node = Node(host.settings, host.incarnation, draining=draining)
        host.armed = float("inf")
        self.feed(host, Timer())

    def crash(self, host: Host) -> None:
        if host.node is not None:
            self.observer.crashed(host, host.node.me)
            if host.guarded:
                node, life = host.node, host.incarnation
                self.after(
                    self.rng.uniform(5e-4, 5e-3),
                    lambda: self._guard(host, node) if host.node is None and host.incarnation == life else None,
                )
        host.node, host.paused, host.catching_up, host.backlog = None, False, False, []
        host.undone = []  # what a process had decided and not done goes with it

    def _guard(self, host: Host, node: Node) -> None:
        """Removes the agent's addresses and speaks the last words that it had prepared, then is gone."""
        host.guarded = False
        host.up.clear()
        view = node.membership.view
        if view is not None and node.membership.active:
            self._send(host, node, Leave(view.id), ())

    def pause(self, host: Host) -> None:
        if not host.paused:
            host.paused_at = self.now
        host.paused = True
        host.pauses += 1
        pause, node = host.pauses, host.node
        if node is not None:
            patience = PATIENCE * host.settings.timing.failure_timeout
            self.after(patience, lambda: self._out_of_patience(host, node, pause))

    def _out_of_patience(self, host: Host, node: Node, pause: int) -> None:
        if host.node is not node or not host.paused or host.pauses != pause or not host.guarded:
            return
        told: list[Input] = [AddressLost(vip, "removed by the guard") for vip in sorted(host.up)]
        told.append(Fenced())
        self._guard(host, node)
        host.robbed = True
        for item in told:  # the loop reads its sockets in any order
            host.backlog.insert(self.rng.randint(0, len(host.backlog)), item)
        host.guarded = True  # the agent replaces it as soon as it runs again

    def resume(self, host: Host) -> None:
        """The pump drains the socket, message by message, then looks at the time."""
        if not host.paused:
            return
        host.paused, host.catching_up = False, True
        undone, host.undone = host.undone, []
        for output in undone:
            self._carry_out(host, output)
        if self.now - host.paused_at > host.settings.timing.failure_timeout:
            host.backlog = [item for item in host.backlog if not isinstance(item, Received)]
        self._catch_up(host, host.node, host.pauses, self.rng.choice((0.0, 5e-5, 3e-4)))

    def _catch_up(self, host: Host, node: Node | None, pause: int, cost: float) -> None:
        """`cost`: seconds that one message takes."""
        if host.node is not node or host.paused or host.pauses != pause:
            return
        if not host.backlog:
            host.catching_up = host.robbed = False
            self.feed(host, Timer())
            return
        item = host.backlog.pop(0)
        host.catching_up = False
        self.feed(host, item)
        host.catching_up = True
        self.after(cost, lambda: self._catch_up(host, node, pause, cost))

    def feed(self, host: Host, item: Input) -> None:
        if host.node is None:
            return
        # What comes by one way comes in order: a later word on the interfaces does not overtake an earlier one.
        behind = host.catching_up and any(type(earlier) is type(item) for earlier in host.backlog)
        if host.paused or behind or (host.catching_up and isinstance(item, Received | Timer | Reconfigured)):
            lost = isinstance(item, Received) and len(host.backlog) >= SOCKET_BUFFER
            if not isinstance(item, Timer) and not lost:
                host.backlog.append(item)
            return
        self.steps += 1
        self.observer.before(host, self.now, item)
        node = host.node
        outputs = node.step(host.clock(self.now), item)
        if host.freezes:
            host.freezes, host.undone = False, list(outputs)
            self.pause(host)
        else:
            for output in outputs:
                self._carry_out(host, output)
        host.due = node.deadline()
        self.observer.after(host, self.now, item, list(outputs))
        if host.doomed is not None and any(isinstance(o, Send) and isinstance(o.message, host.doomed) for o in outputs):
            host.doomed = None
            self.crash(host)
        self._arm(host)

    def _deliver(self, target: Host, received: Received, prompt: bool) -> None:
        if prompt:
            target.heard[received.sender] = self.now
        self.feed(target, received)

    def _arm(self, host: Host) -> None:
        node = host.node
        if node is None:
            return
        due = max(self.now, host.from_clock(host.due))
        if due < host.armed - 1e-9 or host.armed <= self.now:
            host.armed = due
            self.at(due + 1e-6, lambda: self._fire(host, node, due))

    def _fire(self, host: Host, node: Node, due: float) -> None:
        if host.node is not node or host.armed != due:
            return
        host.armed = float("inf")
        if host.paused or host.catching_up:
            return
        self.feed(host, Timer())

    # Effects.

    def _carry_out(self, host: Host, output: object) -> None:
        match output:
            case Send(message=message, to=to):
                assert host.node is not None
                self._send(host, host.node, message, to)
            case HoldLease(until=until, fresh=fresh):
                if not fresh and self.now >= host.leased_until:
                    self.after(0.0, lambda: self.feed(host, LeaseLapsed()))
                else:
                    # What has been leased cannot be taken back: a shorter one does not end it.
                    ends = host.from_clock(until) - self.rng.uniform(0.0, EARLY)
                    host.leased_until = max(ends, host.leased_until)
            case Acquire(vips=vips):
                assert host.node is not None
                table = {vip.name: vip.addresses for vip in host.node.settings.vips}
                host.defined.update((vip, table[vip]) for vip in vips)
                if host.robbed:  # the guard has acted: nothing is put up before the agent knows
                    self._kernel(host, lambda: self._refuse(host, vips))
                else:
                    self._kernel(host, lambda: self._add(host, vips))
            case Release(vips=vips):
                self._kernel(host, lambda: self._remove(host, vips))
            case Stop():
                self.after(0.0, lambda node=host.node: self._stop(host, node))  # type: ignore[misc]
            case Announce():
                pass

    def _send(self, host: Host, node: Node, message: Message, to: tuple[NodeName, ...]) -> None:
        received = Received(node.me, message)
        for name in to or [name for name in self.hosts if name != host.name]:
            target = self.hosts.get(NodeName(name))
            if target is None:  # a hostile test's invention
                continue
            for delay in self.network.deliveries(host.name, name):
                prompt = delay < LATE_COPY
                self.after(delay, lambda target=target, prompt=prompt: self._deliver(target, received, prompt))  # type: ignore[misc]

    def _stop(self, host: Host, node: Node | None) -> None:
        if host.node is node:
            self.crash(host)

    def _kernel(self, host: Host, work: Callable[[], None]) -> None:
        node = host.node
        host.busy_until = max(self.now, host.busy_until) + self.rng.uniform(5e-5, 2e-3)
        self.at(host.busy_until, lambda: work() if host.node is node else None)

    def _add(self, host: Host, vips: tuple[VipName, ...]) -> None:
        good = tuple(vip for vip in vips if self.rng.random() >= host.fails)
        for vip in set(vips) - set(good):
            host.up.discard(vip)
        host.up |= set(good)
        if good:
            self.feed(host, AddressesAdded(good))
        for vip in vips:
            if vip not in good:
                self.feed(host, AddressesFailed(vip, "netlink", "simulated"))

    def _refuse(self, host: Host, vips: tuple[VipName, ...]) -> None:
        for vip in vips:
            host.up.discard(vip)
            self.feed(host, AddressesFailed(vip, "netlink", "the guard has acted"))

    def _remove(self, host: Host, vips: tuple[VipName, ...]) -> None:
        host.up -= set(vips)
        if self.rng.random() < host.dies_releasing:
            host.dies_releasing = 0.0
            self.crash(host)  # the kernel has done it, and nobody will hear so
            return
        self.feed(host, AddressesRemoved(vips))

    def lose_address(self, host: Host) -> None:
        """Somebody deletes an address by hand."""
        if host.up and host.node is not None and not host.paused:
            vip = self.rng.choice(sorted(host.up))
            host.up.discard(vip)
            self.feed(host, AddressLost(vip, "deleted by hand"))
