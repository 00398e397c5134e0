"""The embedded engine's sockets: messages out as sealed datagrams, proven messages in.

One unicast socket; with a broadcast or multicast segment a second one that is bound to the segment's address, because
Linux does not deliver broadcasts to a socket that is bound to its own unicast address.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.core.events import DatagramRejected, Event, NameClash
from agent.core.ids import Member, NodeName
from agent.core.messages import Message
from agent.engines.embedded import envelope
from agent.engines.embedded.addresses import Endpoint, EngineError, canonical, endpoint
from agent.engines.embedded.codec import encode
from agent.engines.embedded.fragments import MESSAGE_MAX, Part, split
from agent.engines.embedded.intake import Intake
from agent.engines.embedded.rejections import Reason, Rejected
from agent.engines.embedded.seal import DATAGRAM_MAX, SESSION_SIZE, Life, Sealer
from agent.engines.embedded.sockets import BUFFER, bound, join, multicast_from
from agent.engines.embedded.trust import UNKNOWN, Echo, Peer

BATCH: Final = 128
"""Datagrams read in one wake-up, so that the loop's other work is not starved: about 5 ms."""
DRAIN_MAX: Final = 2 * BUFFER // 512
"""Datagrams that can wait in one socket: the kernel doubles the buffer and charges each more than 512 bytes. A bound,
so that a flood cannot hold `drain` for ever."""
WAITING_MAX: Final = 4096
"""Datagrams kept while the kernel's send buffer is full: under 6 MB."""
EVENTS_RATE: Final = 1000.0
"""`DatagramRejected` events a second: beyond it only `rejected` counts, so that a flood fills no queue."""
CLASH_PAUSE: Final = 10.0
"""Seconds between two `NameClash` events."""

Sockaddr = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer as the status shows it."""

    name: NodeName
    address: str
    incarnation: int | None
    """Of the life heard last; None: never heard."""
    trusted: bool


class EmbeddedEngine:
    """Carries messages between this node and its peers.

    `members`: name to numeric address, this node among them or not; empty: whoever has a key is a member (needs
    `broadcast`). `broadcast`: address of an IPv4 broadcast or of a multicast segment. `keys`: the first seals, all
    open; empty: insecure. `clock`: seconds, see the core. `on_message` gets each new message of a trusted sender once.

    Raises `EngineError` for addresses and keys that cannot be used.
    """

    def __init__(
        self,
        *,
        cluster: str,
        me: Member,
        bind: str,
        port: int,
        members: Mapping[NodeName, str],
        broadcast: str | None,
        keys: Sequence[bytes],
        clock: Callable[[], float],
        on_message: Callable[[Member, Message], None],
        on_event: Callable[[Event], None],
    ) -> None:
        life = Life(me.incarnation, os.urandom(SESSION_SIZE))
        self._me = me
        self._here = endpoint("bind", bind, port)
        self._segment = None if broadcast is None else endpoint("broadcast", broadcast, port)
        self._clock = clock
        self._on_message = on_message
        self._on_event = on_event
        try:
            self._sealer = Sealer(cluster, keys, me.name, life)
        except ValueError as error:
            raise EngineError(f"secret: {error}; make one with: head -c 32 /dev/urandom | base64") from None
        self._intake = Intake(self._sealer, me, life, self._answer)
        self._endpoints: dict[NodeName, Endpoint] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: list[socket.socket] = []
        self._waiting: deque[tuple[bytes, Sockaddr]] = deque()
        self._number = 0
        self._turn = 0
        self._clash_at: float | None = None
        self._events_left = EVENTS_RATE
        self._events_at = clock()
        self.rejected: Counter[str] = Counter()
        """Rejected datagrams by reason, each counted, also those beyond EVENTS_RATE."""
        self.send_errors: Counter[str] = Counter()
        """Datagrams or messages that could not be sent: errno name, `limit`, `unknown_member`, `waiting`, `closed`."""
        self.last_malformed = ""
        """What was wrong with the last malformed datagram; may quote hostile input."""
        self._apply(self._checked(members))

    @property
    def sealed(self) -> bool:
        """False: insecure."""
        return self._sealer.sealed

    @property
    def peers(self) -> tuple[PeerStatus, ...]:
        """All other members, by name."""
        rows = []
        for peer in sorted(self._intake.trust.configured(), key=lambda peer: peer.name):
            life = peer.life or peer.candidate
            incarnation = None if life is None else life.incarnation
            rows.append(PeerStatus(peer.name, peer.address or "", incarnation, peer.life is not None))
        return tuple(rows)

    async def open(self) -> None:
        """Binds and starts to receive; greets the peers. Raises `EngineError`."""
        self._loop = asyncio.get_running_loop()
        try:
            self._sockets.append(bound(self._here, "bind"))
            if self._segment is not None:
                self._listen_to(self._segment)
        except EngineError:
            self.close()
            raise
        for opened in self._sockets:
            self._loop.add_reader(opened, self._read, opened, BATCH)
        self._hello()

    def send(self, message: Message, to: tuple[NodeName, ...]) -> None:
        """To the members named, or to everyone. Never blocks; what the network refuses is counted in `send_errors`."""
        payload = encode(message)
        if len(payload) > MESSAGE_MAX:
            self.send_errors["limit"] += 1
        elif not to and self._segment is not None:
            self._broadcast(envelope.WHOLE, payload)
        else:
            self._unicast(payload, self._targets(to))

    def last_words(self, message: Message, to: tuple[NodeName, ...] = ()) -> tuple[tuple[bytes, Sockaddr], ...]:
        """Sealed datagrams and where to send them, to be kept by somebody who outlives this process (the guard).

        Peers that got one take nothing more of this life. Only for messages that fit one datagram (ValueError).
        """
        payload = encode(message)
        room = DATAGRAM_MAX - self._sealer.overhead - envelope.size(1)
        if len(payload) > room:
            raise ValueError(f"last words of {len(payload)} bytes: at most {room} fit one datagram")
        return tuple(
            (self._sealer.seal_last(_directed(envelope.WHOLE, peer, None, payload)), self._sockaddr(peer))
            for peer in self._targets(to)
        )

    def outlive(self) -> None:
        """The last words were spoken for a life that goes on: peers are to hear it again."""
        self._sealer.outlive()

    def drain(self) -> int:
        """Reads every datagram that waits in the sockets now (R11); how many there were."""
        return sum(self._read(opened, DRAIN_MAX) for opened in tuple(self._sockets))

    def discard(self) -> int:
        """Throws away unread what waits in the sockets now; how many datagrams."""
        count = 0
        for opened in tuple(self._sockets):
            for _ in range(DRAIN_MAX):
                try:
                    opened.recv(1)
                except (BlockingIOError, InterruptedError):
                    break
                except OSError:  # an ICMP error of something sent before
                    continue
                count += 1
        return count

    def receive(self, datagram: bytes, source: str) -> None:
        """One datagram as the socket gave it, from the numeric address `source`. Never raises for what it contains."""
        now = self._clock()
        try:
            arrival = self._intake.receive(datagram, source, now)
        except Rejected as rejected:
            self._reject(rejected, source, now)
            return
        if arrival is not None:
            self._on_message(arrival.sender, arrival.message)

    def reconfigure(self, *, members: Mapping[NodeName, str], keys: Sequence[bytes]) -> None:
        """Other members or keys from now on. Raises `EngineError`, and nothing is changed."""
        checked = self._checked(members)
        try:
            self._sealer.rekey(keys)
        except ValueError as error:
            raise EngineError(f"secret: {error}; make one with: head -c 32 /dev/urandom | base64") from None
        self._apply(checked)
        if self._sockets:
            self._hello()

    def close(self) -> None:
        """Ends sending and receiving; may be called twice."""
        for opened in self._sockets:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(opened)
                self._loop.remove_writer(opened)
            opened.close()
        self._sockets.clear()
        self._waiting.clear()

    def _checked(self, members: Mapping[NodeName, str]) -> dict[NodeName, Endpoint]:
        checked = {name: endpoint(f"member {name}", address, self._here.port) for name, address in members.items()}
        named = {f"member {name}": there for name, there in checked.items()}
        if self._segment is not None:
            named["broadcast"] = self._segment
        for role, there in named.items():
            if there.family != self._here.family:
                raise EngineError(f"{role}: {there.address} and bind {self._here.address} are not both IPv4 or IPv6")
        if not checked and self._segment is None:
            raise EngineError("no members: name them, or configure a broadcast or multicast address to discover them")
        return checked

    def _apply(self, members: dict[NodeName, Endpoint]) -> None:
        self._endpoints = members
        own = {self._here.address} if not self._here.wildcard else set()
        if self._me.name in members:
            own.add(members[self._me.name].address)
        self._intake.configure({name: there.address for name, there in members.items()}, frozenset(own))

    def _listen_to(self, segment: Endpoint) -> None:
        """A socket bound to every address hears the segment itself; a second one would hear everything twice."""
        unicast = self._sockets[0]
        if segment.multicast:
            multicast_from(unicast, self._here, segment)
        if self._here.wildcard:
            listener = unicast
        else:
            listener = bound(segment, "broadcast")
            self._sockets.append(listener)
        if segment.multicast:
            join(listener, self._here, segment)

    # Out.

    def _targets(self, to: tuple[NodeName, ...]) -> list[Peer]:
        if not to:
            return self._intake.trust.configured()
        found = []
        for name in to:
            peer = self._intake.trust.peers.get(name)
            if peer is not None and peer.configured:
                found.append(peer)
            elif name != self._me.name:
                self.send_errors[Reason.UNKNOWN_MEMBER] += 1
        return found

    def _sockaddr(self, peer: Peer) -> Sockaddr:
        configured = self._endpoints.get(peer.name)
        if configured is not None:
            return configured.sockaddr
        return endpoint(f"member {peer.name}", peer.address or "", self._here.port).sockaddr

    def _unicast(self, payload: bytes, peers: list[Peer]) -> None:
        addressed = [(peer, self._sockaddr(peer)) for peer in peers]
        for kind, part, chunk in self._parts(payload, 1):
            for peer, there in addressed:
                self._transmit(self._sealer.seal(_directed(kind, peer, part, chunk)), there)

    def _broadcast(self, kind: int, payload: bytes) -> None:
        assert self._segment is not None
        echoes = self._echoes()
        parts = [(kind, None, b"")] if kind == envelope.HELLO else self._parts(payload, len(echoes))
        for sort, part, chunk in parts:
            body = envelope.seal_in(sort, False, echoes, part, chunk)
            self._transmit(self._sealer.seal(body), self._segment.sockaddr)

    def _parts(self, payload: bytes, echoes: int) -> list[tuple[int, Part | None, bytes]]:
        """The message whole if it fits one datagram, else in fragments."""
        chunks = split(payload, DATAGRAM_MAX - self._sealer.overhead - envelope.size(echoes))
        if len(chunks) == 1:
            return [(envelope.WHOLE, None, payload)]
        self._number = (self._number + 1) & 0xFFFFFFFF
        count = len(chunks)
        return [(envelope.FRAGMENT, Part(self._number, index, count), chunk) for index, chunk in enumerate(chunks)]

    def _echoes(self) -> list[Echo]:
        """Peers that were heard, by turns where there are more than one datagram names."""
        heard = [peer for peer in self._intake.trust.configured() if peer.session != UNKNOWN]
        if len(heard) > envelope.ECHOES_MAX:
            start = self._turn % len(heard)
            self._turn = start + envelope.ECHOES_MAX
            heard = (heard + heard)[start : start + envelope.ECHOES_MAX]
        return [Echo(peer.tag, peer.session) for peer in heard]

    def _hello(self) -> None:
        """Greets everyone, so that trust is there before the first message."""
        for peer in self._intake.trust.configured():
            self._transmit(self._sealer.seal(_directed(envelope.HELLO, peer, None, b"")), self._sockaddr(peer))
        if self._segment is not None:
            self._broadcast(envelope.HELLO, b"")

    def _answer(self, peer: Peer, source: str) -> None:
        """A hello to where the peer's life that has to be convinced was heard."""
        echo = Echo(peer.tag, peer.candidate.session if peer.candidate is not None else peer.session)
        body = envelope.seal_in(envelope.HELLO, True, [echo], None, b"")
        known = self._endpoints.get(peer.name)
        there = known.sockaddr if known is not None else endpoint("peer", source, self._here.port).sockaddr
        self._transmit(self._sealer.seal(body), there)

    def _transmit(self, datagram: bytes, there: Sockaddr) -> None:
        if not self._sockets or self._loop is None:
            self.send_errors["closed"] += 1
        elif self._waiting or not self._handed_over(datagram, there):
            if len(self._waiting) >= WAITING_MAX:
                self.send_errors["waiting"] += 1
                return
            if not self._waiting:
                self._loop.add_writer(self._sockets[0], self._writable)
            self._waiting.append((datagram, there))

    def _handed_over(self, datagram: bytes, there: Sockaddr) -> bool:
        """False: the kernel's buffer is full. Anything else that goes wrong loses the datagram, as the network may."""
        try:
            self._sockets[0].sendto(datagram, there)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.send_errors[errno.errorcode.get(error.errno or 0, "unknown")] += 1
        return True

    def _writable(self) -> None:
        while self._waiting and self._handed_over(*self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting and self._loop is not None:
            self._loop.remove_writer(self._sockets[0])

    # In.

    def _read(self, opened: socket.socket, most: int) -> int:
        """Reads up to `most` datagrams that wait in the socket; how many it were."""
        for count in range(most):
            if opened not in self._sockets:  # closed by what the last datagram set off
                return count
            try:
                datagram, sender = opened.recvfrom(DATAGRAM_MAX + 1)
            except (BlockingIOError, InterruptedError):
                return count
            except OSError as error:  # an ICMP error of something sent before; datagrams may wait behind it
                self.send_errors[errno.errorcode.get(error.errno or 0, "unknown")] += 1
                continue
            self.receive(datagram, canonical(sender[0]))
        return most

    def _reject(self, rejected: Rejected, source: str, now: float) -> None:
        self.rejected[rejected.reason] += 1
        if rejected.reason is Reason.MALFORMED:
            self.last_malformed = rejected.detail[:200]
        if rejected.reason is Reason.NAME_CLASH and (self._clash_at is None or now - self._clash_at >= CLASH_PAUSE):
            self._clash_at = now
            self._on_event(NameClash(now, source))
        self._events_left = min(EVENTS_RATE, self._events_left + (now - self._events_at) * EVENTS_RATE)
        self._events_at = now
        if self._events_left >= 1.0:
            self._events_left -= 1.0
            self._on_event(DatagramRejected(now, rejected.reason.value, source))


def _directed(kind: int, peer: Peer, part: Part | None, chunk: bytes) -> bytes:
    return envelope.seal_in(kind, True, [Echo(peer.tag, peer.session)], part, chunk)
