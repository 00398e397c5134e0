"""Realtime scheduling as the kernel grants it, each time in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from agent.realtime import PRIORITY

LOOK = """
import json, os, resource, subprocess, threading
ready, done = threading.Event(), threading.Event()
def wait():
    ready.set(); done.wait()
before = threading.Thread(target=wait); before.start(); ready.wait()
LIMITS
from agent import realtime
try:
    os.setpriority(os.PRIO_PROCESS, 0, -10)
except PermissionError:
    pass
pool = realtime.executor()
refused = realtime.enter()
found = []
after = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0))); after.start(); after.join()
look = lambda: (threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0))
known = {thread.native_id for thread in pool._threads}
pooled = {pool.submit(look).result() for _ in range(99)}
made = {thread for thread, _ in pooled} - known
child = subprocess.run(["python3", "-c", "import os; print(os.sched_getscheduler(0))"], capture_output=True, text=True)
locked = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmLck")]
print(json.dumps({
    "refused": refused, "policy": os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK,
    "priority": os.sched_getparam(0).sched_priority, "others": [os.sched_getscheduler(before.native_id), *found],
    "child": child.stdout.strip(), "locked": int(locked[0]),
    "pooled": sorted({nice for _, nice in pooled}), "made": len(made)}))
done.set(); before.join()
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and util-linux"
)


def entered(*without: str, limits: str = "") -> dict[str, object]:
    """What became of a process that has not these capabilities."""
    dropped = ",".join(f"-{name}" for name in without)
    drop = ["setpriv", f"--inh-caps={dropped}", f"--bounding-set={dropped}"] if without else []
    script = LOOK.replace("LIMITS", limits)
    done = subprocess.run([*drop, sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_only_the_calling_thread_is_hurried_and_nothing_inherits_it() -> None:
    found = entered()
    assert found["refused"] == []
    assert (found["policy"], found["priority"]) == (os.SCHED_FIFO, PRIORITY)
    assert found["others"] == [os.SCHED_OTHER, os.SCHED_OTHER]
    assert (found["pooled"], found["made"]) == ([-10], 0)
    assert found["child"] == str(os.SCHED_OTHER)
    assert int(str(found["locked"])) > 1000


def test_without_the_capabilities_it_says_what_is_missing() -> None:
    found = entered("sys_nice", "ipc_lock")
    memory, scheduling = found["refused"]  # type: ignore[misc]
    assert "LimitMEMLOCK=infinity" in memory
    assert "CAP_IPC_LOCK" in memory
    assert f"LimitRTPRIO={PRIORITY}" in scheduling
    assert "CAP_SYS_NICE" in scheduling
    assert (found["policy"], found["locked"]) == (os.SCHED_OTHER, 0)


def test_each_half_works_alone() -> None:
    found = entered("ipc_lock")
    (memory,) = found["refused"]  # type: ignore[misc]
    assert "LimitMEMLOCK" in memory
    assert (found["policy"], found["locked"]) == (os.SCHED_FIFO, 0)
    found = entered("sys_nice")
    (scheduling,) = found["refused"]  # type: ignore[misc]
    assert "LimitRTPRIO" in scheduling
    assert found["policy"] == os.SCHED_OTHER
    assert int(str(found["locked"])) > 1000


def test_where_the_kernel_would_kill_it_stays_ordinary() -> None:
    found = entered(limits="resource.setrlimit(resource.RLIMIT_RTTIME, (100_000, 100_000))")
    (scheduling,) = found["refused"]  # type: ignore[misc]
    assert "LimitRTTIME=infinity" in scheduling
    assert found["policy"] == os.SCHED_OTHER


def test_a_soft_limit_is_lifted() -> None:
    found = entered(limits="resource.setrlimit(resource.RLIMIT_RTTIME, (100_000, resource.RLIM_INFINITY))")
    assert (found["refused"], found["policy"]) == ([], os.SCHED_FIFO)
