"""Lets a measuring process run ahead of the rest of the machine."""

from __future__ import annotations

import ctypes
import gc
import os

SO_RCVBUFFORCE = 33
"""socket(7); the socket module does not name it."""

PRIORITY = 2
NICE = -15
_PR_SET_TIMERSLACK = 29


def favour() -> None:
    """Real-time priority (SCHED_FIFO 2), exact timers and no collection of garbage.

    Measured beside three agents on two busy cores: at nice -15 with a 0.1 ms slice hundreds of stalls of up to 8 ms in
    8 s, at SCHED_FIFO none over 1.2 ms. Where the kernel refuses it is nice -15; and if that is refused too, the
    measurement is noisier, and its own stalls show it.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except PermissionError:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        except PermissionError:
            return
