"""The agent's side of the guard (`agent.guard`): starts it, tells it what to clean up, and replaces it when it dies.

Everything that the guard may need is kept in a memory file that both have: a change is a store of a few bytes, never a
system call, never waits, and cannot be lost. `hold` and `forget` cost about a microsecond an address.

When the guard has cleaned up after an agent that hung and lives on (`on_given_up`), this node's addresses are gone, its
peers have its last words, and `hold` answers False until the agent has been told.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import marshal
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from agent import guard
from agent.core.events import Event, LeaseLayer
from agent.drivers.records import AddressKey
from agent.drivers.removal import LOCK

LAYER: Final = "guard"
FIRST_SLOTS: Final = 1024
"""Addresses that the memory has room for at first: 32 kB."""
CLAIM_PATIENCE: Final = 5.0
"""Seconds that a start waits for the guard of the life before, which needs milliseconds."""
SHORT_LIFE: Final = 1.0
"""Seconds; a guard that dies sooner may do so again."""
PAUSES: Final = (0.0, 0.0, 0.2, 1.0, 5.0, 30.0)
"""Seconds before the next guard is started, by how many lived shortly in a row."""
CHECK: Final = 2.0
"""Seconds, and `CHECK_PATIENCES` at the least, in which a guard that runs has looked at the beat."""
CHECK_PATIENCES: Final = 4

LINE_AT, LOCK_AT = 1000, 1010
"""Least descriptors of the line and the lock. The kernel closes a dying process' files one after the other, the highest
first, and takes 10 ms and more for a packet socket: so the lock is free first, and then the guard hears of the end."""

BLOCKED: Final = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_NOEXEC_SEAL: Final = 0x8
"""MFD_NOEXEC_SEAL, which some hosts demand (sysctl vm.memfd_noexec) and kernels before 6.3 refuse."""

_COMMAND: Final = (
    *(sys.executable, "-I", "-S", "-c"),
    "import sys; sys.path.append(sys.argv[1]); from agent.guard import main; sys.exit(main())",
    str(Path(guard.__file__).resolve().parents[1]),
)
"""By module rather than by file: the compiled one is read."""

Sockaddr = tuple[Any, ...]


class GuardError(Exception):
    """This agent must not run here: one line that says why."""


class Guard:
    """One guard process after the other. `start` at the beginning of the program, `open` inside the event loop."""

    def __init__(self, *, as_json: bool = False) -> None:
        """`as_json`: form of the guard's one log line. Raises OSError."""
        self._as_json = as_json
        self.memory = _memory_file()
        """Descriptor of what the guard is told."""
        self._announced = 0
        self._slots: dict[AddressKey, int] = {}
        self._free: list[int] = []
        self._room = 0
        self._map(FIRST_SLOTS)
        self._lock = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line: socket.socket | None = None
        self._handle = -1
        self._started = 0.0
        self._short_lives = 0
        self._retry: asyncio.TimerHandle | None = None
        self._checking: asyncio.TimerHandle | None = None
        self._seen = (0.0, 0)
        self._hangs = False
        self._story = ""
        self.pid = 0
        """Of the guard that runs now; 0: none."""

    # The process.

    def start(self) -> None:
        """Starts the guard: it watches some ten milliseconds later. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours = socket.socket(fileno=_moved(ours.detach(), LINE_AT))
        given: list[int] = []
        try:
            ours.setblocking(False)
            agent = os.pidfd_open(os.getpid())
            # Above the numbers that they get in the guard, so that none takes another's place.
            given = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (agent, self.memory, theirs.fileno())]
            os.close(agent)
            self.pid = os.posix_spawn(
                sys.executable,
                [*_COMMAND, "json" if self._as_json else "logfmt"],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    *((os.POSIX_SPAWN_DUP2, each, guard.AGENT + at) for at, each in enumerate(given)),
                ],
                setsid=True,  # Ctrl-C and hang-ups go to the agent's session
                setsigmask=BLOCKED,
            )
            self._handle = os.pidfd_open(self.pid)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            for each in given:
                os.close(each)
        self._line = ours
        self._started = guard.clock()

    def claim(self, directory: Path, patience: float = CLAIM_PATIENCE) -> None:
        """Locks a file for as long as this agent lives, when the guard of the life before has cleaned up.

        Without it a guard that was itself stopped for long would remove what a later life has put up. `directory`: the
        agent's own. For the main thread, before anything is put up. Raises `GuardError`.
        """
        path = directory / LOCK
        if len(os.fsencode(path)) > guard.PATH_MAX:
            raise GuardError(f"{path}: a path of more than {guard.PATH_MAX} bytes")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise GuardError(f"{path}: {os.strerror(error.errno or 0)}") from error
        former = signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, patience)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except TimeoutError:
            os.close(descriptor)
            raise GuardError(f"another agent runs with {directory}: stop it, or give each a state_dir") from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, former)
        self._lock = _moved(descriptor, LOCK_AT)
        self._mapped[guard.PATH_AT : guard.PATH_AT + guard.PATH_MAX] = os.fsencode(path).ljust(guard.PATH_MAX, b"\0")
        self._say(guard.NEWS)

    def open(
        self,
        *,
        clock: Callable[[], float],
        on_event: Callable[[Event], None],
        on_given_up: Callable[[], None],
    ) -> None:
        """Looks after the guard from now on, in the running event loop.

        `on_given_up`: because the agent hung, the guard has taken this node's addresses away and has spoken its last
        words; what the agent sends has to come after these to be heard.
        """
        self._loop = asyncio.get_running_loop()
        self._clock, self._on_event, self._on_given_up = clock, on_event, on_given_up
        if self._line is None:
            self._replace()
        else:
            self._look_after(self._line)

    def done(self) -> None:
        """The orderly end: nothing is left to clean up, and the guard goes without a word."""
        self._say(guard.DONE)
        self.close()

    def close(self) -> None:
        """Ends looking after the guard, which cleans up when this process ends, unless it was told `done`."""
        if self._retry is not None:
            self._retry.cancel()
        self._say(guard.CLOSING)
        self._let_go()
        self._loop = None

    def _look_after(self, line: socket.socket) -> None:
        assert self._loop is not None
        self._loop.add_reader(line, self._hear, line)
        self._loop.add_reader(self._handle, self._find_dead)

    def _hear(self, line: socket.socket) -> None:
        """The guard's one word. Of its end its pidfd tells."""
        assert self._loop is not None
        self._loop.remove_reader(line)
        with contextlib.suppress(OSError):
            if line.recv(64):
                self._on_event(LeaseLayer(self._clock(), LAYER, True, f"guard {self.pid} watches{self._story}"))
                self._story = ""
                self._check()

    def _check(self) -> None:
        """A guard that watches but does not run (stopped, or stuck in the kernel) is no guard: it is ended."""
        assert self._loop is not None
        before, self._seen = self._seen, (self._pulse[guard.PATIENCE], self._numbers[guard.LOOKS])
        watching = self._numbers[guard.PHASE] == guard.WATCHING
        # Late: this process was not run either.
        punctual = self._checking is not None and self._loop.time() < self._checking.when() + CHECK / 2
        if punctual and before == self._seen and self._seen[0] and watching:
            self._checking, self._hangs = None, True
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            return
        self._checking = self._loop.call_later(max(CHECK, CHECK_PATIENCES * self._seen[0]), self._check)

    def _find_dead(self) -> None:
        """The guard has ended: another is started before anybody is told."""
        former, how = self.pid, _manner(self._handle)
        lived = guard.clock() - self._started
        given_up = self._numbers[guard.PHASE] != guard.WATCHING
        self._let_go()
        if self._hangs:
            how = "did not run and was ended"
            self._hangs = False
        if given_up:
            how = "took this node's addresses away because the agent hung"
            self._numbers[guard.WORDS] = 0  # nobody would hear them a second time
            self._pulse[guard.BEAT] = guard.clock()
            self._numbers[guard.PHASE] = guard.WATCHING
        self._short_lives = 0 if given_up or lived >= SHORT_LIFE else self._short_lives + 1
        self._story = f", after guard {former} {how}"
        self._on_event(LeaseLayer(self._clock(), LAYER, False, f"guard {former} {how}"))
        self._replace()
        if given_up:
            self._on_given_up()

    def _replace(self) -> None:
        assert self._loop is not None
        pause = PAUSES[min(self._short_lives, len(PAUSES) - 1)]
        if pause:
            self._retry = self._loop.call_later(pause, self._start_again)
        else:
            self._start_again()

    def _start_again(self) -> None:
        self._retry = None
        try:
            self.start()
        except OSError as error:
            self._short_lives = max(2, self._short_lives + 1)
            text = f"no guard can be started: {os.strerror(error.errno or 0)}"
            self._on_event(LeaseLayer(self._clock(), LAYER, False, text))
            self._replace()
            return
        assert self._line is not None
        self._look_after(self._line)

    def _let_go(self) -> None:
        """Of the process that is or was the guard."""
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None
        if self._line is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._line)
            self._loop.remove_reader(self._handle)
        self._line.close()
        self._line = None
        os.close(self._handle)
        self.pid = 0

    def _say(self, word: bytes) -> None:
        """A guard that dies just now does not hear it; its successor knows the rest from the memory."""
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.send(word)

    # What it has to know.

    def watch(self, patience: float) -> None:
        """From now on a silence of `patience` seconds means that the agent hangs; 0: none does."""
        self._pulse[guard.BEAT] = guard.clock()
        self._pulse[guard.PATIENCE] = patience
        self._say(guard.NEWS)

    def beat(self) -> None:
        """A sign of life; due several times in each `patience`."""
        self._pulse[guard.BEAT] = guard.clock()
        self._numbers[guard.SETTLED] = self._announced

    def hold(self, addresses: Iterable[AddressKey]) -> bool:
        """To be called before they are put up, and followed by `forget` of those that could not be.

        False: nothing may be put up, since the guard has just taken everything away (`on_given_up` follows).
        """
        numbers, slots = self._numbers, self._slots
        numbers[guard.SETTLED] = number = self._announced  # what was announced before is up, or forgotten
        for key in addresses:
            slot = slots.get(key)
            if slot is None:
                if not self._free:
                    self._announced = number
                    self._map(2 * self._room)
                    numbers = self._numbers
                slots[key] = slot = self._free.pop()
                ifindex, packed, prefix = key
                at = guard.SLOTS_AT + guard.SLOT.size * slot + guard.LENGTH.size
                self._mapped[at : at + guard.KEY.size] = guard.KEY.pack(ifindex, len(packed), prefix, packed)
            number += 1
            numbers[_number_of(slot)] = number  # last: a slot without number is free
        self._announced = number
        return numbers[guard.PHASE] == guard.WATCHING

    def forget(self, addresses: Iterable[AddressKey]) -> None:
        """They are gone, or were never put up. What was not announced is passed over."""
        for key in addresses:
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._numbers[_number_of(slot)] = 0
                self._free.append(slot)

    def last_words(self, datagrams: Sequence[tuple[bytes, Sockaddr]], source: Sockaddr | None = None) -> None:
        """What the guard sends when all addresses are gone, instead of what was prepared before; none: nothing.

        `source`: address and port to send from, as the agent does; another port where a hanging agent has it.
        """
        words = marshal.dumps((source, list(datagrams))) if datagrams else b""
        self._put(guard.WORDS, guard.WORDS_AT, guard.WORDS_MAX, words)

    def tables(self, batches: Sequence[bytes]) -> None:
        """What the guard sends to nf_tables after the addresses are gone and the agent is dead; each on its own."""
        found = marshal.dumps([bytes(batch) for batch in batches]) if batches else b""
        self._put(guard.TABLES, guard.TABLES_AT, guard.TABLES_MAX, found)

    def _put(self, which: int, start: int, size: int, data: bytes) -> None:
        """Writes into the half that is not in force, then puts it in force. Raises ValueError."""
        if len(data) > size - guard.LENGTH.size:
            raise ValueError(f"{len(data)} bytes: the guard keeps {size - guard.LENGTH.size}")
        half = 0
        if data:
            half = 2 if self._numbers[which] == 1 else 1
            at = start + (half - 1) * size
            self._numbers[at // guard.LENGTH.size] = len(data)
            self._mapped[at + guard.LENGTH.size : at + guard.LENGTH.size + len(data)] = data
        self._numbers[which] = half

    def _map(self, room: int) -> None:
        """Makes the memory larger. What is in it stays."""
        os.ftruncate(self.memory, guard.SLOTS_AT + room * guard.SLOT.size)
        self._mapped = mmap.mmap(self.memory, 0)
        view = memoryview(self._mapped)
        self._numbers = view.cast("Q")
        self._pulse = view[: 2 * guard.LENGTH.size].cast("d")
        self._free.extend(range(room - 1, self._room - 1, -1))
        self._room = room


def _moved(descriptor: int, least: int) -> int:
    """The same file under a number of at least `least`, where the process may have so many."""
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)
    except OSError:
        return descriptor
    os.close(descriptor)
    return moved


def _number_of(slot: int) -> int:
    return (guard.SLOTS_AT + slot * guard.SLOT.size) // guard.LENGTH.size


def _memory_file() -> int:
    name = "molehill guard"
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | _NOEXEC_SEAL)
    except OSError:
        return os.memfd_create(name, os.MFD_CLOEXEC)


def _manner(handle: int) -> str:
    """How a child ended."""
    try:
        ended = os.waitid(os.P_PIDFD, handle, os.WEXITED)
    except ChildProcessError:
        ended = None
    if ended is None:
        return "ended"
    if ended.si_code == os.CLD_EXITED:
        return f"ended with {ended.si_status}"
    return f"was ended by {signal.Signals(ended.si_status).name}"


def _too_long(*_: object) -> NoReturn:
    raise TimeoutError
