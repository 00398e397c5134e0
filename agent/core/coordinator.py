"""The one writer of a view's log: what it decides next, from the agreed record and the members' requests (R7).

Every request is a statement that stays true until a decision answers it, so a repeated or delayed one is harmless;
a confirmed release counts only from a member that has delivered the decision which asked for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.ids import NodeName, Seq, VipName
from agent.core.messages import Requests
from agent.core.peers import Peers
from agent.core.placement import place, plan_round, plan_urgent
from agent.core.record import Record
from agent.core.view import (
    Answered,
    Assigned,
    Cause,
    Decision,
    HandedOver,
    Matured,
    Move,
    Moves,
    NeighboursShared,
    OperatorRequest,
    StandingChanged,
    View,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One member's requests, and how far it had delivered when it made them."""

    requests: Requests
    delivered: Seq


def asked_by(view: View, peers: Peers) -> dict[NodeName, Asked]:
    """What the other members of the view ask for, by their last heartbeat in it."""
    asked = {}
    for member in view.members:
        peer = peers.get(member)
        beat = peer.heartbeat if peer is not None else None
        if beat is not None and not beat.gathering and beat.view is not None and beat.view.id == view.id:
            asked[member.name] = Asked(beat.requests, beat.delivered)
    return asked


def decide(record: Record, asked: Mapping[NodeName, Asked], round_due: bool, limit: int | None) -> Decision | None:
    """The next decision, or None. The caller applies it to the record and asks again."""
    return (
        _standing(record, asked)
        or _handed_over(record, asked)
        or _matured(record, asked)
        or _planned(record)
        or _operator(record, asked, limit)
        or (_round(record, limit) if round_due else None)
        or _neighbours(record, asked)
    )


def _standing(record: Record, asked: Mapping[NodeName, Asked]) -> Decision | None:
    for name, asking in asked.items():
        standing = asking.requests.standing
        if standing is not None and standing != record.standings[name]:
            return StandingChanged(name, standing)
    return None


def _handed_over(record: Record, asked: Mapping[NodeName, Asked]) -> Decision | None:
    done = []
    for (vip, giver), handover in record.handovers.items():
        asking = asked.get(giver)
        if asking is not None and asking.delivered >= handover.since and vip in asking.requests.released:
            done.append(handover.move)
    return HandedOver(tuple(done)) if done else None


def _matured(record: Record, asked: Mapping[NodeName, Asked]) -> Decision | None:
    if record.mature or not any(asking.requests.mature for asking in asked.values()):
        return None
    placement = place(record.candidates(), record.specs, {})
    return Matured(tuple(sorted(placement.owners().items())))


def _planned(record: Record) -> Decision | None:
    """What follows from the record alone; looked at once after each change of it, since planning costs milliseconds."""
    if record.planned == record.version:
        return None
    decision = _assigned(record) or _urgent(record)
    if decision is None:
        record.planned = record.version
    return decision


def _assigned(record: Record) -> Decision | None:
    """Uncovered VIPs that somebody can serve by now."""
    uncovered = record.uncovered() if record.mature else ()
    if not uncovered:
        return None
    held = {vip: (owner,) for vip, owner in record.expected().items()}
    owners = place(record.candidates(), record.specs, held).owners()
    given = tuple((vip, owners[vip]) for vip in uncovered if vip in owners)
    return Assigned(given, Cause.REPAIR) if given else None


def _urgent(record: Record) -> Decision | None:
    """Holders that are leaving, draining, unfit or unable give up at once."""
    if not record.mature:
        return None
    moves = _free(record, plan_urgent(record.candidates(), record.specs, record.expected()))
    return Moves(moves, timed=False) if moves else None


def _round(record: Record, limit: int | None) -> Decision | None:
    if not record.mature or record.handovers:
        return None
    moves = plan_round(record.candidates(), record.specs, record.owners, limit)
    return Moves(moves, timed=True) if moves else None


def _free(record: Record, moves: tuple[Move, ...]) -> tuple[Move, ...]:
    """Without those of VIPs that are being handed over already."""
    busy = {vip for vip, _ in record.handovers}
    return tuple(move for move in moves if move.vip not in busy)


def _operator(record: Record, asked: Mapping[NodeName, Asked], limit: int | None) -> Decision | None:
    for name, asking in asked.items():
        for request in asking.requests.operator:
            if request.number > record.answered.get(name, 0):
                if request.verb == "move" and any(vip == request.vip for vip, _ in record.handovers):
                    break  # not before the hand-over under way is done; what this member asked later has to wait too
                answer = ((name, request.number),)
                moves = _requested(record, request, limit)
                return Moves(moves, timed=False, answers=answer) if moves else Answered(answer)
    return None


def _requested(record: Record, request: OperatorRequest, limit: int | None) -> tuple[Move, ...]:
    match request:
        case OperatorRequest(verb="balance"):
            return _free(record, plan_round(record.candidates(), record.specs, record.owners, limit))
        case OperatorRequest(verb="move", vip=vip, taker=taker) if vip is not None and taker is not None:
            giver = record.owners.get(vip)
            if giver is None or giver == taker or taker not in record.view.names():
                return ()
            return _free(record, (Move(vip, giver, taker, Cause.MOVE),))
    return ()


def _neighbours(record: Record, asked: Mapping[NodeName, Asked]) -> Decision | None:
    for name, asking in asked.items():
        wanted = asking.requests
        if wanted.neighbours is not None and wanted.neighbours_version > record.neighbours.get(name, 0):
            return NeighboursShared(name, wanted.neighbours, wanted.neighbours_version)
    return None


def why_not(record: Record | None, vip: VipName, taker: NodeName) -> str:
    """Why a person's wish to move a VIP cannot be granted; empty: it can."""
    if record is None or not record.mature:
        return "the cluster is not mature yet"
    spec = next((spec for spec in record.specs if spec.name == vip), None)
    if spec is None:
        return f"no VIP is called {vip!r}"
    if taker not in record.view.names():
        return f"{taker!r} is not in the view ({', '.join(record.view.names())})"
    standing = record.standings[taker]
    knows = record.knows.get(taker)
    able = standing.serves and standing.fit and not standing.draining and not standing.leaving
    able = able and spec.name not in standing.failed and (knows is None or spec.name in knows)
    if not able or (spec.nodes and taker not in spec.nodes):
        return f"{taker!r} may not or cannot hold {vip} now (see molehill status)"
    return ""
