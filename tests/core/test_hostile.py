"""Whatever a peer that holds the key may say: the core takes it, in any order, and stays small, calm and in its table.

The messages are legal by the codec's rules (each goes through it) and made of the cluster's own names, views, epochs
and VIPs as often as of strange ones, so that they reach deep. The others of the cluster are real cores.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.effects import Acquire, Send
from agent.core.events import DatagramRejected
from agent.core.ids import Member, NodeName, ViewId, VipName
from agent.core.inputs import (
    BalanceRequested,
    DrainRequested,
    FitnessChanged,
    Input,
    JoinRequested,
    LeaveRequested,
    MoveRequested,
    NeighboursRead,
    Received,
    Reconfigured,
    Timer,
    VipsUnable,
)
from agent.core.messages import OTHERS, Decide, Heartbeat, Install, Join, Leave, Message
from agent.core.node import Node
from agent.core.plausible import EPOCH_LEAP
from agent.core.settings import MEMBERS_MAX, UNSTABLE_MAX, Timing
from agent.core.view import Entry, MemberState, Move, NeighbourEntry, View, VipSpec
from agent.engines.embedded.codec import decode, encode
from tests.core.cluster import settings as cluster_settings
from tests.core.cluster import vips
from tests.engines.wire_samples import message as any_message
from tests.engines.wire_samples import record as any_record
from tests.sim.world import Host, Observer, World

NAMES = ["a", "b", "c"]
POOL = vips(4)
STEPS_A_SECOND = 120
"""Without messages: ten heartbeats, Joins every 20 ms while gathering, announcements, netlink's answers."""


class Watch(Observer):
    """What must hold at the honest nodes, whatever they are told."""

    def __init__(self) -> None:
        self.timers: dict[tuple[str, int], int] = {}
        self.rejected = 0

    def after(self, host: Host, now: float, item: Input, outputs: list[object]) -> None:
        node = host.node
        assert node is not None
        local = host.clock(now)
        assert node.deadline() > local, f"{host.name} spins: {node.deadline()} at {local} after {item}"
        if isinstance(item, Timer):
            second = (host.name, int(now))
            self.timers[second] = self.timers.get(second, 0) + 1
            assert self.timers[second] <= STEPS_A_SECOND, f"{host.name} spins at {now}"
        table = {vip.name for vip in node.settings.vips} | host.up
        for output in outputs:
            match output:
                case Acquire(vips=taken):
                    assert set(taken) <= table, f"{host.name} acquires {taken}"
                case Send(message=message):
                    decode(encode(message))
                case DatagramRejected():
                    self.rejected += 1
        self.bounded(node)

    def bounded(self, node: Node) -> None:
        membership, serving = node.membership, node.serving
        log, record = membership.log, serving.record
        sizes = {
            "peers": (len(membership.peers.all()), MEMBERS_MAX),
            "waiting": (len(log._waiting), 2 * UNSTABLE_MAX),
            "tail": (len(log.tail()), UNSTABLE_MAX),
            "attempts": (len(membership._merging._attempts), 2 * MEMBERS_MAX),
            "suspects": (len(membership._suspicion.members), 2 * MEMBERS_MAX),
            "moving": (len(serving._moving_since), 100),
            "holdings": (len(serving.ownership.holdings), len(POOL)),
            "operator": (len(serving.operator), 64),
        }
        if record is not None:
            sizes["owners"] = (len(record.owners), len(record.specs))
            sizes["standings"] = (len(record.standings), len(record.view.members))
        beyond = {name: size for name, (size, most) in sizes.items() if size > most}
        assert not beyond, f"{node.me} grows: {beyond}"


class Liar:
    """Makes messages: random by type, then with what is random in them replaced by what the victim knows."""

    def __init__(self, rng: Random, world: World) -> None:
        self.rng = rng
        self.world = world

    def member(self) -> Member:
        rng = self.rng
        if rng.random() < 0.15:
            return Member(NodeName(rng.choice(("d", "ghost", "zz", ""))), rng.choice((0, 1, 2**53)))
        host = rng.choice(list(self.world.hosts.values()))
        return Member(host.name, max(0, host.incarnation + rng.choice((0, 0, 0, 0, -1, 1))))

    def view(self) -> View:
        known = [h.node.membership.view for h in self.world.hosts.values() if h.node and h.node.membership.view]
        if known and self.rng.random() < 0.5:
            return self.rng.choice(known)
        names = {member.name: member for member in (self.member() for _ in range(self.rng.randint(1, 4)))}
        members = tuple(names[name] for name in sorted(names) if name)
        members = members or (Member(NodeName("a"), 1),)
        coordinator = self.rng.choice(members) if self.rng.random() < 0.8 else self.member()
        return View(ViewId(self.epoch(), self.named(coordinator)), members)

    def named(self, member: Member) -> Member:
        return member if member.name else Member(NodeName("x"), member.incarnation)

    def epoch(self) -> int:
        epochs = [h.node.membership.epoch for h in self.world.hosts.values() if h.node]
        around = max(epochs, default=0) + self.rng.choice((-1, 0, 0, 1, 1, 1, 2, 5))
        return max(0, self.rng.choice((around, around, around, around, EPOCH_LEAP + around, 2**53)))

    def seq(self) -> int:
        logs = [h.node.membership.log.delivered for h in self.world.hosts.values() if h.node]
        return max(0, min(2**53, self.rng.choice((*logs, 0, 2**53)) + self.rng.choice((-1, 0, 1, 1, 40))))

    def vip(self) -> VipName:
        return VipName(self.rng.choice([*(vip.name for vip in POOL), "strange", "10.9.9.9", OTHERS]))

    def twist(self, value: Any) -> Any:
        """The same shape, with what is random replaced by what fits (mostly)."""
        rng = self.rng
        if isinstance(value, View):
            return self.view()
        if isinstance(value, Member):
            return self.named(self.member())
        if isinstance(value, ViewId):
            return self.view().id
        if isinstance(value, VipSpec):
            known = [VipSpec(vip.name, tuple(a.address for a in vip.addresses)) for vip in POOL]
            return rng.choice((*known, replace(value, name=self.vip(), nodes=tuple(map(NodeName, NAMES[:1])))))
        if isinstance(value, Move):
            return replace(value, vip=self.vip(), giver=self.node(), taker=self.node())
        if isinstance(value, MemberState):
            tables = [h.node.serving.table for h in self.world.hosts.values() if h.node]
            twisted = self.fields(value)
            return replace(
                twisted, table=rng.choice((*tables, value.table)), lease_bound=rng.choice((0.0, 0.0, 0.2, 1e9))
            )
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(self.twist(part) for part in value)
        if hasattr(value, "__dataclass_fields__"):
            return self.fields(value)
        return value

    def node(self) -> NodeName:
        return NodeName(self.rng.choice((*NAMES, "ghost")))

    def fields(self, value: Any) -> Any:
        made = {}
        for name in value.__dataclass_fields__:
            part = getattr(value, name)
            if name == "epoch":
                made[name] = self.epoch()
            elif name in ("held", "released", "uncovered", "failed", "vips") and isinstance(part, tuple):
                made[name] = tuple(sorted({self.vip() for _ in part}))
            elif name in ("owners", "conflicts") and isinstance(part, tuple):
                made[name] = tuple((self.vip(), self.node()) for _ in part)
            elif name == "waits":
                made[name] = tuple((self.vip(), wait) for _, wait in part)
            elif name == "answers":
                made[name] = tuple((self.node(), number) for _, number in part)
            elif name in ("vip", "taker", "member") and isinstance(part, str):
                made[name] = self.vip() if name == "vip" else self.node()
            elif name in ("delivered", "stable", "since"):
                made[name] = self.seq()
            elif name == "number" and isinstance(value, Heartbeat):
                made[name] = self.rng.randint(1, 10**6)
            else:
                made[name] = self.twist(part)
        return replace(value, **made)

    def message(self) -> tuple[Member, Message]:
        rng = self.rng
        sender = self.named(self.member())
        if rng.random() < 0.15:
            return sender, any_message(rng)
        made: Any = self.twist(
            any_record(rng, rng.choice((Heartbeat, Heartbeat, Join, Join, Install, Decide, Leave)), 4)
        )
        made = self.consistent(sender, made)
        try:
            return sender, decode(encode(made))
        except Exception:
            return sender, any_message(rng)

    def consistent(self, sender: Member, made: Any) -> Any:
        """Passes the first checks more often than chance would."""
        rng = self.rng
        votes = [h.node.membership.gather for h in self.world.hosts.values() if h.node and h.node.membership.gather]
        match made:
            case Decide():
                view = self.view()
                first = max(1, self.seq())
                entries = tuple(Entry(first + i, entry.decision) for i, entry in enumerate(made.entries))
                return Decide(view.id, entries)
            case Join(tail=tail):
                last = made.delivered
                entries = tuple(Entry(max(1, last - len(tail)) + i, entry.decision) for i, entry in enumerate(tail))
                lost = tuple(replace(one, lease_bound=rng.choice((0.0, 0.3))) for one in made.lost)
                return replace(made, tail=entries, lost=lost, waits=tuple((vip, 0.2) for vip, _ in made.waits))
            case Install(view=view):
                if votes and rng.random() < 0.8:
                    gather = rng.choice(votes)
                    names = {
                        m.name: m for m in (gather.vote, *(h.node.me for h in self.world.hosts.values() if h.node))
                    }
                    members = tuple(names[name] for name in sorted(names))
                    view = View(ViewId(gather.epoch, gather.vote), members)
                states = tuple(self.twist(any_record(rng, MemberState, 3)) for _ in view.members)
                if rng.random() < 0.5:
                    tables = [h.node.serving.table for h in self.world.hosts.values() if h.node]
                    states = tuple(replace(state, table=tables[0], lease_bound=0.0) for state in states)
                return replace(
                    made,
                    view=view,
                    states=states,
                    sizes=tuple(rng.randint(0, 9) for _ in states),
                    tables=made.tables if rng.random() < 0.3 else (),
                    conflicts=made.conflicts if rng.random() < 0.3 else (),
                    waits=tuple((vip, rng.choice((0.0, 0.3, 1e9))) for vip, _ in made.waits),
                    recovered=made.recovered if rng.random() < 0.3 else (),
                )
        return made

    def lie(self, host: Host) -> None:
        sender, message = self.message()
        if isinstance(message, Install) and host.node and host.node.membership.gather and self.rng.random() < 0.9:
            sender = message.view.id.coordinator
        if isinstance(message, Decide) and self.rng.random() < 0.7:
            sender = message.view.coordinator
        self.world.feed(host, Received(sender, message))

    def ordinary(self, host: Host) -> None:
        rng = self.rng
        fewer = replace(host.settings, vips=POOL[: rng.randint(1, len(POOL))])
        item: Input = rng.choice(
            (
                Timer(),
                BalanceRequested(),
                DrainRequested(rng.random() < 0.5),
                FitnessChanged(rng.random() < 0.5),
                JoinRequested(),
                LeaveRequested(stop=False),
                MoveRequested(self.vip(), self.node()),
                NeighboursRead((NeighbourEntry("10.0.0.1", "02:00:00:00:00:01"),)),
                Reconfigured(fewer),
                VipsUnable(((self.vip(), "interface_down"),)),
            )
        )
        if isinstance(item, Reconfigured):
            host.settings = item.settings
        self.world.feed(host, item)


def play(seed: int, nodes: int, moments: int) -> tuple[World, Watch]:
    rng = Random(seed)
    watch = Watch()
    each = cluster_settings(NAMES[:nodes], POOL, Timing(mature=0.3))
    world = World(seed, each, watch)
    liar = Liar(rng, world)
    for host in world.hosts.values():
        world.start(host)
    world.run(rng.choice((0.0, 0.2, 1.0)))
    for _ in range(moments):
        host = rng.choice(list(world.hosts.values()))
        for _ in range(rng.choice((1, 1, 1, 5))):
            liar.lie(host)
        if rng.random() < 0.2:
            liar.ordinary(host)
        world.run(world.now + rng.choice((0.0, 0.0003, 0.003, 0.03, 0.1)))
    return world, watch


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), nodes=st.integers(2, 3))
def test_no_message_breaks_a_node(seed: int, nodes: int) -> None:
    world, _ = play(seed, nodes, 60)
    world.run(world.now + 2.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), most=st.integers(0, 6))
def test_random_messages_break_nothing(seed: int, most: int) -> None:
    rng = Random(seed)
    world = World(seed, cluster_settings(NAMES[:2], POOL, Timing(mature=0.3)), Watch())
    for host in world.hosts.values():
        world.start(host)
    world.run(1.0)
    for _ in range(40):
        sender = rng.choice((Member(NodeName("b"), 1), Member(NodeName("b"), 2**53), Member(NodeName("x"), 3)))
        world.feed(world.hosts[NodeName("a")], Received(sender, decode(encode(any_message(rng, most)))))
        world.run(world.now + rng.choice((0.0, 0.01)))
