"""Datagrams: a clear header, and a body that is encrypted and authenticated together with that header.

Keys: each line of the secret file is stretched with the cluster's name to a master key; each *life* of a sender (name,
incarnation, and a random session number) has its own subkey of it, and counts its datagrams. So no nonce is ever used
twice with one key, even where a node lost its state and counts its incarnations from the start again.
See docs/wire.md and docs/security.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.core.ids import NodeName
from agent.engines.embedded.codec import NAME_MAX
from agent.engines.embedded.rejections import Reason, Rejected

DATAGRAM_MAX: Final = 1400
"""Bytes of UDP payload: with IPv6, UDP and a tunnel's header still below an Ethernet frame's 1,500."""
MAGIC: Final = b"Mh"
VERSION: Final = 1
KEY_MIN: Final = 16
"""Bytes that a secret must have at least."""
SEAL_SIZE: Final = 16
SESSION_SIZE: Final = 8
NO_KEY: Final = bytes(4)
CACHE_MAX: Final = 512
"""Subkeys kept: four lives (two keys, old and new incarnation) of the 128 members there may be."""
LAST_WORDS: Final = 1 << 62
"""First counter of datagrams that are sealed ahead, to be sent after everything else of this life."""
LAST_WORDS_GAP: Final = 1 << 40
"""Counters for what is sealed when last words were spoken and the life goes on: 50 years at 500 a second."""

_KIND_UNSEALED: Final = 0
_KIND_SEALED: Final = 1
_HEADER: Final = Struct(">2sBB4s4sQ8sQB")
"""magic, version, kind, cluster tag, key id, incarnation, session, counter, bytes of the name less one."""
_NONCE: Final = Struct(">4xQ")
_COUNTER_MAX: Final = (1 << 64) - 1


class Life(NamedTuple):
    """One run of a node's agent."""

    incarnation: int
    session: bytes
    """Eight random bytes, never all zero: what a recording of an earlier run cannot know."""


class Frame(NamedTuple):
    """A datagram whose header was read and whose body was not opened yet."""

    sealed: bool
    key_id: bytes
    name: NodeName
    life: Life
    counter: int
    header: bytes
    body: bytes


class Key(NamedTuple):
    """A master key of one cluster."""

    id: bytes
    secret: bytes


def derive(cluster: str, secret: bytes) -> Key:
    """The cluster's key of one line of the secret file. ValueError for a line below 16 bytes."""
    if len(secret) < KEY_MIN:
        raise ValueError(f"a key of {len(secret)} bytes is too short: at least {KEY_MIN} are needed")
    master = HKDF(SHA256(), 32, b"molehill wire 1", cluster.encode()).derive(secret)
    return Key(blake2b(master, digest_size=4, person=b"molehill key id").digest(), master)


def cluster_tag(cluster: str) -> bytes:
    """Four bytes that tell clusters on one port apart; no secret."""
    return blake2b(cluster.encode(), digest_size=4, person=b"molehill cluster").digest()


def name_tag(name: NodeName) -> bytes:
    """Four bytes for a node's name, where a body names other members."""
    return blake2b(name.encode(), digest_size=4, person=b"molehill node").digest()


class Sealer:
    """Seals what one life of one node sends, and opens what others sent.

    `keys`: the first seals, all open. None at all: the node is insecure, and a checksum takes the seal's place.
    """

    def __init__(self, cluster: str, keys: Sequence[bytes], name: NodeName, life: Life) -> None:
        self._cluster = cluster
        self._tag = cluster_tag(cluster)
        self._name = name
        self._life = life
        self._counter = 0
        self._last_words = LAST_WORDS
        self._ciphers: dict[tuple[bytes, NodeName, Life], ChaCha20Poly1305] = {}
        self.rekey(keys)

    def rekey(self, keys: Sequence[bytes]) -> None:
        """Other keys from now on; counters go on. ValueError for a short one, and nothing is changed."""
        derived = [derive(self._cluster, key) for key in keys]
        self._keys = {key.id: key for key in derived}
        self._ciphers.clear()
        self.sealed = bool(derived)
        key_id = derived[0].id if derived else NO_KEY
        self._seal = self._sealing(derived[0]) if derived else self._checksumming()
        encoded = self._name.encode()
        kind = _KIND_SEALED if derived else _KIND_UNSEALED
        self._head = (MAGIC, VERSION, kind, self._tag, key_id, self._life.incarnation, self._life.session)
        self._tail = (len(encoded) - 1, encoded)
        self.overhead = _HEADER.size + len(encoded) + SEAL_SIZE

    @property
    def cached(self) -> int:
        """Subkeys kept now."""
        return len(self._ciphers)

    def seal(self, body: bytes) -> bytes:
        """The datagram that carries `body`."""
        self._counter += 1
        return self._datagram(body, self._counter)

    def seal_last(self, body: bytes) -> bytes:
        """A datagram for later: who has seen it takes everything else of this life for a replay."""
        self._last_words += 1
        return self._datagram(body, self._last_words)

    def outlive(self) -> None:
        """Last words were spoken and this life goes on: what is sealed from now on comes after them."""
        self._counter = self._last_words
        self._last_words += LAST_WORDS_GAP

    def _datagram(self, body: bytes, counter: int) -> bytes:
        length, name = self._tail
        header = _HEADER.pack(*self._head, counter, length) + name
        return header + self._seal(counter, body, header)

    def _sealing(self, key: Key) -> Callable[[int, bytes, bytes], bytes]:
        cipher = ChaCha20Poly1305(subkey(key, self._name, self._life))
        return lambda counter, body, header: cipher.encrypt(_NONCE.pack(counter), body, header)

    def _checksumming(self) -> Callable[[int, bytes, bytes], bytes]:
        return lambda counter, body, header: body + checksum(header, body)

    def read(self, datagram: bytes) -> Frame:
        """The header, checked against what this node speaks; the body is still closed. Raises `Rejected`."""
        if len(datagram) > DATAGRAM_MAX:
            raise Rejected(Reason.OVERSIZED)
        if datagram[:2] != MAGIC:
            raise Rejected(Reason.MAGIC if len(datagram) >= 2 else Reason.TRUNCATED)
        if len(datagram) < _HEADER.size + 1 + SEAL_SIZE:
            raise Rejected(Reason.TRUNCATED)
        _, version, kind, tag, key_id, incarnation, session, counter, length = _HEADER.unpack_from(datagram)
        if version != VERSION:
            raise Rejected(Reason.VERSION, str(version))
        if tag != self._tag:
            raise Rejected(Reason.CLUSTER)
        if kind not in (_KIND_SEALED, _KIND_UNSEALED):
            raise Rejected(Reason.MALFORMED, f"kind {kind}")
        sealed = kind == _KIND_SEALED
        if sealed != self.sealed:
            raise Rejected(Reason.SEALED if sealed else Reason.UNSEALED)
        end = _HEADER.size + length + 1
        if len(datagram) < end + SEAL_SIZE:
            raise Rejected(Reason.TRUNCATED)
        if sealed and key_id not in self._keys:
            raise Rejected(Reason.KEY)
        header = datagram[:end]
        try:
            name = header[_HEADER.size :].decode()
        except UnicodeDecodeError:
            raise Rejected(Reason.MALFORMED, "name") from None
        if len(name) > NAME_MAX or not name.isprintable() or incarnation > 2**53 or session == bytes(SESSION_SIZE):
            raise Rejected(Reason.MALFORMED, "header")
        return Frame(sealed, key_id, NodeName(name), Life(incarnation, session), counter, header, datagram[end:])

    def open(self, frame: Frame) -> bytes:
        """The body of a frame that `read` let pass. Raises `Rejected` (seal)."""
        if not frame.sealed:
            body, digest = frame.body[:-SEAL_SIZE], frame.body[-SEAL_SIZE:]
            if not compare_digest(digest, checksum(frame.header, body)):
                raise Rejected(Reason.SEAL)
            return body
        cached = (frame.key_id, frame.name, frame.life)
        cipher = self._ciphers.get(cached)
        fresh = cipher is None
        if cipher is None:
            cipher = ChaCha20Poly1305(subkey(self._keys[frame.key_id], frame.name, frame.life))
        try:
            body = cipher.decrypt(_NONCE.pack(frame.counter), frame.body, frame.header)
        except InvalidTag:
            raise Rejected(Reason.SEAL) from None
        if fresh:  # kept only now: a forger must not push out the subkeys of real members
            if len(self._ciphers) >= CACHE_MAX:
                del self._ciphers[next(iter(self._ciphers))]
            self._ciphers[cached] = cipher
        return body


def subkey(key: Key, name: NodeName, life: Life) -> bytes:
    """The key of one life of one sender."""
    text = life.incarnation.to_bytes(8, "big") + life.session + name.encode()
    return blake2b(text, digest_size=32, key=key.secret, person=b"molehill sender").digest()


def checksum(header: bytes, body: bytes) -> bytes:
    """Notices damage, not malice."""
    return blake2b(header + body, digest_size=SEAL_SIZE, person=b"molehill sum").digest()
