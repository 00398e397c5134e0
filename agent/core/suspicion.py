"""Whom this node has given up since the last view, and since when that member has been missed."""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.events import MemberSuspected
from agent.core.ids import Member, NodeName
from agent.core.peers import Colour, Peers


class Suspicion:
    __slots__ = ("_peers", "failed_since", "members")

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self.members: set[Member] = set()
        """Suspected; any sign of life takes a member out again."""
        self.failed_since: float | None = None
        """Last sign of the first that failed."""

    def add(self, now: float, member: Member, named_by: NodeName | None) -> list[MemberSuspected]:
        """Own finding, or a peer's that is believed. Who said goodbye is gone without having failed."""
        if member in self.members:
            return []
        self.members.add(member)
        peer = self._peers.get(member)
        if peer is not None and peer.departed is not None:
            return []
        named = self._peers.named(member.name)
        heard = named.heard if named is not None else now
        self.failed_since = heard if self.failed_since is None else min(self.failed_since, heard)
        return [MemberSuspected(now, member, now - heard, named_by)]

    def corroborate(self, now: float, by: NodeName, named: Iterable[Member]) -> list[MemberSuspected]:
        """R4: a suspect named by a peer is dropped at once by whoever finds it late too."""
        out: list[MemberSuspected] = []
        for member in named:
            if self._peers.colour(member, now) is not Colour.GREEN:
                out += self.add(now, member, by)
        return out
