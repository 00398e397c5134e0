"""The guard: a process of a few MiB that takes the agent's addresses off the interfaces when the agent cannot.

`agent.guarding` starts it, as a fresh interpreter that reads no site packages and imports nothing heavy: 3 MiB of its
own, however large the agent is by then. A replacement is the same (a fork before the heavy imports could not be had a
second time).

What it has to do lies in a memory file (memfd) that the agent writes and this process reads only when it matters, so
that nothing is lost when either is killed or late, and a replacement knows all of it from its first moment on. A
socket pair carries the few words that wake the other.

| the agent                     | seen by          | the guard                                              |
|-------------------------------|------------------|--------------------------------------------------------|
| dies                          | line, pidfd      | removes addresses, says "freed", removes filter tables |
| hangs: no beat for `patience` | beat in memory   | removes addresses, says "freed"                        |
| ends in order (`done`)        | socket           | nothing                                                |

The tables stay while a hanging agent lives: it may come back, and they keep it silent. "Freed" goes out before the
tables are removed: it is about addresses, and the kernel takes milliseconds for a table.

All signals that can be are blocked from before its first instruction (by who starts it) and never let in.
Times are seconds of CLOCK_BOOTTIME.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import select
import struct
import sys
import time
from _socket import (  # `socket` itself costs 1 MiB and 8 ms
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    MSG_DONTWAIT,
    SO_BROADCAST,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_RAW,
    SOL_SOCKET,
    socket,
)

from agent.drivers.removal import HEADER, NETLINK_CAP_ACK, NLMSG_ERROR, SIGNED, SOL_NETLINK, Kernel, Key

NETLINK_NETFILTER = 12

# The memory. Numbers are native; each is written by one aligned store.

BEAT, PATIENCE, SETTLED, PHASE, WORDS, TABLES, LOOKS = range(7)
"""Numbers of the header: the last beat, the silence that means a hang (0: none does), up to which announcement it is
sure what became of it, what the guard is at, which half of an area is in force (0: none), and how often the guard has
looked at the beat: it does within each patience, and so shows that it runs."""
PATH_AT, PATH_MAX = 64, 2048
"""Path of the file that a living agent has locked (`Guard.claim`)."""
WORDS_AT, WORDS_MAX = 4096, 512 << 10
TABLES_AT, TABLES_MAX = WORDS_AT + 2 * WORDS_MAX, 16 << 10
SLOTS_AT = TABLES_AT + 2 * TABLES_MAX
LENGTH = struct.Struct("=Q")
SLOT = struct.Struct("=QIBB2x16s")
"""Number of the announcement (0: free), interface index, bytes of the address, prefix, address."""
KEY = struct.Struct("=IBB2x16s")

WATCHING, ACTING, FREED = range(3)
"""Phases. From ACTING on a hanging agent must not put up anything before it has heard of it."""

READY, NEWS, CLOSING, DONE = b"r", b"n", b"c", b"d"
"""What is said over the line: the guard watches; the patience or the claim has changed; the agent is about to
close the line and lives on; an orderly end."""

AGENT, MEMORY, LINE = 3, 4, 5
"""Descriptors: a pidfd of the agent, the memory, the guard's end of the socket pair."""

# Judging.

LATE = 0.01
"""Seconds: who judges later than this after the time was not run either, and nor was the agent, perhaps."""
GRACE = 0.25
"""Patiences that the agent then has left for a beat."""


def clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Memory:
    """What the agent has written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pulse(self) -> tuple[float, float]:
        """The last beat, and how much silence is too much (0: any is fine)."""
        beat, patience = struct.unpack("=dd", os.pread(self._descriptor, 16, 0))
        return beat, patience

    def phase(self) -> int:
        return self._number(PHASE)

    def looked(self) -> None:
        os.pwrite(self._descriptor, LENGTH.pack(self._number(LOOKS) + 1), 8 * LOOKS)

    def begin(self, phase: int) -> None:
        os.pwrite(self._descriptor, LENGTH.pack(phase), 8 * PHASE)

    def lock(self) -> int:
        """The file that the agent has locked, opened; -1: it has not claimed one."""
        path = os.pread(self._descriptor, PATH_MAX, PATH_AT).rstrip(b"\0")
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC) if path else -1
        except OSError:
            return -1

    def addresses(self) -> tuple[list[Key], list[Key]]:
        """Last announced, first named: those that are ours, and those of which that is not sure yet."""
        settled = self._number(SETTLED)
        data = os.pread(self._descriptor, os.fstat(self._descriptor).st_size - SLOTS_AT, SLOTS_AT)
        slots = [slot for slot in SLOT.iter_unpack(data[: len(data) // SLOT.size * SLOT.size]) if slot[0]]
        slots.sort(reverse=True)
        sure: list[Key] = []
        unsure: list[Key] = []
        for number, ifindex, length, prefix, packed in slots:
            (sure if number <= settled else unsure).append((ifindex, packed[:length], prefix))
        return sure, unsure

    def words(self) -> tuple[tuple[object, ...] | None, list[tuple[bytes, tuple[object, ...]]]]:
        """Where to send from, and datagrams with their destinations."""
        found = self._area(WORDS, WORDS_AT, WORDS_MAX)
        return marshal.loads(found) if found else (None, [])

    def tables(self) -> list[bytes]:
        """Batches for nf_tables."""
        found = self._area(TABLES, TABLES_AT, TABLES_MAX)
        return marshal.loads(found) if found else []

    def _area(self, which: int, start: int, size: int) -> bytes:
        """The half in force; read again when the agent, which hangs but runs, has changed it meanwhile."""
        while True:
            half = self._number(which)
            if not half:
                return b""
            at = start + (half - 1) * size
            (length,) = LENGTH.unpack(os.pread(self._descriptor, 8, at))
            found = os.pread(self._descriptor, length, at + 8)
            if half == self._number(which):
                return found

    def _number(self, which: int) -> int:
        return int(LENGTH.unpack(os.pread(self._descriptor, 8, 8 * which))[0])


def send_words(memory: Memory) -> int:
    """Sends the prepared datagrams from the address, and if it is free the port, that the agent sends from."""
    source, words = memory.words()
    sent = 0
    if not words:
        return sent
    udp = socket(AF_INET6 if len(words[0][1]) == 4 else AF_INET, SOCK_DGRAM | SOCK_CLOEXEC)
    udp.setblocking(False)
    udp.setsockopt(SOL_SOCKET, SO_BROADCAST, 1)
    if source is not None:
        for port in (source[1], 0):
            try:
                udp.bind((source[0], port, *source[2:]))
                break
            except OSError:
                continue  # an agent that hangs has the port
    for datagram, there in words:
        try:
            udp.sendto(datagram, there)
            sent += 1
        except OSError:
            continue  # as lost as in the network
    udp.close()
    return sent


def remove_tables(memory: Memory) -> int:
    """Sends the prepared batches; how many the kernel refused for another reason than that nothing is there."""
    batches = memory.tables()
    if not batches:
        return 0
    refused = 0
    absent = (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
    try:
        netfilter = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError:
        return 0  # no netfilter, no tables
    netfilter.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    for batch in batches:
        try:
            netfilter.send(batch)
            while True:
                data = netfilter.recv(1 << 16, MSG_DONTWAIT)
                if HEADER.unpack_from(data)[1] == NLMSG_ERROR:
                    refused += -SIGNED.unpack_from(data, 16)[0] not in (0, *absent)
        except BlockingIOError:
            continue  # everything is answered
        except OSError:
            refused += 1
    netfilter.close()
    return refused


class Watch:
    """Waits until it is known what became of the agent."""

    def __init__(self, agent: int, line: int, memory: Memory) -> None:
        self._agent = agent
        self._line = line
        self._memory = memory
        self._poller = select.poll()
        self._poller.register(agent, select.POLLIN)
        self._poller.register(line, select.POLLIN)
        self._excused = self._excused_for = 0.0
        self._lock = memory.lock()  # opened before it is needed: a disk may hang

    def wait(self) -> str:
        """`died`, `hangs` or `done`."""
        while True:
            beat, patience = self._memory.pulse()
            self._memory.looked()
            due = max(beat, self._excused) + patience
            ready = dict(self._poller.poll(max(0.0, due - clock()) * 1000 if patience else None))
            if self._line in ready:
                end = self._hear()
                if end:
                    return end
            if self._agent in ready:
                return "died"
            if not ready and self._hangs():
                return "hangs"

    def succeeded(self) -> bool:
        """After the agent's death: whether a new one has claimed what is on the interfaces.

        If none has, this process has it from now on, and a new one waits until it is gone.
        """
        gone = select.poll()
        gone.register(self._agent, select.POLLIN)
        while self._lock >= 0:
            dead = bool(gone.poll(0))
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if dead:
                    return True
                gone.poll()  # the agent itself has it: not dead yet, or it has lost the line
            except OSError:
                return False
            else:
                return False
        return False

    def _hear(self) -> str:
        """What the line says of the agent's end, if anything.

        The kernel closes a dying process' files when none of its threads runs any more, and this line first of them
        (`Guard.start`). Each packet socket takes it 10 ms, and the pidfd tells after all.
        """
        try:
            said = os.read(self._line, 64)
        except OSError:
            said = b""  # reset: the agent died before it had read what was said to it
        if DONE in said:
            return "done"
        if CLOSING in said:
            self._poller.unregister(self._line)
        if NEWS in said and self._lock < 0:
            self._lock = self._memory.lock()
        return "" if said else "died"

    def _hangs(self) -> bool:
        """Whether the silence is too long."""
        beat, patience = self._memory.pulse()
        due = max(beat, self._excused) + patience
        now = clock()
        if not patience or now < due:
            return False
        if now - due > min(LATE, GRACE * patience) and beat != self._excused_for:
            # This process was not run either: the machine was stopped or starved, and the agent's beat may be on its
            # way. Excused once for each beat.
            self._excused, self._excused_for = now - (1 - GRACE) * patience, beat
            return False
        self._memory.begin(ACTING)
        if self._memory.pulse()[0] == beat:
            return True  # from here on the agent sees ACTING before it does anything
        self._memory.begin(WATCHING)
        return False


def act(end: str, watched: Watch, kernel: Kernel, memory: Memory) -> tuple[str, str, dict[str, object]]:
    """Cleans up; level, sentence and figures for the log. An empty sentence: there was nothing to do."""
    started = clock()
    if end == "died" and watched.succeeded():
        return "warning", "the agent died, and a new one runs already: nothing was touched", {}
    sure, unsure = memory.addresses()
    beat, _ = memory.pulse()
    keys = kernel.tagged(unsure) + sure
    left = kernel.remove(keys)
    gone = clock()
    sent = refused = 0
    if not left:
        sent = send_words(memory)
        memory.begin(FREED)
        refused = remove_tables(memory) if end == "died" else 0
    figures: dict[str, object] = {
        "removed": len(keys) - len(left),
        "left": len(left),
        "sent": sent,
        "removal_seconds": round(gone - started, 6),
        "seconds": round(clock() - started, 6),
    }
    why = "died" if end == "died" else f"has not beaten for {started - beat:.3f} s"
    text = f"the agent {why}: {len(keys) - len(left)} addresses removed in {1000 * (gone - started):.1f} ms"
    if left:
        code = os.strerror(next(iter(left.values())))
        return "error", f"{text}, but {len(left)} are left ({code}): remove them by hand (ip address del)", figures
    if refused:
        return "error", f"{text}; filter tables of molehill are left: nft delete table", figures
    if not keys and not sent:
        return "info", "", figures
    return "warning", f"{text}; {sent} datagrams sent that say so", figures


def log(level: str, text: str, figures: dict[str, object], as_json: bool) -> None:
    """One line like the agent's own; given up where nobody reads, rather than waited for."""
    wall = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall)) + f".{int(wall % 1 * 1000):03d}Z"
    if as_json:
        rest = "".join(f', "{name}": {value}' for name, value in figures.items())
        line = f'{{"time": "{stamp}", "level": "{level}", "event": "guard_acted", "msg": "{text}"{rest}}}\n'
    else:
        rest = "".join(f" {name}={value}" for name, value in figures.items())
        line = f'time={stamp} level={level} event=guard_acted msg="{text}"{rest}\n'
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    try:
        if poller.poll(0):
            os.write(2, line.encode())
    except OSError:
        return


def name_process() -> None:
    """For ps and top."""
    try:
        comm = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
        os.write(comm, b"molehill-guard")
        os.close(comm)
    except OSError:
        return


def say_ready() -> None:
    """To an agent that may have died meanwhile: that is then what is seen next."""
    try:
        os.write(LINE, READY)
    except OSError:
        return


def main() -> int:
    # What the agent was itself given by whoever started it; its own are closed by exec.
    os.closerange(LINE + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    name_process()
    memory = Memory(MEMORY)
    kernel = Kernel()
    say_ready()
    watched = Watch(AGENT, LINE, memory)
    end = watched.wait()
    if end == "done":
        return 0
    level, text, figures = act(end, watched, kernel, memory)
    if text:
        log(level, text, figures, "json" in sys.argv[1:])
    return int(level == "error")
