"""Heartbeats: their numbers, their echoes, and what the echoes tell (round-trip times, losses)."""

from __future__ import annotations

from agent.core.events import HeartbeatReceived
from agent.core.ids import Member
from agent.core.messages import Heartbeat
from agent.core.peers import Peers

REMEMBERED = 64
"""Heartbeats of one's own whose send times are kept: six seconds of them at 100 ms."""


class Beats:
    __slots__ = ("_sent", "next_at", "number")

    def __init__(self) -> None:
        self.number = 0
        self.next_at = 0.0
        """When the next regular one is due."""
        self._sent: dict[int, float] = {}

    def next(self, now: float) -> int:
        """A number for a heartbeat that is sent now."""
        self.number += 1
        self._sent[self.number] = now
        self._sent.pop(self.number - REMEMBERED, None)
        return self.number

    @property
    def last_sent(self) -> float:
        """When the newest one was sent."""
        return self._sent.get(self.number, float("-inf"))

    def acknowledged(self, me: Member, beat: Heartbeat) -> float | None:
        """When the heartbeat of ours was sent that this one echoes; None: it echoes none that is remembered."""
        return next((self._sent.get(number) for member, number, _ in beat.echoes if member == me), None)

    @staticmethod
    def echoes(peers: Peers, now: float) -> tuple[tuple[Member, int, float], ...]:
        """Per peer heard: its last heartbeat's number and how long ago that came."""
        return tuple(
            (peer.member, peer.heartbeat.number, now - peer.heartbeat_at)
            for peer in peers.alive(now)
            if peer.heartbeat is not None
        )

    def received(
        self, now: float, me: Member, sender: Member, beat: Heartbeat, last: Heartbeat | None
    ) -> HeartbeatReceived:
        """`last`: the newest one of this sender before."""
        rtt = None
        for member, number, kept in beat.echoes:
            if member == me and number in self._sent:
                rtt = max(0.0, now - self._sent[number] - kept)
        missed = beat.number - last.number - 1 if last is not None else 0
        return HeartbeatReceived(now, sender.name, rtt, max(0, missed))
