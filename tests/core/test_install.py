"""Composing an Install: the flush (R6) and the waiting for leases (R9)."""

from __future__ import annotations

import pytest

from agent.core.ids import Member, NodeName, ViewId, VipName
from agent.core.install import DRIFT, UNKNOWN, Vote, compose
from agent.core.messages import Join, Lost
from agent.core.view import Entry, MemberState, Standing, StandingChanged, View, VipSpec

A, B, C = (Member(NodeName(name), 1) for name in "abc")
OLD = View(ViewId(3, A), (A, B, C))
SPECS = tuple(VipSpec(VipName(f"v{i}"), (f"10.0.0.{i}",)) for i in range(3))


def vote(
    member: Member, held: tuple[str, ...], *, delivered: int = 0, seqs: tuple[int, ...] = (), **kwargs: object
) -> Vote:
    state = MemberState(tuple(VipName(vip) for vip in held), True, Standing(), "d", "t", SPECS)
    tail = tuple(Entry(seq, StandingChanged(C.name, Standing())) for seq in seqs)
    lost = kwargs.get("lost", ())
    assert isinstance(lost, tuple)
    return Vote(Join(4, B, (B, C), (A,), (), OLD, delivered, tail, lost, state), at=100.0)


def test_the_flush_is_the_union_of_the_tails_beyond_the_slowest() -> None:
    view = View(ViewId(4, B), (B, C))
    votes = {B: vote(B, (), delivered=7, seqs=(5, 6, 7)), C: vote(C, (), delivered=5, seqs=(4, 5))}
    install, _ = compose(view, votes, {"t": SPECS}, 100.0)
    (recovered,) = install.recovered
    assert recovered.members == (B, C)
    assert [entry.seq for entry in recovered.entries] == [6, 7]


def test_without_leases_nobody_waits() -> None:
    view = View(ViewId(4, B), (B, C))
    install, _ = compose(view, {B: vote(B, ("v0",)), C: vote(C, ("v1",))}, {"t": SPECS}, 100.0)
    assert install.waits == ()
    assert dict(install.owners)[VipName("v2")] in (B.name, C.name)


def test_a_lost_holders_lease_is_waited_for_from_the_last_sign_anyone_had() -> None:
    view = View(ViewId(4, B), (B, C))
    by_b = Lost(A, silence=0.5, lease_bound=0.8)
    by_c = Lost(A, silence=0.3, lease_bound=0.8)
    votes = {B: vote(B, ("v0",), lost=(by_b,)), C: vote(C, ("v1",), lost=(by_c,))}
    install, _ = compose(view, votes, {"t": SPECS}, now=100.1)
    # v1 is held by C itself, so only v2 waits: 0.8 s and drift from 0.3 s before C's Join, which came 0.1 s ago.
    assert [vip for vip, _ in install.waits] == ["v2", UNKNOWN]
    assert install.waits[0][1] == pytest.approx(0.8 * (1 + DRIFT) - 0.3 - 0.1)


def test_a_lease_that_is_over_is_not_waited_for() -> None:
    view = View(ViewId(4, B), (B, C))
    over = Lost(A, silence=0.9, lease_bound=0.8)
    install, _ = compose(view, {B: vote(B, (), lost=(over,)), C: vote(C, (), lost=(over,))}, {"t": SPECS}, 100.0)
    assert install.waits == ()


def test_who_does_not_give_a_holder_up_has_heard_it_until_then() -> None:
    """The coordinator suspects A, C awaited it: C may have acknowledged A's lease up to its vote."""
    view = View(ViewId(4, B), (B, C))
    over = Lost(A, silence=0.9, lease_bound=0.8)
    install, _ = compose(view, {B: vote(B, (), lost=(over,)), C: vote(C, ())}, {"t": SPECS}, 100.1)
    assert [rest for _, rest in install.waits] == pytest.approx([0.8 * (1 + DRIFT) - 0.1] * (len(SPECS) + 1))
    assert [vip for vip, _ in install.waits] == [*(spec.name for spec in SPECS), UNKNOWN], "it may hold any of them"


def test_of_two_holders_the_larger_old_view_keeps_then_the_lower_name() -> None:
    view = View(ViewId(4, B), (B, C))
    votes = {B: vote(B, ("v0",)), C: vote(C, ("v0",))}
    install, _ = compose(view, votes, {"t": SPECS}, 100.0)
    assert dict(install.owners)[VipName("v0")] == B.name
    assert install.conflicts == ((VipName("v0"), C.name),)
