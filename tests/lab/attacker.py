"""A host on the segment that sends what nobody should believe, under any source address."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from random import Random

from agent.core.ids import Member, NodeName, ViewId
from agent.core.messages import Leave
from agent.engines.embedded import codec, envelope
from agent.engines.embedded.seal import DATAGRAM_MAX, SESSION_SIZE, Life, Sealer, name_tag
from agent.engines.embedded.trust import UNKNOWN, Echo
from agent.lab import namespaces
from agent.lab.lab import Lab

PORT = 4803
_IP = struct.Struct(">BBHHHBBH4s4s")
_UDP = struct.Struct(">HHHH")
_ETH_IP = 0x0800


def address_of(lab: Lab, host: str) -> str:
    return lab.plan.host(host).ports[0].addresses[0].partition("/")[0]


class Attacker:
    """Sits in the client's namespace. It has the cluster's key, so that it can also do what only an insider could."""

    def __init__(self, lab: Lab, victim: str, friend: str) -> None:
        """`friend`: the member under whose name and address it speaks to `victim`."""
        self.cluster = f"lab-{lab.plan.name}"
        self.key = (lab.directory / "secret").read_bytes().strip()
        self.victim, self.friend = NodeName(victim), NodeName(friend)
        self.here, self.there = address_of(lab, "client"), address_of(lab, victim)
        self.friends_address = address_of(lab, friend)
        self._raw = namespaces.socket_in(
            lab.plan.namespace("client"), socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW
        )
        self._ear = namespaces.socket_in(
            lab.plan.namespace(victim), socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_IP)
        )
        self._ear.settimeout(5.0)

    def close(self) -> None:
        self._raw.close()
        self._ear.close()

    def send(self, payload: bytes, source: str) -> None:
        """One datagram to the victim's engine."""
        udp = _UDP.pack(PORT, PORT, _UDP.size + len(payload), 0) + payload
        header = _IP.pack(
            0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0, socket.inet_aton(source), socket.inet_aton(self.there)
        )
        self._raw.sendto(header + udp, (self.there, 0))

    def overhear(self, count: int) -> list[bytes]:
        """True datagrams of the friend, as the victim got them."""
        found: list[bytes] = []
        mine = socket.inet_aton(self.friends_address) + socket.inet_aton(self.there)
        while len(found) < count:
            packet = self._ear.recv(2048)
            if packet[9] == socket.IPPROTO_UDP and packet[12:20] == mine:
                found.append(packet[28 : struct.unpack_from(">H", packet, 2)[0]])
        return found

    def sealed(
        self,
        body: bytes | None = None,
        *,
        name: str | None = None,
        cluster: str | None = None,
        keys: list[bytes] | None = None,
        incarnation: int = 1,
        meant: str | None = None,
    ) -> bytes:
        """A datagram in good form; each argument makes it wrong in one way."""
        life = Life(incarnation, os.urandom(SESSION_SIZE))
        sealer = Sealer(
            self.cluster if cluster is None else cluster,
            [self.key] if keys is None else keys,
            NodeName(name or self.friend),
            life,
        )
        return sealer.seal(self._body(meant or self.victim) if body is None else body)

    def _body(self, meant: str) -> bytes:
        message = codec.encode(Leave(ViewId(1, Member(self.friend, 1))))
        return envelope.seal_in(envelope.WHOLE, True, [Echo(name_tag(NodeName(meant)), UNKNOWN)], None, message)

    def kinds(self, rng: Random, recording: bytes) -> Iterator[tuple[str, bytes, str]]:
        """One of every kind: the reason it must be refused for, the datagram, and its source address."""
        good, friend, here = self.sealed(), self.friends_address, self.here
        tag = name_tag(self.victim)
        yield "truncated", good[: rng.randrange(2, 53)], friend
        yield "truncated", b"M", here
        yield "oversized", good + bytes(DATAGRAM_MAX + 1 - len(good)), friend
        yield "magic", b"\0" + rng.randbytes(rng.randrange(1, 1400)), here
        yield "version", good[:2] + b"\x09" + good[3:], friend
        yield "cluster", self.sealed(cluster="another"), friend
        yield "unsealed", self.sealed(keys=[]), friend
        yield "key", self.sealed(keys=[rng.randbytes(32)]), friend
        yield "seal", good[:-1] + bytes([good[-1] ^ 1]), friend
        yield "seal", good[: len(good) - 5], friend
        yield "malformed", self.sealed(b""), friend
        yield "malformed", self.sealed(bytes([99, 0])), friend
        yield "malformed", self.sealed(bytes([envelope.FRAGMENT | 0x80, 1]) + tag + UNKNOWN + b"\0"), friend
        yield "unknown_member", self.sealed(name="www99"), friend
        yield "address", good, here
        yield "name_clash", self.sealed(name=self.victim, incarnation=2**50), here
        yield "misdirected", self.sealed(meant="www3"), friend
        yield "stale_incarnation", good, friend
        yield "untrusted", self.sealed(incarnation=2**50), friend
        yield "replay", recording, friend
