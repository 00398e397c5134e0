"""The fast lease: while the agent renews it the kernel answers for this node's VIPs, and not a moment longer.

`lease_table` says what the rules are; here they are held, renewed, kept complete while addresses and interfaces come
and go, and put back when somebody removes them. Every call is done when it returns. A renewal waits for nobody; what
changes the tables waits while another process changes the host's rules (one kernel lock for all of nf_tables).

The tables stay when the process ends: addresses that a dead agent leaves are silent. They go by `close(remove=True)`,
by `lease_table.remove_table`, or are taken over by the next `open`. Where they silence what somebody else has put here
they stay until that is gone: it would answer beside the VIP's holder as soon as this agent ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from agent.core.events import Event, LeaseLayer, LeaseRenewed
from agent.core.inputs import Input, LeaseLapsed
from agent.core.settings import Vip
from agent.drivers import nftables as nft
from agent.drivers import rtnetlink
from agent.drivers.lease_table import STRANGE, TIMED, LeaseTable
from agent.drivers.records import AddressKey

LAYER = "fast"

NOTICE_BUFFER = 1 << 20
"""Bytes of unread notices of other processes' changes; when they overflow the tables are put back, just in case."""

NOTICES_PER_TURN = 256

SLICE = 256
"""Addresses that are uncovered in one turn of the loop: 10 us each."""

CALM = 1.0
"""Seconds from overflowing notices to putting the tables back."""

TICKS = 2
"""Kernel ticks by which a timeout may end early: one is under way already, and milliseconds are rounded down."""

ROOM = 1.05
"""The tables are made for leases longer by so much than the longest one so far."""

STEADY = 1_000_000
"""Nanoseconds by which the wall clock may gain or lose between two renewals without counting as set."""

CLOCK_MONOTONIC_COARSE = 6
"""Its resolution is the kernel's tick. Python does not name it."""

QUESTIONS = 200
"""How often it is asked whether frames have arrived, 10 us each: another processor may have to take them in (RPS)."""

NEVER = float("-inf")

MEDDLED = "another program removed or changed them"
OVERRUN = "other programs changed more rules at once than could be looked at"
UNHEARD = "frames to the loopback interface do not arrive: renewed by transactions, which slows nft(8) down"
REFUSED = "the kernel refused a change to them"


class LeaseUnavailable(OSError):
    """There is no fast lease on this machine; the text says why, for people."""


class FastLease:
    """Carries out `HoldLease`; a lease that lapsed before its renewal is answered by `LeaseLapsed`.

    ``clock`` counts seconds of CLOCK_BOOTTIME. Addresses are filtered only while they are covered: call `cover` before
    they are put on an interface and `uncover` when they are gone.
    """

    def __init__(
        self,
        cluster: str,
        vips: tuple[Vip, ...],
        *,
        clock: Callable[[], float],
        on_input: Callable[[Input], None],
        on_event: Callable[[Event], None],
        wall: Callable[[], int] = time.time_ns,
        notice_buffer: int = NOTICE_BUFFER,
    ) -> None:
        self._table = LeaseTable(cluster)
        self._clock = clock
        self._wall = wall
        self._on_input = on_input
        self._on_event = on_event
        self._notice_buffer = notice_buffer
        self._interfaces = _interfaces(vips)
        self._covered: dict[bytes, set[AddressKey | None]] = {}
        """Each address in the tables, and for whose sake: it may be on two interfaces, and a stray (None)."""
        self._strange: frozenset[bytes] = frozenset()
        self._leaving: dict[bytes, None] = {}
        """Addresses that are covered for nobody's sake any more, until the end of this turn of the loop."""
        self._turn: asyncio.Handle | None = None
        self._later: asyncio.Handle | None = None
        self._devices: dict[str, int] = {}
        """Interfaces that have chains, and their index."""
        self._until = NEVER
        self._leased = 0
        """Up to which moment of the wall clock, in nanoseconds, the kernel has been told."""
        self._ahead = 0
        """Nanoseconds by which the wall clock was ahead of ours then."""
        self._slack = TICKS * time.clock_getres(CLOCK_MONOTONIC_COARSE)
        self._by_frames = True
        self._trouble: str | None = None

    # Beginning and end.

    def open(self, strays: Iterable[str] = (), strange: frozenset[bytes] = frozenset()) -> None:
        """Makes the tables, without a lease, in place of those of a former life. Raises LeaseUnavailable.

        `strays`: addresses that a former life left on interfaces; they stay silent until `keep_strays` omits them.
        `strange`: as for `silence`.
        """
        self._loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            try:
                self._open(undo)
            except OSError as error:
                raise _unavailable(error.errno or 0, str(error)) from error
            self._covered = {ip_address(address).packed: {None} for address in strays}
            self._strange = strange
            failure = self._rebuild()
            if failure:
                raise _unavailable(failure.answer.code, failure.answer.text)
            undo.pop_all()
        self._loop.add_reader(self._notices, self._on_readable)
        self._on_event(LeaseLayer(self._clock(), LAYER, True, self._shortcoming()))

    def _open(self, undo: contextlib.ExitStack) -> None:
        self._channel = nft.FilterSocket()
        undo.callback(self._channel.close)
        self._notices = nft.notice_socket(self._channel.port, self._notice_buffer)
        undo.callback(self._notices.close)
        self._loopback = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        undo.callback(self._loopback.close)
        self._loopback.setblocking(False)
        self._loopback.bind(("lo", 0))

    def close(self, *, remove: bool) -> None:
        """`remove`: with the tables, if no strange address is left; otherwise what is covered falls silent."""
        for handle in (self._turn, self._later):
            if handle is not None:
                handle.cancel()
        self._loop.remove_reader(self._notices)
        self._notices.close()
        if remove and not self._strange:
            self._channel.commit(self._table.remove())
        self._channel.close()
        self._loopback.close()

    def removal(self) -> tuple[bytes, ...]:
        """Batches that take the tables away, each to be sent by itself: for whoever outlives this process.

        None while there are strange addresses.
        """
        requests = [] if self._strange else self._table.remove()
        return tuple(bytes(nft.batch([request])) for request in requests)

    def _shortcoming(self) -> str:
        if self._table.egress:
            return ""
        return "this kernel has no egress hook (before 5.16): a woken agent's announcements are not held back"

    # The lease.

    def hold(self, until: float, fresh: bool) -> None:
        """`until` in seconds of the clock; a later one replaces an earlier one, but not the other way round.

        Answers `LeaseLapsed` where there is nothing left to renew.
        """
        # The wall clock first: a stop between the two makes the deadline earlier, never later.
        wall = self._wall()
        now = self._clock()
        if not fresh and now >= self._until:
            self._lapsed()
            return
        left = until - now
        if left <= 0:
            return  # over before it began
        margin, self._until = self._until - now, until
        if left > self._table.bound:
            self._table.size(left * ROOM, self._slack)
            done = self._rebuild() is None
        else:
            done = self._lease(wall, now, left, fresh)
        if (done or self._mend()) and not fresh:
            self._on_event(LeaseRenewed(now, LAYER, margin, until))

    def _lease(self, wall: int, now: float, left: float, fresh: bool) -> bool:
        """Tells the kernel; whether it has understood."""
        ahead = wall - int(now * 1e9)
        goes_on = not fresh and abs(ahead - self._ahead) < STEADY and wall <= self._leased
        moments = self._table.moments(self._leased if goes_on else wall, wall + int(left * 1e9))
        self._ahead = ahead
        if moments:
            self._leased = moments[-1] + self._table.step
            if not self._by_frames:
                return self._channel.commit(self._table.lease(moments)) is None
            try:
                for frame in self._table.frames(moments):
                    self._loopback.send(frame)
            except OSError:
                return False
        return self._leased <= wall or any(self._told() for _ in range(QUESTIONS if moments else 1))

    def _told(self) -> bool:
        """Whether the last moment that is leased stands in the tables."""
        return self._channel.has(self._table.query(self._leased - self._table.step), len(TIMED))

    def _lapsed(self) -> None:
        self._until = NEVER
        self._on_input(LeaseLapsed())

    def _mend(self) -> bool:
        """The kernel has not taken a renewal: somebody has meddled with the tables, or frames do not arrive."""
        why = self._read_notices(None) or self._trouble
        if not why and self._by_frames and self._channel.commit(self._table.lease(self._left())) is None:
            self._by_frames = False
            self._on_event(LeaseLayer(self._clock(), LAYER, True, UNHEARD))
            return True
        return self._put_back(why or REFUSED)

    def _left(self) -> range:
        """All moments of the lease from now on; they count as told to the kernel."""
        wall = self._wall()
        now = self._clock()
        left = self._until - now
        moments = self._table.moments(wall, wall + int(left * 1e9)) if left > 0 else range(0)
        if moments:
            self._leased, self._ahead = moments[-1] + self._table.step, wall - int(now * 1e9)
        return moments

    # What the tables are about.

    def cover(self, keys: Iterable[AddressKey]) -> None:
        """From now on these addresses are filtered whenever no lease is in force. Before they are put up."""
        added = []
        for key in keys:
            if key.packed not in self._covered:
                added.append(key.packed)
            self._leaving.pop(key.packed, None)
            self._covered.setdefault(key.packed, set()).add(key)
        self._change(nft.NEWSETELEM, added)

    def uncover(self, keys: Iterable[AddressKey]) -> None:
        """They are off the interfaces. Done at the end of this turn of the loop, for all that go in it."""
        self._leave((key.packed, key) for key in keys)

    def silence(self, addresses: frozenset[bytes]) -> None:
        """From now on these, in network byte order, are dropped whatever the lease: the whole set each time."""
        former, self._strange = self._strange, addresses
        requests = self._table.change(nft.DELSETELEM, sorted(former - addresses), STRANGE)
        requests += self._table.change(nft.NEWSETELEM, sorted(addresses - former), STRANGE)
        if requests and self._channel.commit(requests):
            self._put_back(self._read_notices(None) or REFUSED)

    def keep_strays(self, strays: Iterable[str]) -> None:
        """Strays that are still there; what is omitted is off the interfaces."""
        kept = {ip_address(address).packed for address in strays}
        self._leave([(packed, None) for packed in self._covered if packed not in kept])

    def _leave(self, sakes: Iterable[tuple[bytes, AddressKey | None]]) -> None:
        for packed, sake in sakes:
            if packed in self._covered:
                self._covered[packed].discard(sake)
                if not self._covered[packed]:
                    self._leaving[packed] = None
        if self._leaving and self._turn is None:
            self._turn = self._loop.call_soon(self._uncover)

    def _uncover(self) -> None:
        self._turn = None
        leaving = list(self._leaving)[:SLICE]
        for packed in leaving:
            del self._leaving[packed], self._covered[packed]
        if self._leaving:
            self._turn = self._loop.call_soon(self._uncover)
        self._change(nft.DELSETELEM, leaving)

    def _change(self, kind: int, addresses: list[bytes]) -> None:
        if addresses and self._channel.commit(self._table.change(kind, addresses)):
            self._put_back(self._read_notices(None) or REFUSED)

    def reconfigure(self, vips: tuple[Vip, ...]) -> None:
        """Takes over new definitions: announcements are held back on the interfaces that they name."""
        self._interfaces = _interfaces(vips)
        self._follow()

    def link_changed(self, name: str) -> None:
        """To be told of each change of an interface: one that is made anew needs new chains."""
        if name == "lo" and not self._by_frames:
            self._by_frames = True  # the next renewal tries them again
            self._on_event(LeaseLayer(self._clock(), LAYER, True, self._shortcoming()))
        if name in self._interfaces:
            self._follow()

    def _follow(self) -> bool:
        """Makes the tables for the interfaces that there are, if those are others than before."""
        if self._present() == self._devices:
            return False
        if self._rebuild():
            self._put_back(REFUSED)
        return True

    def _present(self) -> dict[str, int]:
        return {name: index for name in sorted(self._interfaces) if (index := _index(name))}

    # Making and mending.

    def _rebuild(self) -> nft.Failure | None:
        """Replaces all tables in one transaction; a lease that is in force goes on."""
        devices = self._present()
        names = {name: str(number) for number, name in enumerate(devices, 1)}
        for self._table.egress in (True, False):
            moments = self._left()
            requests = self._table.build(self._covered, names, self._strange)
            if moments:
                requests += self._table.lease(moments)
            failure = self._channel.commit(requests)
            if failure is None:
                self._devices = devices
                self._by_frames = True
            if failure is None or failure.answer.code == errno.EPERM:
                break
        return failure

    def _put_back(self, why: str) -> bool:
        failure = self._rebuild()
        now = self._clock()
        if failure is None:
            self._trouble = None
            shortcoming = self._shortcoming()
            detail = f"the filter tables were put back: {why}"
            self._on_event(LeaseLayer(now, LAYER, True, f"{detail}; {shortcoming}" if shortcoming else detail))
            return True
        if self._trouble != failure.answer.text:
            self._trouble = failure.answer.text
            detail = f"the filter tables cannot be put back ({why}): {failure.answer.text}"
            self._on_event(LeaseLayer(now, LAYER, False, detail))
        return False

    # What others do to them.

    def _on_readable(self) -> None:
        why = self._read_notices(NOTICES_PER_TURN)
        if why == OVERRUN:
            # The other change is still being told of, and holds the lock: a change of ours would wait for its end, and
            # with it the renewals. Those would find the tables gone.
            if self._later is None:
                self._later = self._loop.call_later(CALM, self._after_overrun)
        elif why and not self._follow():  # older kernels take chains away with their interface, and say so
            self._put_back(why)

    def _after_overrun(self) -> None:
        self._later = None
        self._put_back(OVERRUN)

    def _read_notices(self, most: int | None) -> str:
        """How others changed our tables, or may have; empty: they did not."""
        ours = self._table.name.encode() + b"\0"
        why = ""
        while most is None or most > 0:
            most = None if most is None else most - 1
            try:
                data = self._notices.recv(rtnetlink.RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                why = why or OVERRUN
                continue
            if ours in data and why != MEDDLED and any(_concerns(data, at, ours) for at in rtnetlink.messages(data)):
                why = MEDDLED
        return why


def _concerns(data: bytes, at: rtnetlink.Message, table: bytes) -> bool:
    """Whether a notice is about something in a table of this name: its first attribute is the table's name."""
    if at.kind >> 8 != nft.SUBSYSTEM:
        return False
    return any(kind == 1 and data[start:end] == table for kind, start, end in _first(data, at))


def _first(data: bytes, at: rtnetlink.Message) -> Iterable[tuple[int, int, int]]:
    for found in rtnetlink.attributes(data, at.start + 4, at.end):
        return (found,)
    return ()


def _interfaces(vips: tuple[Vip, ...]) -> frozenset[str]:
    return frozenset(address.interface for vip in vips for address in vip.addresses)


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _unavailable(code: int, text: str) -> LeaseUnavailable:
    if code in (errno.EPERM, errno.EACCES):
        reason = "CAP_NET_ADMIN is missing"
    elif code in (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENOENT, errno.EINVAL):
        reason = f"this kernel lacks nf_tables with the families inet and arp and `meta time` (5.4): {text}"
    else:
        reason = text
    return LeaseUnavailable(code, reason)
