"""One node of the group: `step(now, input)` and `deadline()`, nothing else (see the package's docstring)."""

from __future__ import annotations

from typing import assert_never

from agent.core.beats import Beats
from agent.core.coordinator import Asked, asked_by, decide
from agent.core.departure import Departure
from agent.core.effects import Effect, Send
from agent.core.events import (
    DatagramRejected,
    Event,
    HeartbeatSent,
    MemberHeard,
    OperatorAnswered,
    PlacementDiffers,
    Stalled,
    Started,
    StateChanged,
)
from agent.core.gather import Installed
from agent.core.ids import Member, NodeName, Seq
from agent.core.inputs import (
    AddressesAdded,
    AddressesFailed,
    AddressesRemoved,
    AddressLost,
    BalanceRequested,
    DrainRequested,
    Fenced,
    FitnessChanged,
    HardwareKnown,
    Input,
    JoinRequested,
    LeaseLapsed,
    LeaveRequested,
    MoveRequested,
    NeighboursRead,
    Received,
    Reconfigured,
    RivalSeen,
    Timer,
    VipsUnable,
)
from agent.core.install import DRIFT, differences
from agent.core.lease import Lease
from agent.core.membership import Membership
from agent.core.messages import Decide, Heartbeat, Install, Join, Leave, Requests
from agent.core.peers import Colour, Peer
from agent.core.plausible import objection
from agent.core.serving import Serving
from agent.core.settings import PartitionPolicy, Settings
from agent.core.view import Cause, Entry
from agent.core.wishes import wish

Output = Effect | Event


class Node:
    def __init__(self, settings: Settings, incarnation: int, *, draining: bool = False) -> None:
        self.settings = settings
        self.me = Member(settings.node, incarnation)
        self.lease = Lease(settings.lease_bound, settings.timing.heartbeat)
        self.serving = Serving(settings, self.me, draining, self.lease)
        self.membership = Membership(
            settings, self.me, lambda now, missing: self.serving.declare(now, missing, self.membership.peers)
        )
        self.departure = Departure(self.membership, self.serving, self.lease)
        self._beats = Beats()
        self._last: float | None = None
        self._born = self._remembers = self._forgotten = self._reads_until = 0.0
        self._round_at = float("inf")
        self._sent_requests = Requests()
        self._decided_at = float("-inf")
        self._operator_number = 0
        self._state = ""
        self._unchecked: Installed | None = None

    # The contract.

    def step(self, now: float, item: Input) -> list[Output]:
        """What is to be done and what became true, in order. Never raises for anything that a peer can send."""
        out: list[Output] = []
        if self._last is None:
            out.append(Started(now, self.me))
            self._born = self._beats.next_at = now
            self._forget(now)
            out += self.membership.start(now, "start")
        else:
            out += self._check_stall(now, now - self._last)
            if now - self._last > 2.0 * self.settings.timing.join_resend:  # longer than it ever waits in a gather
                self._reads_until = max(self._reads_until, now + self.settings.timing.join_resend)
                self.membership.read_on(self._reads_until)
        self._last = now
        out += self._take(now, item)
        out += self._settle(now)
        return out

    def deadline(self) -> float:
        """When the next Timer is due at the latest."""
        if not self.membership.active:
            return self.serving.ownership.deadline()
        limits = [
            self._beats.next_at,
            self.serving.ownership.deadline(),
            self.serving.waits_until(),
            self.departure.by,
            self.lease.deadline(),
        ]
        if self.membership.coordinates():
            limits.append(self._round_at)
        if not self.serving.mature:
            limits.append(self._mature_at)
        if not self.serving.voting:
            limits.append(self._votes_at)
        # What was due at the last step has been seen to, or waits for something else than time.
        handled = self._last if self._last is not None else float("-inf")
        return min(self.membership.deadline(), *(limit for limit in limits if limit > handled), handled + 60.0)

    @property
    def state(self) -> str:
        """BOOT, GATHER, RUN, BALANCE as in Wackamole; LEFT after a departure."""
        record = self.serving.record
        if not self.membership.active:
            return "LEFT"
        if self.membership.view is None:
            return "BOOT"
        if self.membership.gather is not None:
            return "GATHER"
        if record is None or not record.mature:
            return "BOOT"
        return "BALANCE" if record.handovers else "RUN"

    # Inputs.

    def _take(self, now: float, item: Input) -> list[Output]:
        serving, ownership = self.serving, self.serving.ownership
        match item:
            case Timer():
                return []
            case Received(sender=sender, message=message):
                return self._receive(now, sender, message)
            case AddressesAdded(vips=vips):
                return ownership.added(now, vips, serving.keeps(self.membership.operational))
            case AddressesFailed(vip=vip, reason=reason, detail=detail):
                return ownership.could_not(now, vip, reason, detail)
            case AddressesRemoved(vips=vips):
                return ownership.removed(now, vips)
            case AddressLost(vip=vip, detail=detail):
                return ownership.lost(now, vip, detail)
            case VipsUnable(vips=unable):
                ownership.unable = dict(unable)
            case LeaseLapsed():
                return self.lease.lost(now)
            case Fenced():
                return self._fenced(now)
            case RivalSeen(vip=vip):
                return ownership.rival(now, vip)
            case HardwareKnown(macs=macs):
                return self._hardware(now, macs)
            case FitnessChanged(fit=fit):
                serving.fit = fit
            case NeighboursRead(entries=entries):
                serving.neighbours_read(entries)
            case DrainRequested(on=on):
                serving.draining = on
            case LeaveRequested(stop=stop):
                return list(self.departure.begin(now, self.settings.timing.failure_timeout, stop=stop))
            case JoinRequested():
                return self._return(now)
            case BalanceRequested() | MoveRequested():
                return self._ask(now, item)
            case Reconfigured(settings=settings):
                return self._reconfigure(now, settings)
            case _:
                assert_never(item)
        return []

    def _receive(
        self, now: float, sender: Member, message: Heartbeat | Join | Install | Decide | Leave
    ) -> list[Output]:
        if sender.name == self.me.name:
            return []
        membership = self.membership
        if objection(sender, message, membership.epoch, membership.view):
            return [DatagramRejected(now, "malformed", sender.name)]
        peer, fresh = membership.peers.hear(sender, now)
        if peer is None or peer.left_already(message):
            return []
        out: list[Output] = []
        if fresh:
            out.append(MemberHeard(now, sender))
            self._beats.next_at = min(self._beats.next_at, now)
        match message:
            case Heartbeat():
                out += self._on_heartbeat(now, peer, message)
            case Join():
                outdated = peer.join is not None and message.epoch < peer.join.epoch
                if not outdated and not peer.installed_since(message):
                    peer.join, peer.join_at = message, now
                    out += self.membership.heard(now, peer, message)
            case Install() | Leave():
                out += self.membership.heard(now, peer, message)
            case Decide():
                view = self.membership.view
                if self.membership.operational and view is not None and message.view == view.id:
                    for entry in self.membership.log.receive(message.entries):
                        out += self.serving.deliver(now, entry, view.id, flushed=False)
            case _:
                assert_never(message)
        return out

    def _on_heartbeat(self, now: float, peer: Peer, beat: Heartbeat) -> list[Output]:
        last = peer.heartbeat
        if last is not None and beat.number <= last.number:
            return []
        out: list[Output] = [self._beats.received(now, self.me, peer.member, beat, last)]
        peer.heartbeat, peer.heartbeat_at = beat, now
        out += self.membership.heard(now, peer, beat)
        view, log = self.membership.view, self.membership.log
        if not self.membership.operational or view is None or beat.view is None or beat.view.id != view.id:
            return out
        sent = self._beats.acknowledged(self.me, beat)
        if sent is not None and not beat.gathering:
            self.lease.acknowledged(peer.member, sent)
        if peer.member == view.id.coordinator:
            log.settle(min(beat.stable, log.delivered))
        elif self.membership.coordinates():
            log.settle(self._stable())
            repeat = now - self._decided_at > self.settings.timing.join_resend
            missing = log.tail(beat.delivered)
            if missing and repeat:
                out.append(Send(Decide(view.id, missing), (peer.member.name,)))
        return out

    def _stable(self) -> Seq:
        view = self.membership.view
        assert view is not None
        return self.membership.peers.delivered_by_all(view, self.me, self.membership.log.delivered)

    # After every input.

    def _settle(self, now: float) -> list[Output]:
        membership, serving = self.membership, self.serving
        out: list[Output] = [*self.lease.lapse(now)]
        serving.voting = now >= self._votes_at
        if membership.must_yield:
            membership.must_yield = False
            out += serving.release_everything(now, Cause.MERGE)
        # Before time is looked at: who gathers again at once has to declare what the new view gave to whom.
        out += self._enter_view(now)
        out += membership.tick(now)
        out += self._enter_view(now)
        serving.ownership.end_pauses(now)
        out += self._hold_lease(now)
        if membership.operational:
            if membership.coordinates():
                out += self._coordinate(now)
            if not serving.leaving or now < self.departure.by:
                out += serving.reconcile(now, membership.answering(now), self._beats.number)
        if self.lease.in_force(now):
            out += serving.ownership.announce_due(now)
        if serving.leaving:
            out += self.departure.finish(now)
        spoken = self._speak(now)
        out += spoken
        if spoken:
            out += self._hold_lease(now)
        out += serving.report(now)
        if self.state != self._state:
            self._state = self.state
            out.append(StateChanged(now, self._state))
        return out

    def _enter_view(self, now: float) -> list[Output]:
        membership = self.membership
        if membership.installed is None:
            return []
        change, membership.installed = membership.installed, None
        self._unchecked = change
        self.lease.new_view(change.install.view)
        self._round_at = now + self.settings.timing.balance_interval
        self._beats.next_at = now
        self._sent_requests = Requests()
        return list(self.serving.installed(now, change, membership.peers))

    def _hold_lease(self, now: float) -> list[Output]:
        membership, view = self.membership, self.membership.view
        if not membership.active:
            return []
        if membership.gather is not None or view is None:
            return list(self.serving.let_go_of_lapsed(now))
        if self.lease.bound <= 0.0:
            return []
        others = (member for member in view.members if member != self.me)
        alone = all(membership.peers.colour(member, now) is not Colour.GREEN for member in others)
        outsiders = () if self.lease.in_force(now) else membership.answering(now)
        return list(self.serving.hold_lease(now, alone, self._beats.last_sent, outsiders))

    def _coordinate(self, now: float) -> list[Output]:
        """Writes decisions until nothing is left to decide."""
        membership, record, log = self.membership, self.serving.record, self.membership.log
        assert membership.view is not None
        assert record is not None
        round_due = now >= self._round_at
        entries: list[Entry] = []
        out: list[Output] = []
        while not log.full:
            decision = decide(record, self._asked(now), round_due, self.settings.acquisitions_per_round)
            if decision is None:
                break
            entry = log.write(decision)
            entries.append(entry)
            out += self.serving.deliver(now, entry, membership.view.id, flushed=False)
        if round_due:
            self._round_at = now + self.settings.timing.balance_interval
        others = membership.others()
        if entries and others:
            self._decided_at = now
            out.insert(0, Send(Decide(membership.view.id, tuple(entries)), others))
        elif entries:
            log.settle(log.delivered)
        return out

    def _asked(self, now: float) -> dict[NodeName, Asked]:
        """Requests of the members of this view, and one's own."""
        assert self.membership.view is not None
        own = Asked(self.serving.requests(now, self._matured(now)), self.membership.log.delivered)
        return {self.me.name: own} | asked_by(self.membership.view, self.membership.peers)

    # Heartbeats.

    def _speak(self, now: float) -> list[Output]:
        """The regular heartbeat, or one to the coordinator alone because there is something to ask."""
        membership = self.membership
        if not membership.active:
            return []
        if now >= self._beats.next_at:
            self._beats.next_at = now + self.settings.timing.heartbeat
            if membership.coordinates():
                membership.log.settle(self._stable())
            out: list[Output] = [self._heartbeat(now, ()), HeartbeatSent(now)]
            return out + self._check_placement(now)
        if not membership.operational or membership.coordinates() or membership.view is None:
            return []
        requests = self.serving.requests(now, self._matured(now))
        if requests != self._sent_requests and requests != Requests():
            return [self._heartbeat(now, (membership.view.id.coordinator.name,))]
        return []

    def _heartbeat(self, now: float, to: tuple[NodeName, ...]) -> Send:
        membership, serving = self.membership, self.serving
        record = serving.record
        if membership.operational:
            self._sent_requests = serving.requests(now, self._matured(now))
        beat = Heartbeat(
            view=membership.view,
            epoch=membership.epoch,
            gathering=membership.gather is not None,
            delivered=membership.log.delivered,
            stable=membership.log.stable,
            holds=len(serving.ownership.holdings),
            serving=record is not None and record.mature and membership.view is not None and serving.quorate,
            uncovered=serving.uncovered(membership.peers),
            digest=self.settings.digest,
            table=serving.table,
            lease_bound=self.settings.lease_bound,
            hears=tuple(peer.member for peer in membership.peers.alive(now)),
            number=self._beats.next(now),
            echoes=self._beats.echoes(membership.peers, now),
            requests=self._sent_requests if membership.operational else Requests(),
        )
        return Send(beat, to)

    def _check_placement(self, now: float) -> list[Output]:
        """R8, after the work is done: whether the placement obeyed is the one computed here from the same states."""
        change, self._unchecked = self._unchecked, None
        if change is None:
            return []
        rows, view = differences(change.install, change.tables), change.install.view.id
        return [PlacementDiffers(now, view, f"{len(rows)} rows, first {rows[0]}")] if rows else []

    # Maturity, lateness, departure, requests of a person.

    @property
    def _mature_at(self) -> float:
        """Alone it knows of no lease that may still run: whoever it does not hear may have one."""
        lease = max(self._forgotten, self.settings.lease_bound * (1.0 + DRIFT))
        looked = max(self._born, self._remembers) + lease
        return max(self._born + self.settings.timing.mature, looked, self._reads_until)

    def _forget(self, now: float) -> None:
        """What it acknowledged before it does not know, and perhaps that was a longer lease than is configured now."""
        self._remembers, self._forgotten = now, self.serving.longest_lease()
        self.serving.voting = now >= self._votes_at

    @property
    def _votes_at(self) -> float:
        """Before this node forgot it may have acknowledged a lease: until that is surely over it has no vote."""
        if self.settings.partition is not PartitionPolicy.QUORUM:
            return self._remembers
        return self._remembers + max(self._forgotten, self.settings.lease_bound * (1.0 + DRIFT))

    def _matured(self, now: float) -> bool:
        return now >= self._mature_at

    def _check_stall(self, now: float, gap: float) -> list[Output]:
        """R11: nobody is judged by one who was late himself; past the failure timeout others have taken over."""
        timeout, membership = self.settings.timing.failure_timeout, self.membership
        if gap <= max(0.5 * timeout, 1.5 * self.settings.timing.heartbeat) or not membership.active:
            return []
        membership.listen_on(now)
        view = membership.view
        self._reads_until = now + self.settings.timing.late
        if gap > timeout and not self.serving.mature:
            self._born = now  # what it slept through it has not looked around
        # Nobody takes over from a node that is alone, but one that may have started and matured since.
        alone = view is not None and len(view.members) == 1
        limit = max(timeout, self.settings.timing.mature) if alone and self.lease.bound > 0.0 else timeout
        yields = gap > limit and view is not None and (not alone or self.lease.bound > 0.0)
        out: list[Output] = [Stalled(now, gap, yields)]
        if yields:
            out += self.serving.slept(now)
            out += membership.begin(now, "stall")
        elif gap > timeout and view is None:
            out += membership.start(now, "stall")
        return out

    def _return(self, now: float) -> list[Output]:
        if self.departure.stops:
            return []  # the process is ending
        self.departure.undo()
        if self.membership.active:
            # Forced to let go, it has no orders any more, while the record still gives it its VIPs.
            again = self.serving.yielded and self.membership.operational
            return list(self.membership.begin(now, "return")) if again else []
        self._born = self._beats.next_at = now
        self._forget(now)
        return list(self.membership.start(now, "return"))

    def _fenced(self, now: float) -> list[Output]:
        """It comes back as one that has no view."""
        if not self.membership.active:
            return []
        leaving = self.serving.leaving
        out: list[Output] = list(self.departure.fenced(now))
        self._forget(now)
        return out if leaving else out + list(self.membership.start(now, "return"))

    def _ask(self, now: float, item: BalanceRequested | MoveRequested) -> list[Output]:
        self._operator_number += 1
        request, refused = wish(self._operator_number, item, self.serving)
        if refused:
            return [OperatorAnswered(now, request.number, request.verb, refused)]
        self.serving.operator.append(request)
        return []

    def _hardware(self, now: float, macs: tuple[str, ...]) -> list[Output]:
        """What a Join declares is exchanged anew."""
        if macs == self.serving.hardware:
            return []
        self.serving.hardware = macs
        if not self.membership.active or self.membership.view is None:
            return []
        return list(self.membership.begin(now, "reload"))

    def _reconfigure(self, now: float, settings: Settings) -> list[Output]:
        old, self.settings = self.settings, settings
        self.membership.configure(settings)
        self.lease.configure(settings.lease_bound, settings.timing.heartbeat)
        self.serving.ownership.configure(settings.timing)
        table = self.serving.table
        self.serving.configure(settings)
        gone = self.serving.redefined(old)
        # What a Join declares is exchanged anew: the table, the digest, how long leases last.
        declared = (table, old.digest, old.lease_bound) != (self.serving.table, settings.digest, settings.lease_bound)
        if not (gone or declared) or not self.membership.active:
            return []
        return self.serving.release_redefined(now, gone, old) + list(self.membership.begin(now, "reload"))
