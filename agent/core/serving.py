"""What this node does about the VIPs: declares, carries out views and decisions, asks for what it needs decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

from agent.core.changes import view_cause, view_installed
from agent.core.claims import Claims
from agent.core.effects import Effect, ForgetNeighbours, KnowFellows, LearnNeighbours, Occasion
from agent.core.events import (
    BalanceRound,
    BalanceRoundDone,
    BecameMature,
    Decided,
    Event,
    OperatorAnswered,
    VipWaits,
)
from agent.core.gather import Declaration, Installed
from agent.core.ids import Member, NodeName, Seq, ViewId, VipName
from agent.core.install import DRIFT, first_record
from agent.core.lease import Lease
from agent.core.messages import Install, Lost, Requests
from agent.core.outsiders import Outsiders
from agent.core.ownership import Order, Ownership, Phase
from agent.core.peers import Peer, Peers
from agent.core.record import Record, table_of
from agent.core.reports import Reports
from agent.core.settings import HARDWARE_MAX, MEMBERS_MAX, NEIGHBOURS_MAX, Address, PartitionPolicy, Settings
from agent.core.view import (
    Answered,
    Assigned,
    Cause,
    Entry,
    HandedOver,
    Matured,
    MemberState,
    Move,
    Moves,
    NeighbourEntry,
    NeighboursShared,
    OperatorRequest,
    Standing,
    StandingChanged,
)
from agent.core.waits import Waits

Outputs = list[Effect | Event]


class Serving:
    def __init__(self, settings: Settings, me: Member, draining: bool, lease: Lease) -> None:
        self.me = me
        self.lease = lease
        self.ownership = Ownership(settings.timing)
        self.record: Record | None = None
        self.mature = False
        self.fit = True
        self.draining = draining
        self.leaving = False
        self.voting = True
        """Whether this node's votes count, and its acknowledgements with them."""
        self.hardware: tuple[str, ...] = ()
        self.operator: list[OperatorRequest] = []
        self.waiting: dict[VipName, str] = {}
        """VIPs that are ours and may not be acquired yet, with the reason."""
        self._orders: dict[VipName, Order] = {}
        self._waits = Waits()
        self._claims = Claims()
        self._going: dict[VipName, tuple[Address, ...]] = {}  # defined otherwise by a reload while held: as it was
        self._release_causes: dict[VipName, Cause] = {}
        self._moving_since: dict[VipName, float] = {}
        self._open_round: tuple[ViewId, Seq, float] | None = None
        self._yielded = False
        self._lease_bounds: dict[NodeName, float] = {}
        self._neighbours: tuple[NeighbourEntry, ...] | None = None
        self._neighbours_version = 0
        self._neighbours_after = 0.0
        self._fellows: dict[NodeName, tuple[str, ...]] = {}
        self.reports = Reports()
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        self.settings = settings
        self.specs, self.table = table_of(settings)
        self._own = frozenset(vip.name for vip in settings.vips)
        self._needs_quorum = settings.partition is PartitionPolicy.QUORUM
        self._votes = {name: settings.votes_of(name) for name in settings.members}
        self._needed = settings.votes_needed

    # Quorum.

    def votes(self) -> dict[NodeName, int]:
        """Votes of the view's members: what each gives at present, and never more than is configured for it."""
        standings = self.record.standings if self.record is not None else {}
        return {name: min(standing.votes, self._votes.get(name, 0)) for name, standing in standings.items()}

    @property
    def quorate(self) -> bool:
        """Whether this view's members may hold VIPs: always, unless only a majority may."""
        return not self._needs_quorum or sum(self.votes().values()) >= self._needed

    # Declarations and requests.

    def standing(self) -> Standing:
        return Standing(
            fit=self.fit,
            draining=self.draining,
            leaving=self.leaving,
            weight=self.settings.weight,
            serves=self.settings.serves,
            failed=self.ownership.failed(),
            votes=self._votes.get(self.me.name, 1) if self.voting else 0,
        )

    def declare(self, now: float, missing: frozenset[Member], peers: Peers) -> Declaration:
        """What a Join says; `missing`: old fellow members that are not awaited."""
        alike = all(peer.table == self.table for peer in peers.alive(now))
        state = MemberState(
            # What a lapsed lease covers is silent, and is being let go of: somebody else may have it.
            held=() if self.lease.silent(now) else self.ownership.held(),
            mature=self.mature,
            standing=self.standing(),
            digest=self.settings.digest,
            table=self.table,
            specs=None if alike else self.specs,
            lease_bound=max(self.settings.lease_bound, self.lease.remaining(now)),
            yielded=self._yielded,
            hardware=self.hardware,
        )
        waits = self._waits.declare(now, self._own, self._known(), state.held)
        return Declaration(state, self.specs, self._lost(now, missing, peers), waits)

    def _known(self) -> frozenset[VipName]:
        """What the members of the view have in their tables."""
        return frozenset(spec.name for spec in self.record.specs) if self.record is not None else frozenset()

    def _lost(self, now: float, missing: frozenset[Member], peers: Peers) -> tuple[Lost, ...]:
        """R9: how long ago old fellow members were heard that may hold something under a lease."""
        if self.record is None or max(self._lease_bounds.values(), default=0.0) <= 0.0:
            return ()
        lost = []
        for member in sorted(missing):
            bound = self._lease_bounds.get(member.name, 0.0)
            peer = peers.named(member.name)
            left = peer.departed if peer is not None else None
            # The word of leaving an earlier view may come late: this view it has entered since, and may hold something.
            if bound <= 0.0 or (left is not None and left.epoch >= self.record.view.id.epoch):
                lost.append(Lost(member, 0.0, 0.0))
            else:
                lost.append(Lost(member, now - peer.heard if peer is not None else 0.0, bound))
        return tuple(lost)

    def requests(self, now: float, matured: bool) -> Requests:
        """Everything that is to be decided, as of now. `matured`: the maturity time is over."""
        if (record := self.record) is None:
            return Requests()
        mine = record.standings.get(self.me.name)
        standing = self.standing()
        released = tuple(
            sorted(
                vip for vip, giver in record.handovers if giver == self.me.name and vip not in self.ownership.holdings
            )
        )
        share = self._neighbours is not None and now >= self._neighbours_after
        share = share and record.neighbours.get(self.me.name, 0) < self._neighbours_version
        return Requests(
            mature=matured and not record.mature,
            standing=standing if standing != mine else None,
            released=released,
            operator=tuple(self.operator),
            neighbours=self._neighbours if share else None,
            neighbours_version=self._neighbours_version if share else 0,
        )

    def neighbours_read(self, entries: tuple[NeighbourEntry, ...]) -> None:
        entries = entries[:NEIGHBOURS_MAX]
        if entries != self._neighbours:
            self._neighbours, self._neighbours_version = entries, self._neighbours_version + 1

    def uncovered(self, peers: Peers) -> tuple[VipName, ...]:
        """For the heartbeat: what our view does not serve, as far as this node knows.

        That is what has no owner, and what its owner says it does not hold: whoever hears us and not that owner would
        otherwise wait for a VIP that nobody has.
        """
        if (record := self.record) is None or not record.mature:
            return ()
        if not self.quorate:
            return tuple(sorted(spec.name for spec in record.specs))
        soon = {vip for vip, why in self.waiting.items() if why != "covered"}  # as good as held
        found = self._orders.keys() - self.ownership.holdings.keys() - soon
        found.update(record.uncovered())
        for member in record.view.members:
            peer = peers.get(member) if member != self.me else None
            beat = peer.heartbeat if peer is not None else None
            if beat is not None and beat.uncovered and beat.view is not None and beat.view.id == record.view.id:
                found.update(vip for vip in beat.uncovered if record.owners.get(vip) == member.name)
        return tuple(sorted(found))

    # Views.

    def installed(self, now: float, change: Installed, peers: Peers) -> Outputs:
        """Delivers the flush, then begins the new view with its placement (R6, R8)."""
        install, previous = change.install, change.previous
        out: Outputs = []
        for entry in change.flush:
            assert previous is not None
            out += self.deliver(now, entry, previous.id, flushed=True)
        self._moving_since.clear()
        view = install.view
        left = tuple(m for m in previous.members if m not in view) if previous is not None else ()
        cause = view_cause(install, previous, left, change.left_by_word)
        former = self.record
        self.record = first_record(install, change.tables)
        self._yielded, self._open_round = False, None
        self._claims.keep(set())  # while it gathered they did not count
        self._lease_bounds = {name: state.lease_bound for name, state in zip(view.names(), install.states, strict=True)}
        self._waits.take(now, install.waits, self.settings.longest_wait)
        self._neighbours_after = now + self.settings.timing.heartbeat
        self._release_causes = dict.fromkeys(self.ownership.holdings, Cause.MERGE)
        self._take_orders(now, install, former, left, change, peers)
        out.append(view_installed(now, change, left, cause))
        if install.mature and not self.mature:
            self.mature = True
            out.append(BecameMature(now))
        out += [ForgetNeighbours(member.name) for member in left if member.name not in view.names()]
        out += self._meet(install)
        others = {recovered.old_view for recovered in install.recovered}
        if len(others) > 1:
            # The one that keeps a VIP says so after every merge; all the ancestors forget that.
            out += self.ownership.announce(now, list(self._orders), Occasion.MERGE)
        digests = zip(view.names(), (state.digest for state in install.states), strict=True)
        self.reports.differing = tuple(name for name, digest in digests if digest != self.settings.digest)
        self.reports.changed = True
        return out

    def _take_orders(
        self,
        now: float,
        install: Install,
        former: Record | None,
        left: tuple[Member, ...],
        change: Installed,
        peers: Peers,
    ) -> None:
        gone = {member.name: member for member in left}
        old_owners = former.expected() if former is not None else {}
        self._orders = {}
        for vip, owner in install.owners:
            if owner != self.me.name or vip not in self._own:
                continue
            holder = gone.get(old_owners.get(vip, NodeName("")))
            holding = self.ownership.holdings.get(vip)
            if holding is not None and holding.phase is not Phase.RELEASING:
                self._orders[vip] = Order(holding.cause, holding.since)
            elif holder is not None:
                by_word = holder in change.left_by_word
                peer = peers.named(holder.name)
                since = peer.heard if peer is not None else now
                self._orders[vip] = Order(Cause.LEAVE if by_word else Cause.FAILOVER, since)
            else:
                fresh = former is None or not former.mature
                self._orders[vip] = Order(Cause.START if fresh else Cause.FAILOVER, change.failed_since or now)

    def _meet(self, install: Install) -> Outputs:
        """Notes the hardware addresses of all whom this node ever shared a view with, in their latest word."""
        before = dict(self._fellows)
        for name, state in zip(install.view.names(), install.states, strict=True):
            if name != self.me.name:
                self._fellows[name] = state.hardware[:HARDWARE_MAX]
        while len(self._fellows) > MEMBERS_MAX:
            del self._fellows[next(iter(self._fellows))]
        if self._fellows == before:
            return []
        return [KnowFellows(tuple(sorted((mac, name) for name, macs in self._fellows.items() for mac in macs)))]

    # Decisions.

    def deliver(self, now: float, entry: Entry, view: ViewId, *, flushed: bool) -> Outputs:
        """One decision in agreed order; flushed ones change the record only (R6)."""
        record = self.record
        assert record is not None
        decision = record.sound(entry.decision)
        record.apply(entry.seq, decision)
        self.reports.changed = True
        out: Outputs = [Decided(now, view, entry.seq, decision, flushed)]
        match decision:
            case Matured(owners=owners):
                if not self.mature:
                    self.mature = True
                    out.append(BecameMature(now))
                self._order(owners, Cause.START, now, flushed)
            case Assigned(owners=owners, cause=cause):
                self._order(owners, cause, now, flushed)
            case Moves(moves=moves, timed=timed):
                out.append(BalanceRound(now, view, entry.seq, moves, timed))
                self._open_round = (view, entry.seq, now)
                for move in moves:
                    self._moving_since[move.vip] = now
                    if move.giver == self.me.name:
                        self._orders.pop(move.vip, None)
                        self._release_causes[move.vip] = move.cause
            case HandedOver(moves=moves):
                if not flushed:
                    out += self._handed_over(now, moves)
                if self._open_round is not None and not record.handovers:
                    began = self._open_round
                    out.append(BalanceRoundDone(now, began[0], began[1], now - began[2]))
                    self._open_round = None
            case NeighboursShared(member=member, entries=entries):
                if member != self.me.name:
                    out.append(LearnNeighbours(member, entries))
            case StandingChanged() | Answered():
                pass
            case _:
                assert_never(decision)
        if isinstance(decision, Matured | Moves | Answered):
            out += self._answered(now, decision.answers)
        return out

    def _order(self, owners: Sequence[tuple[VipName, NodeName]], cause: Cause, now: float, flushed: bool) -> None:
        for vip, owner in owners:
            if owner == self.me.name and vip in self._own and not flushed:
                self._orders[vip] = Order(cause, now)

    def _handed_over(self, now: float, moves: Sequence[Move]) -> Outputs:
        """Takes what was given up for us; what we held already (a merge's winner) is announced again (R13)."""
        again = []
        for move in moves:
            if move.taker != self.me.name or move.vip not in self._own:
                continue
            if move.vip in self._orders:
                again.append(move.vip)
            else:
                self._orders[move.vip] = Order(move.cause, self._moving_since.get(move.vip, now))
        return self.ownership.announce(now, again, Occasion.MERGE)

    def _answered(self, now: float, answers: tuple[tuple[NodeName, int], ...]) -> Outputs:
        out: Outputs = []
        done = {number for name, number in answers if name == self.me.name}
        for request in [request for request in self.operator if request.number in done]:
            self.operator.remove(request)
            out.append(OperatorAnswered(now, request.number, request.verb, ""))
        return out

    # Acting.

    def reconcile(self, now: float, outsiders: Sequence[Peer], spoken: int) -> Outputs:
        """Makes the interfaces follow the record. Not to be called while gathering (R2). `spoken`: see `Claims`."""
        if (record := self.record) is None:
            return []
        waiting: dict[VipName, str] = {}
        beside = Outsiders(self.me, outsiders)
        patience = self.settings.timing.failure_timeout + self.longest_lease()

        def may_acquire(vip: VipName) -> bool:
            if not self._waits.over(vip, now):
                waiting[vip] = "lease"
            elif not self.lease.in_force(now):
                waiting[vip] = "own_lease"
            elif beside.cover(vip):
                waiting[vip] = "covered"
            elif not (self._needs_quorum or self._claims.granted(vip, now, spoken, beside.answered(), patience)):
                waiting[vip] = "claim"
            return vip not in waiting

        quorate = self.quorate
        orders = self._orders if record.mature and quorate else {}
        released_for = self._release_cause if quorate else lambda _: Cause.QUORUM
        out = self.ownership.reconcile(now, orders, may_acquire, released_for)
        out += [VipWaits(now, vip, why) for vip, why in waiting.items() if self.waiting.get(vip) != why]
        self.waiting = waiting
        self._claims.keep({vip for vip, why in waiting.items() if why == "claim"})
        return out

    def waits_until(self) -> float:
        """When a waiting VIP is to be looked at again, leases only."""
        return self._waits.end(self.waiting)

    def _release_cause(self, vip: VipName) -> Cause:
        return self._release_causes.get(vip, Cause.MERGE)

    def slept(self, now: float) -> Outputs:
        """R11: past a failure timeout it knows of nobody's lease how long it runs, and waits for the longest."""
        if (longest := self.longest_lease()) > 0.0:
            self._waits.slept(now, longest, self._own | self._known())
        return self.release_everything(now, Cause.LEASE)

    def longest_lease(self) -> float:
        """After so many seconds whoever holds something has been heard, or is silent."""
        longest = max((self.settings.lease_bound, *self._lease_bounds.values())) * (1.0 + DRIFT)
        return min(longest, self.settings.longest_wait)

    def release_everything(self, now: float, cause: Cause) -> Outputs:
        """Until the next view is installed nothing is held; additions in flight are taken back when confirmed."""
        self._orders = {}
        self._yielded = True
        self._release_causes = dict.fromkeys(self.ownership.holdings, cause)
        return self.ownership.release(now, list(self.ownership.holdings), self._release_cause)

    def hold_lease(self, now: float, alone: bool, last_sent: float, outsiders: Sequence[Peer]) -> Outputs:
        """Renews the lease, or takes it up again, in a view. `alone`: no fellow member can be heard at present."""
        lease = self.lease
        lapsed = not lease.in_force(now)
        if not self._needs_quorum:
            if lapsed and self.ownership.holdings:
                # While this node was silent another may have woken that took everything. They merge, if they can.
                covered = any(map(Outsiders(self.me, outsiders).cover, self.ownership.holdings))
                if covered and not lease.listened(now, self.settings.timing.patience_max):
                    return []
                # Or it is not heard yet.
                alone = alone and lease.listened(last_sent, self.longest_lease())
            base = lease.any_of(alone, last_sent)
        else:
            base = lease.quorum_of(self.votes(), self.me.name, self._needed, last_sent)
        going = self.ownership.leaving_besides(self._orders) if lapsed else False
        out = lease.extend(now, base, clear=not going)
        if lapsed and lease.in_force(now):
            # Nobody was answered meanwhile, and what was announced did not leave the machine.
            out += self.ownership.announce(now, list(self.ownership.holdings), Occasion.REPEAT)
        return out

    @property
    def yielded(self) -> bool:
        """It has let go of everything, and has no orders before the next view."""
        return self._yielded

    def let_go_of_lapsed(self, now: float) -> Outputs:
        """While gathering: what it does not declare (see `declare`) it must not hold."""
        if self._yielded or not self.ownership.holdings or not self.lease.silent(now):
            return []
        return self.release_everything(now, Cause.LEASE)

    def redefined(self, old: Settings) -> list[VipName]:
        """After a reload: what is no longer defined, or is on other interfaces or addresses."""
        kept = {vip.name: vip.addresses for vip in self.settings.vips}
        return [vip.name for vip in old.vips if kept.get(vip.name) != vip.addresses]

    def release_redefined(self, now: float, gone: Sequence[VipName], old: Settings) -> Outputs:
        """The next view's placement gives back those that are still ours."""
        self.ownership.redefined(gone)
        held = [vip for vip in gone if vip in self.ownership.holdings]
        self._going.update((vip.name, vip.addresses) for vip in old.vips if vip.name in held)
        self._going = {vip: parts for vip, parts in self._going.items() if vip in self.ownership.holdings}
        if self._going:
            parts = [part for each in self._going.values() for part in each]
            self._waits.coming_off(now, self.longest_lease(), parts, self.settings.vips)
        for vip in gone:
            self._orders.pop(vip, None)
        self._release_causes.update(dict.fromkeys(held, Cause.RELOAD))
        return self.ownership.release(now, held, self._release_cause)

    def keeps(self, operational: bool) -> Callable[[VipName], bool]:
        """Whether an addition that was just confirmed may stay: declared while gathering, ours otherwise."""
        return (lambda vip: vip in self._orders) if operational else (lambda vip: not self._yielded)

    def handed_over(self) -> bool:
        """The group knows of the departure, and its record connects no VIP with this node any more."""
        record, name = self.record, self.me.name
        if record is None or not record.standings[name].leaving:
            return False
        return name not in record.owners.values() and not any(giver == name for _, giver in record.handovers)

    def left(self, now: float) -> Outputs:
        """Out of the group by one's own will: the next life in it begins immature."""
        refused = "this node has left the group"
        out: Outputs = [OperatorAnswered(now, asked.number, asked.verb, refused) for asked in self.operator]
        self.operator.clear()
        self.record, self.mature, self.leaving = None, False, False
        self._orders = {}
        self.waiting = {}
        return out

    def report(self, now: float) -> Outputs:
        """What observers are told of the agreed record, once after it changed."""
        quorum = (sum(self.votes().values()), self._needed) if self._needs_quorum else None
        return list(self.reports.due(now, self.record, quorum))
