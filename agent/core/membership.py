"""Group membership: who is in the view, and how the next one is agreed.

A coordinator-led, view-synchronous protocol; the rules R1 to R14 are those of docs/protocol.md.

| phase       | input                                         | next                  | output              |
|-------------|-----------------------------------------------|-----------------------|---------------------|
| OPERATIONAL | a member is silent, restarted or left         | GATHER, epoch + 1     | Join                |
| OPERATIONAL | Join of a higher epoch, member or acceptable  | GATHER, that epoch    | Join                |
| OPERATIONAL | another view, each pair hears each other      | GATHER, epoch + 1     | Join                |
| OPERATIONAL | a newer view of our members without us        | GATHER, all released  | Join                |
| GATHER      | I am my vote, everyone awaited has joined     | OPERATIONAL           | Install             |
| GATHER      | I am my vote, the join timeout is over        | OPERATIONAL           | Install             |
| GATHER      | Install of this epoch from my vote, with me   | OPERATIONAL           |                     |
| GATHER      | Join of a higher epoch                        | GATHER, that epoch    | Join                |
| GATHER      | patience is over                              | GATHER, epoch + 1     | Join                |

Votes for different coordinators (nodes that just began to hear each other) are mended by the lowest of them, which
raises the epoch; only where that does not help the join timeout installs what it has. Two views merge, and a node
is taken in, only if every pair would hear each other: a link that works one way never makes views churn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.core.effects import Effect, Send
from agent.core.events import Event, Excluded, GatherStarted, JoinHeard
from agent.core.gather import Declaration, Gather, Installed, hearing_each_other
from agent.core.ids import Member, NodeName, ViewId
from agent.core.install import Vote, compose, tables_known
from agent.core.merging import Merging
from agent.core.messages import Heartbeat, Install, Join, Leave
from agent.core.peers import Colour, Peer, Peers
from agent.core.settings import Settings
from agent.core.suspicion import Suspicion
from agent.core.view import Entry, View, VipSpec
from agent.core.viewlog import ViewLog

SPLIT_VOTES_MAX = 3
"""Rounds in which a split vote is mended by a higher epoch; with a broken link it can never be mended."""

STABLE_AFTER = 8.0
"""Failure timeouts after which a view counts as lasting and the back-off of its members' merges starts over."""


Outputs = list[Effect | Event]


class Membership:
    def __init__(
        self, settings: Settings, me: Member, declare: Callable[[float, frozenset[Member]], Declaration]
    ) -> None:
        self.settings = settings
        self.me = me
        self._declare = declare
        self.peers = Peers(settings.timing)
        self.epoch = 0
        """Highest epoch seen."""
        self.view: View | None = None
        self.log = ViewLog()
        self.gather: Gather | None = None
        self.active = False
        self.installed: Installed | None = None
        """Set by a step that installed a view; the node takes it."""
        self.must_yield = False
        """Set by a step that found this node excluded; the node releases everything."""
        self._boot_until = float("-inf")
        self._installed_at = 0.0
        self._series_started = 0.0
        self._rounds = 0
        self._suspicion = Suspicion(self.peers)
        self._invited: set[Member] = set()
        self._merging = Merging(settings.timing)
        self._last_install: Install | None = None
        self._excluded_by: ViewId | None = None

    # What the node asks.

    @property
    def operational(self) -> bool:
        return self.view is not None and self.gather is None and self.active

    def others(self) -> tuple[NodeName, ...]:
        if self.view is None:
            return ()
        return tuple(member.name for member in self.view.members if member != self.me)

    def configure(self, settings: Settings) -> None:
        """After a reload: limits of time hold from now on."""
        self.settings = settings
        self.peers.timing = settings.timing
        self._merging.configure(settings.timing)

    def coordinates(self) -> bool:
        return self.operational and self.view is not None and self.view.id.coordinator == self.me

    def outsiders(self, now: float) -> list[Peer]:
        """Living nodes that are heard and not in the view."""
        return [peer for peer in self.peers.alive(now) if self.view is None or peer.member not in self.view]

    def answering(self, now: float) -> list[Peer]:
        """Outsiders, and silent nodes in a view of their own whose lease may still run (R9 is about lost members)."""
        peers = self.peers.answering(self.me, now, self.settings.longest_wait)
        return [peer for peer in peers if self.view is None or peer.member not in self.view]

    def deadline(self) -> float:
        if not self.active:
            return float("inf")
        if self.gather is not None:
            limit = self.gather.complete_by if self.gather.vote == self.me else self.gather.give_up_at
            awaited = [self.peers.red_at(m) for m in self._old_members() if m not in self._suspicion.members]
            later = [at for at in awaited if at > float("-inf")]
            return min(self.gather.resend_at, limit, *later)
        assert self.view is not None
        return min((self.peers.red_at(m) for m in self.view.members if m != self.me), default=float("inf"))

    # What happens.

    def listen_on(self, now: float) -> None:
        """R11: after its own lateness this node judges nobody, and installs nothing, before it has heard the others."""
        self.peers.forgive(now)
        heard = now + self.settings.timing.late
        self._boot_until = max(heard, self._boot_until) if self.view is None else self._boot_until
        self.read_on(heard + self.settings.timing.join_timeout)

    def read_on(self, until: float) -> None:
        """What came while this node did not run is read before it installs a view without its senders."""
        if (gather := self.gather) is not None:
            gather.complete_by = max(until, gather.complete_by)
            gather.give_up_at = max(until, gather.give_up_at)

    def start(self, now: float, reason: str) -> Outputs:
        self.active = True
        self._boot_until = now + self.settings.timing.failure_timeout
        return self.begin(now, reason)

    def leave(self) -> None:
        """Takes no part any more; the log and the view are over."""
        self.active, self.view, self.gather, self.log = False, None, None, ViewLog()

    def begin(self, now: float, reason: str) -> Outputs:
        """Gathers in a new epoch, for a reason of one's own."""
        return self._enter(now, self.epoch + 1, reason, ())

    def heard(self, now: float, peer: Peer, message: Heartbeat | Join | Install | Leave) -> Outputs:
        """A message of a living peer; `peer` has been marked as heard."""
        match message:
            case Heartbeat():
                return self._on_heartbeat(now, peer, message)
            case Join():
                return self._on_join(now, peer, message)
            case Install():
                return self._on_install(now, peer, message)
            case Leave():
                return self._on_leave(now, peer, message)

    def tick(self, now: float) -> Outputs:
        """Whatever time alone brings about."""
        if not self.active:
            return []
        if self.gather is None:
            return self._watch(now) or self._consider_merge(now)
        out: Outputs = []
        gather = self.gather
        if now >= gather.resend_at and (gather.vote != self.me or now < gather.complete_by):
            out += self._send_join(now, ())
        return out + self._advance(now)

    # OPERATIONAL.

    def _watch(self, now: float) -> Outputs:
        """Suspects silent and restarted members, and those that said goodbye before the view with them came."""
        assert self.view is not None
        out: Outputs = []
        gone = [m for m in self.view.members if m != self.me and self.peers.colour(m, now) is Colour.RED]
        for member in gone:
            out += self._suspicion.add(now, member, None)
        if gone:
            out += self.begin(now, "suspect" if out else "leave")
        elif now - self._installed_at > STABLE_AFTER * self.settings.timing.failure_timeout:
            self._merging.lasted(self.view.members)
        return out

    def _consider_merge(self, now: float) -> Outputs:
        """Another view, or a node alone, that hears each of us and is heard by each of us."""
        assert self.view is not None
        ours = frozenset(self.view.members)
        timing = self.settings.timing
        for peer in self.outsiders(now):
            theirs = self._companions(peer)
            if theirs & ours or not self.peers.mutual(ours, theirs, self.me, now):
                self._merging.cannot(peer.member.name)
                continue
            hold = 0.0 if peer.view is None else timing.merge_hold_down
            if self.view.id.coordinator != self.me:
                hold += timing.heartbeat
            if not self._merging.due(now, peer.member.name, hold):
                continue
            return self._approach(now, peer, theirs, "join" if peer.view is None else "merge")
        return []

    def _companions(self, peer: Peer) -> frozenset[Member]:
        """Whom one gets with this peer: its view, or itself while it gathers."""
        if peer.gathering or peer.view is None:
            return frozenset((peer.member,))
        return frozenset(peer.view.members)

    def _approach(self, now: float, peer: Peer, theirs: Iterable[Member], reason: str) -> Outputs:
        self._merging.tried(now, peer.member.name)
        self._invited.update(theirs)
        return self.begin(now, reason)

    # Messages.

    def _on_heartbeat(self, now: float, peer: Peer, beat: Heartbeat) -> Outputs:
        self.epoch = max(self.epoch, beat.epoch)
        self._suspicion.members.discard(peer.member)
        if not self.active:
            return []
        theirs, ours = beat.view, self.view
        if theirs is None or beat.gathering or self.me in theirs:
            return []
        if ours is None or not set(theirs.members) & set(ours.members):
            return self._catch_up(now, peer, theirs)
        if theirs.id.epoch <= ours.id.epoch:
            return []
        # R10: our view goes on without us.
        out: Outputs = []
        if beat.holds:
            self.must_yield = True
            if self._excluded_by != theirs.id:
                self._excluded_by = theirs.id
                out.append(Excluded(now, peer.member, theirs.id))
        if self.gather is None:
            out += self.begin(now, "excluded")
        else:
            out += self._catch_up(now, peer, theirs)
        return out

    def _catch_up(self, now: float, peer: Peer, theirs: View) -> Outputs:
        """While gathering: a view whose epoch is not below ours never answers, so ask in a higher one (R3)."""
        if self.gather is None or theirs.id.epoch < self.gather.epoch or not self._acceptable(now, peer):
            return []
        if not self._merging.allowed(now, peer.member.name):
            return []
        return self._approach(now, peer, (peer.member,), "epoch")

    def _on_join(self, now: float, peer: Peer, join: Join) -> Outputs:
        self._suspicion.members.discard(peer.member)
        if not self.active:
            self.epoch = max(self.epoch, join.epoch)
            return []
        if self.gather is not None and join.epoch < self.gather.epoch:
            return self._send_join(now, (peer.member.name,))
        if self.gather is None:
            assert self.view is not None
            if join.epoch <= self.view.id.epoch:
                return self._repeat_install(peer, join)
            if peer.member not in self.view and not self._acceptable(now, peer):
                return []
            reason = "epoch" if peer.member in self.view else "join"
        elif join.epoch > self.gather.epoch:
            if not self._acceptable(now, peer):
                return []
            reason = "epoch"
        else:
            reason = ""
        trusted = self.gather.joined.keys() if self.gather is not None else ()
        doubtful = [m for m in join.suspects if m in self._old_members() and m not in trusted]
        out: Outputs = list(self._suspicion.corroborate(now, peer.member.name, doubtful))
        if reason:
            out += self._enter(now, join.epoch, reason, join.alive)
        return out + self._count(now, peer, join) + self._advance(now)

    def _count(self, now: float, peer: Peer, join: Join) -> Outputs:
        """Notes a vote of this epoch. A repetition replaces the former one: it is the same vote with newer facts."""
        assert self.gather is not None
        if join.epoch != self.gather.epoch or not self._acceptable(now, peer):
            return []
        first = peer.member not in self.gather.joined
        self.gather.joined[peer.member] = Vote(join, now)
        return [JoinHeard(now, join.epoch, peer.member)] if first else []

    def _repeat_install(self, peer: Peer, join: Join) -> Outputs:
        """Its Install was lost."""
        last = self._last_install
        if last is None or self.view is None or last.view != self.view:
            return []
        if join.epoch == self.view.id.epoch and peer.member in self.view:
            return [Send(last, (peer.member.name,))]
        return []

    def _on_install(self, now: float, peer: Peer, install: Install) -> Outputs:
        gather = self.gather
        if gather is None or not self.active:
            return []
        view = install.view
        if view.id.epoch != gather.epoch or view.id.coordinator != gather.vote or peer.member != gather.vote:
            return []
        if self.me not in view:
            return []
        tables = dict(install.tables) or {self._declaration.state.table: self._declaration.specs}
        if any(state.table not in tables for state in install.states):
            return []  # it believes that all have one table, which is not ours
        self._adopt(now, install, tables)
        return []

    def _on_leave(self, now: float, peer: Peer, leave: Leave) -> Outputs:
        if peer.back_since(leave.view):
            return []
        peer.departed = leave.view
        if not self.active:
            return []
        if self.gather is None and self.view is not None and peer.member in self.view:
            self._suspicion.add(now, peer.member, None)
            return self.begin(now, "leave")
        if self.gather is not None:
            self.gather.joined.pop(peer.member, None)
            return self._advance(now)
        return []

    # GATHER.

    def _old_members(self) -> tuple[Member, ...]:
        return tuple(m for m in self.view.members if m != self.me) if self.view is not None else ()

    def _living(self, now: float, member: Member) -> bool:
        return member not in self._suspicion.members and self.peers.colour(member, now) is not Colour.RED

    def _acceptable(self, now: float, peer: Peer) -> bool:
        """Whether a view with this peer could last: a fellow member, or one that all of us hear and that hears us."""
        if self.view is not None and peer.member in self.view:
            return True
        ours = frozenset(m for m in self._old_members() if self._living(now, m)) | {self.me}
        return self.peers.mutual(ours, frozenset((peer.member,)), self.me, now)

    def _awaited(self, now: float) -> set[Member]:
        """Whom a coordinator waits for."""
        awaited = {member for member in self._old_members() if self._living(now, member)}
        for peer in self.outsiders(now):
            if peer.member in self._suspicion.members:
                continue
            known = self.gather is not None and peer.member in self.gather.joined
            wanted = known or self.view is None or peer.gathering or peer.member in self._invited
            if wanted and self._acceptable(now, peer):
                awaited.add(peer.member)
        return awaited

    def _enter(self, now: float, epoch: int, reason: str, named: Iterable[Member]) -> Outputs:
        """Begins an epoch: chooses the one vote of it and declares (R1, R2)."""
        timing = self.settings.timing
        out: Outputs = []
        if self.gather is None:
            self._series_started, self._rounds = now, 0
        else:
            self._rounds += 1
        out.append(GatherStarted(now, epoch, reason))
        self.epoch = max(self.epoch, epoch)
        patience = min(timing.patience_max, timing.patience * 2.0 ** min(self._rounds, 16))
        candidates = {self.me} | {m for m in self._awaited(now) if self.peers.hears(m, self.me)}
        if self._rounds < SPLIT_VOTES_MAX:
            candidates |= {
                m for m in named if m not in self._suspicion.members and self.peers.may_be_alive(m, self.me, now)
            }
        vote = min(candidates)
        complete_by = now + timing.join_timeout
        if self.view is None:
            # After the wait for the others those who did come still have to agree on one vote.
            complete_by = max(complete_by, self._boot_until + timing.join_timeout)
        self.gather = Gather(epoch, vote, complete_by, max(now + patience, complete_by), now)
        out += self._send_join(now, ())
        for peer in self.peers.alive(now):
            if peer.join is not None and peer.join.epoch == epoch:
                out += self._count(now, peer, peer.join)
        return out

    def _send_join(self, now: float, to: tuple[NodeName, ...]) -> Outputs:
        assert self.gather is not None
        awaited = self._awaited(now)
        join = self._vote(now, awaited, frozenset(self._old_members()) - awaited)
        if not to:
            self.gather.resend_at = now + self.settings.timing.join_resend
            if now < self._boot_until:  # the end of that wait is to be looked at
                self.gather.resend_at = min(self.gather.resend_at, self._boot_until)
        return [Send(join, to)]

    def _vote(self, now: float, awaited: set[Member], missing: frozenset[Member]) -> Join:
        """One's own vote with the facts of now; `missing`: old fellow members who will not be in the view."""
        assert self.gather is not None
        self._declaration = self._declare(now, missing)
        join = Join(
            epoch=self.gather.epoch,
            vote=self.gather.vote,
            alive=tuple(sorted(awaited | {self.me})),
            suspects=tuple(sorted(self._suspicion.members)),
            hears=tuple(peer.member for peer in self.peers.alive(now)),
            old_view=self.view,
            delivered=self.log.delivered,
            tail=self.log.tail(),
            lost=self._declaration.lost,
            state=self._declaration.state,
            waits=self._declaration.waits,
        )
        self.gather.joined[self.me] = Vote(join, now)
        return join

    def _advance(self, now: float) -> Outputs:
        """Installs, mends a split vote, or loses patience, if it is time."""
        gather = self.gather
        if gather is None:
            return []
        out: Outputs = []
        for member in self._old_members():
            if member not in self._suspicion.members and self.peers.colour(member, now) is Colour.RED:
                out += self._suspicion.add(now, member, None)
        if gather.vote != self.me:
            lost = not self._living(now, gather.vote) and self.peers.named(gather.vote.name) is not None
            if lost or now >= gather.give_up_at:
                out += self._enter(now, self.epoch + 1, "suspect" if lost else "patience", ())
            return out
        return out + self._complete(now, gather)

    def _complete(self, now: float, gather: Gather) -> Outputs:
        """R5, for the one that voted for itself."""
        tables = tables_known(gather.joined, {self._declaration.state.table: self._declaration.specs})
        usable = {m: vote for m, vote in gather.joined.items() if vote.join.state.table in tables}
        # Who does not hear us is not waited for: a view with both would fall apart again.
        usable = {m: vote for m, vote in usable.items() if m == self.me or self.me not in vote.join.suspects}
        # But it gets its time to hear our vote, and we to hear what it did since: it may have been right a moment ago.
        awaited = self._awaited(now)
        late = now >= gather.complete_by
        if not late and (not awaited <= usable.keys() or self._still_booting(now, awaited)):
            return []
        dissent = [member for member in awaited if member in usable and usable[member].join.vote != self.me]
        if dissent and not late:
            if self._rounds < SPLIT_VOTES_MAX and self.me == min(awaited | {self.me}):
                return self._enter(now, self.epoch + 1, "split_vote", ())
            return []
        members = sorted(
            member
            for member, vote in usable.items()
            if vote.join.vote == self.me and (member == self.me or self._living(now, member))
        )
        members = hearing_each_other(members, usable, self.me)
        view = View(ViewId(gather.epoch, self.me), tuple(members))
        usable[self.me] = Vote(self._vote(now, awaited, frozenset(self._old_members()) - set(members)), now)
        install, _ = compose(view, {m: usable[m] for m in members}, tables, now)
        self._adopt(now, install, tables)
        self._last_install = install
        others = self.others()
        return [Send(install, others)] if others else []

    def _still_booting(self, now: float, awaited: set[Member]) -> bool:
        """A node that just started gives the configured others one failure timeout to be heard."""
        if self.view is not None or now >= self._boot_until:
            return False
        names = {member.name for member in awaited} | {self.me.name}
        return not names >= set(self.settings.members) or not self.settings.members

    def _adopt(self, now: float, install: Install, tables: dict[str, tuple[VipSpec, ...]]) -> None:
        """Installs the view here."""
        previous = self.view
        flush: tuple[Entry, ...] = ()
        for recovered in install.recovered:
            if previous is not None and recovered.old_view == previous.id:
                flush = tuple(self.log.missing(recovered.entries))
        by_word = frozenset(
            member
            for member in (previous.members if previous is not None else ())
            if (peer := self.peers.get(member)) is not None and peer.departed is not None
        )
        started, failed = self._series_started, self._suspicion.failed_since
        self.installed = Installed(install, tables, previous, flush, started, by_word, failed)
        self.view, self.gather, self.log = install.view, None, ViewLog()
        self.epoch = max(self.epoch, install.view.id.epoch)
        self._installed_at = now
        self._suspicion = Suspicion(self.peers)
        self._invited.clear()
        self._merging.restart()
        self._last_install = None
