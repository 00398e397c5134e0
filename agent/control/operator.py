"""What each verb of the control socket does: a request becomes an input, its answer is the event that it caused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from agent import __version__
from agent.control.protocol import Refused
from agent.core.events import Event, OperatorAnswered, StateChanged
from agent.core.ids import NodeName, VipName
from agent.core.inputs import (
    BalanceRequested,
    DrainRequested,
    Input,
    JoinRequested,
    LeaveRequested,
    MoveRequested,
)
from agent.core.node import Node
from agent.core.placement import place, plan_round, plan_urgent, spread
from agent.core.record import Record
from agent.core.view import Move

ANSWER_TIMEOUT = 10.0
"""Seconds that a request may take; a departure is forced after three failure timeouts."""


class Past(Protocol):
    """The history of events, as this module needs it."""

    last: int

    def latest(self, count: int) -> Iterable[object]: ...

    def follow(self, seq: int) -> AsyncIterator[object]: ...


@dataclass(frozen=True, slots=True)
class Acting:
    """What the operator's verbs act on, put together by the runtime."""

    submit: Callable[[Input], None]
    status: Callable[[], object]
    history: Past
    reload: Callable[[], Awaitable[None]]
    """Raises Refused."""
    set_draining: Callable[[bool], None]
    """Keeps it over a restart; raises Refused."""
    journal: Callable[[], Awaitable[object]]
    """Writes the flight recorder to a file and says where; raises Refused."""


class Operator:
    """The handler of the control socket."""

    def __init__(self, node: Node, acting: Acting) -> None:
        self._node = node
        self._acting = acting
        self._answers: dict[str, list[asyncio.Future[str]]] = {}
        self._states: list[tuple[frozenset[str], asyncio.Future[str]]] = []

    def observe(self, event: Event) -> None:
        """Sees every event at once, before the bus."""
        match event:
            case OperatorAnswered(verb=verb, refused=refused):
                waiting = self._answers.get(verb, [])
                if waiting:
                    _settle(waiting.pop(0), refused)
            case StateChanged(state=state):
                for wanted, future in [entry for entry in self._states if state in entry[0]]:
                    self._states.remove((wanted, future))
                    _settle(future, "")
            case _:
                pass

    async def handle(self, verb: str, args: dict[str, object]) -> object:
        acting = self._acting
        match verb:
            case "status":
                return acting.status()
            case "version":
                return {"version": __version__}
            case "plan":
                return self._plan(args.get("without"))
            case "events":
                return self._events(args)
            case "journal":
                return await acting.journal()
            case "leave":
                return await self._state(LeaveRequested(stop=False), "LEFT")
            case "join":
                return await self._state(JoinRequested(), "BOOT", "GATHER", "RUN", "BALANCE")
            case "drain" | "undrain":
                acting.set_draining(verb == "drain")
                acting.submit(DrainRequested(verb == "drain"))
                return {}
            case "balance":
                return await self._answer("balance", BalanceRequested())
            case "move":
                vip, node = args.get("vip"), args.get("node")
                if not isinstance(vip, str) or not isinstance(node, str):
                    raise Refused("move takes a VIP's name and a node's name")
                return await self._answer("move", MoveRequested(VipName(vip), node))
            case "reload":
                await acting.reload()
                return {}
        raise Refused(f"unknown verb {verb!r}")

    def _events(self, args: dict[str, object]) -> object:
        lines = args.get("lines", 50)
        if not isinstance(lines, int) or lines < 0:
            raise Refused(f"lines is {lines!r}; it takes a number from 0")
        history = self._acting.history
        lines = min(lines, history.last)
        if not args.get("follow"):
            return list(history.latest(lines))
        return history.follow(max(0, history.last - lines))

    async def _state(self, item: Input, *states: str) -> object:
        if self._node.state in states and not self._node.serving.leaving:
            return {"state": self._node.state}
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._states.append((frozenset(states), future))
        self._acting.submit(item)
        return await self._waited(future)

    async def _answer(self, verb: str, item: Input) -> object:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers.setdefault(verb, []).append(future)
        self._acting.submit(item)
        return await self._waited(future)

    async def _waited(self, future: asyncio.Future[str]) -> object:
        try:
            refused = await asyncio.wait_for(future, ANSWER_TIMEOUT)
        except TimeoutError:
            raise Refused(f"no answer within {ANSWER_TIMEOUT:g} s; it may still be done: see molehill events") from None
        if refused:
            raise Refused(refused)
        return {"state": self._node.state}

    def _plan(self, without: object) -> object:
        record = self._node.serving.record
        if record is None:
            raise Refused("this node is in no view, so nothing can be planned; see molehill status")
        names = record.view.names()
        if without is not None and without not in names:
            raise Refused(f"{without!r} is not in the view; members are {', '.join(names)}")
        return plan(record, NodeName(str(without)) if without is not None else None)


def plan(record: Record, without: NodeName | None) -> dict[str, object]:
    """The dry run: where each VIP would be after placement, urgent moves and all balance rounds, and why."""
    candidates = [candidate for candidate in record.candidates() if candidate.name != without]
    held = {vip: (owner,) for vip, owner in record.expected().items() if owner != without}
    placement = place(candidates, record.specs, held)
    reasons = {row.vip: row.reason for row in placement.rows}
    owners = placement.owners()
    moves: tuple[Move, ...] = ()
    for planned in (plan_urgent, lambda c, s, o: plan_round(c, s, o, None)):
        following = planned(candidates, record.specs, owners)
        moves += following
        for move in following:
            owners[move.vip] = move.taker
            reasons[move.vip] = f"{move.cause.value}: from {move.giver}"
    before = record.expected()
    rows = [
        {"vip": spec.name, "owner": before.get(spec.name), "node": owners.get(spec.name), "reason": reasons[spec.name]}
        for spec in record.specs
    ]
    changed = sum(before.get(spec.name) != owners.get(spec.name) for spec in record.specs)
    return {"rows": rows, "moves": changed, "spread": spread(candidates, record.specs, owners)}


def _settle(future: asyncio.Future[str], refused: str) -> None:
    if not future.done():
        future.set_result(refused)
