"""What no member of this version says: a legal message that contradicts itself or what is agreed.

An authenticated peer may still be broken (memory, a wrong build). Its nonsense is ignored, so that it costs itself
its place in the group and the others nothing.
"""

from __future__ import annotations

from agent.core.ids import Member
from agent.core.messages import Decide, Heartbeat, Install, Join, Leave, Message
from agent.core.settings import LEASE_MAX
from agent.core.view import View

EPOCH_LEAP = 2**32
"""Epochs that a peer may be ahead. A cluster needs a year for so many if it changes its view every 10 ms; without a
limit one wrong number would use up all epochs that the wire can carry, and no view could ever be installed again."""


def objection(sender: Member, message: Message, epoch: int, view: View | None) -> str:
    """What speaks against the message; empty: nothing. `epoch`, `view`: the highest epoch and the view here."""
    match message:
        case Heartbeat():
            return (
                _epoch(message.epoch, epoch)
                or _lease(message.lease_bound)
                or _view(sender, message.view, message, view)
            )
        case Join():
            return _epoch(message.epoch, epoch) or _join(sender, message, view)
        case Install():
            return _epoch(message.view.id.epoch, epoch) or _install(sender, message)
        case Decide():
            return "" if message.view.coordinator == sender else "a decision by another than the coordinator"
        case Leave():
            return _epoch(message.view.epoch, epoch)


def _epoch(theirs: int, ours: int) -> str:
    return f"epoch {theirs} after {ours}" if theirs > ours + EPOCH_LEAP else ""


def _lease(*bounds: float) -> str:
    return "a lease beyond all bounds" if max(bounds) > LEASE_MAX else ""


def _view(sender: Member, theirs: View | None, message: Heartbeat | Join, ours: View | None) -> str:
    if theirs is None:
        return ""
    if sender not in theirs.members or theirs.id.coordinator not in theirs.members:
        return "a view without its coordinator or the sender"
    if theirs.id.epoch > message.epoch:
        return "a view of a later epoch than its member's"
    if ours is not None and theirs.id == ours.id and theirs != ours:
        return "other members in the same view"
    return ""


def _join(sender: Member, join: Join, view: View | None) -> str:
    if join.tail and join.tail[-1].seq > join.delivered:
        return "a tail beyond what was delivered"
    if join.old_view is not None and join.old_view.id.epoch >= join.epoch:
        return "a vote in an epoch that is over"
    waits = (wait for _, wait in join.waits)
    return _view(sender, join.old_view, join, view) or _lease(
        join.state.lease_bound, *(lost.lease_bound for lost in join.lost), *waits
    )


def _install(sender: Member, install: Install) -> str:
    view, names, owners = install.view, set(install.view.names()), dict(install.owners)
    tables = {state.table for state in install.states}
    if view.id.coordinator != sender or sender not in view.members:
        return "a view that its coordinator is not in, or did not make"
    if not names.issuperset(owners.values()):
        return "an owner who is not a member"
    if any(vip not in owners or loser not in names or loser == owners[vip] for vip, loser in install.conflicts):
        return "a conflict without winner or loser"
    if not tables <= {digest for digest, _ in install.tables} if install.tables else len(tables) > 1:
        return "a member without VIP table"
    # The waiting time is a lease plus drift.
    return _lease(0.0, *(wait / 2 for _, wait in install.waits))
