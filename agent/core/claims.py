"""Who of two that hear each other and share no view takes a VIP that neither covers (R18).

They cannot merge yet: a member of one is silent, or one of them has just woken. Each may wait for the other to cover
the VIP, say in its heartbeat that it does not, and take the other's word for the same; both would acquire. So the lower
name acquires at once, and the other one *claims* first: its heartbeats count the VIP as covered, and it acquires when
the lower one has answered such a heartbeat and still does not cover it. Whoever is told of a claim takes nothing
against it.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from agent.core.ids import Member, VipName
from agent.core.peers import Peer


class Claims:
    """Per VIP the number of the last heartbeat before the claim, and when it was made."""

    __slots__ = ("_made", "_me")

    def __init__(self, me: Member) -> None:
        self._me = me
        self._made: dict[VipName, tuple[int, float]] = {}

    def granted(self, vip: VipName, now: float, spoken: int, outsiders: Sequence[Peer], patience: float) -> bool:
        """Whether this node may take it now; if not, the claim is made. None of `outsiders` covers it.

        `spoken`: number of this node's newest heartbeat. After `patience` seconds without an answer the outsider does
        not hear this node: it could not be told of anything else either.
        """
        lower = [peer for peer in outsiders if peer.member.name < self._me.name]
        if not lower:
            return True
        number, at = self._made.setdefault(vip, (spoken, now))
        return now >= at + patience or all(peer.echoed(self._me) > number for peer in lower)

    def keep(self, vips: Set[VipName]) -> None:
        """Only these are still claimed: all others were taken, or are covered, or are not this node's any more."""
        self._made = {vip: made for vip, made in self._made.items() if vip in vips}
