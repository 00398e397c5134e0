"""From the votes to a view: pure functions that a coordinator uses to compose an Install, and everyone to read one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.core.ids import Member, NodeName, VipName
from agent.core.messages import OTHERS, Install, Join, Recovered
from agent.core.placement import Candidate, Placement, merge_tables, place
from agent.core.record import HandOver, Record, conflict_move
from agent.core.view import Entry, MemberState, View, VipSpec

DRIFT = 1e-3
"""Two clocks that are each wrong by 500 ppm may differ by so much in rate; added to every lease waited for (R9)."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A Join and when it came."""

    join: Join
    at: float


def tables_known(
    votes: Mapping[Member, Vote], own: Mapping[str, tuple[VipSpec, ...]]
) -> dict[str, tuple[VipSpec, ...]]:
    """VIP tables by digest, from those who sent theirs and from one's own."""
    known = dict(own)
    for vote in votes.values():
        if vote.join.state.specs is not None:
            known.setdefault(vote.join.state.table, vote.join.state.specs)
    return known


def compose(
    view: View, votes: Mapping[Member, Vote], tables: Mapping[str, tuple[VipSpec, ...]], now: float
) -> tuple[Install, Placement]:
    """The Install of `view`; `votes` has a vote of each of its members and `tables` the table of each."""
    joins = [votes[member].join for member in view.members]
    states = tuple(replace(join.state, specs=None) for join in joins)
    digests = sorted({state.table for state in states})
    sizes = tuple(_size(join) for join in joins)
    mature = any(state.mature for state in states)
    placement = placed(view, states, tables, sizes, mature)
    owners = placement.owners()
    _, losers = occupied(view, states, tables)
    renamed = {(vip, name) for name, vip in losers if owners.get(vip, name) != name}
    install = Install(
        view=view,
        states=states,
        sizes=sizes,
        tables=tuple((digest, tables[digest]) for digest in digests) if len(digests) > 1 else (),
        recovered=recover(view, votes),
        mature=mature,
        owners=tuple(sorted(owners.items())),
        conflicts=(*placement.conflicts(), *sorted(renamed)),
        waits=waits(view, votes, tables, now),
    )
    return install, placement


def _size(join: Join) -> int:
    """R13: what its old view weighs for a VIP that two hold; nothing for one that has let go of it already."""
    if join.state.yielded:
        return 0
    return len(join.old_view.members) if join.old_view is not None else 1


def placed(
    view: View,
    states: tuple[MemberState, ...],
    tables: Mapping[str, tuple[VipSpec, ...]],
    sizes: tuple[int, ...],
    mature: bool,
) -> Placement:
    """The placement that follows from what the members declared; nothing is placed in an immature component."""
    if not mature:
        return Placement(())
    specs, knows = merged(view, states, tables)
    candidates = [
        Candidate(name, state.standing, knows.get(name), size)
        for name, state, size in zip(view.names(), states, sizes, strict=True)
    ]
    held: dict[VipName, list[NodeName]] = {}
    _, losers = occupied(view, states, tables)
    for name, state in zip(view.names(), states, strict=True):
        for vip in state.held:
            if (name, vip) not in losers:
                held.setdefault(vip, []).append(name)
    return place(candidates, specs, held)


def differences(install: Install, tables: Mapping[str, tuple[VipSpec, ...]]) -> list[tuple[VipName, NodeName]]:
    """Rows in which an Install's placement is not what follows from its own states (R8)."""
    own = placed(install.view, install.states, tables, install.sizes, install.mature).owners()
    return sorted(set(own.items()) ^ set(install.owners))


def merged(
    view: View, states: tuple[MemberState, ...], tables: Mapping[str, tuple[VipSpec, ...]]
) -> tuple[tuple[VipSpec, ...], dict[NodeName, frozenset[VipName]]]:
    """The table of the view, and who may serve what of it: nobody an address that is up under another VIP's name."""
    specs, knows = merge_tables([(name, tables[state.table]) for name, state in zip(view.names(), states, strict=True)])
    if len({state.table for state in states}) < 2:
        return specs, knows
    taken, _ = occupied(view, states, tables)
    blocked = set()
    for spec in specs:
        if all(taken.get(address, spec.name) == spec.name for address in spec.addresses):
            taken.update(dict.fromkeys(spec.addresses, spec.name))
        else:
            blocked.add(spec.name)
    return specs, {name: known - blocked for name, known in knows.items()} if blocked else knows


def occupied(
    view: View, states: tuple[MemberState, ...], tables: Mapping[str, tuple[VipSpec, ...]]
) -> tuple[dict[str, VipName], set[tuple[NodeName, VipName]]]:
    """Under which name each address is held; and who has to let go, since another holds it under another name.

    Members whose configurations differ may call one address by two names, or two by each other's.
    """
    taken: dict[str, VipName] = {}
    losers: set[tuple[NodeName, VipName]] = set()
    if len({state.table for state in states}) < 2:
        return taken, losers  # no configuration names an address twice
    for name, state in zip(view.names(), states, strict=True):
        own = {spec.name: spec.addresses for spec in tables[state.table]}
        for vip in state.held:
            addresses = own.get(vip, ())
            if all(taken.get(address, vip) == vip for address in addresses):
                taken.update(dict.fromkeys(addresses, vip))
            else:
                losers.add((name, vip))
    return taken, losers


def recover(view: View, votes: Mapping[Member, Vote]) -> tuple[Recovered, ...]:
    """The flush (R6): per old view the union of the tails, beyond what its slowest survivor delivered."""
    recovered = []
    joins = {member: votes[member].join for member in view.members}
    old_views = {join.old_view.id: join.old_view for join in joins.values() if join.old_view is not None}
    for view_id in sorted(old_views):
        together = tuple(
            member for member, join in joins.items() if join.old_view is not None and join.old_view.id == view_id
        )
        entries: dict[int, Entry] = {}
        for member in together:
            entries.update((entry.seq, entry) for entry in joins[member].tail)
        slowest = min(joins[member].delivered for member in together)
        missing = tuple(entries[seq] for seq in sorted(entries) if seq > slowest)
        recovered.append(Recovered(view_id, together, missing))
    return tuple(recovered)


def waits(
    view: View, votes: Mapping[Member, Vote], tables: Mapping[str, tuple[VipSpec, ...]], now: float
) -> tuple[tuple[VipName, float], ...]:
    """R9: a VIP that nobody here held is acquired only when the lease of its lost holder is surely over.

    That is: the latest time at which any joiner heard that holder, plus its lease bound, plus clock drift. It binds
    whoever acquires the VIP in this view, by a later decision too (the lost coordinator may have been the only one
    that knew the component to be mature), and, carried on by the next Joins, in the views that follow.
    """
    states = [votes[member].join.state for member in view.members]
    held_here = {vip for state in states for vip in state.held}
    rests: dict[VipName, float] = {}
    unnamed: list[tuple[float, set[VipName]]] = []
    """What is left for VIPs that a joiner's view did not know, and those that it knew."""
    silences: dict[Member, float] = {}
    bounds: dict[Member, float] = {}
    told_of: set[Member] = set()
    latest = _last_views(view, votes)
    for member in view.members:
        vote = votes[member]
        for vip, rest in vote.join.waits:
            left = rest - (now - vote.at)
            if vip == OTHERS:
                unnamed.append((left, {spec.name for spec in tables[vote.join.state.table]}))
            else:
                rests[vip] = max(left, rests.get(vip, 0.0))
        for lost in vote.join.lost:
            if lost.member in view:
                continue
            epoch = vote.join.old_view.id.epoch if vote.join.old_view is not None else 0
            if lost.lease_bound > 0.0 or epoch >= latest.get(lost.member, 0):
                told_of.add(lost.member)
            if lost.lease_bound <= 0.0:
                continue  # it has no lease, or said that it let go: of nothing that it took in a later view
            silence = lost.silence + (now - vote.at)
            silences[lost.member] = min(silence, silences.get(lost.member, silence))
            bounds[lost.member] = max(lost.lease_bound, bounds.get(lost.member, 0.0))
    for member in view.members:
        vote = votes[member]
        old_view = vote.join.old_view
        for lost_one in silences.keys() & set(old_view.members if old_view is not None else ()):
            # Whoever does not give it up has heard it up to then, and may have acknowledged its lease.
            if all(lost.member != lost_one for lost in vote.join.lost):
                silences[lost_one] = min(now - vote.at, silences[lost_one])
    # Who was awaited up to now and did not join in time was given up by nobody: it may hold anything.
    unheard = latest.keys() - set(view.members) - told_of
    longest = max((*bounds.values(), *(state.lease_bound for state in states))) if unheard else 0.0
    lost_rests = (bounds[member] * (1.0 + DRIFT) - silences[member] for member in silences)
    everywhere = max(longest * (1.0 + DRIFT), *lost_rests, 0.0)
    if not rests and not everywhere and not unnamed:
        return ()
    others = max(everywhere, *(left for left, _ in unnamed), 0.0)
    result = [(OTHERS, others)] if others else []
    # What no table has now may come back by a reload before its lease is over.
    names = {spec.name for table in {state.table for state in states} for spec in tables[table]} | rests.keys()
    for vip in sorted(names - held_here):
        rest = max(rests.get(vip, 0.0), everywhere, *(left for left, known in unnamed if vip not in known))
        if rest > 0.0:
            result.append((vip, rest))
    return tuple(result)


def _last_views(view: View, votes: Mapping[Member, Vote]) -> dict[Member, int]:
    """Per member of the joiners' old views the epoch of the latest of these that it is in."""
    latest: dict[Member, int] = {}
    for member in view.members:
        old_view = votes[member].join.old_view
        if old_view is not None:
            latest.update({one: max(old_view.id.epoch, latest.get(one, 0)) for one in old_view.members})
    return latest


def first_record(install: Install, tables: Mapping[str, tuple[VipSpec, ...]]) -> Record:
    """The agreed record with which a view begins."""
    view = install.view
    specs, knows = merged(view, install.states, tables)
    known = {spec.name for spec in specs}
    owners = {vip: owner for vip, owner in install.owners if vip in known}
    names = view.names()
    return Record(
        view=view,
        specs=specs,
        knows=knows,
        standings={name: state.standing for name, state in zip(names, install.states, strict=True)},
        sizes=dict(zip(names, install.sizes, strict=True)),
        mature=install.mature,
        owners=owners,
        handovers={
            (vip, loser): HandOver(conflict_move(vip, loser, owners[vip]), 0)
            for vip, loser in install.conflicts
            if vip in known
        },
    )
