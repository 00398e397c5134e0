"""A calm cluster of real cores in virtual time, for scenarios that a test spells out."""

from __future__ import annotations

from dataclasses import replace

from agent.core.events import Event
from agent.core.ids import NodeName, VipName
from agent.core.settings import Address, Settings, Timing, Vip
from tests.sim.checkers import Checkers
from tests.sim.world import Host, World


class Recorder(Checkers):
    """Checks every invariant, and keeps the events."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[float, NodeName, Event]] = []

    def after(self, host: Host, now: float, item: object, outputs: list[object]) -> None:
        self.events += [(now, host.name, output) for output in outputs if isinstance(output, Event)]
        super().after(host, now, item, outputs)  # type: ignore[arg-type]

    def of(self, *kinds: type) -> list[tuple[float, NodeName, Event]]:
        return [entry for entry in self.events if isinstance(entry[2], kinds)]


def vips(count: int) -> tuple[Vip, ...]:
    return tuple(
        Vip(VipName(f"10.0.1.{i}"), (Address("eth0", f"10.0.1.{i}", 32, "10.0.0.0/16"),)) for i in range(1, count + 1)
    )


def settings(names: list[str], pool: tuple[Vip, ...], timing: Timing | None = None) -> list[Settings]:
    members = tuple(NodeName(name) for name in names)
    return [
        Settings(
            cluster="test", node=name, vips=pool, members=members, timing=timing or Timing(mature=0.5), digest="same"
        )
        for name in members
    ]


def cluster(
    names: list[str], count: int = 6, *, timing: Timing | None = None, changed: dict[str, Settings] | None = None
) -> tuple[World, Recorder]:
    """Started and not yet run; `changed` replaces the settings of single nodes."""
    recorder = Recorder()
    each = [(changed or {}).get(one.node, one) for one in settings(names, vips(count), timing)]
    world = World(1, each, recorder)
    recorder.hosts = world.hosts
    for host in world.hosts.values():
        world.start(host)
    return world, recorder


def running(names: list[str], count: int = 6, *, timing: Timing | None = None) -> tuple[World, Recorder]:
    """In one mature view, with every VIP held once."""
    world, recorder = cluster(names, count, timing=timing)
    world.run(2.0)
    assert sorted(holders(world)) == sorted(vip.name for vip in vips(count))
    assert all(len(hosts) == 1 for hosts in holders(world).values())
    recorder.events.clear()
    return world, recorder


def holders(world: World) -> dict[VipName, list[NodeName]]:
    """Who has each address in its kernel."""
    found: dict[VipName, list[NodeName]] = {}
    for host in world.hosts.values():
        for vip in host.up:
            found.setdefault(vip, []).append(host.name)
    return found


def other_table(one: Settings, pool: tuple[Vip, ...]) -> Settings:
    return replace(one, vips=pool, digest=f"other-{len(pool)}")
