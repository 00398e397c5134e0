"""Placement against an oracle that knows nothing of flows: equal coverage, preferences, spread and number of moves.

The oracle walks over all assignments (as reachable load vectors with the fewest moves to each) and is itself compared
with the enumeration of every map from VIPs to members. MOLEHILL_DEEP=1 runs the sizes that take minutes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations_with_replacement, permutations, product

import pytest

from agent.core.ids import NodeName, VipName
from agent.core.placement import Candidate, place, plan_round, plan_urgent, spread
from agent.core.view import Move, Standing, VipSpec

DEEP = bool(os.environ.get("MOLEHILL_DEEP"))
Owners = dict[VipName, NodeName]
Result = tuple[int, int]
"""Spread and moves: smaller is better."""
LOAD = 1260
"""Load of one VIP on a node of weight 1: loads are whole numbers for all weights that occur here."""


# The contract, written down a second time and as plainly as possible.


def able(member: Candidate, spec: VipSpec) -> bool:
    standing = member.standing
    return (
        standing.serves
        and not standing.leaving
        and spec.name not in standing.failed
        and (member.knows is None or spec.name in member.knows)
        and (not spec.nodes or member.name in spec.nodes)
    )


def tier(member: Candidate, spec: VipSpec) -> int:
    if not able(member, spec):
        return 9
    if member.standing.draining:
        return 3
    return 1 if member.standing.fit else 2


def eligible(members: Sequence[Candidate], spec: VipSpec) -> tuple[NodeName, ...]:
    best = min((tier(member, spec) for member in members), default=9)
    if best == 9:
        return ()
    group = [member for member in members if tier(member, spec) == best]
    return tuple(member.name for member in [m for m in group if m.standing.weight > 0] or group)


def pinned(spec: VipSpec, names: Sequence[NodeName]) -> tuple[NodeName, ...]:
    """The first preferred node among the names as the only choice, else all of them."""
    return next(((node,) for node in spec.prefer if node in names), tuple(names))


def counted(members: Sequence[Candidate]) -> dict[NodeName, int]:
    """Load of one VIP on each member that the spread is about."""
    return {
        member.name: int(LOAD / member.standing.weight)
        for member in members
        if (s := member.standing).serves and s.fit and not s.draining and not s.leaving and s.weight > 0
    }


def true_spread(members: Sequence[Candidate], owners: Iterable[NodeName]) -> int:
    owned = list(owners)
    loads = [owned.count(name) * load for name, load in counted(members).items()]
    return max(loads) - min(loads) if len(loads) > 1 else 0


def place_choices(members: Sequence[Candidate], spec: VipSpec, holders: Sequence[NodeName]) -> tuple[NodeName, ...]:
    """Where the VIP may be in the best placement of a new view; several holders: decided by R13."""
    by_name = {member.name: member for member in members}
    names = eligible(members, spec)
    here = [by_name[holder] for holder in holders if holder in by_name]
    if not here:
        return pinned(spec, names)

    def order(member: Candidate) -> tuple[int, bool, int, int, str]:
        wanted = member.name in spec.prefer and able(member, spec)
        place_in_prefer = spec.prefer.index(member.name) if wanted else len(spec.prefer)
        weightless = able(member, spec) and member.standing.weight <= 0
        return tier(member, spec), weightless, place_in_prefer, -member.old_view_size, member.name

    return (min(here, key=order).name,)


def round_choices(members: Sequence[Candidate], spec: VipSpec, owner: NodeName) -> tuple[NodeName, ...]:
    """Where the VIP may be when nothing is left to do."""
    holder = next(member for member in members if member.name == owner)
    names = eligible(members, spec)
    if not names:
        return (owner,)
    best = min(tier(member, spec) for member in members)
    return (owner,) if best > 1 and tier(holder, spec) == best else pinned(spec, names)


def oracle(
    members: Sequence[Candidate], choices: Sequence[tuple[NodeName, ...]], homes: Sequence[NodeName | None]
) -> Result:
    """The best spread, and the fewest moves to it."""
    loads = counted(members)
    slot = {name: number for number, name in enumerate(loads)}
    options = sorted(
        tuple(sorted((slot.get(name, -1), home not in (None, name)) for name in names))
        for names, home in zip(choices, homes, strict=True)
        if names
    )
    return walk(tuple(loads.values()), tuple(options))


@cache
def walk(loads: tuple[int, ...], options: tuple[tuple[tuple[int, bool], ...], ...]) -> Result:
    """All ways to take one option (node counted or -1, moved) per VIP: the best end."""
    states: dict[tuple[int, ...], int] = {(0,) * len(loads): 0}
    for choices in options:
        reached: dict[tuple[int, ...], int] = {}
        for counts, cost in states.items():
            for at, moved in choices:
                after = counts if at < 0 else (*counts[:at], counts[at] + 1, *counts[at + 1 :])
                reached[after] = min(reached.get(after, cost + moved), cost + moved)
        states = reached

    def width(counts: tuple[int, ...]) -> int:
        each = [count * load for count, load in zip(counts, loads, strict=True)]
        return max(each) - min(each) if len(each) > 1 else 0

    return min((width(counts), cost) for counts, cost in states.items())


# Comparing


def apply(owners: Mapping[VipName, NodeName], moves: Iterable[Move]) -> Owners:
    after = dict(owners)
    for move in moves:
        assert after[move.vip] == move.giver != move.taker
        after[move.vip] = move.taker
    return after


def check_place(
    members: Sequence[Candidate], specs: Sequence[VipSpec], held: Mapping[VipName, Sequence[NodeName]]
) -> Owners:
    placement = place(members, specs, held)
    owners = placement.owners()
    assert [row.vip for row in placement.rows] == [spec.name for spec in specs]
    choices = [place_choices(members, spec, held.get(spec.name, ())) for spec in specs]
    for spec, names, row in zip(specs, choices, placement.rows, strict=True):
        assert (row.owner in names) if names else row.owner is None, (row, names)
        here = {holder for holder in held.get(spec.name, ()) if holder in {m.name for m in members}}
        assert set(row.losers) == here - {row.owner}
        assert row.reason
    best, _ = oracle(members, choices, [None] * len(specs))
    assert true_spread(members, owners.values()) == best
    assert spread(members, specs, owners) == pytest.approx(best / LOAD)
    return owners


def check_plan(members: Sequence[Candidate], specs: Sequence[VipSpec], owners: Owners) -> tuple[Move, ...]:
    """A whole plan is the best, with the fewest moves.

    As that holds from every start, any part of it that is executed leaves just the rest: the law of rounds.
    """
    owned = [spec for spec in specs if spec.name in owners]
    choices = [round_choices(members, spec, owners[spec.name]) for spec in owned]
    best, fewest = oracle(members, choices, [owners[spec.name] for spec in owned])
    moves = plan_round(members, specs, owners, None)
    after = apply(owners, moves)
    assert len({move.vip for move in moves}) == len(moves)
    for spec, names in zip(owned, choices, strict=True):
        assert after[spec.name] in names
    assert true_spread(members, after.values()) == best
    assert len(moves) == fewest
    return moves


def check_rounds(members: Sequence[Candidate], specs: Sequence[VipSpec], owners: Owners, dice: random.Random) -> None:
    whole = check_plan(members, specs, owners)
    for limit in (1, 2):
        now, needed = dict(owners), len(whole)
        while moves := plan_round(members, specs, now, limit):
            assert len(moves) == min(limit, needed)
            now, needed = apply(now, moves), needed - len(moves)
            assert len(plan_round(members, specs, now, None)) == needed
        assert needed == 0
        assert true_spread(members, now.values()) == true_spread(members, apply(owners, whole).values())
    some = [move for move in whole if dice.random() < 0.5]
    assert len(plan_round(members, specs, apply(owners, some), None)) == len(whole) - len(some)


def check_urgent(members: Sequence[Candidate], specs: Sequence[VipSpec], owners: Owners) -> None:
    by_name = {member.name: member for member in members}
    choices = []
    for spec in (owned := [spec for spec in specs if spec.name in owners]):
        holder = by_name[owners[spec.name]]
        names = eligible(members, spec)
        better = names and tier(by_name[names[0]], spec) < tier(holder, spec)
        choices.append(pinned(spec, names) if better else (holder.name,))
    best, fewest = oracle(members, choices, [owners[spec.name] for spec in owned])
    moves = plan_urgent(members, specs, owners)
    after = apply(owners, moves)
    for spec, names in zip(owned, choices, strict=True):
        assert after[spec.name] in names
    assert len(moves) == fewest
    assert true_spread(members, after.values()) == best
    assert plan_urgent(members, specs, after) == ()


# Exhaustive: all cases of a size. VIPs of one kind are interchangeable, so multisets of kinds and weights in ascending
# order are all there is; nodes of one weight are too, so of cases that differ in names only one is run (not if DEEP).

NODES = tuple(NodeName(name) for name in "abc")
Kind = tuple[tuple[NodeName, ...], tuple[NodeName, ...], tuple[NodeName, ...]]
"""Nodes that may have the VIP, its preferred node if any, its holders."""


def subsets(nodes: Sequence[NodeName]) -> list[tuple[NodeName, ...]]:
    return [
        tuple(n for n, take in zip(nodes, bits, strict=True) if take) for bits in product((0, 1), repeat=len(nodes))
    ]


def kinds(size: int, prefer: bool, holders: Callable[[Sequence[NodeName]], list[tuple[NodeName, ...]]]) -> list[Kind]:
    nodes = NODES[:size]
    return [
        (may, wish, here)
        for may in subsets(nodes)
        for wish in ((), *([(node,) for node in may] if prefer else []))
        for here in holders(nodes)
    ]


def one(nodes: Sequence[NodeName]) -> list[tuple[NodeName, ...]]:
    return [(node,) for node in nodes]


def cases(size: int, vips: int, sorts: Sequence[Kind]) -> Iterable[tuple[list[Candidate], list[VipSpec], list[Kind]]]:
    # "x" is nobody here: a VIP that may only be there has no eligible member.
    specs = {
        (kind, number): VipSpec(VipName(f"v{number}"), (f"10.0.0.{number}",), kind[1], kind[0] or (NodeName("x"),))
        for kind in sorts
        for number in range(vips)
    }
    number_of = {kind: number for number, kind in enumerate(sorts)}
    for weights in combinations_with_replacement((1.0, 2.0), size):
        members = [Candidate(n, Standing(weight=w), None) for n, w in zip(NODES, weights, strict=False)]
        names = [name for name in permutations(NODES[:size]) if not DEEP] or [NODES[:size]]
        renamings = [
            [number_of[rename(kind, dict(zip(NODES, new, strict=False)))] for kind in sorts]
            for new in names
            if all(weights[NODES.index(name)] == weight for name, weight in zip(new, weights, strict=True))
        ]
        for chosen in combinations_with_replacement(range(len(sorts)), vips):
            if all(chosen <= tuple(sorted(renamed[kind] for kind in chosen)) for renamed in renamings):
                picked = [sorts[kind] for kind in chosen]
                yield members, [specs[kind, number] for number, kind in enumerate(picked)], picked


def rename(kind: Kind, new: Mapping[NodeName, NodeName]) -> Kind:
    may, wish, here = (tuple(sorted(new[name] for name in names)) for names in kind)
    return may, wish, here


SIZES = [(1, 4), (2, 2), (2, 3), (3, 1), (3, 2)]


@pytest.mark.parametrize(("size", "vips"), [*SIZES, *([(2, 4), (3, 3), (3, 4)] if DEEP else [])])
def test_every_placement_with_every_set_of_holders(size: int, vips: int) -> None:
    for members, specs, chosen in cases(size, vips, kinds(size, True, subsets)):
        check_place(members, specs, {spec.name: kind[2] for spec, kind in zip(specs, chosen, strict=True)})


@pytest.mark.parametrize("vips", [3, *([4] if DEEP else [])])
def test_every_placement_with_at_most_one_holder(vips: int) -> None:
    for members, specs, chosen in cases(3, vips, kinds(3, False, lambda nodes: [(), *one(nodes)])):
        check_place(members, specs, {spec.name: kind[2] for spec, kind in zip(specs, chosen, strict=True)})


@pytest.mark.parametrize(("size", "vips"), [*SIZES, (2, 4), (3, 3), *([(3, 4)] if DEEP else [])])
def test_every_plan_with_preferences(size: int, vips: int) -> None:
    for members, specs, chosen in cases(size, vips, kinds(size, True, one)):
        check_plan(members, specs, {spec.name: kind[2][0] for spec, kind in zip(specs, chosen, strict=True)})


def test_every_plan_of_three_nodes_and_four_vips() -> None:
    for members, specs, chosen in cases(3, 4, kinds(3, False, one)):
        check_plan(members, specs, {spec.name: kind[2][0] for spec, kind in zip(specs, chosen, strict=True)})


# Random: all that may differ, differs.


def random_case(dice: random.Random, nodes: int, vips: int, calm: float) -> tuple[list[Candidate], list[VipSpec]]:
    names = [NodeName(f"n{number}") for number in range(nodes)]
    labels = [VipName(f"v{number}") for number in range(vips)]

    def odd() -> bool:
        return dice.random() > calm

    members = [
        Candidate(
            name,
            Standing(
                fit=not odd(),
                draining=odd(),
                leaving=odd() and odd(),
                weight=0.0 if odd() and odd() else dice.choice((1.0, 2.0, 3.0)),
                serves=not (odd() and odd()),
                failed=tuple(label for label in labels if odd() and odd()),
            ),
            frozenset(label for label in labels if not (odd() and odd())) if odd() else None,
            dice.randint(1, 3),
        )
        for name in names
    ]
    limited = dice.random()
    specs = [
        VipSpec(
            label,
            ("10.0.0.1",),
            tuple(dice.sample(names, dice.randint(1, min(2, nodes)))) if dice.random() < 0.15 else (),
            tuple(dice.sample(names, dice.randint(1, nodes))) if dice.random() < limited else (),
        )
        for label in labels
    ]
    return members, specs


@pytest.mark.parametrize("seed", range(400 if DEEP else 34))
def test_random_cases(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(300):
        members, specs = random_case(dice, dice.randint(1, 5), dice.randint(1, 7), dice.choice((0.7, 0.9, 1.0)))
        names = [member.name for member in members]
        held = {spec.name: dice.sample(names, dice.choice((0, 1, 1, min(2, len(names))))) for spec in specs}
        owners = check_place(members, specs, held)
        check_urgent(members, specs, owners)
        check_rounds(members, specs, owners, dice)
        scattered = {spec.name: dice.choice(names) for spec in specs}
        check_urgent(members, specs, scattered)
        check_plan(members, specs, scattered)


@pytest.mark.parametrize("seed", range(100 if DEEP else 8))
def test_random_weights_and_more_vips(seed: int) -> None:
    """Weights for which the lowest maximum and the highest minimum do not go together: several windows to search."""
    dice = random.Random(seed)
    for _ in range(40):
        names = [NodeName(f"n{number}") for number in range(dice.randint(2, 4))]
        members = [Candidate(n, Standing(weight=dice.choice((1.0, 1.5, 2.0, 3.0, 5.0, 7.0))), None) for n in names]
        specs = [
            VipSpec(
                VipName(f"v{number}"),
                ("10.0.0.1",),
                (),
                tuple(dice.sample(names, dice.randint(1, len(names)))) if dice.random() < 0.4 else (),
            )
            for number in range(dice.randint(5, 16))
        ]
        check_place(members, specs, {spec.name: [dice.choice(names)] for spec in specs if dice.random() < 0.5})
        check_rounds(members, specs, {spec.name: dice.choice(names) for spec in specs}, dice)


@pytest.mark.parametrize("seed", range(200 if DEEP else 10))
def test_random_chains(seed: int) -> None:
    """Few nodes per VIP and many VIPs on few nodes: long chains, and VIPs that come home again during the search."""
    dice = random.Random(seed)
    for _ in range(60):
        nodes = dice.randint(3, 5)
        names = [NodeName(f"n{number}") for number in range(nodes)]
        members = [Candidate(n, Standing(weight=dice.choice((1.0, 1.0, 1.0, 2.0))), None) for n in names]
        kinds = [tuple(dice.sample(names, dice.choice((1, 2, 2, 3)))) for _ in range(dice.randint(3, 6))]
        specs = [VipSpec(VipName(f"v{number}"), ("10.0.0.1",), (), dice.choice(kinds)) for number in range(14 - nodes)]
        check_rounds(members, specs, {spec.name: spec.nodes[0] for spec in specs}, dice)


def grade(
    members: Sequence[Candidate], specs: Sequence[VipSpec], owners: Owners, assignment: tuple[NodeName, ...]
) -> tuple[int, int, int, int]:
    badly = unwished = moves = 0
    for spec, name in zip(specs, assignment, strict=True):
        tiers, good = {member.name: tier(member, spec) for member in members}, eligible(members, spec)
        stays = min(tiers.values()) > 1 and tiers[owners[spec.name]] == min(tiers.values())
        badly += name != owners[spec.name] if stays else name not in good
        unwished += not stays and name not in pinned(spec, good)
        moves += name != owners[spec.name]
    return badly, unwished, true_spread(members, assignment), moves


@pytest.mark.parametrize("seed", range(4))
def test_oracle_agrees_with_plain_enumeration(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(100):
        members, specs = random_case(dice, dice.randint(1, 3), dice.randint(1, 4), 0.9)
        names = [member.name for member in members]
        owners = {spec.name: dice.choice(names) for spec in specs}
        best = min(grade(members, specs, owners, every) for every in product(names, repeat=len(specs)))
        choices = [round_choices(members, spec, owners[spec.name]) for spec in specs]
        assert (0, 0, *oracle(members, choices, [owners[spec.name] for spec in specs])) == best
