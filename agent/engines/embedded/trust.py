"""Which datagrams of which sender are believed. No I/O, no clock: the engine feeds it and acts on its verdicts.

A peer is trusted once a datagram of its present life has named *our* session number: nobody could know that before we
were started, so it cannot be a recording of an earlier time. Within a trusted life a window over the sender's counter
lets every datagram pass once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple

from agent.core.ids import Member, NodeName
from agent.core.settings import MEMBERS_MAX
from agent.engines.embedded.rejections import Reason, Rejected
from agent.engines.embedded.seal import SESSION_SIZE, Life, name_tag

WINDOW: Final = 8192
"""Counters back that may still arrive. A sender counts each datagram to each peer: two rounds of a 30-fragment Install
to 127 peers."""
UNKNOWN: Final = bytes(SESSION_SIZE)
"""Stands for the session of a peer that was never heard."""
ANSWERS_BURST: Final = 8
"""Hellos that one peer may call forth at once ..."""
ANSWERS_RATE: Final = 50.0
"""... and a second: recordings that are played to us must not make us a noisy neighbour."""
RECORDS_MAX: Final = 4 * MEMBERS_MAX
"""Peers remembered, those that were once configured included, so that nothing of them can be played again."""


@dataclass(slots=True)
class Window:
    """The counters seen of one life: a bit each, the highest at bit 0."""

    _top: int = 0
    _bits: int = 0

    def take(self, counter: int) -> bool:
        """True once for each counter; False for a repeated one and for those too old to tell."""
        if counter > self._top:
            shift = min(counter - self._top, WINDOW)
            self._bits = ((self._bits << shift) | 1) & _WINDOW_MASK
            self._top = counter
            return True
        bit = 1 << (self._top - counter) if self._top - counter < WINDOW else 0
        if not bit or self._bits & bit:
            return False
        self._bits |= bit
        return True


_WINDOW_MASK: Final = (1 << WINDOW) - 1


class Echo(NamedTuple):
    """Whom a sender has heard: the tag of a peer's name and that peer's session, `UNKNOWN` if never."""

    tag: bytes
    session: bytes


class Outcome(Enum):
    BELIEVED = auto()
    """Of the trusted life, and new."""
    FIRST = auto()
    """The same, and this datagram earned the trust: answer, so that the peer trusts in turn."""


@dataclass(slots=True)
class Peer:
    """What is known of one other node."""

    name: NodeName
    tag: bytes
    address: str | None
    """Canonical text without scope; None: discovered, not yet trusted."""
    configured: bool = True
    life: Life | None = None
    """The newest life that was trusted."""
    window: Window = field(default_factory=Window)
    candidate: Life | None = None
    """The life heard last that has not earned trust."""
    answers: float = ANSWERS_BURST
    answered: float = 0.0

    @property
    def session(self) -> bytes:
        """What to echo."""
        life = self.life if self.life is not None else self.candidate
        return life.session if life is not None else UNKNOWN

    def may_answer(self, now: float) -> bool:
        """Takes one hello out of the budget, if there is one."""
        self.answers = min(float(ANSWERS_BURST), self.answers + (now - self.answered) * ANSWERS_RATE)
        self.answered = now
        if self.answers < 1.0:
            return False
        self.answers -= 1.0
        return True


class Trust:
    """All peers of one node."""

    def __init__(self, me: Member, session: bytes) -> None:
        self.me = me
        self.tag = name_tag(me.name)
        self.session = session
        self.peers: dict[NodeName, Peer] = {}
        self.discovers = False

    def configure(self, addresses: Mapping[NodeName, str]) -> None:
        """The members and their canonical addresses; none: whoever has the key is a member.

        Who is no longer configured is kept in mind: its recordings stay useless if it comes back.
        """
        self.discovers = not addresses
        for peer in self.peers.values():
            peer.configured = self.discovers or peer.name in addresses
        for name, address in addresses.items():
            if name == self.me.name:
                continue
            if name in self.peers:
                self.peers[name].address = address
            else:
                self.peers[name] = Peer(name, name_tag(name), address)
        spare = [name for name, peer in self.peers.items() if not peer.configured]
        for name in spare[: max(0, len(self.peers) - RECORDS_MAX)]:
            del self.peers[name]

    def configured(self) -> list[Peer]:
        return [peer for peer in self.peers.values() if peer.configured]

    def find(self, name: NodeName, life: Life, source: str) -> Peer | None:
        """The peer that a frame claims to be from; None: one to be discovered. Raises unknown_member, address.

        A discovered peer keeps its address for its life.
        """
        peer = self.peers.get(name)
        if peer is None or not peer.configured:
            if self.discovers:
                return None
            raise Rejected(Reason.UNKNOWN_MEMBER, name)
        if peer.address != source and (not self.discovers or peer.life == life):
            raise Rejected(Reason.ADDRESS, f"{name} is at {peer.address}")
        return peer

    def discover(self, name: NodeName, source: str) -> Peer:
        """A peer that nobody configured showed a good seal. Raises limit."""
        if len(self.peers) >= MEMBERS_MAX - 1:
            untrusted = next((peer.name for peer in self.peers.values() if peer.life is None), None)
            if untrusted is None:
                raise Rejected(Reason.LIMIT, "members")
            del self.peers[untrusted]
        peer = self.peers[name] = Peer(name, name_tag(name), source)
        return peer

    def judge(self, peer: Peer, life: Life, counter: int, echoes: list[Echo], source: str) -> Outcome:
        """Whether an opened datagram is believed. Raises stale_incarnation, replay, untrusted.

        After `untrusted` the peer's `candidate` is the life to answer.
        """
        if life == peer.life:
            if not peer.window.take(counter):
                raise Rejected(Reason.REPLAY)
            return Outcome.BELIEVED
        if peer.life is not None and life.incarnation <= peer.life.incarnation:
            raise Rejected(Reason.STALE_INCARNATION)
        if Echo(self.tag, self.session) not in echoes:
            peer.candidate = life
            raise Rejected(Reason.UNTRUSTED)
        peer.life, peer.candidate, peer.window = life, None, Window()
        peer.window.take(counter)
        if self.discovers:
            peer.address = source
        return Outcome.FIRST
