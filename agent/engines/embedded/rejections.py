"""Why a datagram was not believed: the one closed set behind `molehill_datagrams_rejected_total{reason}`."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Each costs a counter (and a `DatagramRejected` event, see `udp.py`), and nothing else."""

    TRUNCATED = "truncated"
    """Shorter than its header, name and seal need."""
    OVERSIZED = "oversized"
    """Longer than any datagram of ours."""
    MAGIC = "magic"
    """Not Molehill's: another program speaks on this port."""
    VERSION = "version"
    """Another version of the wire format."""
    CLUSTER = "cluster"
    """Another cluster on the same port."""
    UNSEALED = "unsealed"
    """Sent by a node without a key, while this one has one."""
    SEALED = "sealed"
    """Sealed, while this node is configured `insecure`."""
    KEY = "key"
    """Sealed with a key that this node does not have."""
    SEAL = "seal"
    """The seal (or the checksum of an insecure datagram) does not fit: forged, damaged, or cut."""
    MALFORMED = "malformed"
    """Well sealed, but not a legal message."""
    UNKNOWN_MEMBER = "unknown_member"
    """The sender's name is not configured here."""
    ADDRESS = "address"
    """The source is not the configured address of the member that it names."""
    NAME_CLASH = "name_clash"
    """Another host or another life speaks with this node's own name."""
    MISDIRECTED = "misdirected"
    """Sent to another member by name: re-sent to this one by a third party."""
    UNTRUSTED = "untrusted"
    """The sender has not yet shown that it lives now. One or two at each start of a node are normal."""
    STALE_INCARNATION = "stale_incarnation"
    """From a former life of its sender."""
    REPLAY = "replay"
    """Seen before, or too old to tell."""
    LIMIT = "limit"
    """A bound of this node's memory: fragments or members."""


REASONS: tuple[str, ...] = tuple(reason.value for reason in Reason)


class Rejected(Exception):
    """A datagram that is not believed. `detail` is for tests and debugging only; it may quote hostile input."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason.value, detail)
        self.reason = reason
        self.detail = detail
