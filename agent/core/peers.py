"""What this node knows of the others, and when it begins to doubt them.

The failure detector is a silence measured against two limits: `late` (enough to believe another member's
suspicion, R4) and `failure_timeout` (own suspicion). Any proven message counts as a sign of life. An adaptive
detector (phi accrual, TigerBeetle's moving average) was left out on purpose: an operator can reckon with a fixed
limit, and leases have to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agent.core.ids import Member, NodeName, Seq, ViewId, VipName
from agent.core.install import DRIFT
from agent.core.messages import Heartbeat, Join, Message
from agent.core.settings import MEMBERS_MAX, Timing
from agent.core.view import View


class Colour(Enum):
    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


@dataclass(slots=True)
class Peer:
    """One other node in its latest known life."""

    member: Member
    heard: float
    """When the last message came."""
    judged: float
    """Like `heard`, but moved forward after a stall of our own, so that nobody is blamed for our lateness (R11)."""
    heartbeat: Heartbeat | None = None
    heartbeat_at: float = 0.0
    join: Join | None = None
    """The Join of the highest epoch, in its latest repetition."""
    join_at: float = 0.0
    departed: ViewId | None = None
    """The view that it said it left; cleared by a sign of life that is newer than that."""

    @property
    def hears(self) -> frozenset[Member]:
        """Whom it heard, by its last word."""
        if self.join is not None and (self.heartbeat is None or self.join_at >= self.heartbeat_at):
            return frozenset(self.join.hears)
        return frozenset(self.heartbeat.hears) if self.heartbeat is not None else frozenset()

    @property
    def view(self) -> View | None:
        """The view it is in, by its last word."""
        if self.heartbeat is not None and (self.join is None or self.heartbeat_at >= self.join_at):
            return self.heartbeat.view
        return self.join.old_view if self.join is not None else None

    @property
    def gathering(self) -> bool:
        if self.heartbeat is not None and (self.join is None or self.heartbeat_at >= self.join_at):
            return self.heartbeat.gathering
        return self.join is not None

    @property
    def table(self) -> str | None:
        """Digest of its VIP table, by its last word."""
        if self.heartbeat is not None and (self.join is None or self.heartbeat_at >= self.join_at):
            return self.heartbeat.table
        return self.join.state.table if self.join is not None else None

    @property
    def lease_bound(self) -> float:
        """Of its lease, by its last word, in seconds."""
        if self.heartbeat is not None and (self.join is None or self.heartbeat_at >= self.join_at):
            return self.heartbeat.lease_bound
        return self.join.state.lease_bound if self.join is not None else 0.0

    def leased_until(self, me: Member, most: float) -> float:
        """Until when it may answer for what its view, one without `me`, holds. No lease counts for more than `most`."""
        if self.departed is not None or self.view is None or me in self.view:
            return float("-inf")
        return self.heard + min(self.lease_bound, most) * (1.0 + DRIFT)

    def left_already(self, message: Message) -> bool:
        """A message from before a departure that came after it; anything newer ends the departure."""
        if self.departed is None:
            return False
        match message:
            case Heartbeat(view=view) | Join(old_view=view):
                late = view is not None and view.id.epoch <= self.departed.epoch
            case _:
                late = True
        if not late:
            self.departed = None
        return late

    def installed_since(self, join: Join) -> bool:
        """Whether the peer has been in a view of that epoch since: the Join is a delayed copy."""
        view = self.heartbeat.view if self.heartbeat is not None else None
        return view is not None and view.id.epoch >= join.epoch

    def back_since(self, left: ViewId) -> bool:
        """Whether the peer has said something since it left that view: the word of its departure is a delayed copy."""
        if self.heartbeat is None and self.join is None:
            return False
        return self.view is None or self.view.id.epoch > left.epoch

    def echoed(self, me: Member) -> int:
        """The number of the newest heartbeat of `me` that its own last one answers; 0: none."""
        echoes = self.heartbeat.echoes if self.heartbeat is not None else ()
        return next((number for member, number, _ in echoes if member == me), 0)

    def _declares(self) -> bool:
        """Whether its last word on what it holds is the Join of a gather that goes on.

        A Join of an earlier gather says nothing: the one of this is still on its way.
        """
        beat, join = self.heartbeat, self.join
        current = join is not None and (beat is None or beat.view is None or join.epoch > beat.view.id.epoch)
        return self.gathering and current

    def declared(self) -> tuple[VipName, ...]:
        """What it holds, if it is changing its view and has declared that (R10)."""
        return self.join.state.held if self.join is not None and self._declares() else ()

    def uncovered(self) -> tuple[VipName, ...] | None:
        """All that it and the fellow members of its view do not hold, by its last heartbeat; None: they serve none."""
        beat = self.heartbeat
        serving = beat is not None and beat.view is not None and beat.serving
        return beat.uncovered if beat is not None and serving and not self._declares() else None


class Peers:
    """All other nodes ever heard, by name; each in its latest life only."""

    __slots__ = ("_by_name", "_ordered", "timing")

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self._by_name: dict[NodeName, Peer] = {}
        self._ordered: list[Peer] = []
        """By name, made anew when somebody comes or goes: it is asked for in every step."""

    def all(self) -> list[Peer]:
        return list(self._ordered)

    def get(self, member: Member) -> Peer | None:
        """The peer in exactly this life."""
        peer = self._by_name.get(member.name)
        return peer if peer is not None and peer.member == member else None

    def named(self, name: NodeName) -> Peer | None:
        return self._by_name.get(name)

    def hear(self, member: Member, now: float) -> tuple[Peer | None, bool]:
        """Notes a sign of life. None for a life that is over; True when it was not heard within a failure timeout."""
        peer = self._by_name.get(member.name)
        if peer is not None and member.incarnation < peer.member.incarnation:
            return None, False
        if peer is None or peer.member != member:
            if peer is None and not self._room(now):
                return None, False
            peer = Peer(member, now, now)
            self._by_name[member.name] = peer
            self._ordered = [self._by_name[name] for name in sorted(self._by_name)]
            return peer, True
        fresh = self.colour(member, now) is Colour.RED
        peer.heard = peer.judged = now
        return peer, fresh

    def _room(self, now: float) -> bool:
        """Whether one more name can be remembered, if need be for the one that has been silent for longest."""
        if len(self._by_name) < MEMBERS_MAX - 1:
            return True
        oldest = min(self._by_name.values(), key=lambda peer: peer.heard)
        if self.colour(oldest.member, now) is not Colour.RED:
            return False
        del self._by_name[oldest.member.name]
        return True

    def colour(self, member: Member, now: float) -> Colour:
        """RED too for a life that is over and for a peer that said goodbye."""
        peer = self.get(member)
        if peer is None or self._gone(peer, now):
            return Colour.RED
        return Colour.YELLOW if now - peer.judged >= self.timing.late else Colour.GREEN

    def _gone(self, peer: Peer, now: float) -> bool:
        # The same sum as in `red_at`: a difference might round to just below the limit when the deadline has come.
        return peer.departed is not None or now >= peer.judged + self.timing.failure_timeout

    def alive(self, now: float) -> list[Peer]:
        return [peer for peer in self._ordered if not self._gone(peer, now)]

    def answering(self, me: Member, now: float, most: float) -> list[Peer]:
        """Who is alive, and whose lease may still run: see `Peer.leased_until`."""
        return [peer for peer in self._ordered if not self._gone(peer, now) or now < peer.leased_until(me, most)]

    def red_at(self, member: Member) -> float:
        """When this peer turns RED if it stays silent."""
        peer = self.get(member)
        if peer is None or peer.departed is not None:
            return float("-inf")
        return peer.judged + self.timing.failure_timeout

    def forgive(self, now: float) -> None:
        """After our own lateness nobody is suspected before one more interval and a half has passed."""
        floor = now - self.timing.failure_timeout + self.timing.late
        for peer in self._by_name.values():
            peer.judged = max(peer.judged, floor)

    def mutual(self, ours: frozenset[Member], theirs: frozenset[Member], me: Member, now: float) -> bool:
        """Whether every pair of the two sets hears each other, as far as this node can know (pre-vote).

        A view with a pair that does not would fall apart after one failure timeout and churn for ever.
        """
        for member in theirs:
            peer = self.get(member)
            if peer is None or self.colour(member, now) is Colour.RED or not ours <= peer.hears:
                return False
        for member in ours:
            if member == me:
                continue
            peer = self.get(member)
            if peer is None or not theirs <= peer.hears:
                return False
        return True

    def delivered_by_all(self, view: View, me: Member, own: Seq) -> Seq:
        """How far every member of the view is known to have delivered its log."""
        least = own
        for member in view.members:
            if member == me:
                continue
            peer = self.get(member)
            beat = peer.heartbeat if peer is not None else None
            known = beat is not None and beat.view is not None and beat.view.id == view.id
            least = min(least, beat.delivered if beat is not None and known else 0)
        return least

    def hears(self, member: Member, me: Member) -> bool:
        """A vote for one that does not hear us is lost; without word from it the best is assumed."""
        peer = self.get(member)
        return peer is None or not (peer.heartbeat or peer.join) or me in peer.hears

    def may_be_alive(self, member: Member, me: Member, now: float) -> bool:
        """For members that another one named: unknown here, or known and well."""
        named = self.named(member.name)
        if member.name == me.name:
            return False
        if named is None:
            return True
        if named.member != member:
            return named.member.incarnation < member.incarnation
        return self.colour(member, now) is not Colour.RED and self.hears(member, me)
