"""Puts VIPs' addresses on interfaces and takes them off, and notices when somebody else does.

Everything runs in the event loop's thread: a request is answered within its system call, so that a small batch is done
when `acquire` or `release` returns, and a large one is cut into slices.

What is decided here:

- *Whose is it?* What bears our tag is ours. A VIP's address that is on any interface of this node without our tag is
  the node's own or a person's: it is never removed and never taken over; acquiring the VIP fails with ``exists_here``,
  and the VIP is reported unable as long as it is there, so that the group asks somebody else. A kernel before 5.18
  keeps no tags; there, what stands in the configuration, with its prefix, counts as left over, but only at start.
- *While a VIP is held its addresses are ours*, tag or not: on release they go, whoever has touched them in between.
- *Secondaries.* Deleting an IPv4 primary address deletes the others of its network unless promote_secondaries is set.
  Where others would stay, the batch sets it on that interface, deletes, and sets it back (`kernel.Kernel.delete`).
  What is lost all the same is noticed like any other loss.
- *Source addresses.* IPv6 VIPs are deprecated (preferred lifetime 0), IPv4 /32 have link scope, VIPs in a network of
  the node's own are secondary, and `addresses.prefix_route` says when the kernel makes a route. Left over: in a network
  in which the node has no address of its own the VIP is the only source there is.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Sequence

from agent.core.events import Event, InterfaceChanged, StrayRemoved, VipAcquireFailed
from agent.core.ids import VipName
from agent.core.inputs import AddressesAdded, AddressesFailed, AddressesRemoved, AddressLost, Input, VipsUnable
from agent.core.settings import Vip
from agent.drivers import rtnetlink
from agent.drivers.addresses import TAG, PlannedVip, plan, strays, text
from agent.drivers.kernel import EVENT_BUFFER, EVENTS_PER_TURN, Kernel
from agent.drivers.lifetime import AddressLifetime
from agent.drivers.records import AddressKey, AddressRecord, LinkRecord
from agent.drivers.rtnetlink import Answer

SLICE = 64
"""Most addresses per turn of the event loop: 20 to 40 us each on an idle machine."""

SLICE_LEAST = 4
SLICE_SECONDS = 0.004
"""What a slice may take: the next one is cut to it, since the kernel's cost grows with the number of addresses."""

RETRY = 0.1
"""Seconds before the kernel is asked again for a deletion that it refused."""

GIVEN_UP = Answer(errno.EAGAIN, "the guard has just taken everything away, since the agent hung")

REASONS = {
    errno.EPERM: "denied",
    errno.ENODEV: "interface_missing",
    errno.ENETDOWN: "interface_down",
    errno.EEXIST: "exists_here",
}


class AddressDriver:
    """Carries out `Acquire` and `Release`; every VIP named in a call is answered exactly once, in order of the calls.

    ``on_input`` may be called before the call that it answers returns. ``on_link`` gets each change of an interface
    (None: it is gone), for those who send on it. ``on_add`` hears of addresses before they are put up, and none is if
    it answers False; ``on_removed`` of those that are gone, or could not be put up; ``on_strange`` of all of VIPs'
    addresses that somebody else has put on this node while the driver ran, each time they change. ``lifetime`` in
    seconds is the least valid lifetime of addresses, 0 for ever; it is renewed from `start_renewing` on.
    """

    def __init__(
        self,
        vips: tuple[Vip, ...],
        *,
        clock: Callable[[], float],
        on_input: Callable[[Input], None],
        on_event: Callable[[Event], None],
        on_link: Callable[[str, LinkRecord | None], None] | None = None,
        on_add: Callable[[Sequence[AddressKey]], bool] = lambda keys: True,
        on_removed: Callable[[Sequence[AddressKey]], None] = lambda keys: None,
        on_strange: Callable[[frozenset[bytes]], None] = lambda addresses: None,
        lifetime: int = 0,
        event_buffer: int = EVENT_BUFFER,
    ) -> None:
        self._vips = {vip.name: vip for vip in vips}
        self._clock = clock
        self._on_input = on_input
        self._on_event = on_event
        self._on_link = on_link
        self._on_add, self._on_removed, self._on_strange = on_add, on_removed, on_strange
        self._life = AddressLifetime(
            lifetime, clock=clock, held=lambda: self._holder, renew=self._renew, on_event=on_event
        )
        self._life.configure(vips)
        self._event_buffer = event_buffer
        self._plans: dict[VipName, PlannedVip] = {}
        self._configured: set[bytes] = set()
        self._up: dict[VipName, set[AddressKey]] = {}
        self._holder: dict[AddressKey, VipName] = {}
        self._unable: tuple[tuple[VipName, str], ...] | None = None
        self._blocked: frozenset[VipName] = frozenset()
        """VIPs whose address is here and not ours, as last told."""
        self._beside: frozenset[VipName] = frozenset()
        """The same, and those of which ours are up besides: one is on another interface, or has another prefix."""
        self._native: frozenset[bytes] = frozenset()
        """Addresses that were here, not ours, when they became a VIP's: the node may live by them."""
        self.strange: frozenset[bytes] = frozenset()
        """Those that came later, by another hand."""
        self._cleaned = False
        self._obstacles: dict[str, str] = {}
        self._work: deque[tuple[bool, VipName]] = deque()
        self._turn: asyncio.Handle | None = None
        self._slice = SLICE
        self._owed: list[tuple[VipName, Input]] = []
        self._retry: asyncio.Handle | None = None
        self._again: asyncio.Handle | None = None

    async def open(self, strange: frozenset[bytes] = frozenset()) -> None:
        """Reads links and addresses, listens from then on, and reports `VipsUnable`. Raises OSError.

        `strange`: addresses that were so in a former life. `strange` then has those that are still there.
        """
        self.strange = strange
        self._loop = asyncio.get_running_loop()
        self._kernel = Kernel(self._event_buffer)
        self._replan()
        self._report(begins=True)
        self._kernel.read_anew = False
        self._loop.add_reader(self._kernel.events, self._on_readable)

    def close(self) -> None:
        """Closes the sockets; addresses stay. Work that was not begun is dropped without an answer."""
        self._life.stop()
        for handle in (self._turn, self._retry, self._again):
            if handle:
                handle.cancel()
        self._work.clear()
        self._loop.remove_reader(self._kernel.events)
        self._kernel.close()

    def strays(self, spared: frozenset[bytes] = frozenset()) -> tuple[str, ...]:
        """Addresses that a former life of this program left and that are still there; `spared`: another agent's."""
        keeps = self._kernel.keeps_tags
        keys = strays(self._kernel.table, self._plans.values(), self._holder, spared, tags=keeps)
        return tuple(text(key.packed) for key in keys)

    def remove_strays(self, spared: frozenset[bytes] = frozenset()) -> tuple[tuple[str, str], ...]:
        """Removes what a former life of this program left; interface and address of each. For the start only."""
        kernel = self._kernel
        keys = strays(kernel.table, self._plans.values(), self._holder, spared, tags=kernel.keeps_tags)
        removed: list[tuple[str, str]] = []
        for position in range(0, len(keys), SLICE):
            part = keys[position : position + SLICE]
            failed = kernel.delete(part)
            removed += [(kernel.links.name(key.ifindex), text(key.packed)) for key in part if key not in failed]
        now = self._clock()
        for interface, address in removed:
            self._on_event(StrayRemoved(now, interface, address))
        self._cleaned = True
        self._look()
        if not kernel.keeps_tags:
            self._replan()  # what was removed counted as the node's own
            self._report()
        return tuple(removed)

    def reconfigure(self, vips: tuple[Vip, ...]) -> None:
        """Takes over new definitions. What is up stays up until it is released or acquired anew."""
        self._vips = {vip.name: vip for vip in vips}
        self._life.configure(vips)
        self._replan()
        self._report(begins=True)

    @property
    def busy(self) -> bool:
        """Whether requests wait for their turn of the loop."""
        return bool(self._work)

    def acquire(self, vips: tuple[VipName, ...]) -> None:
        """Answered by `AddressesAdded` (batched) and `AddressesFailed`."""
        self._enqueue(True, vips)

    def release(self, vips: tuple[VipName, ...]) -> None:
        """Answered by `AddressesRemoved` (batched) when the kernel has confirmed, or had none of them."""
        self._enqueue(False, vips[::-1])  # last added, first deleted: see `kernel.Kernel.delete`

    def start_renewing(self) -> None:
        """From now on no lifetime runs out while the loop turns. What ran out is `LeaseLost` and `AddressLost`."""
        self._life.start()

    def renew(self) -> None:
        """Starts the lifetime of all held addresses afresh, at once."""
        self._renew(list(self._holder))

    def _renew(self, keys: Sequence[AddressKey]) -> None:
        """What has lapsed is reported lost, not put up again (the kernel would)."""
        if not keys:
            return
        self._look()
        held = [key for key in keys if key in self._holder]
        for position in range(0, len(held), SLICE):
            part = held[position : position + SLICE]
            now = self._clock()
            answers = self._kernel.execute([self._renewal(key) for key in part], part)
            self._life.began([key for key, answer in zip(part, answers, strict=True) if not answer.code], now)

    def _renewal(self, key: AddressKey) -> bytes:
        record = self._kernel.table.get(key)
        kept = (record.flags or 0) & rtnetlink.IFA_F_NOPREFIXROUTE if record else 0
        lifetime = self._life.seconds.of(key.packed)
        return rtnetlink.add_address(key, tag=TAG, flags=kept, lifetime=lifetime, renew=True)

    # Work, in slices.

    def _enqueue(self, add: bool, vips: tuple[VipName, ...]) -> None:
        self._work.extend((add, vip) for vip in vips)
        if self._work and self._turn is None:
            self._next_slice()

    def _next_slice(self) -> None:
        add = self._work[0][0]
        names: dict[VipName, None] = {}
        count = 0
        while self._work and self._work[0][0] == add and self._work[0][1] not in names:
            vip = self._vips.get(self._work[0][1])
            count += len(vip.addresses) if vip else 1
            if names and count > self._slice:
                break
            names[self._work.popleft()[1]] = None
        self._turn = self._loop.call_soon(self._next_slice) if self._work else None
        started = self._clock()
        if add:
            self._add(list(names))
        else:
            self._remove(list(names))
        spent = self._clock() - started
        if spent > SLICE_SECONDS:
            self._slice = max(SLICE_LEAST, int(self._slice * SLICE_SECONDS / spent))
        else:
            self._slice = min(SLICE, self._slice * 2)
        if self._kernel.news:
            self._again = self._loop.call_soon(self._on_readable)

    def _add(self, names: list[VipName]) -> None:
        failed: dict[VipName, tuple[str, str]] = {}
        plans: dict[VipName, PlannedVip] = {}
        for name in names:
            obstacle = self._obstacle(name)
            if obstacle:
                failed[name] = obstacle
            else:
                plans[name] = self._plans[name]
        addresses = [address for planned in plans.values() for address in planned.addresses]
        keys = [address.key for address in addresses]
        asked = self._clock()
        if self._on_add(keys):
            answers = self._kernel.execute([address.add for address in addresses], keys)
        else:
            answers = [GIVEN_UP] * len(keys)
        outcome = dict(zip(keys, answers, strict=True))
        if any(answer.code == errno.EEXIST for answer in answers):
            self._look()  # whose it is stands in events that may not have been read yet
        for name, planned in plans.items():
            failure = self._settle(name, planned, outcome)
            if failure:
                failed[name] = failure
        self._life.began([key for key in keys if not outcome[key].code], asked)
        self._renew([key for key in keys if outcome[key].code == errno.EEXIST])  # ours: who knows how long it has left
        self._on_removed([key for key in keys if key not in self._holder])
        left = self._take_off(list(failed))
        added = tuple(name for name in names if name not in failed)
        if added:
            self._on_input(AddressesAdded(added))
        for name, (reason, detail) in failed.items():
            self._answer(name, AddressesFailed(name, reason, detail), left)

    def _obstacle(self, name: VipName) -> tuple[str, str] | None:
        """Reason and detail why the VIP cannot be put up; None: try it."""
        planned = self._plans.get(name)
        if planned is None:
            return "netlink", f"VIP {name} is not configured on this node"
        if any(name == owed for owed, _ in self._owed):
            return "netlink", "the kernel has refused to delete its addresses and is asked again"
        if planned.obstacle:
            return planned.obstacle, planned.detail
        foreign = self._foreign(planned)
        if foreign:
            return "exists_here", self._there_already(foreign[0])
        current = {address.key for address in planned.addresses}
        if self._delete([key for key in self._up.get(name, ()) if key not in current]):
            return "netlink", "the kernel refuses to delete addresses that the VIP had before its definition changed"
        return None

    def _there_already(self, foreign: AddressRecord) -> str:
        where = f"{text(foreign.key.packed)}/{foreign.key.prefix} on {self._kernel.links.name(foreign.key.ifindex)}"
        return f"{where} is there already and was not put there by molehill; remove it by hand"

    def _foreign(self, planned: PlannedVip) -> list[AddressRecord]:
        """Addresses of this VIP that are on this node without being ours."""
        table = self._kernel.table
        same = (record for address in planned.addresses for record in table.same(address.packed))
        return [record for record in same if not self._is_ours(record)]

    def _is_ours(self, record: AddressRecord | None) -> bool:
        return record is not None and (record.tag == TAG or record.key in self._holder)

    def _settle(self, name: VipName, planned: PlannedVip, outcome: dict[AddressKey, Answer]) -> tuple[str, str] | None:
        """Books what the kernel did for one VIP; reason and detail of the first failure."""
        failure = None
        table = self._kernel.table
        for address in planned.addresses:
            answer = outcome[address.key]
            if not answer.code:
                table.add(AddressRecord(address.key, None, TAG if self._kernel.keeps_tags else 0))
            elif answer.code != errno.EEXIST or not self._is_ours(table.get(address.key)):
                where = f"{text(address.packed)}/{address.key.prefix} on {address.interface}"
                failure = failure or (REASONS.get(answer.code, "netlink"), f"{where}: {answer.text}")
                continue
            self._book(name, address.key)
        return failure

    def _book(self, name: VipName, key: AddressKey) -> None:
        self._up.setdefault(name, set()).add(key)
        self._holder[key] = name

    def _remove(self, names: list[VipName]) -> None:
        for name in names:
            for address in self._plans[name].addresses if name in self._plans else ():
                record = self._kernel.table.get(address.key)
                if record is not None and record.tag == TAG:
                    self._book(name, address.key)  # never acquired in this life, but ours and up
        left = self._take_off(names)
        done = tuple(name for name in names if name not in left)
        if done:
            self._on_input(AddressesRemoved(done))
        for name in left:
            self._answer(name, AddressesRemoved((name,)), left)

    def _take_off(self, names: list[VipName]) -> list[VipName]:
        """Deletes whatever is up of these VIPs; those of which something is left."""
        beside = [name for name in names if name in self._up and name in self._beside]
        self._delete([key for name in names for key in self._up.get(name, ())])
        if any(name not in self._up for name in beside):
            # Before it is confirmed that ours are gone, and another node answers.
            self._replan()
            self._report()
        return [name for name in names if self._up.get(name)]

    def _delete(self, keys: list[AddressKey]) -> list[AddressKey]:
        """Deletes and books it; what the kernel refused to delete."""
        failed = self._kernel.delete(keys)
        for key in keys:
            if key not in failed:
                self._forget(key)
        return failed

    def _forget(self, key: AddressKey) -> VipName | None:
        holder = self._holder.pop(key, None)
        self._on_removed((key,))
        self._life.forget(key)
        if holder is not None:
            self._up[holder].discard(key)
            if not self._up[holder]:
                del self._up[holder]
        return holder

    def _answer(self, name: VipName, answer: Input, left: list[VipName]) -> None:
        """Gives the answer; one that promises removal waits until the kernel has removed everything."""
        if name not in left:
            self._on_input(answer)
            return
        self._owed.append((name, answer))
        if self._retry is None:
            self._retry = self._loop.call_later(RETRY, self._retry_deletions)

    def _retry_deletions(self) -> None:
        self._retry = None
        owed, self._owed = self._owed, []
        left = self._take_off([name for name, _ in owed])
        for name, answer in owed:
            self._answer(name, answer, left)

    # What the kernel tells.

    def _on_readable(self) -> None:
        if self._kernel.drain(EVENTS_PER_TURN):
            self._judge()

    def _look(self) -> None:
        self._kernel.drain()
        self._judge()

    def _judge(self) -> None:
        """Draws the conclusions from the tables, now that no event is unread: links first, then losses."""
        kernel = self._kernel
        moved = list(self._holder) if kernel.read_anew else list(kernel.moved)
        lost: dict[VipName, list[str]] = {}
        ran_out = False
        for key in moved:
            if key in self._holder and key not in kernel.table:
                detail = f"{text(key.packed)}/{key.prefix} left {kernel.links.name(key.ifindex)}"
                lost.setdefault(self._holder[key], []).append(detail)
                ran_out = ran_out or self._life.ran_out(key)
                self._forget(key)
        if ran_out:
            self._life.lost()
        if (
            kernel.read_anew
            or kernel.changed
            or any(self._concerns(key) for key, ours in kernel.moved.items() if not ours)
            or not self._beside.isdisjoint(lost)
        ):
            self._replan()
            self._report()
        kernel.moved.clear()
        kernel.read_anew = False
        for name, details in lost.items():
            self._on_input(AddressLost(name, ", ".join(details)))

    def _concerns(self, key: AddressKey) -> bool:
        """Whether the coming or going of this address changes what can be put up, and how."""
        if key in self._holder:
            return False
        return key.packed in self._configured or self._kernel.links.name(key.ifindex) in self._obstacles

    def _report(self, *, begins: bool = False) -> None:
        """Tells what changed about interfaces, and which VIPs cannot be up here. `begins`: with other definitions."""
        kernel = self._kernel
        if self._on_link:
            for name in self._obstacles if kernel.read_anew else kernel.changed:
                self._on_link(name, kernel.links.named(name))
        kernel.changed.clear()
        now = self._clock()
        before = self._obstacles
        self._obstacles = {
            address.interface: kernel.links.obstacle(address.interface)
            for vip in self._vips.values()
            for address in vip.addresses
        }
        for interface, reason in self._obstacles.items():
            if before.get(interface) != reason:
                self._on_event(InterfaceChanged(now, interface, not reason, reason))
        foreign = {name: records for name, planned in self._plans.items() if (records := self._foreign(planned))}
        self._beside = frozenset(foreign)
        blocked = {name: records for name, records in foreign.items() if name not in self._up}
        self._tell_blocked(now, blocked)
        self._tell_strange(frozenset(each.key.packed for records in blocked.values() for each in records), begins)
        reasons = {
            name: planned.obstacle or ("exists_here" if name in foreign else "")
            for name, planned in self._plans.items()
        }
        unable = tuple((name, reason) for name, reason in reasons.items() if reason)
        if unable != self._unable:
            self._unable = unable
            self._on_input(VipsUnable(unable))

    def _tell_blocked(self, now: float, blocked: dict[VipName, list[AddressRecord]]) -> None:
        """The group never asks this node for such a VIP, so no failed acquisition would tell anybody of it."""
        if not (self._kernel.keeps_tags or self._cleaned):
            return  # what a former life left looks like the node's own until `remove_strays`
        for name, records in blocked.items():
            if name not in self._blocked:
                self._on_event(VipAcquireFailed(now, name, "exists_here", self._there_already(records[0]), 0.0))
        self._blocked = frozenset(blocked)

    def _tell_strange(self, foreign: frozenset[bytes], begins: bool) -> None:
        if begins or not (self._kernel.keeps_tags or self._cleaned):
            self._native |= foreign - self.strange
        self._native &= foreign
        strange = foreign - self._native
        if strange != self.strange:
            self.strange = strange
            self._on_strange(strange)

    def _replan(self) -> None:
        """Packs all requests for the interfaces and the node's own addresses as they are now."""
        own: dict[int, list[AddressKey]] = {}
        for record in self._kernel.table:
            if not self._is_ours(record):
                own.setdefault(record.key.ifindex, []).append(record.key)
        links = self._kernel.links
        self._plans = {name: plan(vip, links, own, self._life.seconds) for name, vip in self._vips.items()}
        self._configured = {address.packed for planned in self._plans.values() for address in planned.addresses}
