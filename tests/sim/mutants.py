"""The core with one rule switched off: the simulator has to notice each (a check that cannot fail proves nothing)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from agent.core import coordinator, install, serving
from agent.core.membership import Membership
from agent.core.messages import Recovered
from agent.core.node import Node
from agent.core.ownership import Ownership, Phase
from agent.core.peers import Peers
from agent.core.record import Record
from agent.core.view import HandedOver
from agent.core.viewlog import ViewLog
from tests.sim.lease_mutants import LEASE_MUTANTS
from tests.sim.run import run
from tests.sim.violation import Violation

SEEDS_MAX = 500
"""Seeds that a mutant may survive."""

Change = tuple[object, str, Any]
"""Owner, attribute, and what replaces it."""


def _vote_again() -> list[Change]:
    """R1: the vote of an epoch follows whoever is heard."""
    count = Membership._count

    def changed(self: Membership, now: float, peer: Any, join: Any) -> Any:
        out = count(self, now, peer, join)
        if self.gather is not None and out and join.vote != self.gather.vote:
            self.gather.vote = join.vote
            out = out + self._send_join(now, ())
        return out

    return [(Membership, "_count", changed)]


def _no_freeze() -> list[Change]:
    """R2: while gathering it goes on delivering and acquiring."""
    return [(Membership, "operational", property(lambda self: self.view is not None and self.active))]


def _no_flush() -> list[Change]:
    """R6."""

    def changed(view: Any, votes: Any) -> Any:
        return tuple(Recovered(r.old_view, r.members, ()) for r in recover(view, votes))

    recover = install.recover
    return [(install, "recover", changed)]


def _pruned_early() -> list[Change]:
    """R6: entries count as stable before every member has them."""
    return [(Node, "_stable", lambda self: self.membership.log.delivered)]


def _no_hand_over() -> list[Change]:
    """The taker does not wait for the giver (Wackamole's balance)."""

    def changed(record: Record, asked: Any) -> Any:
        moves = tuple(handover.move for handover in record.handovers.values())
        return HandedOver(moves) if moves else None

    return [(coordinator, "_handed_over", changed)]


def _stale_release() -> list[Change]:
    """A confirmation of an older move counts for a newer one."""

    def changed(record: Record, asked: Any) -> Any:
        done = tuple(
            handover.move
            for (vip, giver), handover in record.handovers.items()
            if giver in asked and (vip in asked[giver].requests.released or vip in seen.setdefault(giver, set()))
        )
        for (vip, giver), _ in record.handovers.items():
            if giver in asked and vip in asked[giver].requests.released:
                seen.setdefault(giver, set()).add(vip)
        return HandedOver(done) if done else None

    seen: dict[Any, set[Any]] = {}
    return [(coordinator, "_handed_over", changed)]


def _no_yield() -> list[Change]:
    """R10: who was excluded keeps what it has."""
    return [(Membership, "must_yield", property(lambda self: False, lambda self, value: None))]


def _gaps() -> list[Change]:
    """Decisions are delivered as they come."""

    def changed(self: ViewLog, entries: Any) -> Any:
        ready = [entry for entry in entries if entry.seq > self.delivered]
        for entry in ready:
            self.delivered = entry.seq
            self._entries[entry.seq] = entry
        return ready

    return [(ViewLog, "receive", changed)]


def _half_declared() -> list[Change]:
    """What is being added or removed is left out of the declaration."""

    def changed(self: Ownership) -> Any:
        return tuple(sorted(vip for vip, holding in self.holdings.items() if holding.phase is Phase.HELD))

    return [(Ownership, "held", changed)]


def _loser_keeps() -> list[Change]:
    """R13: nobody lets go after a merge."""
    original = Ownership.release

    def changed(self: Ownership, now: float, vips: Any, cause: Any) -> Any:
        return original(self, now, [vip for vip in vips if cause(vip).value != "merge"], cause)

    return [(Ownership, "release", changed)]


def _announces_late() -> list[Change]:
    """Repetitions go on after the release."""
    original = Ownership.announce_due

    def changed(self: Ownership, now: float) -> Any:
        phases = {vip: holding.phase for vip, holding in self.holdings.items()}
        for holding in self.holdings.values():
            holding.announce_at = min(holding.announce_at, holding.started + 0.0005)
            holding.phase = Phase.HELD
        out = original(self, now)
        for vip, phase in phases.items():
            self.holdings[vip].phase = phase
        return out

    return [(Ownership, "announce_due", changed)]


def _same_epoch() -> list[Change]:
    """R3: a new attempt does not raise the epoch."""

    def changed(self: Membership, now: float, reason: str) -> Any:
        return self._enter(now, max(1, self.epoch), reason, ())

    return [(Membership, "begin", changed)]


def _forgets_operator() -> list[Change]:
    return [(coordinator, "_operator", lambda record, asked, limit: None)]


def _never_merges() -> list[Change]:
    return [(Membership, "_consider_merge", lambda self, now: [])]


def _never_balances() -> list[Change]:
    return [(coordinator, "plan_round", lambda *args: ())]


def _immature_serves() -> list[Change]:
    """R14."""
    original = install.placed

    def changed(view: Any, states: Any, tables: Any, sizes: Any, mature: bool) -> Any:
        return original(view, states, tables, sizes, True)

    reconcile = serving.Serving.reconcile

    def eager(self: Any, now: float, outsiders: Any, spoken: int) -> Any:
        mature, self.record.mature = self.record.mature, True
        out = reconcile(self, now, outsiders, spoken)
        self.record.mature = mature
        return out

    return [(install, "placed", changed), (serving.Serving, "reconcile", eager)]


def _failure_counts_as_held() -> list[Change]:
    """Wackamole: an address that could not be put up is covered all the same."""

    def changed(self: Ownership, now: float, vip: Any, reason: str, detail: str) -> Any:
        self.holdings[vip].phase = Phase.HELD
        return []

    return [(Ownership, "could_not", changed)]


def _no_waits() -> list[Change]:
    """R9: leases are not waited for."""
    return [(install, "waits", lambda *args: ())]


def _waits_forgotten() -> list[Change]:
    """R9: a wait ends with the view that began it."""
    declare = serving.Serving.declare

    def changed(self: Any, now: float, missing: Any, peers: Any) -> Any:
        return replace(declare(self, now, missing, peers), waits=())

    return [(serving.Serving, "declare", changed)]


def _no_forgiveness() -> list[Change]:
    """R11: who was late himself judges at once."""
    return [(Peers, "forgive", lambda self, now: None)]


def _holds_after_stall() -> list[Change]:
    """R11: who was late past the failure timeout goes on holding."""

    def changed(self: Node, now: float, gap: float) -> Any:
        if gap > 0.5 * self.settings.timing.failure_timeout:
            self.membership.peers.forgive(now)
        return []

    return [(Node, "_check_stall", changed)]


def _keeps_redefined() -> list[Change]:
    """A reload lets stay what is being put up under its old definition."""
    return [(Ownership, "redefined", lambda self, vips: None)]


def _ignores_interfaces() -> list[Change]:
    """A reload that changes no address goes unnoticed."""
    return [(serving.Serving, "redefined", lambda self, old: [])]


MUTANTS: dict[str, Callable[[], list[Change]]] = {
    function.__name__[1:]: function
    for function in (
        _vote_again,
        _no_freeze,
        _no_flush,
        _pruned_early,
        _no_hand_over,
        _stale_release,
        _no_yield,
        _gaps,
        _half_declared,
        _loser_keeps,
        _announces_late,
        _same_epoch,
        _forgets_operator,
        _never_merges,
        _never_balances,
        _immature_serves,
        _failure_counts_as_held,
        _no_waits,
        _waits_forgotten,
        _no_forgiveness,
        _holds_after_stall,
        _keeps_redefined,
        _ignores_interfaces,
        *LEASE_MUTANTS,
    )
}

SCHEDULED = frozenset(
    (
        "any_word_will_do",
        "counts_while_gathering",
        "keeps_redefined",
        "lapsed_is_declared",
        "lone_answers_at_once",
        "mature_while_asleep",
        "taken_up_while_letting_go",
        "votes_at_once",
        "who_does_not_miss_is_not_asked",
        "woken_waits_for_nobody",
    )
)
"""What chance finds too late, never, or by its standstill only; each has a schedule that notices it, in
tests/core/test_rule_mutants.py."""


@contextmanager
def mutated(name: str) -> Iterator[None]:
    changes = MUTANTS[name]()
    missing = object()
    before = [(owner, attribute, vars(owner).get(attribute, missing)) for owner, attribute, _ in changes]
    for owner, attribute, value in changes:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            if value is missing:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, value)


def hunt(name: str) -> tuple[str, tuple[int, str] | None]:
    """The first seed that notices the mutant, and how."""
    with mutated(name):
        for seed in range(SEEDS_MAX):
            try:
                run(seed)
            except Violation as violation:
                return name, (seed, str(violation)[:100])
            except Exception as error:
                return name, (seed, f"crash: {error!r}"[:100])
    return name, None
