"""What this machine shows of the VIPs: addresses, the lease that silences them, announcements, the ear for rivals.

The order is the point. Before an address is put up the kernel's filter covers it and the guard knows of it; it is
uncovered and forgotten when the kernel has confirmed that it is gone. So whatever happens in between, an address that
answers is one that is leased, and that the guard can remove.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.core.effects import Occasion
from agent.core.events import Event, LeaseLayer
from agent.core.ids import NodeName, VipName
from agent.core.inputs import Input
from agent.core.settings import Vip
from agent.core.view import NeighbourEntry
from agent.drivers.announcer import Announcer
from agent.drivers.lease import FastLease, LeaseUnavailable
from agent.drivers.lease_table import others, silenced
from agent.drivers.netlink import AddressDriver
from agent.drivers.probing import Prober
from agent.drivers.records import AddressKey, LinkRecord
from agent.drivers.targets import NotifyTarget
from agent.drivers.watch import ConflictWatch, Policy
from agent.guarding import Guard


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the configuration says of these things."""

    vips: tuple[Vip, ...]
    targets: tuple[NotifyTarget, ...]
    use_cache: bool
    cache_interval: float
    """Seconds."""
    leased: bool
    """Whether a fast lease is wanted."""
    lifetime: int
    """Seconds that the kernel keeps an address which nobody renews."""
    policy: Policy
    probe: bool


class Presence:
    """Carries out every effect that concerns this machine. `open` comes first, `start` when the core starts."""

    def __init__(
        self,
        cluster: str,
        wishes: Wishes,
        guard: Guard,
        *,
        clock: Callable[[], float],
        submit: Callable[[Input], None],
        publish: Callable[[Event], None],
    ) -> None:
        self._cluster = cluster
        self._wishes = wishes
        self._guard = guard
        self._clock = clock
        self._publish = publish
        self._announcer = Announcer(
            wishes.vips,
            wishes.targets,
            wishes.use_cache,
            clock=clock,
            on_event=publish,
            interval=wishes.cache_interval,
        )
        self._watch = ConflictWatch(
            wishes.vips, wishes.policy, clock=clock, on_input=submit, on_event=publish, defend=self._defend
        )
        self._lease = FastLease(cluster, wishes.vips, clock=clock, on_input=submit, on_event=publish)
        self._leased = False
        self._drivers = AddressDriver(
            wishes.vips,
            clock=clock,
            on_input=submit,
            on_event=publish,
            on_link=self._link_changed,
            on_add=self._before_adding,
            on_removed=self._after_removing,
            on_strange=self._silence,
            lifetime=wishes.lifetime,
        )
        self._holding: AddressDriver | Prober = self._drivers
        if wishes.probe:
            self._holding = Prober(
                wishes.vips, self._drivers, self._watch, clock=clock, on_input=submit, on_event=publish
            )

    async def open(self) -> str:
        """Why there is no fast lease although it is wanted; empty: there is one, or none is wanted. Raises OSError."""
        await self._announcer.open()
        await self._drivers.open(silenced(self._cluster) if self._wishes.leased else frozenset())
        missing = self._open_lease() if self._wishes.leased else ""
        await self._watch.open()
        return missing

    def _open_lease(self) -> str:
        try:
            self._lease.open(self._drivers.strays(others(self._cluster)), self._drivers.strange)
        except LeaseUnavailable as error:
            self._publish(LeaseLayer(self._clock(), "fast", False, str(error)))
            return str(error)
        self._leased = True
        return ""

    def start(self) -> None:
        """What a former life left goes."""
        self._drivers.remove_strays(others(self._cluster))
        if self._leased:
            self._lease.keep_strays(self._drivers.strays())
        self._drivers.start_renewing()
        if self._wishes.lifetime:
            self._publish(LeaseLayer(self._clock(), "address", True, ""))

    def close(self, *, empty: bool) -> None:
        """`empty`: nothing is held any more, and the filter may go; otherwise it keeps silent what is left."""
        self._watch.close()
        if isinstance(self._holding, Prober):
            self._holding.close()
        self._drivers.close()
        if self._leased:
            self._lease.close(remove=empty)
        self._announcer.close()

    def reconfigure(self, wishes: Wishes) -> None:
        """Takes over new definitions. Raises OSError."""
        self._wishes = wishes
        self._drivers.reconfigure(wishes.vips)
        if self._leased:
            self._lease.reconfigure(wishes.vips)
        if isinstance(self._holding, Prober):
            self._holding.reconfigure(wishes.vips)
        self._announcer.reconfigure(wishes.vips, wishes.targets, wishes.use_cache, wishes.cache_interval)
        self._watch.reconfigure(wishes.vips, wishes.policy)

    @property
    def busy(self) -> bool:
        return self._holding.busy

    @property
    def filters(self) -> tuple[bytes, ...]:
        """What removes this node's filter: for the guard, when the agent is gone and no address is left.

        Nothing does while the filter silences what somebody else has put here.
        """
        return self._lease.removal() if self._leased else ()

    # Effects.

    def acquire(self, vips: tuple[VipName, ...]) -> None:
        self._holding.acquire(vips)

    def release(self, vips: tuple[VipName, ...]) -> None:
        self._holding.release(vips)

    def hold(self, until: float, fresh: bool) -> None:
        if self._leased:
            self._lease.hold(until, fresh)

    def fellows(self, macs: tuple[tuple[str, NodeName], ...]) -> None:
        self._watch.fellows(macs)

    def announce(self, vips: tuple[VipName, ...], occasion: Occasion) -> None:
        self._announcer.announce(vips, occasion)
        self._watch.held(vips)

    def withdraw(self, vips: tuple[VipName, ...]) -> None:
        self._watch.not_held(vips)
        self._announcer.withdraw(vips)

    def learn(self, member: NodeName, entries: tuple[NeighbourEntry, ...]) -> None:
        self._announcer.learn(member, entries)

    def forget(self, member: NodeName) -> None:
        self._announcer.forget(member)

    def local(self, entries: tuple[NeighbourEntry, ...]) -> None:
        """This node's own part of the shared ARP cache."""
        self._announcer.local(entries)

    # What the parts tell each other.

    def _before_adding(self, keys: Sequence[AddressKey]) -> bool:
        if self._leased:
            self._lease.cover(keys)
        return self._guard.hold(keys)

    def _after_removing(self, keys: Sequence[AddressKey]) -> None:
        self._guard.forget(keys)
        if self._leased:
            self._lease.uncover(keys)

    def _silence(self, addresses: frozenset[bytes]) -> None:
        """Somebody put a VIP on this machine: whoever holds it by the group's word is the one to answer."""
        if self._leased:
            self._lease.silence(addresses)
            self._guard.tables(self.filters)

    def _link_changed(self, name: str, link: LinkRecord | None) -> None:
        self._announcer.link_changed(name, link)
        self._watch.link_changed(name, link)
        if self._leased:
            self._lease.link_changed(name)

    def _defend(self, vips: tuple[VipName, ...]) -> None:
        self._announcer.announce(vips, Occasion.DEFEND)
