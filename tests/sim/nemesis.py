"""Faults: which ones, how often, and at what is drawn from the seed (swarm testing)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from agent.core.ids import VipName
from agent.core.inputs import (
    BalanceRequested,
    DrainRequested,
    FitnessChanged,
    Input,
    JoinRequested,
    LeaveRequested,
    MoveRequested,
    NeighboursRead,
    Reconfigured,
    RivalSeen,
    VipsUnable,
)
from agent.core.messages import Decide, Heartbeat, Install, Join, Leave
from agent.core.settings import Vip
from agent.core.view import NeighbourEntry
from tests.sim.world import Host, World


class Nemesis:
    """Strikes at random moments until `quiet`; biased towards what a membership protocol gets wrong."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.pace = rng.uniform(0.1, 1.2)
        self.renamed = 0
        self.asked: list[tuple[Host, int]] = []
        everything: list[Callable[[Host], None]] = [
            self.crash,
            self.crash_coordinator,
            self.pause,
            self.split,
            self.one_way,
            self.broken_pairs,
            self.isolate,
            self.flicker,
            self.ask_around_partition,
            self.leave,
            self.stop,
            self.drain,
            self.unfit,
            self.link,
            self.lose_address,
            self.kernel_refuses,
            self.lossy,
            self.balance,
            self.move,
            self.share,
            self.restart_twice,
            self.reload,
            self.reload,
            self.reweigh,
            self.drain_in_gather,
            self.crash_at,
            self.crash_releasing,
            self.echo,
            self.crash_two,
            self.lapse,
            self.guard_dies,
            self.rival,
            self.mute,
            self.restart_and_split,
            self.freeze_in_step,
            self.sleep_by_turns,
            self.sleep_at_start,
            self.quick_return,
            self.slow_link,
            self.relet,
            self.rename,
        ]
        self.arsenal = rng.sample(everything, rng.randint(2, 9))
        network = {
            self.split, self.one_way, self.broken_pairs, self.isolate, self.flicker,
            self.ask_around_partition, self.lossy, self.echo, self.mute, self.restart_and_split,
            self.slow_link,
        }  # fmt: skip
        if rng.random() < 0.25:
            self.arsenal = [fault for fault in self.arsenal if fault not in network] or [self.crash, self.pause]
        if self.relet in self.arsenal:
            # While leases are being changed no node may be restarted (docs/safety.md).
            restarts = {
                self.crash, self.crash_coordinator, self.stop, self.restart_twice, self.drain_in_gather, self.crash_at,
                self.crash_releasing, self.crash_two, self.guard_dies, self.restart_and_split, self.sleep_at_start,
                self.rename,
            }  # fmt: skip
            self.arsenal = [fault for fault in self.arsenal if fault not in restarts]
        # Who sleeps through a reload to longer leases does not know that a lone node's runs longer now: only a quorum
        # cannot be had without one that was told.
        self.breaks_network = any(fault in network or fault == self.relet for fault in self.arsenal)
        self.active = True

    def unleash(self) -> None:
        self.world.after(self.rng.expovariate(1.0 / self.pace), self._strike)

    def _strike(self) -> None:
        if not self.active:
            return
        self.rng.choice(self.arsenal)(self._victim())
        self.unleash()

    def _victim(self) -> Host:
        return self.rng.choice(list(self.world.hosts.values()))

    def _later(self, longest: float, action: Callable[[], None]) -> None:
        self._soon(self.rng.uniform(0.0, longest), action)

    def _soon(self, delay: float, action: Callable[[], None]) -> None:
        self.world.after(delay, lambda: action() if self.active else None)

    def _tell(self, host: Host, item: Input) -> None:
        self.world.feed(host, item)

    # Machines.

    def crash(self, host: Host) -> None:
        self.world.crash(host)
        self._later(3.0, lambda: self._start(host))

    def _start(self, host: Host) -> None:
        if host.node is None:
            self.world.start(host)

    def crash_coordinator(self, host: Host) -> None:
        """In the middle of what it decides: shortly after a request, a decision may be in flight."""
        view = host.node.membership.view if host.node is not None else None
        if view is None:
            return
        target = self.world.hosts[view.id.coordinator.name]
        self.balance(host)
        self.world.after(self.rng.uniform(0.0, 2e-3), lambda: self.crash(target) if self.active else None)

    def restart_twice(self, host: Host) -> None:
        """A new life meets messages of the old ones."""
        for _ in range(2):
            self.world.crash(host)
            self.world.start(host)

    def pause(self, host: Host) -> None:
        self.world.pause(host)
        self.world.after(self.rng.choice((0.02, 0.2, 0.3, 0.38, 0.45, 0.55, 2.0)), lambda: self.world.resume(host))

    def freeze_in_step(self, host: Host) -> None:
        """Stopped between a step and its effects, which are then carried out late."""
        host.freezes = True
        self.world.after(self.rng.choice((0.1, 0.3, 0.37, 0.55, 1.0)), lambda: self._thaw(host))

    def _thaw(self, host: Host) -> None:
        host.freezes = False
        self.world.resume(host)

    def sleep_by_turns(self, host: Host) -> None:
        """One sleeps past the failure timeout, and as it wakes the other falls asleep."""
        timeout = host.settings.timing.failure_timeout
        first = self.rng.uniform(1.05, 2.0) * timeout
        self.world.pause(host)
        self.world.after(first, lambda: self.world.resume(host))
        for other in self.world.hosts.values():
            if other is host:
                continue
            begin = first + self.rng.uniform(-0.03, 0.03)
            sleep = self.rng.choice((0.93, 0.97, 1.2, 2.0)) * timeout
            self._soon(begin, lambda other=other: self.world.pause(other))  # type: ignore[misc]
            self.world.after(begin + sleep, lambda other=other: self.world.resume(other))  # type: ignore[misc]

    def sleep_at_start(self, host: Host) -> None:
        """Stopped in its first step; as it wakes all others are late."""
        self.world.crash(host)
        self.world.start(host)
        self.world.pause(host)
        sleep = self.rng.uniform(0.3, 2.0)
        self.world.after(sleep, lambda: self.world.resume(host))
        for other in self.world.hosts.values():
            if other is not host:
                self._soon(sleep - 0.01, lambda other=other: self.world.pause(other))  # type: ignore[misc]
                self.world.after(sleep + 0.25, lambda other=other: self.world.resume(other))  # type: ignore[misc]

    def relet(self, host: Host) -> None:
        """Leases get longer or shorter by a rolling reload."""
        bound = host.settings.lease_bound
        if bound <= 0.0:
            return
        bound = self.rng.choice((0.75, 0.9, 2.0, 3.0)) * host.settings.timing.failure_timeout
        for target in self.world.hosts.values():
            self._later(self.rng.choice((0.0, 0.05, 0.5)), lambda target=target: self._relet(target, bound))  # type: ignore[misc]

    def _relet(self, host: Host, bound: float) -> None:
        host.settings = replace(host.settings, lease_bound=bound, digest=f"{host.settings.digest}{bound}")
        self._tell(host, Reconfigured(host.settings))

    def kernel_refuses(self, host: Host) -> None:
        host.fails = self.rng.choice((0.0, 0.3, 1.0))
        self._later(3.0, lambda: setattr(host, "fails", 0.0))

    def lose_address(self, host: Host) -> None:
        self.world.lose_address(host)

    def link(self, host: Host) -> None:
        vips = [vip.name for vip in host.settings.vips]
        unable = tuple((vip, "interface_down") for vip in vips if self.rng.random() < 0.5)
        self._tell(host, VipsUnable(unable))
        self._later(2.0, lambda: self._tell(host, VipsUnable(())))

    def reload(self, host: Host) -> None:
        """VIPs come, go, and move to another interface or address; mostly everywhere, as an operator would do it."""
        table = self._edited(host.settings.vips)
        targets = [host] if self.rng.random() < 0.2 else list(self.world.hosts.values())
        for target in targets:
            self._later(self.rng.choice((0.0, 0.01, 0.5)), lambda target=target: self._reload(target, table))  # type: ignore[misc]

    def _reload(self, host: Host, table: tuple[Vip, ...]) -> None:
        host.settings = replace(host.settings, vips=table, digest=repr(table))
        self._tell(host, Reconfigured(host.settings))

    def _edited(self, table: tuple[Vip, ...]) -> tuple[Vip, ...]:
        vips = list(table)
        number = self.rng.randrange(len(vips))
        (address,) = vips[number].addresses
        match self.rng.choice(("add", "remove", "address", "interface")):
            case "add" if len(vips) < 12:
                text = f"10.0.2.{self.rng.randint(1, 200)}"
                if all(vip.name != text for vip in vips):
                    vips.append(Vip(VipName(text), (replace(address, address=text),)))
            case "remove" if len(vips) > 1:
                del vips[number]
            case "interface":
                vips[number] = replace(vips[number], addresses=(replace(address, interface="eth1"),))
            case _:
                text, used = f"10.0.3.{self.rng.randint(1, 200)}", {one.addresses[0].address for one in vips}
                while text in used:  # no configuration names an address twice
                    text = f"10.0.3.{self.rng.randint(1, 200)}"
                vips[number] = replace(vips[number], addresses=(replace(address, address=text),))
        return tuple(vips)

    def rename(self, host: Host) -> None:
        """An address gets another VIP's name: taken out and added again, or by a restart, on each node at its time."""
        table = host.settings.vips
        if len(table) < 2:
            return
        old = self.rng.choice(table)
        self.renamed += 1
        new = replace(old, name=VipName(f"as-{self.renamed}"))
        fewer, renamed = tuple(vip for vip in table if vip != old), tuple(new if vip == old else vip for vip in table)
        for target in self.world.hosts.values():
            delay = self.rng.choice((0.0, 0.05, 0.5, 2.0))
            if self.rng.random() < 0.2:
                self._soon(delay, lambda target=target: self._restart(target, renamed))  # type: ignore[misc]
                continue
            pause = self.rng.choice((0.0, 0.001, 0.05, 1.0))
            self._soon(delay, lambda target=target: self._reload(target, fewer))  # type: ignore[misc]
            self._soon(delay + pause, lambda target=target: self._reload(target, renamed))  # type: ignore[misc]

    def _restart(self, host: Host, table: tuple[Vip, ...]) -> None:
        self.world.crash(host)
        host.settings = replace(host.settings, vips=table, digest=repr(table))
        self.world.start(host)

    def reweigh(self, host: Host) -> None:
        weight, serves = self.rng.choice((0.5, 1.0, 3.0)), self.rng.random() < 0.8
        host.settings = replace(host.settings, weight=weight, serves=serves)
        self._tell(host, Reconfigured(host.settings))
        self._later(2.0, lambda: self._serve(host))

    def _serve(self, host: Host) -> None:
        host.settings = replace(host.settings, serves=True)
        self._tell(host, Reconfigured(host.settings))

    def drain_in_gather(self, host: Host) -> None:
        """What a Join declared is no longer so when the Install comes."""
        self.crash(self._victim())
        action = self.rng.choice((self.drain, self.unfit, self.link, self.leave, self.reload))
        timeout = host.settings.timing.failure_timeout
        self.world.after(timeout + self.rng.uniform(-0.1, 0.05), lambda: action(host) if self.active else None)

    def crash_at(self, host: Host) -> None:
        """Right after it has sent something that others wait for, or that changes everything."""
        host.doomed = self.rng.choice((Install, Join, Decide, Leave, Heartbeat))
        self._later(1.0, lambda: self.balance(host))
        self._later(3.0, lambda: self._start(host))

    def crash_releasing(self, host: Host) -> None:
        host.dies_releasing = 1.0
        self.world.after(0.001, lambda: self.drain(host))
        self._later(3.0, lambda: self._start(host))

    def crash_two(self, host: Host) -> None:
        """The second one soon after: what waits for the lease of the first has to go on waiting."""
        self.crash(host)
        timeout = host.settings.timing.failure_timeout
        self.world.after(
            timeout + self.rng.uniform(0.0, 0.3), lambda: self.crash(self._victim()) if self.active else None
        )

    def lapse(self, host: Host) -> None:
        """The kernel ends a lease long before its time."""
        host.leased_until = min(host.leased_until, self.world.now)

    def guard_dies(self, host: Host) -> None:
        """At the same time as its agent, or alone: then it is replaced."""
        host.guarded = False
        if self.rng.random() < 0.5:
            self.crash(host)
        else:
            self._later(0.1, lambda: setattr(host, "guarded", self.world.guards))

    def rival(self, host: Host) -> None:
        if host.up:
            self._tell(host, RivalSeen(self.rng.choice(sorted(host.up)), "02:00:00:00:00:99"))

    # Network.

    def echo(self, host: Host) -> None:
        """Copies of old messages come seconds later."""
        self.world.network.stale = self.rng.choice((0.05, 0.3))
        self._later(4.0, lambda: setattr(self.world.network, "stale", 0.0))

    def slow_link(self, host: Host) -> None:
        """What one says to another comes late, but it comes; meanwhile it may leave and come back."""
        network, link = self.world.network, (host.name, self._victim().name)
        network.slow[link] = self.rng.choice((0.05, 0.2, 0.3))
        if self.rng.random() < 0.5:
            self._later(0.05, lambda: self.quick_return(host))
        self._later(2.0, lambda: network.slow.pop(link, None))

    def split(self, host: Host) -> None:
        names = sorted(self.world.hosts)
        group = {str(name) for name in names if self.rng.random() < 0.5}
        self.world.network.split(group, set(names))
        self._heal_later()

    def isolate(self, host: Host) -> None:
        self.world.network.split({host.name}, set(self.world.hosts))
        self._heal_later()

    def one_way(self, host: Host) -> None:
        other = self._victim()
        self.world.network.cut.add((host.name, other.name))
        self._heal_later()

    def mute(self, host: Host) -> None:
        """A minority hears everybody and is heard by nobody else: only missing acknowledgements tell it."""
        names = sorted(self.world.hosts)
        group = set(self.rng.sample(names, max(1, (len(names) - 1) // 2)))
        self.world.network.cut |= {(one, other) for one in group for other in names if other not in group}
        self._heal_later()

    def restart_and_split(self, host: Host) -> None:
        """Who acknowledged a lease forgets it, while its holder is cut off together with few others."""
        names = sorted(self.world.hosts)
        others = [name for name in names if name != host.name]
        group = {str(name) for name in self.rng.sample(others, max(1, len(others) // 2))}
        self.world.network.split(group, set(names))
        self.world.crash(host)
        self._later(0.3, lambda: self._start(host))
        self._heal_later()

    def broken_pairs(self, host: Host) -> None:
        """Who hears whom is not transitive: everybody sees another cluster."""
        names = sorted(self.world.hosts)
        for one in names:
            for other in names:
                if one < other and self.rng.random() < 0.35:
                    self.world.network.cut |= {(one, other), (other, one)}
        self._heal_later()

    def flicker(self, host: Host) -> None:
        """Cut and healed within about a failure timeout: the excluded are alive and still holding."""
        self.world.network.split({host.name}, set(self.world.hosts))
        self.world.after(self.rng.uniform(0.25, 0.6), lambda: self.world.network.cut.clear())

    def _heal_later(self) -> None:
        self._later(3.0, lambda: self.world.network.cut.clear())

    def lossy(self, host: Host) -> None:
        network = self.world.network
        network.loss = self.rng.choice((0.0, 0.02, 0.1, 0.2))
        network.duplicate = self.rng.choice((0.0, 0.05))
        network.late = self.rng.choice((0.0, 0.05, 0.3))
        self._later(3.0, network.heal)

    # People.

    def leave(self, host: Host) -> None:
        self._tell(host, LeaveRequested(stop=False))
        self._later(3.0, lambda: self._tell(host, JoinRequested()))

    def quick_return(self, host: Host) -> None:
        self._tell(host, LeaveRequested(stop=False))
        self._later(0.1, lambda: self._tell(host, JoinRequested()))

    def stop(self, host: Host) -> None:
        self._tell(host, LeaveRequested(stop=True))
        self._later(4.0, lambda: self._start(host))

    def drain(self, host: Host) -> None:
        self._tell(host, DrainRequested(True))
        self._later(2.0, lambda: self._tell(host, DrainRequested(False)))

    def unfit(self, host: Host) -> None:
        self._tell(host, FitnessChanged(False))
        self._later(2.0, lambda: self._tell(host, FitnessChanged(True)))

    def balance(self, host: Host) -> None:
        self._tell(host, BalanceRequested())

    def move(self, host: Host) -> None:
        vip = self.rng.choice(host.settings.vips).name
        self._tell(host, MoveRequested(vip, self._victim().name))

    def share(self, host: Host) -> None:
        entry = NeighbourEntry(f"10.0.0.{self.rng.randint(1, 9)}", "02:00:00:00:00:01")
        self._tell(host, NeighboursRead((entry,)))

    def ask_around_partition(self, host: Host) -> None:
        self.move(host)
        self.world.after(self.rng.uniform(0.0, 1e-3), lambda: self.split(host) if self.active else None)
        self.balance(self._victim())

    # The end of it.

    def quiet(self) -> None:
        """Heals everything; who is down is started or stays down."""
        self.active = False
        self.world.network.heal()
        table = self.world.hosts[min(self.world.hosts)].settings.vips
        for host in self.world.hosts.values():
            host.fails = host.dies_releasing = 0.0
            host.doomed, host.freezes = None, False
            host.settings = replace(host.settings, serves=True)
            if self.rng.random() < 0.7:
                host.settings = replace(host.settings, vips=table, digest=repr(table))
            self.world.resume(host)
            if host.node is None and self.rng.random() < 0.8:
                self.world.start(host)
            elif host.node is not None:
                self._calm(host)

    def _calm(self, host: Host) -> None:
        self._tell(host, Reconfigured(host.settings))
        for item in (FitnessChanged(True), DrainRequested(False), VipsUnable(())):
            self._tell(host, item)
        node = host.node
        if node is not None and (node.serving.leaving or not node.membership.active) and not node.departure.stops:
            self._tell(host, JoinRequested())
