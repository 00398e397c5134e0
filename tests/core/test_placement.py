"""Laws and particular promises of placement; its optimality is test_placement_bruteforce.py's."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ids import NodeName, VipName
from agent.core.placement import Candidate, merge_tables, place, plan_round, plan_urgent, spread
from agent.core.view import Cause, Move, Standing, VipSpec

A, B, C = (NodeName(name) for name in "abc")
Owners = dict[VipName, NodeName]


def node(
    name: str, standing: Standing | None = None, old: int = 1, knows: frozenset[VipName] | None = None
) -> Candidate:
    return Candidate(NodeName(name), standing or Standing(), knows, old)


def vip(name: str, prefer: Sequence[str] = (), nodes: Sequence[str] = (), address: str = "10.0.0.1") -> VipSpec:
    return VipSpec(VipName(name), (address,), tuple(NodeName(n) for n in prefer), tuple(NodeName(n) for n in nodes))


def vips(count: int) -> tuple[VipSpec, ...]:
    return tuple(vip(f"v{number:02}") for number in range(count))


def apply(owners: Owners, moves: Sequence[Move]) -> Owners:
    return owners | {move.vip: move.taker for move in moves}


# Tables


def test_equal_tables_are_taken_as_they_are() -> None:
    table = vips(3)
    specs, knows = merge_tables([(A, table), (B, table), (C, vips(3))])
    assert specs is table
    assert knows == dict.fromkeys((A, B, C), frozenset(spec.name for spec in table))


def test_tables_that_differ_are_merged() -> None:
    specs, knows = merge_tables(
        [
            (A, (vip("x", ["a"], ["a", "b"]), vip("y", address="10.0.0.2"))),
            (B, (vip("z"), vip("y", ["b"], ["b"], address="10.0.0.9"), vip("x", ["b", "a"]))),
        ]
    )
    assert specs == (
        vip("x", ["a", "b"], ["a", "b"]),
        vip("y", ["b"], address="10.0.0.2"),
        vip("z"),
    )
    assert knows == {A: {"x", "y"}, B: {"x", "z"}}
    assert place([node("a", knows=knows[A]), node("b", knows=knows[B])], specs, {}).owners() == {
        "x": "a",
        "y": "a",
        "z": "b",
    }


def test_no_tables_and_a_name_given_twice() -> None:
    assert merge_tables([]) == ((), {})
    assert merge_tables([(A, (vip("x"), vip("x")))]) == ((vip("x"),), {A: frozenset({"x"})})


# New views


def test_the_larger_old_view_wins_then_the_lower_name() -> None:
    members = [node("a", old=1), node("b", old=2), node("c", old=2)]
    held = {VipName("v00"): (C, A, B), VipName("v01"): (A, B), VipName("v02"): (C, C)}
    rows = place(members, vips(3), held).rows
    assert [(row.owner, row.losers, row.reason) for row in rows] == [
        (B, (A, C), "holder with the lower name"),
        (B, (A,), "holder of the larger old view"),
        (C, (), "held here"),
    ]
    assert place(members, vips(3), held).conflicts() == (("v00", A), ("v00", C), ("v01", A))


def test_a_preferred_holder_wins_only_if_it_can_serve() -> None:
    spec = vip("x", ["c", "b"])
    held = {spec.name: (A, B, C)}
    assert place([node("a", old=9), node("b"), node("c")], [spec], held).owners() == {"x": C}
    unfit = node("c", Standing(fit=False))
    assert place([node("a", old=9), node("b"), unfit], [spec], held).owners() == {"x": B}


def test_an_ineligible_holder_keeps_until_the_hand_over_and_says_why() -> None:
    members = [node("a", Standing(serves=False)), node("b", Standing(draining=True)), node("c")]
    held = {VipName("v00"): (A,), VipName("v01"): (B,), VipName("v02"): (NodeName("gone"),)}
    rows = place(members, vips(3), held).rows
    assert [(row.owner, row.reason) for row in rows] == [
        (A, "held here until it moves: serves no VIPs"),
        (B, "held here until it moves: draining"),
        (C, "only eligible member"),
    ]


def test_reasons_for_the_rest() -> None:
    members = [node("a", Standing(fit=False)), node("b", Standing(fit=False, leaving=True))]
    specs = [vip("x"), vip("y", ["a"]), vip("z", nodes=["b"]), vip("w", nodes=["c"])]
    rows = place(members, specs, {VipName("x"): (A,)}).rows
    assert [row.reason for row in rows] == [
        "held here, no better member: unfit",
        "preferred",
        "no eligible member: a not among its nodes, b leaving",
        "no eligible member: a not among its nodes, b leaving",
    ]
    assert place([], [vip("x")], {}).rows[0].reason == "no eligible member: none in the view"
    many = [node(f"n{number}", Standing(serves=False)) for number in range(6)]
    assert place(many, [vip("x")], {}).rows[0].reason.endswith("n3 serves no VIPs and 2 more")
    assert place(many, [vip("x")], {}).uncovered() == ("x",)


def test_unfit_before_draining_and_weightless_after_their_like() -> None:
    weightless, unfit, draining = (
        node("a", Standing(weight=0)),
        node("b", Standing(fit=False)),
        node("c", Standing(draining=True)),
    )
    assert set(place([weightless, node("d")], vips(4), {}).owners().values()) == {"d"}
    assert set(place([weightless, unfit, draining], vips(4), {}).owners().values()) == {"a"}
    assert set(place([unfit, draining], vips(4), {}).owners().values()) == {"b"}
    assert set(place([draining], vips(4), {}).owners().values()) == {"c"}


def test_neighbours_in_the_table_are_spread() -> None:
    owners = place([node("a"), node("b"), node("c")], vips(6), {})
    assert [row.owner for row in owners.rows] == [A, B, C, A, B, C]


def test_weights_are_decimal() -> None:
    members = [node("a", Standing(weight=0.1)), node("b", Standing(weight=0.3))]
    owners = place(members, vips(8), {}).owners()
    assert [list(owners.values()).count(name) for name in (A, B)] == [2, 6]
    assert spread(members, vips(8), owners) == 0.0


# Urgent moves


def test_causes_of_urgent_moves() -> None:
    standings = {
        "a": Standing(leaving=True, draining=True),
        "b": Standing(draining=True, fit=False),
        "c": Standing(fit=False),
        "d": Standing(failed=(VipName("v03"),)),
        "e": Standing(serves=False),
        "f": Standing(),
    }
    members = [node(name, standing) for name, standing in standings.items()]
    specs = (*vips(5), vip("v05", nodes=["d"]))
    owners = {spec.name: NodeName(name) for spec, name in zip(specs, "abcdef", strict=True)}
    moves = plan_urgent(members, specs, owners)
    assert [(move.vip, move.giver, move.cause) for move in moves] == [
        ("v00", "a", Cause.LEAVE),
        ("v01", "b", Cause.DRAIN),
        ("v02", "c", Cause.UNFIT),
        ("v03", "d", Cause.UNFIT),
        ("v04", "e", Cause.RELOAD),
        ("v05", "f", Cause.RELOAD),
    ]
    assert {move.taker for move in moves} == {"d", "f"}


def test_who_cannot_be_relieved_keeps_what_it_has() -> None:
    specs = vips(3)
    for standing in (Standing(fit=False), Standing(draining=True), Standing(leaving=True)):
        owners = dict.fromkeys((spec.name for spec in specs), A)
        assert plan_urgent([node("a", standing)], specs, owners) == ()
        assert plan_round([node("a", standing)], specs, owners, None) == ()
        if not standing.leaving:
            assert plan_round([node("a", standing), node("b", standing)], specs, owners, None) == ()


def test_no_weight_is_not_urgent_but_balanced_away() -> None:
    members = [node("a", Standing(weight=0)), node("b")]
    owners = dict.fromkeys((spec.name for spec in vips(2)), A)
    assert plan_urgent(members, vips(2), owners) == ()
    assert [(move.taker, move.cause) for move in plan_round(members, vips(2), owners, None)] == [(B, Cause.BALANCE)] * 2


# Rounds


def test_one_node_to_four_at_once() -> None:
    """Wackamole moves half of the VIPs at most and stops there; one VIP it never moves (reference 1.9, 7)."""
    members = [node(name) for name in "abcd"]
    specs = vips(8)
    moves = plan_round(members, specs, dict.fromkeys((spec.name for spec in specs), A), None)
    assert sorted(move.taker for move in moves) == ["b", "b", "c", "c", "d", "d"]
    assert {move.giver for move in moves} == {"a"}


def test_preferred_vips_count_but_do_not_move() -> None:
    """Wackamole leaves the fullest node alone when all that it has is preferred (reference 1.9, 8)."""
    specs = (vip("x", ["a"]), vip("y", ["a"]), vip("z", ["a"]), *vips(3))
    owners = {spec.name: A for spec in specs}
    moves = plan_round([node("a"), node("b")], specs, owners, None)
    assert sorted((move.vip, move.taker) for move in moves) == [("v00", "b"), ("v01", "b"), ("v02", "b")]


def test_order_of_a_limited_round() -> None:
    members = [node("a"), node("b"), node("c", Standing(fit=False)), node("d")]
    specs = (*vips(6), vip("p", ["b"]), vip("u"))
    owners = {spec.name: A for spec in specs[:4]} | {spec.name: B for spec in specs[4:6]}
    owners |= {VipName("p"): A, VipName("u"): NodeName("c")}
    moves = plan_round(members, specs, owners, 3)
    assert [move.cause for move in moves] == [Cause.UNFIT, Cause.PREFER, Cause.BALANCE]
    assert moves[2].giver == "a"
    assert plan_round(members, specs, owners, 0) == plan_round(members, specs, owners, -1) == ()


def test_a_chain_where_no_single_move_helps() -> None:
    """What greedy rules cannot do: c is empty and may have only VIPs of b, which is not the fullest."""
    specs = [vip("v0", nodes=["a", "b"]), vip("v1", nodes=["a", "b"]), vip("v2", nodes=["b", "c"])]
    owners = {VipName("v0"): A, VipName("v1"): A, VipName("v2"): B}
    members = [node(name) for name in "abc"]
    moves = plan_round(members, specs, owners, None)
    assert {(move.giver, move.taker) for move in moves} == {(A, B), (B, C)}
    assert spread(members, specs, apply(owners, moves)) == 0.0


def test_spread() -> None:
    specs = vips(5)
    owners = dict(zip((spec.name for spec in specs), (A, A, A, B, C), strict=True))
    assert spread([node("a"), node("b"), node("c")], specs, owners) == 2.0
    assert spread([node("a", Standing(weight=2)), node("b"), node("c", Standing(fit=False))], specs, owners) == 0.5
    assert spread([node("a"), node("b", Standing(draining=True)), node("c", Standing(weight=0))], specs, owners) == 0.0
    assert spread([node("a"), node("d")], specs[:2], owners) == 2.0
    assert spread([], specs, owners) == 0.0


# Laws


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Candidate], list[VipSpec], Owners]:
    names = [NodeName(f"n{number}") for number in range(draw(st.integers(1, 7)))]
    labels = [VipName(f"v{number}") for number in range(draw(st.integers(0, 14)))]
    rarely = st.sampled_from((False, False, False, True))
    known = st.frozensets(st.sampled_from(labels)) if labels else st.just(frozenset[VipName]())
    members = [
        Candidate(
            name,
            Standing(
                fit=not draw(rarely),
                draining=draw(rarely),
                leaving=draw(rarely),
                weight=draw(st.sampled_from((1.0, 1.0, 2.0, 0.5, 2.5, 0.0, 0.1))),
                serves=not draw(rarely),
                failed=tuple(sorted(draw(st.sets(st.sampled_from(labels), max_size=2)))) if labels else (),
            ),
            draw(st.one_of(st.none(), st.none(), st.none(), known)),
            draw(st.integers(1, 3)),
        )
        for name in names
    ]
    some = st.lists(st.sampled_from(names), unique=True, max_size=3).map(tuple)
    specs = [VipSpec(label, ("10.0.0.1",), draw(some) if draw(rarely) else (), draw(some)) for label in labels]
    owners = {label: draw(st.sampled_from(names)) for label in labels if not draw(rarely)}
    return members, specs, owners


def best_tier(members: Sequence[Candidate], spec: VipSpec) -> dict[NodeName, int]:
    return {
        member.name: 2 if member.standing.draining else 0 if member.standing.fit else 1
        for member in members
        if member.standing.serves
        and not member.standing.leaving
        and spec.name not in member.standing.failed
        and (member.knows is None or spec.name in member.knows)
        and (not spec.nodes or member.name in spec.nodes)
    }


@settings(max_examples=300, deadline=None)
@given(clusters(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_laws(cluster: tuple[list[Candidate], list[VipSpec], Owners], dice: random.Random, limit: int) -> None:
    members, specs, owners = cluster
    held = {name: (owner,) for name, owner in owners.items()}
    shuffled = dice.sample(members, len(members))
    placement = place(members, specs, held)
    assert place(shuffled, specs, held) == placement
    assert plan_urgent(shuffled, specs, owners) == plan_urgent(members, specs, owners)
    assert plan_round(shuffled, specs, owners, limit) == plan_round(members, specs, owners, limit)
    assert plan_round(members, specs, owners, limit) == plan_round(
        members, specs, dict(reversed(owners.items())), limit
    )
    now = placement.owners()
    assert now.items() >= owners.items()
    for _ in range(2 * len(specs) + 1):
        moves = plan_round(members, specs, now, limit)
        assert len(moves) <= limit
        assert all(now[move.vip] == move.giver != move.taker for move in moves)
        now = apply(now, moves)
    assert moves == ()
    for spec in specs:
        tiers = best_tier(members, spec)
        if tiers:
            assert tiers.get(now[spec.name], 9) == min(tiers.values())
    assert place(members, specs, {name: (owner,) for name, owner in now.items()}).owners() == now
    assert plan_urgent(members, specs, now) == ()


@settings(max_examples=200, deadline=None)
@given(clusters())
def test_what_must_not_move_is_never_used_to_make_room(
    cluster: tuple[list[Candidate], list[VipSpec], Owners],
) -> None:
    members, specs, owners = cluster
    now = apply(owners, plan_round(members, specs, owners, None))
    assert plan_urgent(members, specs, now) == ()
    tiers = {spec.name: best_tier(members, spec) for spec in specs}
    unchangeable = {
        spec.name: now[spec.name]
        for spec in specs
        if spec.name in now and min(tiers[spec.name].values(), default=9) in (1, 2, 9)
    }
    scrambled = {name: owner if name in unchangeable else members[0].name for name, owner in now.items()}
    touched = {move.vip for move in plan_round(members, specs, scrambled, None)}
    assert not touched & unchangeable.keys()


# Independent of the process


def test_the_same_in_every_process() -> None:
    """Hash seeds order sets and frozensets differently in every process: nothing may follow that order."""
    program = (
        "import random\n"
        "from agent.core.placement import Candidate, place, plan_round, plan_urgent\n"
        "from agent.core.view import Standing, VipSpec\n"
        "dice = random.Random(1)\n"
        "names = [f'n{i}' for i in range(6)]\n"
        "labels = [f'v{i}' for i in range(40)]\n"
        "members = [Candidate(n, Standing(fit=n != 'n1', weight=dice.choice((1.0, 2.0))),"
        " frozenset(dice.sample(labels, 30))) for n in names]\n"
        "specs = [VipSpec(v, ('10.0.0.1',), (), tuple(dice.sample(names, 4))) for v in labels]\n"
        "owners = {v: dice.choice(names) for v in labels}\n"
        "print(place(members, specs, {v: (o,) for v, o in list(owners.items())[::2]}))\n"
        "print(plan_urgent(members, specs, owners), plan_round(members, specs, owners, 9))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
    assert "Move" in outputs.pop()


# Speed, with room for a busy machine: the measured times are a quarter of these


def best_of(runs: int, work: Callable[[], object]) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def test_a_lost_node_of_the_largest_table_is_placed_in_time() -> None:
    specs = tuple(vip(f"v{number}") for number in range(16_384))
    members = [node(f"n{number:02}") for number in range(16)]
    full = place(members, specs, {})
    held = {row.vip: (row.owner,) for row in full.rows if row.owner is not None}
    assert best_of(3, lambda: place(members[1:], specs, held)) < 0.3
    assert best_of(3, lambda: plan_round(members, specs, place(members[1:], specs, held).owners(), None)) < 0.6
