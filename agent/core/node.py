"""One node of the group: `step(now, input)` and `deadline()`, nothing else (see the package's docstring)."""

from __future__ import annotations

from typing import assert_never

from agent.core.beats import Beats
from agent.core.coordinator import Asked, decide, why_not
from agent.core.effects import Effect, Send, Stop
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
from agent.core.install import placed
from agent.core.membership import Membership
from agent.core.messages import Decide, Heartbeat, Install, Join, Leave, Requests
from agent.core.peers import Peer
from agent.core.plausible import objection
from agent.core.serving import Serving
from agent.core.settings import REQUESTS_MAX, Settings
from agent.core.view import Cause, Entry, OperatorRequest

Output = Effect | Event

LEAVE_TIMEOUTS = 3.0
"""Failure timeouts that a departure waits for its VIPs to be handed over."""


class Node:
    def __init__(self, settings: Settings, incarnation: int, *, draining: bool = False) -> None:
        self.settings = settings
        self.me = Member(settings.node, incarnation)
        self.serving = Serving(settings, self.me, draining)
        self.membership = Membership(
            settings, self.me, lambda now, missing: self.serving.declare(now, missing, self.membership.peers)
        )
        self._beats = Beats()
        self._last: float | None = None
        self._born = 0.0
        self._round_at = float("inf")
        self._sent_requests = Requests()
        self._decided_at = float("-inf")
        self._leave_by = float("inf")
        self._stop_after_leave = False
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
            out += self.membership.start(now, "start")
        else:
            out += self._check_stall(now, now - self._last)
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
            self._leave_by,
        ]
        if self.membership.coordinates():
            limits.append(self._round_at)
        if not self.serving.mature:
            limits.append(self._mature_at)
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
            case FitnessChanged(fit=fit):
                serving.fit = fit
            case NeighboursRead(entries=entries):
                serving.neighbours_read(entries)
            case DrainRequested(on=on):
                serving.draining = on
            case LeaveRequested(stop=stop):
                return self._begin_leave(now, stop)
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
        out: list[Output] = []
        if membership.must_yield:
            membership.must_yield = False
            out += serving.release_everything(now, Cause.MERGE)
        # Before time is looked at: who gathers again at once has to declare what the new view gave to whom.
        out += self._enter_view(now)
        out += membership.tick(now)
        out += self._enter_view(now)
        serving.ownership.end_pauses(now)
        if membership.operational:
            if membership.coordinates():
                out += self._coordinate(now)
            if not serving.leaving or now < self._leave_by:
                out += serving.reconcile(now, membership.outsiders(now))
        out += serving.ownership.announce_due(now)
        if serving.leaving:
            out += self._finish_leave(now)
        out += self._speak(now)
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
        self._round_at = now + self.settings.timing.balance_interval
        self._beats.next_at = now
        self._sent_requests = Requests()
        return list(self.serving.installed(now, change, membership.peers))

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
        """Requests of the members of this view, by their last heartbeat in it, and one's own."""
        view, peers = self.membership.view, self.membership.peers
        assert view is not None
        own = Asked(self.serving.requests(now, self._matured(now)), self.membership.log.delivered)
        asked = {self.me.name: own}
        for member in view.members:
            peer = peers.get(member)
            beat = peer.heartbeat if peer is not None else None
            if beat is not None and not beat.gathering and beat.view is not None and beat.view.id == view.id:
                asked[member.name] = Asked(beat.requests, beat.delivered)
        return asked

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
            serving=record is not None and record.mature and membership.view is not None,
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
        install = change.install
        own = placed(install.view, install.states, change.tables, install.sizes, install.mature).owners()
        differing = sorted(set(own.items()) ^ set(install.owners))
        if not differing:
            return []
        return [PlacementDiffers(now, install.view.id, f"{len(differing)} rows, first {differing[0]}")]

    # Maturity, lateness, departure, requests of a person.

    @property
    def _mature_at(self) -> float:
        return self._born + self.settings.timing.mature

    def _matured(self, now: float) -> bool:
        return now >= self._mature_at

    def _check_stall(self, now: float, gap: float) -> list[Output]:
        """R11: nobody is judged by one who was late himself; past the failure timeout others have taken over."""
        timeout = self.settings.timing.failure_timeout
        membership = self.membership
        if gap <= max(0.5 * timeout, 1.5 * self.settings.timing.heartbeat) or not membership.active:
            return []
        membership.peers.forgive(now)
        view = membership.view
        yields = gap > timeout and view is not None and len(view.members) > 1
        out: list[Output] = [Stalled(now, gap, yields)]
        if yields:
            out += self.serving.release_everything(now, Cause.LEASE)
            out += membership.begin(now, "stall")
        return out

    def _begin_leave(self, now: float, stop: bool) -> list[Output]:
        self._stop_after_leave = self._stop_after_leave or stop
        if not self.membership.active:
            return [Stop()] if stop else []
        if not self.serving.leaving:
            self.serving.leaving = True
            self._leave_by = now + LEAVE_TIMEOUTS * self.settings.timing.failure_timeout
        return []

    def _finish_leave(self, now: float) -> list[Output]:
        """Goes when everything is handed over; alone, or when that takes too long, drops it first."""
        membership, serving = self.membership, self.serving
        view = membership.view
        forced = view is None or now >= self._leave_by or (membership.operational and len(view.members) == 1)
        out: list[Output] = []
        if forced and serving.ownership.holdings:
            out += serving.release_everything(now, Cause.LEAVE)
        if serving.ownership.holdings or not (forced or (membership.operational and serving.handed_over())):
            return out
        if view is not None:
            goodbye = Send(Leave(view.id), ())
            out += [goodbye, goodbye]
        membership.leave()
        out += serving.left(now)
        self._leave_by = float("inf")
        return [*out, Stop()] if self._stop_after_leave else out

    def _return(self, now: float) -> list[Output]:
        if self._stop_after_leave:
            return []  # the process is ending
        self.serving.leaving = False
        self._leave_by = float("inf")
        if self.membership.active:
            return []
        self._born = self._beats.next_at = now
        return list(self.membership.start(now, "return"))

    def _ask(self, now: float, item: BalanceRequested | MoveRequested) -> list[Output]:
        self._operator_number += 1
        number = self._operator_number
        match item:
            case BalanceRequested():
                request = OperatorRequest(number, "balance", None, None)
                refused = "" if self.serving.mature else "the cluster is not mature yet"
            case MoveRequested(vip=vip, taker=taker):
                request = OperatorRequest(number, "move", vip, NodeName(taker))
                refused = why_not(self.serving.record, vip, NodeName(taker))
        if not refused and len(self.serving.operator) >= REQUESTS_MAX:
            refused = f"{REQUESTS_MAX} earlier requests are still waiting for a decision"
        if refused:
            return [OperatorAnswered(now, number, request.verb, refused)]
        self.serving.operator.append(request)
        return []

    def _reconfigure(self, now: float, settings: Settings) -> list[Output]:
        old, self.settings = self.settings, settings
        self.membership.configure(settings)
        self.serving.ownership.configure(settings.timing)
        table = self.serving.table
        self.serving.configure(settings)
        gone = self.serving.redefined(old)
        # What a Join declares is exchanged anew: the table, the digest, how long leases last.
        declared = (table, old.digest, old.lease_bound) != (self.serving.table, settings.digest, settings.lease_bound)
        if not (gone or declared) or not self.membership.active:
            return []
        out = self.serving.release_redefined(now, gone)
        return out + list(self.membership.begin(now, "reload"))
