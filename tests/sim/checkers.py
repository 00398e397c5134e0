"""The invariants of DESIGN 9, looked at after every step; they watch the cores and kernels, not their reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.core.effects import Acquire, Announce, Release, Send
from agent.core.events import Decided, MemberSuspected, StateChanged, ViewInstalled, VipAcquired
from agent.core.ids import Member, NodeName, Seq, ViewId, VipName
from agent.core.inputs import AddressLost, Input, Received
from agent.core.messages import Decide, Heartbeat, Install, Join
from agent.core.ownership import Phase
from agent.core.settings import UNSTABLE_MAX, PartitionPolicy
from agent.core.view import Cause, Decision, View
from tests.sim.violation import Violation
from tests.sim.world import Host, Observer

CONFLICT_BOUND = 1.0
"""Virtual seconds that a merge's loser may take to let go (its netlink queue is at most some 50 ms long)."""


@dataclass
class Checkers(Observer):
    hosts: dict[NodeName, Host] = field(default_factory=dict)
    never_two: bool = False
    """Whether not even hosts that cannot hear each other may both answer for a VIP (I12)."""
    views: dict[ViewId, View] = field(default_factory=dict)
    epochs: dict[int, dict[Member, ViewId]] = field(default_factory=dict)
    installed: dict[Member, list[ViewId]] = field(default_factory=dict)
    written: dict[tuple[ViewId, Seq], Decision] = field(default_factory=dict)
    delivered: dict[tuple[Member, ViewId], Seq] = field(default_factory=dict)
    moved: dict[tuple[ViewId, ViewId], tuple[Member, Seq]] = field(default_factory=dict)
    conflicts: dict[ViewId, set[tuple[VipName, NodeName]]] = field(default_factory=dict)
    overlap_since: dict[tuple[ViewId, VipName, NodeName], float] = field(default_factory=dict)
    fallen: dict[NodeName, tuple[Member, ViewId | None]] = field(default_factory=dict)
    """The last life of each node that crashed, and the view that it was in."""
    heard_at_vote: dict[Member, dict[Member, float]] = field(default_factory=dict)
    """When each member had heard each other one last, as it sent its newest Join."""
    stalled: tuple[float, bool] = (0.0, False)
    """How late this step comes, and whether there is anybody to yield to."""
    least_lease: float = float("inf")
    """The shortest that any node was ever configured with: a reload may change it."""
    view_changes: int = 0
    acquisitions: int = 0
    excluded: bool = False
    trace: list[str] = field(default_factory=list)
    keep_trace: bool = False

    def fail(self, name: str, host: Host, now: float, detail: str) -> None:
        raise Violation(f"{name} at {now:.6f} on {host.name}: {detail}")

    # Observer.

    def before(self, host: Host, now: float, item: Input) -> None:
        self.excluded = self._excludes(host, item)
        node = host.node
        if node is not None and node._last is not None:
            view = node.membership.view
            fellows = view is not None and len(view.members) > 1 and node.membership.active
            self.stalled = host.clock(now) - node._last, fellows
        else:
            self.stalled = 0.0, False

    def after(self, host: Host, now: float, item: Input, outputs: list[object]) -> None:
        node = host.node
        if node is None:
            return
        if self.keep_trace:
            self._note(host, now, item, outputs)
        for output in outputs:
            match output:
                case ViewInstalled():
                    self._view(host, now, output)
                case Decided():
                    self._decided(host, now, output)
                case Acquire(vips=vips):
                    if node.membership.gather is not None:
                        self.fail("I6", host, now, f"{output} while gathering")
                    self._leased(host, now, vips)
                case MemberSuspected(member=member, named_by=None):
                    self._blamed(host, now, member)
                case Announce(vips=vips):
                    later = outputs[outputs.index(output) :]
                    going = {vip for release in later if isinstance(release, Release) for vip in release.vips}
                    self._announced(host, now, tuple(vip for vip in vips if vip not in going))
                case VipAcquired():
                    self.acquisitions += 1
                case Send(message=message):
                    self._bounds(host, now, message)
                    if isinstance(message, Join) and host.settings.lease_bound > 0.0:
                        self.heard_at_vote[node.me] = {
                            # A copy that came late is no sign of life.
                            peer.member: min(host.from_clock(peer.heard), host.heard.get(peer.member, 0.0))
                            for peer in node.membership.peers.all()
                        }
                case _:
                    pass
        self._holdings(host, now, item)
        self._overlap(host, now)
        if self.never_two:
            self._answering(host, now)
        if host.settings.partition is PartitionPolicy.QUORUM:
            self._majority(host, now)
        held = [v for v, h in node.serving.ownership.holdings.items() if h.phase is Phase.HELD]
        if not node.serving.mature and node.membership.active and held:
            self.fail("R14", host, now, f"immature, but holds {held}")
        if host.due <= host.clock(now):
            self.fail("I11", host, now, f"spins: due at {host.due}, it is {host.clock(now)}")
        gap, fellows = self.stalled
        if fellows and gap > host.settings.timing.failure_timeout:
            kept = [v for v, h in node.serving.ownership.holdings.items() if h.phase is Phase.HELD]
            if kept:
                self.fail("R11", host, now, f"was late by {gap:.3f} s and goes on holding {kept}")
        if self.excluded:
            kept = [v for v, h in node.serving.ownership.holdings.items() if h.phase is Phase.HELD]
            if kept:
                self.fail("I10", host, now, f"excluded but holds {kept}")

    def crashed(self, host: Host, member: Member) -> None:
        assert host.node is not None
        view = host.node.membership.view
        self.fallen[host.name] = member, view.id if view is not None else None

    # Invariants.

    def _excludes(self, host: Host, item: Input) -> bool:
        node = host.node
        if node is None or not isinstance(item, Received) or not isinstance(item.message, Heartbeat):
            return False
        beat, ours = item.message, node.membership.view
        peer = node.membership.peers.named(item.sender.name)
        known = peer is not None and peer.member == item.sender
        if known and peer is not None and peer.heartbeat is not None and beat.number <= peer.heartbeat.number:
            return False
        if peer is not None and (peer.departed is not None or peer.member.incarnation > item.sender.incarnation):
            return False
        if beat.view is None or ours is None or beat.gathering or not beat.holds or not node.membership.active:
            return False
        theirs = set(beat.view.members)
        return node.me not in theirs and bool(theirs & set(ours.members)) and beat.view.id.epoch > ours.id.epoch

    def _view(self, host: Host, now: float, event: ViewInstalled) -> None:
        assert host.node is not None
        me, view = host.node.me, event.view
        self.view_changes += 1
        if self.views.setdefault(view.id, view) != view:
            self.fail("I1", host, now, f"{view.id} has two contents")
        for member in view.members:
            other = self.epochs.setdefault(view.id.epoch, {}).setdefault(member, view.id)
            if other != view.id:
                self.fail("I1", host, now, f"{member} is in {other} and {view.id} of one epoch")
        past = self.installed.setdefault(me, [])
        if me not in view or (past and past[-1].epoch >= view.id.epoch):
            self.fail("I2", host, now, f"installs {view} after {past[-1:]}")
        if event.previous is not None:
            count = self.delivered.get((me, event.previous), 0)
            first = self.moved.setdefault((event.previous, view.id), (me, count))
            if first[1] != count:
                self.fail("I4", host, now, f"{first} but {me} delivered {count} of {event.previous}")
        past.append(view.id)
        record = host.node.serving.record
        if record is None:  # it left in the same step
            return
        self.conflicts.setdefault(view.id, set()).update(
            (vip, handover.move.giver) for (vip, _), handover in record.handovers.items() if handover.since == 0
        )

    def _decided(self, host: Host, now: float, event: Decided) -> None:
        assert host.node is not None
        me, key = host.node.me, (event.view, event.seq)
        if key not in self.written:
            if event.view.coordinator != me:
                self.fail("I5", host, now, f"{key} was never written: {event.decision}")
            self.written[key] = event.decision
        elif self.written[key] != event.decision:
            self.fail("I3", host, now, f"{key} is {self.written[key]} and {event.decision}")
        last = self.delivered.get((me, event.view), 0)
        if event.seq != last + 1:
            self.fail("I3", host, now, f"{key} delivered after {last}")
        self.delivered[me, event.view] = event.seq

    def _blamed(self, host: Host, now: float, member: Member) -> None:
        """R11: nobody is judged by one who was late himself."""
        assert host.node is not None
        peer = host.node.membership.peers.get(member)
        gone = peer is None or peer.departed is not None
        if self.stalled[0] > 0.5 * host.settings.timing.failure_timeout + 1e-6 and not gone:
            self.fail("R11", host, now, f"suspects {member} in a step that is {self.stalled[0]:.3f} s late")

    def _leased(self, host: Host, now: float, vips: tuple[VipName, ...]) -> None:
        """R9: not before any joiner's last word of the lost holder, plus its lease."""
        self.least_lease = min(self.least_lease, *(one.settings.lease_bound for one in self.hosts.values()))
        bound = self.least_lease
        assert host.node is not None
        view = host.node.membership.view
        if bound <= 0.0 or view is None:
            return
        for other in self.hosts.values():
            if other is host or (other.node is not None and not other.paused) or not other.up & set(vips):
                continue
            if other.node is not None:
                theirs = other.node.membership.view
                fallen = other.node.me, theirs.id if theirs is not None else None
            else:
                fallen = self.fallen[other.name]
            self._waited(host, now, view, fallen, bound, other)

    def _waited(
        self, host: Host, now: float, view: View, fallen: tuple[Member, ViewId | None], bound: float, lost: Host
    ) -> None:
        member, last_view = fallen
        if last_view is None or member in view:
            return
        fellows = [one for one in view.members if last_view in self.installed.get(one, ())]
        heard = [at for one in view.members if (at := self.heard_at_vote.get(one, {}).get(member)) is not None]
        assert host.node is not None
        # What a member of this view had (on the other side of a partition that healed) is handed over at once.
        uncovered = {Cause.FAILOVER, Cause.LEAVE, Cause.START, Cause.REPAIR}
        taken = {
            v
            for v, h in host.node.serving.ownership.holdings.items()
            if h.phase is Phase.ACQUIRING and h.cause in uncovered
        }
        named = self.conflicts.get(last_view, set())
        early = {vip for vip in taken & lost.up if (vip, member.name) not in named}
        last = max(heard, default=0.0)
        if fellows and heard and early and now < last + bound * (1.0 - 1e-3):
            self.fail("R9", host, now, f"acquires {early} of {member}, heard at {last:.3f}, lease {bound}")

    def _announced(self, host: Host, now: float, vips: tuple[VipName, ...]) -> None:
        assert host.node is not None
        holdings = host.node.serving.ownership.holdings
        for vip in vips:
            holding = holdings.get(vip)
            if holding is None or holding.phase is not Phase.HELD or (vip not in host.up and not host.robbed):
                self.fail("I8", host, now, f"announces {vip}: {holding}, kernel {sorted(host.up)}")

    def _holdings(self, host: Host, now: float, item: Input) -> None:
        assert host.node is not None
        holdings = host.node.serving.ownership.holdings
        beyond = host.up - holdings.keys()
        if beyond:
            self.fail("I9", host, now, f"the kernel has {sorted(beyond)} that the core knows nothing of")
        for vip, holding in holdings.items():
            if holding.phase is Phase.HELD and vip not in host.up and not holding.lost and not host.robbed:
                if isinstance(item, AddressLost):
                    continue
                self.fail("I9", host, now, f"{vip} counts as held and is not up")

    def _overlap(self, host: Host, now: float) -> None:
        node = host.node
        assert node is not None
        view = node.membership.view
        if view is None:
            return
        mine = node.serving.ownership.holdings.keys() | host.up
        if host.settings.lease_bound > 0.0 and now >= host.leased_until:
            return  # silent, whatever it holds
        for other in self.hosts.values():
            if other is host or other.node is None or other.node.membership.view is None:
                continue
            if other.node.membership.view.id != view.id:
                continue
            if other.settings.lease_bound > 0.0 and now >= other.leased_until:
                continue
            theirs = other.node.serving.ownership.holdings.keys() | other.up
            for vip in mine & theirs:
                self._twice(host, other, now, view.id, vip)

    def _answering(self, host: Host, now: float) -> None:
        """I12: the kernels, not the agents, are asked; what began in this step began on this host."""
        mine = host.answered(now)
        for other in self.hosts.values():
            if other is not host and (both := mine & other.answered(now)):
                self.fail("I12", host, now, f"{sorted(both)} answered here and on {other.name}")

    def _majority(self, host: Host, now: float) -> None:
        """I12: nothing new is held without more than half of the configured votes in the view."""
        node = host.node
        assert node is not None
        view = node.membership.view
        if view is None or not node.membership.operational:
            return
        votes = sum(host.settings.votes_of(name) for name in view.names())
        held = [vip for vip, h in node.serving.ownership.holdings.items() if h.phase is not Phase.RELEASING]
        kept = [vip for vip in held if node.serving.ownership.holdings[vip].phase is Phase.HELD]
        if votes < host.settings.votes_needed and kept:
            self.fail("I12", host, now, f"holds {kept} with {votes} votes of {host.settings.votes_needed} needed")

    def _twice(self, host: Host, other: Host, now: float, view: ViewId, vip: VipName) -> None:
        named = self.conflicts.get(view, set())
        record = host.node.serving.record if host.node is not None else None
        # What no table has any more (a reload during a partition) has no owner: all its holders are letting go.
        undefined = record is not None and vip not in {spec.name for spec in record.specs}
        for loser in (host, other):
            if undefined or (vip, loser.name) in named:
                since = self.overlap_since.setdefault((view, vip, loser.name), now)
                if now - since > CONFLICT_BOUND and not loser.paused:
                    self.fail("I7", host, now, f"{loser.name} still holds {vip} after losing it at {since:.3f}")
                return
        self.fail("I7", host, now, f"{vip} is held here and on {other.name} in {view}")

    def _bounds(self, host: Host, now: float, message: object) -> None:
        match message:
            case Decide(entries=entries) if len(entries) > UNSTABLE_MAX:
                self.fail("I11", host, now, f"{len(entries)} entries in one Decide")
            case Join(tail=tail) if len(tail) > UNSTABLE_MAX:
                self.fail("I11", host, now, f"a tail of {len(tail)}")
            case Install(recovered=recovered) if any(len(r.entries) > UNSTABLE_MAX for r in recovered):
                self.fail("I11", host, now, "a flush beyond the limit")
            case _:
                pass

    def _note(self, host: Host, now: float, item: Input, outputs: list[object]) -> None:
        shown = [o for o in outputs if not _noise(o)]
        plain = isinstance(item, Received) and isinstance(item.message, Heartbeat)
        if shown or not plain:
            self.trace.append(f"{now:9.4f} {host.name} {_short(item)} -> {' '.join(map(_short, shown))}")


def _noise(output: object) -> bool:
    name = type(output).__name__
    return name in ("HeartbeatSent", "HeartbeatReceived", "OwnersChanged", "StandingsChanged", "ConfigDiffers") or (
        isinstance(output, Send) and isinstance(output.message, Heartbeat)
    )


def _short(item: object) -> str:
    if isinstance(item, Send):
        return f"Send({_short(item.message)} to {','.join(item.to) or '*'})"
    if isinstance(item, Received):
        return f"{item.sender}:{_short(item.message)}"
    if isinstance(item, Join):
        return (
            f"Join(e{item.epoch} vote {item.vote} alive {','.join(map(str, item.alive))} "
            f"sus {','.join(map(str, item.suspects))} held {','.join(item.state.held)})"
        )
    if isinstance(item, Install):
        return f"Install({item.view.id} {','.join(item.view.names())} {dict(item.owners)} conf {item.conflicts})"
    if isinstance(item, Heartbeat):
        return f"Beat({item.view.id if item.view else None} g{int(item.gathering)})"
    if isinstance(item, StateChanged):
        return f"[{item.state}]"
    return repr(item)[:300]
