"""The rules of leases and quorum, each switched off (see `mutants`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent.core import install, serving
from agent.core.lease import NEVER, Lease
from agent.core.membership import Membership
from agent.core.node import Node
from agent.core.ownership import Ownership
from agent.core.settings import Settings
from agent.core.view import Cause

Change = tuple[object, str, Any]


def _renews_by_living() -> list[Change]:
    """A lease needs nobody's word while there are fellow members."""

    def any_of(self: Lease, alone: bool, last_sent: float) -> float:
        return last_sent

    def quorum_of(self: Lease, votes: Any, me: Any, needed: int, last_sent: float) -> float:
        return last_sent

    return [(Lease, "any_of", any_of), (Lease, "quorum_of", quorum_of)]


def _counts_from_the_answer() -> list[Change]:
    """A lease counts from when the acknowledgement comes, not from what it acknowledges."""
    hold = Node._hold_lease

    def changed(self: Node, now: float) -> Any:
        self.lease._acknowledged = dict.fromkeys(self.lease._acknowledged, now)
        return hold(self, now)

    return [(Node, "_hold_lease", changed)]


def _any_word_will_do() -> list[Change]:
    """One acknowledgement is enough where a quorum has to give it."""
    return [(Lease, "quorum_of", lambda self, votes, me, needed, last_sent: self.any_of(False, last_sent))]


def _half_is_a_quorum() -> list[Change]:
    half = property(lambda self: sum(self.votes_of(name) for name in self.members) // 2)
    return [(Settings, "votes_needed", half)]


def _minority_serves() -> list[Change]:
    return [(serving.Serving, "quorate", property(lambda self: True))]


def _votes_at_once() -> list[Change]:
    """Who may have acknowledged a lease in a life that it forgot votes from its start."""
    return [(Node, "_votes_at", property(lambda self: NEVER))]


def _counts_while_gathering() -> list[Change]:
    """Who is changing the view, and has declared when it heard us, goes on renewing our lease."""
    original = Node._on_heartbeat

    def changed(self: Node, now: float, peer: Any, beat: Any) -> Any:
        out = original(self, now, peer, beat)
        sent = self._beats.acknowledged(self.me, beat)
        if sent is not None and self.membership.active:
            self.lease.acknowledged(peer.member, sent)
        return out

    return [(Node, "_on_heartbeat", changed)]


def _lapsed_is_declared() -> list[Change]:
    """Who is silent goes into a new view as a holder."""
    declare = serving.Serving.declare

    def changed(self: Any, now: float, missing: Any, peers: Any) -> Any:
        made = declare(self, now, missing, peers)
        return replace(made, state=replace(made.state, held=self.ownership.held()))

    return [(serving.Serving, "declare", changed), (serving.Serving, "let_go_of_lapsed", lambda self, now: [])]


def _taken_up_while_letting_go() -> list[Change]:
    """A new lease speaks for addresses that are still being removed."""
    return [(Ownership, "leaving_besides", lambda self, orders: False)]


def _who_does_not_miss_is_not_asked() -> list[Change]:
    """R9: only those who gave a holder up say when they heard it."""
    compose = install.waits

    def changed(view: Any, votes: Any, tables: Any, now: float) -> Any:
        known = {lost.member for member in view.members for lost in votes[member].join.lost}
        blind = {}
        for member, vote in votes.items():
            old = vote.join.old_view
            if old is not None and any(one in known for one in old.members):
                old = replace(old, members=tuple(one for one in old.members if one not in known or one == member))
            blind[member] = replace(vote, join=replace(vote.join, old_view=old))
        return compose(view, blind, tables, now)

    return [(install, "waits", changed)]


def _guard_goes_unnoticed() -> list[Change]:
    """Whose guard said goodbye for it goes on as a member."""
    return [(Node, "_fenced", lambda self, now: [])]


def _lone_answers_at_once() -> list[Change]:
    """Who is alone and lapsed does not listen before it answers again."""
    return [(Lease, "listened", lambda self, at, seconds: True)]


def _woken_waits_for_nobody() -> list[Change]:
    """R11: who slept past a failure timeout lets go, and acquires as soon as it is alone."""

    def slept(self: Any, now: float) -> Any:
        return self.release_everything(now, Cause.LEASE)

    return [(serving.Serving, "slept", slept)]


def _mature_while_asleep() -> list[Change]:
    """R14: maturity does not begin anew after a stall, and nobody waits for a lease after his start."""
    start = Membership.start

    def begun(self: Membership, now: float, reason: str) -> Any:
        return self.begin(now, reason) if reason == "stall" else start(self, now, reason)

    at_once = property(lambda self: self._remembers + self.settings.timing.mature)
    return [(Node, "_mature_at", at_once), (Membership, "start", begun)]


LEASE_MUTANTS: tuple[Callable[[], list[Change]], ...] = (
    _renews_by_living,
    _counts_from_the_answer,
    _any_word_will_do,
    _half_is_a_quorum,
    _minority_serves,
    _votes_at_once,
    _counts_while_gathering,
    _lapsed_is_declared,
    _taken_up_while_letting_go,
    _who_does_not_miss_is_not_asked,
    _guard_goes_unnoticed,
    _lone_answers_at_once,
    _woken_waits_for_nobody,
    _mature_while_asleep,
)
