"""`realtime: true`: the event loop runs before ordinary programs, and the agent is neither swapped nor paged out.

Only the calling thread gets the priority, and the lowest one that serves: SCHED_FIFO `PRIORITY`, below the kernel's own
threads (50) and whatever else an operator holds more urgent. Threads and processes that it starts later are ordinary
again (SCHED_RESET_ON_FORK): exporters, hooks and checks must not keep the machine's other programs from running.

What may go wrong with that, and what is done:

- *Python's lock*: the loop waits for an ordinary thread that holds it, and that one for a processor. So all threads
  keep the unit's Nice=-10 and hand the lock over after 0.5 ms instead of 5. With one thread that computes 5 % of the
  time and two busy processors, 99 of 100 timers were then late by at most 2.5 and 3.3 ms, the worst by 13 and 7 (two
  runs); at nice 0 and 5 ms by 20 and 51 (one run). Threads that the loop starts would begin at nice 0: it uses those
  of `executor`, which are started before.
- *The kernel kills who computes for too long* without sleeping, where RLIMIT_RTTIME is set (keepalived's default of
  10 ms ended its own start-up, six times of six). With a finite limit the agent stays at ordinary priority.
- *A loop that spins* leaves ordinary programs 5 % of each second (sched_rt_runtime_us, or the fair server since Linux
  6.12): a person can still log in and stop it.
- *Locked memory has a limit*, and an agent that reaches it gets no more memory at all: it is locked only where
  RLIMIT_MEMLOCK is unlimited or CAP_IPC_LOCK there. What exists now is read in at once; what is mapped later is locked
  as it is touched, so that 8 MiB of stack for each thread are not.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PRIORITY = 2
"""Of 1 to 99."""

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
CAP_IPC_LOCK, CAP_SYS_NICE = 14, 23

SWITCH_INTERVAL = 0.0005
"""Seconds for which a thread may keep Python's lock when another wants it."""

THREADS = 4
"""Of the loop's executor: it closes sockets, and reads and writes files."""

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> tuple[str, ...]:
    """Takes what the system allows; a text for each part that it refuses, with what is missing. Raises nothing.

    To be called once, by the thread of the event loop, when the agent's threads have been started and everything that
    it will need is in memory.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    return (*_lock(), *_hurry())


def executor() -> ThreadPoolExecutor:
    """For `loop.set_default_executor`, before `enter`: its threads run already and keep their priority."""
    made = ThreadPoolExecutor(THREADS, "executor")
    started = threading.Barrier(THREADS + 1)
    for _ in range(THREADS):
        made.submit(started.wait)
    started.wait()
    return made


def _hurry() -> list[str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    if hard == resource.RLIM_INFINITY and soft != hard:
        resource.setrlimit(resource.RLIMIT_RTTIME, (hard, hard))
    elif hard != resource.RLIM_INFINITY:
        return [
            f"realtime scheduling is not used: with a limit of {hard / 1000:g} ms of computing (RLIMIT_RTTIME) the "
            "kernel would kill the agent; set LimitRTTIME=infinity"
        ]
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except OSError as error:
        return [f"realtime scheduling is refused ({error.strerror}): {_why_not()}"]
    return []


def _why_not() -> str:
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    if limit < PRIORITY and not _capable(CAP_SYS_NICE):
        return f"RLIMIT_RTPRIO is {limit} and CAP_SYS_NICE is missing; set LimitRTPRIO={PRIORITY}"
    return "set RestrictRealtime=no, or give the control group a share of realtime (cpu.rt_runtime_us)"


def _lock() -> list[str]:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit != resource.RLIM_INFINITY and not _capable(CAP_IPC_LOCK):
        return [
            f"memory is not locked: RLIMIT_MEMLOCK is {limit // 1024} KiB and CAP_IPC_LOCK is missing; "
            "set LimitMEMLOCK=infinity"
        ]
    for flags in (MCL_CURRENT, MCL_FUTURE | MCL_ONFAULT):
        if _libc.mlockall(flags):
            return [f"memory is not locked: {os.strerror(ctypes.get_errno())}"]
    return []


def _capable(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
