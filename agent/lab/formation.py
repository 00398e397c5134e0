"""Waits until the cluster of a lab is whole, or says what is missing."""

from __future__ import annotations

import select
import time
from typing import Any

from agent.lab import processes
from agent.lab.lab import Lab
from agent.lab.plan import LabError

POLL = 0.02


def missing(lab: Lab, nodes: list[str]) -> str:
    """Why these nodes are not one mature view that holds every VIP exactly once; empty when they are."""
    views: dict[str, Any] = {}
    for node in nodes:
        process = lab.running().agents.get(node)
        if process is not None and not processes.alive(process):
            return f"the agent of {node} has ended: {last_words(lab, node)}"
        try:
            status = lab.ask(node, "status", timeout=1.0)
        except LabError as error:
            return str(error)
        view = status.get("view") or {}
        views[node] = view.get("id")
        if sorted(_name(member) for member in view.get("members") or ()) != sorted(nodes):
            return f"{node} is in view {view.get('id')} of {view.get('members')}"
        if status.get("state") != "RUN":
            return f"{node} is in state {status.get('state')}"
    if len(set(map(str, views.values()))) != 1:
        return f"the nodes are in different views: {views}"
    holders = {address: [node for node in who if node in nodes] for address, who in lab.holders().items()}
    wrong = [f"{address} ({' and '.join(who) or 'nobody'})" for address, who in holders.items() if len(who) != 1]
    if wrong:
        return f"not held exactly once: {', '.join(wrong[:8])}" + (" ..." if len(wrong) > 8 else "")
    return ""


def _name(member: Any) -> str:
    """A member as the status names it: a name, or an object with one."""
    return str(member.get("name")) if isinstance(member, dict) else str(member).partition("#")[0]


def last_words(lab: Lab, node: str) -> str:
    """The last line of the node's log."""
    try:
        lines = lab.log(node).read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return lines[-1][:500] if lines else "it said nothing"


def wait_formed(lab: Lab, nodes: list[str] | None = None, timeout: float = 30.0) -> float:
    """Seconds waited until `nodes` (default: all) were whole. Raises LabError after `timeout`, or when one has died."""
    names = nodes if nodes is not None else [node.name for node in lab.plan.nodes]
    began = time.monotonic()
    while why := missing(lab, names):
        waited = time.monotonic() - began
        if waited > timeout or "has ended" in why:
            raise LabError(f"the cluster is not whole after {waited:.1f} s: {why}")
        select.select([], [], [], POLL)
    return time.monotonic() - began
