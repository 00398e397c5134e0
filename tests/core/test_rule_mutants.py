"""Each rule of leases and quorum that chance finds too rarely for the simulator's own mutants (`tests/sim/mutants.py`),
switched off once: the schedule that was found for it has to notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.core import install, node, serving
from agent.core.claims import Claims
from agent.core.lease import NEVER, STEP, Lease
from agent.core.membership import Membership
from agent.core.messages import OTHERS
from agent.core.node import Node
from agent.core.peers import Peer
from agent.core.placement import merge_tables
from agent.core.serving import Serving
from agent.core.settings import Settings
from agent.core.waits import Waits
from tests.core import test_attacks as attacks
from tests.core import test_claiming as claims
from tests.core import test_install as installs
from tests.core import test_late_attacks as late
from tests.core import test_lease as basics
from tests.core import test_lease_attacks as early
from tests.core import test_scenarios as scenarios
from tests.core.test_lease_attacks import exact_kernels
from tests.sim.mutants import SCHEDULED, mutated

__all__ = ["exact_kernels"]

Patch = pytest.MonkeyPatch


def longer_at_once(patch: Patch) -> None:
    """R15: a lease made longer is in force before the others know of it."""

    def configure(self: Lease, bound: float, heartbeat: float) -> None:
        self._longer = self.bound = bound
        self.step = STEP * heartbeat

    patch.setattr(Lease, "configure", configure)


def shorter_is_declared(patch: Patch) -> None:
    """R9: the longer lease that still runs after a reload is not spoken of."""
    patch.setattr(Lease, "remaining", lambda self, now: 0.0)


def given_up_means_silent(patch: Patch) -> None:
    """The kernel is thought to forget a longer lease."""
    patch.setattr(Lease, "silent", lambda self, now: not self.in_force(now))


def old_word_begins_a_lease(patch: Patch) -> None:
    """R15: what lapsed needs no heartbeat sent since."""
    extend = Lease.extend

    def changed(self: Lease, now: float, base: float, *, clear: bool) -> Any:
        self._fresh_after = NEVER
        return extend(self, now, base, clear=clear)

    patch.setattr(Lease, "extend", changed)


def begins_beside_another_view(patch: Patch) -> None:
    """R15: a lapsed lease is begun anew although another view that is heard covers its VIPs."""
    hold = Serving.hold_lease
    patch.setattr(Serving, "hold_lease", lambda self, now, alone, sent, _: hold(self, now, alone, sent, ()))


def covered_is_acquired(patch: Patch) -> None:
    """R10: what a node outside the view covers."""
    reconcile = Serving.reconcile
    patch.setattr(Serving, "reconcile", lambda self, now, _, spoken: reconcile(self, now, (), spoken))


def any_join_tells_what_is_held(patch: Patch) -> None:
    """R10: the Join of an earlier gather counts for this one."""

    def declared(self: Peer) -> tuple[Any, ...]:
        return self.join.state.held if self.gathering and self.join is not None else ()

    def uncovered(self: Peer) -> tuple[Any, ...] | None:
        beat = self.heartbeat
        speaks = beat is not None and beat.view is not None and beat.serving and not self.gathering
        return beat.uncovered if beat is not None and speaks else None

    patch.setattr(Peer, "declared", declared)
    patch.setattr(Peer, "uncovered", uncovered)


def any_goodbye_frees(patch: Patch) -> None:
    """R9: the word of leaving an earlier view is proof for a later one."""
    lost = Serving._lost

    def changed(self: Serving, now: float, missing: Any, peers: Any) -> Any:
        known = {one.member: peers.named(one.member.name) for one in lost(self, now, missing, peers)}
        gone = {member for member, peer in known.items() if peer is not None and peer.departed is not None}
        found = lost(self, now, missing, peers)
        return tuple(replace(one, silence=0.0, lease_bound=0.0) if one.member in gone else one for one in found)

    patch.setattr(Serving, "_lost", changed)


def outlived_goodbye_frees(patch: Patch) -> None:
    """R9: it makes no difference that another joiner was in a later view with who said it."""
    last_views = install._last_views
    patch.setattr(install, "_last_views", lambda view, votes: dict.fromkeys(last_views(view, votes), 0))


def unheard_is_not_waited_for(patch: Patch) -> None:
    """R9: who was awaited and did not join."""
    patch.setattr(install, "_last_views", lambda view, votes: {})


def unnamed_is_not_waited_for(patch: Patch) -> None:
    """R9: a VIP that no table of the view names."""
    waits = install.waits
    patch.setattr(install, "waits", lambda *args: tuple(one for one in waits(*args) if one[0] != OTHERS))


def clocks_do_not_differ(patch: Patch) -> None:
    """R9: no drift is added to a lease that is waited for."""
    for module in (install, serving, node):
        patch.setattr(module, "DRIFT", 0.0)


def silent_outsiders_are_forgotten(patch: Patch) -> None:
    """R10: a view that is not heard any more covers nothing, whatever lease runs."""
    patch.setattr(Membership, "answering", Membership.outsiders)


def two_names_for_one_address(patch: Patch) -> None:
    """R17: VIPs are told apart by their names alone."""

    def merged(view: Any, states: Any, tables: Any) -> Any:
        return merge_tables([(name, tables[state.table]) for name, state in zip(view.names(), states, strict=True)])

    patch.setattr(install, "merged", merged)


def what_comes_off_is_not_waited_for(patch: Patch) -> None:
    """R17: a reload's new name is put up while the old one is being taken off."""
    patch.setattr(Waits, "coming_off", lambda self, now, seconds, parts, vips: None)


def both_names_are_kept(patch: Patch) -> None:
    """R17: of two holders under two names none lets go."""
    occupied = install.occupied
    patch.setattr(install, "occupied", lambda *args: (occupied(*args)[0], set()))


def installs_before_it_has_read(patch: Patch) -> None:
    """R11: who slept while it gathered goes on where it was."""

    def mature_at(self: Node) -> float:
        lease = max(self._forgotten, self.settings.lease_bound * (1.0 + install.DRIFT))
        return max(self._born + self.settings.timing.mature, max(self._born, self._remembers) + lease)

    patch.setattr(Membership, "read_on", lambda self, until: None)
    patch.setattr(Node, "_mature_at", property(mature_at))


def what_waits_is_offered(patch: Patch) -> None:
    """R10: a VIP that only waits for a lease counts as covered by nobody."""
    uncovered = Serving.uncovered

    def changed(self: Serving, peers: Any) -> Any:
        waiting, self.waiting = self.waiting, {}
        found = uncovered(self, peers)
        self.waiting = waiting
        return found

    patch.setattr(Serving, "uncovered", changed)


def an_hour_is_waited(patch: Patch) -> None:
    patch.setattr(Settings, "longest_wait", property(lambda self: float("inf")))


def votes_after_the_short_lease(patch: Patch) -> None:
    """R16: who forgot a longer lease than is configured now has its vote back too soon."""
    forget = Node._forget

    def changed(self: Node, now: float) -> None:
        forget(self, now)
        self._forgotten = 0.0

    patch.setattr(Node, "_forget", changed)


def yielded_weighs(patch: Patch) -> None:
    """R13: who has let go of everything wins by the size of its old view."""

    def size(join: Any) -> int:
        return len(join.old_view.members) if join.old_view is not None else 1

    patch.setattr(install, "_size", size)


def boot_ends_in_a_split_vote(patch: Patch) -> None:
    """R5: whoever has waited for a third installs a view without the second."""

    def still_booting(self: Membership, now: float, awaited: Any) -> bool:
        return self.view is None and not {one.name for one in awaited} | {self.me.name} >= set(self.settings.members)

    patch.setattr(Membership, "_still_booting", still_booting)


def nobody_claims(patch: Patch) -> None:
    """R18: of two that wait for each other both acquire."""
    patch.setattr(Claims, "granted", lambda *_: True)


def a_claim_is_not_told(patch: Patch) -> None:
    """R18: heartbeats say of what is claimed that it is covered by nobody."""
    uncovered = Serving.uncovered

    def changed(self: Serving, peers: Any) -> Any:
        claimed = (vip for vip, why in self.waiting.items() if why == "claim")
        return tuple(sorted({*uncovered(self, peers), *claimed}))

    patch.setattr(Serving, "uncovered", changed)


@pytest.mark.parametrize(
    ("mutant", "schedule"),
    [
        (longer_at_once, early.test_a_longer_lease_counts_only_what_those_acknowledge_who_know_of_it),
        (shorter_is_declared, lambda: early.test_a_lease_that_runs_longer_than_is_configured_now_is_declared(True)),
        (given_up_means_silent, late.test_a_shorter_lease_does_not_make_the_kernel_forget_a_longer_one),
        (old_word_begins_a_lease, basics.test_what_lapsed_needs_a_heartbeat_sent_since),
        (begins_beside_another_view, lambda: late.test_two_that_wake_do_not_answer_beside_the_third(0.38)),
        (covered_is_acquired, late.test_what_a_node_covers_that_does_not_hear_us_is_not_acquired),
        (any_join_tells_what_is_held, lambda: late.test_two_that_wake_do_not_answer_beside_the_third(0.38)),
        (any_goodbye_frees, late.test_a_goodbye_to_an_earlier_view_says_nothing_of_what_was_taken_since),
        (outlived_goodbye_frees, late.test_nor_does_a_goodbye_that_others_have_outlived),
        (unheard_is_not_waited_for, attacks.test_who_was_awaited_and_did_not_join_is_waited_for),
        (unnamed_is_not_waited_for, late.test_a_vip_that_only_the_lost_node_knew_is_waited_for_when_a_reload_names_it),
        (clocks_do_not_differ, late.test_a_lease_is_waited_for_by_the_faster_clock),
        (silent_outsiders_are_forgotten, late.test_the_lease_of_one_that_was_heard_outside_the_view_is_waited_for),
        (
            two_names_for_one_address,
            lambda: late.test_an_address_that_gets_another_name_by_rolling_reloads_is_never_up_under_both(1.0),
        ),
        (
            what_comes_off_is_not_waited_for,
            lambda: late.test_an_address_that_gets_another_name_by_rolling_reloads_is_never_up_under_both(0.0),
        ),
        (both_names_are_kept, installs.test_an_address_is_served_under_one_name),
        (installs_before_it_has_read, late.test_who_slept_as_it_began_reads_what_came_before_it_serves),
        (what_waits_is_offered, late.test_what_waits_for_a_lease_only_is_not_offered_to_others),
        (an_hour_is_waited, early.test_a_wrong_peer_cannot_keep_a_vip_silent_for_an_hour),
        (
            votes_after_the_short_lease,
            late.test_who_leaves_and_comes_back_does_not_vote_before_the_longest_lease_that_it_knew_is_over,
        ),
        (
            nobody_claims,
            claims.test_who_waits_claims_what_the_lower_name_does_not_cover_and_takes_it_when_that_was_heard,
        ),
        (
            a_claim_is_not_told,
            claims.test_who_waits_claims_what_the_lower_name_does_not_cover_and_takes_it_when_that_was_heard,
        ),
        (yielded_weighs, scenarios.test_a_paused_node_yields_when_it_wakes),
        (
            boot_ends_in_a_split_vote,
            scenarios.test_two_that_start_at_once_without_the_third_are_one_view_when_the_wait_for_it_is_over,
        ),
    ],
    ids=lambda one: one.__name__ if one.__name__ != "<lambda>" else "",
)
def test_a_rule_that_is_switched_off_is_missed(
    mutant: Callable[[Patch], None], schedule: Callable[[], None], monkeypatch: Patch
) -> None:
    schedule()
    mutant(monkeypatch)
    # A failed check of the simulator is an AssertionError, too.
    with pytest.raises(AssertionError):
        schedule()


def two_wake() -> None:
    late.test_two_that_wake_do_not_answer_beside_the_third(0.38)


def a_voter_restarts() -> None:
    basics.test_a_restarted_voter_does_not_vote_while_a_lease_may_run_that_it_acknowledged(0.1)


SCHEDULES: dict[str, Callable[[], None]] = {
    "any_word_will_do": early.test_the_word_of_one_fellow_is_no_quorum,
    "counts_while_gathering": early.test_who_is_changing_the_view_acknowledges_nothing,
    "keeps_redefined": attacks.test_an_addition_under_way_is_taken_back_when_a_reload_defines_it_otherwise,
    "lapsed_is_declared": two_wake,
    "lone_answers_at_once": two_wake,
    "mature_while_asleep": late.test_who_sleeps_at_its_start_has_not_looked_around,
    "taken_up_while_letting_go": two_wake,
    "votes_at_once": a_voter_restarts,
    "who_does_not_miss_is_not_asked": installs.test_who_does_not_give_a_holder_up_has_heard_it_until_then,
    "woken_waits_for_nobody": two_wake,
}


@pytest.mark.parametrize("name", sorted(SCHEDULED))
def test_a_mutant_that_chance_finds_late_has_its_schedule(name: str) -> None:
    SCHEDULES[name]()
    with mutated(name), pytest.raises(AssertionError):
        SCHEDULES[name]()
