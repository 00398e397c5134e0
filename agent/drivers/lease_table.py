"""The fast lease as nf_tables rules: what times are leased, which addresses are covered, and what is dropped when.

```
table inet molehill_www {
    set lease { typeof meta time; flags dynamic,timeout; }       # moments of the wall clock, `step` apart
    set vips4 { type ipv4_addr; }   set vips6 { type ipv6_addr; }
    chain renew   { update @lease { @nh,288,64 timeout .. } ...; drop }
    chain deliver { prerouting; iif lo, <our renewal> goto renew
                    meta time & <mask> @lease accept;  ip daddr @vips4 drop;  ip6 daddr @vips6 drop }
    chain send    { postrouting; meta time & <mask> @lease accept;  ip saddr @vips4 drop;  ip6 saddr @vips6 drop }
}
table netdev molehill_www {                                       # the same sets, and `renew`, for ingress of lo
    chain hear_1     { ingress eth0; meta time & <mask> @lease accept; arp daddr ip @vips4 drop }
    chain announce_1 { egress eth0;  meta time & <mask> @lease accept; arp saddr ip @vips4 drop; ip6 saddr @vips6 drop }
}
table arp molehill_www { chain answer { input; iifname eth0 accept; arp daddr ip @vips4 drop } }
```

- *Renewed by a packet, not by a transaction.* A frame to the loopback interface bears the moments that are to be
  leased, and rules put them into the sets: 5 us. A transaction costs 25 us, and others much more: each makes every
  reader of the rules (`nft list`, iptables-nft, firewalld) begin again, so that at 100 a second `nft list ruleset` of
  2,000 rules never ended (at 10 a second, of 20,000); and each waits for the end of another's transaction (100,000
  elements: 60 to 150 ms), which is longer than a lease. It writes an audit record, too. Renewals are told from other
  packets by a secret that only root can read. Where they do not arrive the lease is renewed by transactions.
- *Two clocks.* The moments are absolute: a process that was stopped between reading the clock and sending leases what
  is over. Each runs out by a timeout from the sending on too, which bounds the lease when the wall clock is set back.
  Set forward, the lease pauses until the next renewal. A lease ends with the last whole step before its deadline.
- *Every interface.* `deliver` and `send` hook the protocols, not devices: interfaces may come and go while nobody
  looks. A neighbour solicitation is answered from the address asked for, so `send` stops that too. ARP for a VIP is
  answered only on interfaces that carry VIPs, where netdev chains ask for the lease: the arp family hears no frames.
- *Strange addresses* (sets `strange4`, `strange6`, asked before the lease in each chain) are VIPs that somebody put on
  an interface here by hand while another node may hold them: they are dropped whether or not a lease is in force, and
  as long as there are any the tables outlive the agent.
- *Announcements* of our own go out by packet sockets, past all hooks but egress (kernel 5.16).
- *Beside other rules.* Nothing is ever accepted for others: `accept` ends our own chain only. `deliver` comes before
  defragmentation, connection tracking and DNAT, `send` after SNAT. What an nftables flowtable, XDP or a tc program
  forwards itself passes all rules by.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence

from agent.drivers import nftables as nft
from agent.drivers import rtnetlink

FIRST = -450
"""Priority before defragmentation of fragments (-400), raw (-300), connection tracking (-200) and DNAT (-100)."""
LAST = 300
"""Priority after SNAT (100)."""

SLOTS = 32
"""Moments in one frame: one rule each."""
STEPS = 64
"""At least so many moments in a lease: it ends early by less than one of them."""

SWEEP = 250
"""Milliseconds between two sweeps of moments that are over."""
SIZE = 65_535

PREFIX = "molehill_"
"""How the names of all tables begin."""
LEASE = "lease"
_NAMES = {4: "vips4", 16: "vips6"}
STRANGE = {4: "strange4", 16: "strange6"}
"""Sets by the length of an address."""
_MOMENT = struct.Struct("=Q")
_FRAME = struct.Struct(f"={SLOTS}Q")
_MARK = 0xA1A2A3A4A5A6A7A8
"""Stands in a packed request where a moment goes; occurs nowhere else in it."""
_PROTOCOLS = {4: b"\x02", 16: b"\x0a"}
_SOURCE, _DESTINATION = {4: 12, 16: 8}, {4: 16, 16: 24}
_IPV4, _IPV6, _ARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
_ARP_SENDER, _ARP_TARGET = 14, 24

_EXPERIMENT = 253
"""IP protocol for experiments (RFC 3692): no program listens there."""
_SECRET_AT, _MOMENTS_AT = 20, 36
"""Offsets behind the IP header's first byte."""

_FAMILIES = (nft.INET, nft.ARP, nft.NETDEV)
TIMED = (nft.INET, nft.NETDEV)
"""Families whose table has a lease."""
_PLACES = {nft.INET: (4, 16), nft.ARP: (4,), nft.NETDEV: (4, 16)}
"""Lengths of the addresses that each family's table knows."""

NO_DEVICES: Mapping[str, str] = {}

_ABSENT = (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


def table_name(cluster: str) -> str:
    """The tables' name. What nft(8) could not read back, or is long, is replaced and told apart by a hash."""
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", cluster):
        return f"{PREFIX}{cluster}"
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", cluster)[:48]
    return f"{PREFIX}{plain}_{hashlib.sha256(cluster.encode()).hexdigest()[:8]}"


def remove_table(cluster: str) -> None:
    """Takes the fast lease out of the kernel: nothing is filtered any more. None there: no error.

    For whoever has removed the addresses before. Raises OSError when the kernel refuses.
    """
    try:
        channel = nft.FilterSocket()
    except OSError as error:
        if error.errno in _ABSENT:
            return
        raise
    try:
        for family in _FAMILIES:
            failure = channel.commit([nft.delete_table(family, table_name(cluster))])
            if failure and failure.answer.code not in _ABSENT:
                raise OSError(failure.answer.code, failure.answer.text)
    finally:
        channel.close()


def tables() -> list[tuple[int, str]]:
    """Family and name of all tables of molehill's, of whatever cluster; none where the kernel has no nf_tables."""
    try:
        channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, nft.NETLINK_NETFILTER)
    except OSError:
        return []
    found: list[tuple[int, str]] = []
    with channel:
        channel.send(nft.request(nft.GETTABLE, 0, rtnetlink.NLM_F_DUMP))
        while True:
            data = channel.recv(rtnetlink.RECEIVE_BYTES)
            for at in rtnetlink.messages(data):
                if at.kind in (rtnetlink.NLMSG_DONE, rtnetlink.NLMSG_ERROR):
                    return found
                for kind, first, last in rtnetlink.attributes(data, at.start + 4, at.end):
                    if kind == 1 and data[first:last].startswith(PREFIX.encode()):
                        found.append((data[at.start], data[first:last].rstrip(b"\0").decode()))


def others(cluster: str) -> frozenset[bytes]:
    """Addresses that are covered by tables of other clusters: an agent of theirs looks after them."""
    names = {name for family, name in tables() if family == nft.INET} - {table_name(cluster)}
    return frozenset(key for name in names for each in _NAMES.values() for key in _read(name, each))


def _read(table: str, name: str) -> list[bytes]:
    try:
        channel = nft.FilterSocket()
    except OSError:
        return []
    try:
        return channel.elements(nft.INET, table, name)
    except OSError:
        return []
    finally:
        channel.close()


def silenced(cluster: str) -> frozenset[bytes]:
    """The strange addresses that a former life's tables drop; none where there are no tables."""
    return frozenset(key for name in STRANGE.values() for key in _read(table_name(cluster), name))


class LeaseTable:
    """Packs requests and renewals; knows nothing of what is in the kernel. ``bound``: of a lease, in seconds."""

    def __init__(self, cluster: str) -> None:
        self.name = table_name(cluster)
        self.egress = True
        """Whether the kernel has that hook."""
        self._secret = os.urandom(16)
        self.size(0.0, 0.0)

    def size(self, bound: float, slack: float) -> None:
        """For leases of up to so many seconds; timeouts get `slack` seconds more. What is in the kernel is void."""
        self.bound = bound
        self.step = 1 << max(16, int(bound * 1e9 / STEPS).bit_length() - 1)
        """Nanoseconds between two moments; a power of two."""
        self._timeout = int((bound + slack) * 1000) + 1
        queries = [nft.get_element(family, self.name, LEASE, _MOMENT.pack(_MARK)) for family in TIMED]
        self._query = bytearray(b"".join(queries))
        self._asked = [match.start() for match in re.finditer(re.escape(_MOMENT.pack(_MARK)), self._query)]

    # Requests.

    def build(
        self, covered: Iterable[bytes], devices: Mapping[str, str] = NO_DEVICES, strange: Iterable[bytes] = ()
    ) -> list[bytes]:
        """Makes the tables anew, without a lease; what was there goes. `devices`: those with VIPs, and a short name.

        `strange`: addresses that are dropped also while a lease is in force.
        """
        requests: list[bytes] = []
        for family in _FAMILIES:
            requests += [nft.new_table(family, self.name), nft.delete_table(family, self.name)]
            requests.append(nft.new_table(family, self.name))
            for length in _PLACES[family]:
                key = nft.IPV4_KEY if length == 4 else nft.IPV6_KEY
                requests.append(nft.new_set(family, self.name, _NAMES[length], key))
                requests.append(nft.new_set(family, self.name, STRANGE[length], key))
        for family in TIMED:
            requests.append(nft.new_timed_set(family, self.name, LEASE, nft.TIME_KEY, SIZE, SWEEP))
            requests += self._renewing(family)
        requests += self.change(nft.NEWSETELEM, list(covered))
        requests += self.change(nft.NEWSETELEM, list(strange), STRANGE)
        return [*requests, *self._protocols(), *self._arp(devices), *self._loopback(), *self._devices(devices)]

    def _renewing(self, family: int) -> list[bytes]:
        requests = [nft.new_chain(family, self.name, "renew")]
        for slot in range(SLOTS):
            moment = nft.payload(_MOMENTS_AT + 8 * slot, 8)
            requests.append(nft.new_rule(family, self.name, "renew", moment, nft.update(LEASE, self._timeout)))
        if family == nft.INET:
            requests.append(nft.new_rule(family, self.name, "renew", nft.verdict(nft.DROP)))
        return requests

    def _protocols(self) -> list[bytes]:
        requests = []
        for chain, hook, priority, at in (
            ("deliver", nft.PREROUTING, FIRST, _DESTINATION),
            ("send", nft.POSTROUTING, LAST, _SOURCE),
        ):
            requests.append(nft.new_base_chain(nft.INET, self.name, chain, hook, priority))
            if chain == "deliver":
                loopback = socket.if_nametoindex("lo").to_bytes(4, sys.byteorder)
                where = (nft.meta(nft.META_IIF), nft.equal(loopback))
                version4 = (nft.meta(nft.META_NFPROTO), nft.equal(_PROTOCOLS[4]))
                requests.append(self._on_renewal(nft.INET, chain, *where, *version4))
            guards = {length: (nft.meta(nft.META_NFPROTO), nft.equal(_PROTOCOLS[length])) for length in (4, 16)}
            requests += [self._drop(nft.INET, chain, g, at[length], length, STRANGE) for length, g in guards.items()]
            requests.append(self._while_leased(nft.INET, chain))
            requests += [self._drop(nft.INET, chain, g, at[length], length) for length, g in guards.items()]
        return requests

    def _arp(self, devices: Iterable[str]) -> list[bytes]:
        requests = [nft.new_base_chain(nft.ARP, self.name, "answer", nft.ARP_INPUT, FIRST)]
        requests.append(self._drop(nft.ARP, "answer", (), _ARP_TARGET, 4, STRANGE))
        for device in devices:
            name = nft.meta(nft.META_IIFNAME), nft.equal(device.encode().ljust(16, b"\0"))
            requests.append(nft.new_rule(nft.ARP, self.name, "answer", *name, nft.verdict(nft.ACCEPT)))
        return [*requests, self._drop(nft.ARP, "answer", (), _ARP_TARGET, 4)]

    def _loopback(self) -> list[bytes]:
        version4 = (nft.meta(nft.META_PROTOCOL), nft.equal(_IPV4))
        return [
            nft.new_base_chain(nft.NETDEV, self.name, "loopback", nft.INGRESS, FIRST, "lo"),
            self._on_renewal(nft.NETDEV, "loopback", *version4),
        ]

    def _devices(self, devices: Mapping[str, str]) -> list[bytes]:
        requests = []
        arp = (nft.meta(nft.META_PROTOCOL), nft.equal(_ARP))
        version6 = (nft.meta(nft.META_PROTOCOL), nft.equal(_IPV6))
        for device, short in devices.items():
            chain = f"hear_{short}"
            requests.append(nft.new_base_chain(nft.NETDEV, self.name, chain, nft.INGRESS, FIRST, device))
            requests.append(self._drop(nft.NETDEV, chain, arp, _ARP_TARGET, 4, STRANGE))
            requests.append(self._while_leased(nft.NETDEV, chain))
            requests.append(self._drop(nft.NETDEV, chain, arp, _ARP_TARGET, 4))
            if self.egress:
                chain = f"announce_{short}"
                requests.append(nft.new_base_chain(nft.NETDEV, self.name, chain, nft.EGRESS, LAST, device))
                requests.append(self._drop(nft.NETDEV, chain, arp, _ARP_SENDER, 4, STRANGE))
                requests.append(self._drop(nft.NETDEV, chain, version6, _SOURCE[16], 16, STRANGE))
                requests.append(self._while_leased(nft.NETDEV, chain))
                requests.append(self._drop(nft.NETDEV, chain, arp, _ARP_SENDER, 4))
                requests.append(self._drop(nft.NETDEV, chain, version6, _SOURCE[16], 16))
        return requests

    def _on_renewal(self, family: int, chain: str, *guard: bytes) -> bytes:
        protocol = nft.payload(9, 1), nft.equal(bytes((_EXPERIMENT,)))
        secret = nft.payload(_SECRET_AT, 16), nft.equal(self._secret)
        return nft.new_rule(family, self.name, chain, *guard, *protocol, *secret, nft.go_to("renew"))

    def _while_leased(self, family: int, chain: str) -> bytes:
        mask = (~(self.step - 1) & (1 << 64) - 1).to_bytes(8, sys.byteorder)
        moment = nft.meta(nft.META_TIME), nft.masked(mask)
        return nft.new_rule(family, self.name, chain, *moment, nft.lookup(LEASE), nft.verdict(nft.ACCEPT))

    def _drop(
        self,
        family: int,
        chain: str,
        guard: tuple[bytes, ...],
        offset: int,
        length: int,
        names: Mapping[int, str] = _NAMES,
    ) -> bytes:
        tail = (nft.payload(offset, length), nft.lookup(names[length]), nft.verdict(nft.DROP))
        return nft.new_rule(family, self.name, chain, *guard, *tail)

    def change(self, kind: int, addresses: Sequence[bytes], names: Mapping[int, str] = _NAMES) -> list[bytes]:
        """NEWSETELEM covers addresses, DELSETELEM uncovers them."""
        requests = []
        for length in (4, 16):
            members = [nft.element(packed) for packed in addresses if len(packed) == length]
            for position in range(0, len(members), nft.ELEMENT_MAX):
                part = members[position : position + nft.ELEMENT_MAX]
                requests += [
                    nft.elements(kind, family, self.name, names[length], part)
                    for family in _FAMILIES
                    if length in _PLACES[family]
                ]
        return requests

    def remove(self) -> list[bytes]:
        return [nft.delete_table(family, self.name) for family in _FAMILIES]

    # The lease.

    def moments(self, first: int, end: int) -> range:
        """Those whose whole step lies before `end`, from the one that `first` is in: nanoseconds of the wall clock."""
        return range(first & -self.step, end - self.step + 1, self.step)

    def lease(self, moments: Iterable[int]) -> list[bytes]:
        """Leases them by a transaction."""
        members = [nft.element(_MOMENT.pack(moment), timeout=self._timeout) for moment in moments]
        return [nft.elements(nft.NEWSETELEM, family, self.name, LEASE, members) for family in TIMED]

    def frames(self, moments: Sequence[int]) -> list[bytes]:
        """Leases them by frames to the loopback interface."""
        return [self._frame(moments[position : position + SLOTS]) for position in range(0, len(moments), SLOTS)]

    def _frame(self, moments: Sequence[int]) -> bytes:
        slots = [*moments, *[moments[-1]] * (SLOTS - len(moments))]
        return b"".join((_HEADERS, self._secret, _FRAME.pack(*slots)))

    def query(self, moment: int) -> bytearray:
        """Asks whether a moment is leased, in as many tables as `TIMED` names."""
        for position in self._asked:
            _MOMENT.pack_into(self._query, position, moment)
        return self._query


def _headers() -> bytes:
    """Ethernet and IPv4, from and to 127.0.0.1, of a full frame."""
    local = bytes((127, 0, 0, 1))
    length = _MOMENTS_AT + 8 * SLOTS
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 1, _EXPERIMENT, 0, local, local)
    total: int = sum(struct.unpack(">10H", header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return bytes(12) + _IPV4 + header[:10] + (0xFFFF - total).to_bytes(2, "big") + header[12:]


_HEADERS: bytes = _headers()
