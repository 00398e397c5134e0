"""What the nodes outside this one's view leave to it, by their last word (R10, R18)."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.ids import Member, VipName
from agent.core.peers import Peer


class Outsiders:
    """As of one step. Nothing is read before it is asked for: most steps acquire nothing."""

    __slots__ = ("_answered", "_held", "_me", "_peers", "_read", "_uncovered")

    def __init__(self, me: Member, peers: Sequence[Peer]) -> None:
        self._me = me
        self._peers = peers
        self._read = False
        self._held: set[VipName] = set()
        self._uncovered: frozenset[VipName] | None = None
        self._answered: int | None = None

    def cover(self, vip: VipName) -> bool:
        """Whether one of them, or a fellow member of a view of its own, holds the VIP."""
        self._read_once()
        return vip in self._held or (self._uncovered is not None and vip not in self._uncovered)

    def answered(self) -> int | None:
        """The newest heartbeat of this node that all with a lower name have answered; None: none has a lower name."""
        self._read_once()
        return self._answered

    def _read_once(self) -> None:
        if self._read:
            return
        self._read = True
        for peer in self._peers:
            self._held.update(peer.declared())
            if (uncovered := peer.uncovered()) is not None:
                known = self._uncovered
                self._uncovered = frozenset(uncovered) if known is None else known.intersection(uncovered)
            if peer.member.name < self._me.name:
                number = peer.echoed(self._me)
                self._answered = number if self._answered is None else min(number, self._answered)
