"""Composing an Install: the flush (R6) and the waiting for leases (R9)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.ids import Member, NodeName, ViewId, VipName
from agent.core.install import DRIFT, Vote, compose
from agent.core.messages import OTHERS, Join, Lost
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
    assert [vip for vip, _ in install.waits] == [OTHERS, "v2"]
    assert install.waits[1][1] == pytest.approx(0.8 * (1 + DRIFT) - 0.3 - 0.1)


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
    assert [rest for _, rest in install.waits] == pytest.approx([0.8 * (1 + DRIFT) - 0.1] * (1 + len(SPECS)))
    assert [vip for vip, _ in install.waits] == [OTHERS, *(spec.name for spec in SPECS)], "it may hold any of them"


def test_what_only_a_lost_member_knew_is_waited_for_when_another_brings_it() -> None:
    """A alone may hold v2: B's table has it no more, and C, which joins later, has it still."""
    fewer = SPECS[:2]
    alone = vote(B, (), lost=(Lost(A, silence=0.3, lease_bound=0.8), Lost(C, 0.0, 0.0)))
    install, _ = compose(View(ViewId(4, B), (B,)), {B: alone}, {"t": fewer}, 100.0)
    rest = 0.8 * (1 + DRIFT) - 0.3
    assert install.waits == ((OTHERS, pytest.approx(rest)), ("v0", pytest.approx(rest)), ("v1", pytest.approx(rest)))
    known = {"t": fewer, "u": SPECS}
    # B held v0 and v1 back for as long as was needed and then served them; nothing says so of v2.
    again = vote(B, (), lost=())
    again = replace(again, join=replace(again.join, old_view=None, waits=((OTHERS, 0.4),)))
    newcomer = vote(C, ())
    newcomer = replace(
        newcomer, join=replace(newcomer.join, old_view=None, state=replace(newcomer.join.state, table="u"))
    )
    install, _ = compose(View(ViewId(5, B), (B, C)), {B: again, C: newcomer}, known, 100.1)
    assert install.waits == ((OTHERS, pytest.approx(0.3)), ("v2", pytest.approx(0.3)))


def test_an_address_is_served_under_one_name() -> None:
    """Two tables call it differently: who holds it keeps it, whoever comes first; of two holders the first."""
    here, there = (VipSpec(VipName("web"), ("10.0.0.7",)),), (VipSpec(VipName("www"), ("10.0.0.7",)),)
    tables = {"t": here, "u": there}
    view = View(ViewId(4, B), (B, C))

    def named(member: Member, table: str, *held: str) -> Vote:
        made = vote(member, held)
        return replace(made, join=replace(made.join, state=replace(made.join.state, table=table, specs=tables[table])))

    def conflicts(one: Vote, other: Vote) -> tuple[tuple[str, str], ...]:
        return compose(view, {B: one, C: other}, tables, 100.0)[0].conflicts

    def owners(one: Vote, other: Vote) -> dict[str, str]:
        return dict(compose(view, {B: one, C: other}, tables, 100.0)[0].owners)

    assert owners(named(B, "t"), named(C, "u")) == {"web": "b"}
    assert owners(named(B, "t"), named(C, "u", "www")) == {"www": "c"}
    assert owners(named(B, "t", "web"), named(C, "u", "www")) == {"web": "b"}
    assert conflicts(named(B, "t", "web"), named(C, "u", "www")) == (), "nobody takes www over"


def test_who_holds_anothers_address_under_a_name_that_goes_on_confirms_that_it_let_go() -> None:
    """To B web is one address and www the other; C, before a reload, has www's as web."""
    tables = {
        "t": (VipSpec(VipName("web"), ("10.0.0.7",)), VipSpec(VipName("www"), ("10.0.0.8",))),
        "u": (VipSpec(VipName("web"), ("10.0.0.8",)),),
    }
    both, old = vote(B, ("web", "www")), vote(C, ("web",))
    old = replace(old, join=replace(old.join, state=replace(old.join.state, table="u", specs=tables["u"])))
    install, _ = compose(View(ViewId(4, B), (B, C)), {B: both, C: old}, tables, 100.0)
    assert dict(install.owners) == {"web": "b", "www": "b"}
    assert install.conflicts == ((VipName("web"), C.name),)


def test_of_two_holders_the_larger_old_view_keeps_then_the_lower_name() -> None:
    view = View(ViewId(4, B), (B, C))
    votes = {B: vote(B, ("v0",)), C: vote(C, ("v0",))}
    install, _ = compose(view, votes, {"t": SPECS}, 100.0)
    assert dict(install.owners)[VipName("v0")] == B.name
    assert install.conflicts == ((VipName("v0"), C.name),)
