"""What a view change means, as seen from one of its members."""

from __future__ import annotations

from agent.core.events import ViewInstalled
from agent.core.gather import Installed
from agent.core.ids import Member
from agent.core.messages import Install
from agent.core.view import View, ViewCause


def view_cause(
    install: Install, previous: View | None, left: tuple[Member, ...], by_word: frozenset[Member]
) -> ViewCause:
    joined = [m for m in install.view.members if previous is None or m not in previous]
    with_views = {member for recovered in install.recovered for member in recovered.members}
    if left and joined:
        return ViewCause.NETWORK
    if left:
        return ViewCause.LEAVE if all(member in by_word for member in left) else ViewCause.DISCONNECT
    if previous is None:
        return ViewCause.JOIN
    if joined:
        return ViewCause.MERGE if any(member in with_views for member in joined) else ViewCause.JOIN
    return ViewCause.NETWORK


def view_installed(now: float, change: Installed, left: tuple[Member, ...], cause: ViewCause) -> ViewInstalled:
    install, previous = change.install, change.previous
    view = install.view
    grouped = [recovered.members for recovered in install.recovered]
    alone = [(m,) for m in view.members if not any(m in group for group in grouped)]
    return ViewInstalled(
        at=now,
        view=view,
        previous=previous.id if previous is not None else None,
        joined=tuple(m for m in view.members if previous is None or m not in previous),
        left=left,
        cause=cause,
        together=(*grouped, *alone),
        mature=install.mature,
        gather_started=change.gather_started,
        failed_since=change.failed_since,
        owners=install.owners,
    )
