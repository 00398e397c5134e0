"""Engines under test, and what an attacker or a peer could put on the wire."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence

from agent.core.events import DatagramRejected, Event
from agent.core.ids import Member, NodeName, ViewId
from agent.core.messages import Leave, Message
from agent.engines.embedded import envelope
from agent.engines.embedded.codec import encode
from agent.engines.embedded.seal import Life, Sealer, name_tag
from agent.engines.embedded.trust import UNKNOWN, Echo
from agent.engines.embedded.udp import EmbeddedEngine

KEY = b"0123456789abcdef0123456789abcdef"
OTHER_KEY = b"fedcba9876543210fedcba9876543210"
PATIENCE = 30.0
"""Seconds after which a test gives up waiting for something that takes milliseconds."""
ADDRESSES = {NodeName("a"): "127.0.0.1", NodeName("b"): "127.0.0.2", NodeName("c"): "127.0.0.3"}


def leave(epoch: int) -> Leave:
    """A small message that is told from others by its number."""
    return Leave(ViewId(epoch, Member(NodeName("a"), 1)))


class Node:
    """An engine that keeps what it delivers. The clock stands where the test puts it."""

    def __init__(
        self,
        name: str,
        incarnation: int = 1,
        *,
        cluster: str = "www",
        port: int = 4803,
        bind: str | None = None,
        members: Mapping[NodeName, str] = ADDRESSES,
        broadcast: str | None = None,
        keys: Sequence[bytes] = (KEY,),
    ) -> None:
        self.now = 100.0
        self.messages: list[tuple[Member, Message]] = []
        self.events: list[Event] = []
        self.changed = asyncio.Event()
        self.me = Member(NodeName(name), incarnation)
        self.address = bind or members[self.me.name]
        self.engine = EmbeddedEngine(
            cluster=cluster,
            me=self.me,
            bind=self.address,
            port=port,
            members=members,
            broadcast=broadcast,
            keys=keys,
            clock=lambda: self.now,
            on_message=self._on_message,
            on_event=self._on_event,
        )

    @property
    def life(self) -> Life:
        return self.engine._intake._life

    def rejections(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, DatagramRejected)]

    def trusts(self, member: Member) -> bool:
        return any(peer.trusted and (peer.name, peer.incarnation) == member for peer in self.engine.peers)

    async def until(self, count: int) -> None:
        """Waits until so many messages were delivered."""
        async with asyncio.timeout(PATIENCE):
            while len(self.messages) < count:
                self.changed.clear()
                await self.changed.wait()

    def _on_message(self, sender: Member, message: Message) -> None:
        self.messages.append((sender, message))
        self.changed.set()

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        self.changed.set()


class Speaker:
    """Seals as a member would, without sockets: what it makes is fed to an engine by hand."""

    def __init__(
        self,
        name: str,
        incarnation: int = 1,
        *,
        cluster: str = "www",
        keys: Sequence[bytes] = (KEY,),
        session: bytes = b"speaker1",
    ) -> None:
        self.life = Life(incarnation, session)
        self.name = NodeName(name)
        self.sealer = Sealer(cluster, keys, self.name, self.life)

    def say(self, to: Node, message: Message | None, *, echo: bool = True, meant: str | None = None) -> bytes:
        """A datagram for one node; `echo` False: as if that node had never been heard; None: a hello."""
        known = to.life.session if echo else UNKNOWN
        tag = name_tag(NodeName(meant) if meant is not None else to.me.name)
        kind = envelope.HELLO if message is None else envelope.WHOLE
        content = b"" if message is None else encode(message)
        return self.sealer.seal(envelope.seal_in(kind, True, [Echo(tag, known)], None, content))


def delivered() -> None:
    """All that was sent over the loopback interface has arrived; on a busy machine the kernel delivers later."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
        last.bind(("127.0.0.1", 0))
        last.settimeout(PATIENCE)
        last.sendto(b"last", last.getsockname())
        last.recv(8)


def free_port() -> int:
    """A UDP port that no address of this machine uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 0))
        port: int = probe.getsockname()[1]
        return port
