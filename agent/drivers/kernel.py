"""The kernel's tables of links and addresses, kept by listening, and changed in batches.

One netlink socket asks, one listens. Both are non-blocking; requests are answered within their system call.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from agent.drivers import rtnetlink
from agent.drivers.addresses import TAG, AddressTable
from agent.drivers.links import LinkTable
from agent.drivers.records import AddressKey
from agent.drivers.rtnetlink import Answer, RequestSocket

R = TypeVar("R")

EVENT_BUFFER = 4 << 20
"""Bytes; an event takes about 1 kB of it, so this holds the churn of 4,000 addresses."""

EVENTS_PER_TURN = 256
"""Messages of the listening socket per turn of the event loop: about 8 us each."""

DUMP_ATTEMPTS = 5


class Kernel:
    """Opened by its constructor, which raises OSError; the tables are complete from then on."""

    def __init__(self, event_buffer: int = EVENT_BUFFER) -> None:
        self.links = LinkTable()
        self.table = AddressTable()
        self.keeps_tags = keeps_tags()
        self.moved: dict[AddressKey, bool] = {}
        """Addresses that came or went since the last look, and whether they bear our tag; the looker clears it."""
        self.changed: dict[str, None] = {}
        """Names of interfaces that changed since the last look; the looker clears it."""
        self.read_anew = False
        """The tables were read anew since the last look: anything may have changed."""
        self._overrun = False
        self._requests = RequestSocket()
        try:
            self.events = rtnetlink.event_socket(event_buffer)
        except OSError:
            self._requests.close()
            raise
        try:
            self._read()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        self._requests.close()
        self.events.close()

    def execute(
        self, requests: Sequence[bytes], keys: Sequence[AddressKey | None], *, present: bool = True
    ) -> list[Answer]:
        """The answers to one batch. If they were lost, what the table says: is the key there, as was asked for?"""
        answers = self._requests.execute(requests)
        if answers is not None:
            return answers
        self._read()
        lost = Answer(errno.ENOBUFS, "the kernel's answer was lost")
        return [rtnetlink.DONE if key and (key in self.table) == present else lost for key in keys]

    def delete(self, keys: Sequence[AddressKey]) -> list[AddressKey]:
        """Deletes addresses in one batch without losing their secondaries; those that are not gone after it.

        Last added, first deleted: the primary address is the oldest, and each promotion moves all others' routes.
        """
        if not keys:
            return []
        keys = keys[::-1]
        before, after = self._promotion(keys)
        requests = [*before, *map(rtnetlink.delete_address, keys), *after]
        subjects = [None] * len(before) + list(keys) + [None] * len(after)
        answers = self.execute(requests, subjects, present=False)[len(before) : len(before) + len(keys)]
        failed = []
        for key, answer in zip(keys, answers, strict=True):
            if answer.code in (0, errno.EADDRNOTAVAIL, errno.ENODEV):
                self.table.discard(key)
            else:
                failed.append(key)
        return failed

    def _promotion(self, keys: Sequence[AddressKey]) -> tuple[list[bytes], list[bytes]]:
        """Requests to set promote_secondaries, and to set it back, where a primary goes and others of its net stay."""
        known = self.drain(EVENTS_PER_TURN)  # with events unread, a secondary may be a primary by now
        going = set(keys)
        wanted: dict[int, None] = {}
        for key in keys:
            if len(key.packed) != 4 or key.ifindex in wanted:
                continue
            record = self.table.get(key)
            secondary = known and record and record.flags is not None and record.flags & rtnetlink.IFA_F_SECONDARY
            if not secondary and self.table.neighbours(key) - going:
                wanted[key.ifindex] = None
        indexes = [ifindex for ifindex in wanted if not self._promotes(ifindex)]
        return (
            [rtnetlink.set_promotion(ifindex, on=True) for ifindex in indexes],
            [rtnetlink.set_promotion(ifindex, on=False) for ifindex in indexes],
        )

    def _promotes(self, ifindex: int) -> bool:
        try:
            for data, found in self._requests.query(rtnetlink.get_link(ifindex)):
                for at in found:
                    link = rtnetlink.read_link(data, at)
                    if link is not None and link.ifindex == ifindex:
                        return link.promotes
        except OSError:
            pass  # the interface is gone, and its addresses with it
        return True

    def drain(self, most: int | None = None) -> bool:
        """Reads events, at most so many; True: none is left, so that the tables are true as of now."""
        count = 0
        while most is None or count < most:
            count += 1
            try:
                data = self.events.recv(rtnetlink.RECEIVE_BYTES)
            except BlockingIOError:
                if self._overrun:
                    self._overrun = False
                    self._read()
                    continue
                return True
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._overrun = True
                continue
            for at in rtnetlink.messages(data):
                self._note(data, at)
        return False

    def _note(self, data: bytes, at: rtnetlink.Message) -> None:
        if at.kind in (rtnetlink.RTM_NEWADDR, rtnetlink.RTM_DELADDR):
            record = rtnetlink.read_address(data, at)
            if record is None:
                return
            self.keeps_tags = self.keeps_tags or record.tag != 0
            former = self.table.get(record.key)
            if at.kind == rtnetlink.RTM_DELADDR:
                self.table.discard(record.key)
                news = former is not None  # what we deleted was struck off when the kernel confirmed
            else:
                self.table.add(record)
                news = former is None or (former.tag == TAG) != (record.tag == TAG)
            if news:
                self.moved[record.key] = record.tag == TAG
        elif at.kind in (rtnetlink.RTM_NEWLINK, rtnetlink.RTM_DELLINK):
            link = rtnetlink.read_link(data, at)
            if link is None:
                return
            before = self.links.at(link.ifindex)
            if at.kind == rtnetlink.RTM_DELLINK:
                self.links.remove(link.ifindex)
            elif before is not None and before.unchanged(link):
                return
            else:
                self.links.update(link)
            self.changed.update(dict.fromkeys([link.name] if before is None else [before.name, link.name]))

    @property
    def news(self) -> bool:
        """Whether the tables changed since the last look."""
        return bool(self.moved or self.changed or self.read_anew)

    def _read(self) -> None:
        """Reads both tables whole. The listening socket is open already, so that nothing falls in between."""
        self.links.replace([link for link in self._dump(rtnetlink.DUMP_LINKS, rtnetlink.read_link) if link])
        records = [record for record in self._dump(rtnetlink.DUMP_ADDRESSES, rtnetlink.read_address) if record]
        self.table.replace(records)
        self.keeps_tags = self.keeps_tags or any(record.tag for record in records)
        self.read_anew = True

    def _dump(self, request: bytes, read: Callable[[bytes, rtnetlink.Message], R]) -> list[R]:
        attempt = 1
        while True:
            found: list[R] = []
            try:
                for data, part in self._requests.query(request):
                    found += [read(data, at) for at in part]
            except InterruptedError:
                attempt += 1
                if attempt > DUMP_ATTEMPTS:
                    return found  # under so much change events follow anyway
            else:
                return found


def keeps_tags(release: str = "") -> bool:
    """Whether the kernel stores IFA_PROTO: since 5.18. One with it ported back shows it by the tags in its dump."""
    major, minor = (release or os.uname().release).split(".")[:2]
    return (int(major), int("".join(c for c in minor if c.isdigit()) or 0)) >= (5, 18)
