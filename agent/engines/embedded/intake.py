"""From a datagram to a message: every check in its order, cheapest first. No I/O: `udp.py` reads the sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from agent.core.ids import Member, NodeName
from agent.core.messages import Message
from agent.engines.embedded import codec, envelope
from agent.engines.embedded.fragments import Reassembly
from agent.engines.embedded.rejections import Reason, Rejected
from agent.engines.embedded.seal import Frame, Life, Sealer
from agent.engines.embedded.trust import Outcome, Peer, Trust


class Arrival(NamedTuple):
    """A message and its proven sender."""

    sender: Member
    message: Message


class Intake:
    """Judges what arrives at one node.

    `greet(peer, source)` is called when a peer must hear from us at once: it earned trust, or has yet to.
    """

    def __init__(self, sealer: Sealer, me: Member, life: Life, greet: Callable[[Peer, str], None]) -> None:
        self._sealer = sealer
        self._me = me
        self._life = life
        self._greet = greet
        self._own_addresses: frozenset[str] = frozenset()
        self.trust = Trust(me, life.session)
        self.reassembly = Reassembly()

    def configure(self, addresses: Mapping[NodeName, str], own_addresses: frozenset[str]) -> None:
        """Members, and the addresses that datagrams of this node may come back from; both in canonical text."""
        self._own_addresses = own_addresses
        self.trust.configure(addresses)
        for peer in self.trust.peers.values():
            if not peer.configured and peer.life is not None:
                self.reassembly.forget(Member(peer.name, peer.life.incarnation))

    def receive(self, datagram: bytes, source: str, now: float) -> Arrival | None:
        """The message that the datagram completes; None: it completes none (a hello, a fragment, our own broadcast).

        Raises `Rejected`, and nothing else whatever the bytes are.
        """
        frame = self._sealer.read(datagram)
        if frame.name == self._me.name:
            self._hear_own_name(frame, source)
            return None
        peer = self.trust.find(frame.name, frame.life, source)
        opened = envelope.take_out(self._sealer.open(frame))
        if opened.directed and opened.echoes[0].tag != self.trust.tag:
            raise Rejected(Reason.MISDIRECTED)
        if peer is None:
            peer = self.trust.discover(frame.name, source)
        self._judge(peer, frame, opened, source, now)
        sender = Member(frame.name, frame.life.incarnation)
        payload: bytes | None = opened.content
        if opened.kind == envelope.HELLO:
            return None
        if opened.part is not None:
            payload = self.reassembly.add(sender, opened.part, opened.content, now)
        return None if payload is None else Arrival(sender, codec.decode(payload))

    def _judge(self, peer: Peer, frame: Frame, opened: envelope.Envelope, source: str, now: float) -> None:
        former = peer.life
        try:
            outcome = self.trust.judge(peer, frame.life, frame.counter, opened.echoes, source)
        except Rejected as rejected:
            if rejected.reason is Reason.UNTRUSTED and peer.may_answer(now):
                self._greet(peer, source)
            raise
        if outcome is Outcome.FIRST:
            if former is not None:
                self.reassembly.forget(Member(peer.name, former.incarnation))
            self._greet(peer, source)  # outside the budget: it happens once a life

    def _hear_own_name(self, frame: Frame, source: str) -> None:
        """Our own broadcast comes back to us. Anything else under our name is a clash, if its seal is good."""
        from_here = source in self._own_addresses
        if frame.life == self._life and (from_here or not self._own_addresses):
            return
        self._sealer.open(frame)
        if from_here and frame.life.incarnation < self._life.incarnation:
            raise Rejected(Reason.STALE_INCARNATION, "our own")
        raise Rejected(Reason.NAME_CLASH)
