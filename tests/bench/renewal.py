"""What the leases cost while nothing happens: one fast renewal, one round of address lifetimes.

    python -m tests.bench.renewal [--seconds 10] [--vips 10,1000]

Real kernel, in a network namespace of its own; needs root. Times are the event loop's own processor time (system calls
included), so that other work on the machine adds little; the kernel's own threads, which sweep what has run out, are
not in it. The share of a core is that of one renewal per heartbeat, and of one round of lifetimes per 0.4 lifetimes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from agent.core.ids import VipName
from agent.core.settings import Address, Vip
from agent.drivers.lease import FastLease
from agent.drivers.lifetime import RENEW_AT
from agent.drivers.netlink import AddressDriver
from agent.drivers.records import AddressKey
from agent.lab.namespaces import entered

PROFILES = {"lan": (0.1, 0.36), "fast": (0.01, 0.045)}
"""Seconds between two heartbeats, which is between two renewals, and of a lease."""

FAMILIES = {"IPv4": ("10.20.0.0", 32), "IPv6": ("fd00:20::", 128)}

INTERFACE = "eth0"
LIFETIME = 3
"""Seconds: the default of `lease.address`."""


class Cost(NamedTuple):
    """Microseconds of one fast renewal."""

    median: float
    high: float
    """Of 99 in 100."""
    slowest: float
    """By the clock, the worst."""


def main() -> int:
    args = _arguments()
    if os.geteuid():
        print("renewal: needs root", file=sys.stderr)
        return 1
    namespace = f"mhrenew{os.getpid()}"
    _run("ip", "netns", "add", namespace)
    try:
        _run("ip", "-n", namespace, "link", "add", INTERFACE, "type", "veth", "peer", "name", "eth1")
        for interface in (INTERFACE, "eth1", "lo"):
            _run("ip", "-n", namespace, "link", "set", interface, "up")
        with entered(namespace):
            asyncio.run(_measure(args.vips, args.seconds))
    finally:
        _run("ip", "netns", "del", namespace)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.renewal", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of fast renewals per line")
    parser.add_argument(
        "--vips", type=lambda text: [int(word) for word in text.split(",")], default=[10, 1000], metavar="N,N..."
    )
    return parser.parse_args()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


async def _measure(sizes: list[int], seconds: float) -> None:
    print("| VIPs | family | profile | fast renewal µs: median | 99 of 100 | worst by the clock | share of a core |")
    print("|---|---|---|---|---|---|---|")
    rounds = []
    for count in sizes:
        for family in FAMILIES:
            lease, driver, held = await _hold(count, family)
            try:
                rounds.append(_round(driver, held, count, family))
                for profile, (interval, length) in PROFILES.items():
                    cost = await _renewals(lease, interval, length, round(seconds / interval))
                    share = f"{cost.median / 1e4 / interval:.3f} %"
                    print(f"| {count} | {family} | {profile} | {cost.median:.0f} | {cost.high:.0f} ", end="")
                    print(f"| {cost.slowest:.0f} | {share} |", flush=True)
            finally:
                driver.close()
                lease.close(remove=True)
                _run("ip", "addr", "flush", "dev", INTERFACE)
    print("\n| VIPs | family | lifetime | one round of renewals, ms | µs a VIP | share of a core |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rounds))


async def _hold(count: int, family: str) -> tuple[FastLease, AddressDriver, list[AddressKey]]:
    """A lease and so many addresses under it."""
    vips = _vips(count, family)
    lease = FastLease("bench", vips, clock=clock, on_input=_unexpected, on_event=lambda event: None)
    lease.open()
    answered = asyncio.Event()
    held: list[AddressKey] = []

    def cover(keys: Sequence[AddressKey]) -> bool:
        held.extend(keys)
        lease.cover(keys)
        return True

    driver = AddressDriver(
        vips,
        clock=clock,
        on_input=lambda item: None if driver.busy else answered.set(),
        on_event=lambda event: None,
        on_add=cover,
        lifetime=LIFETIME,
    )
    await driver.open()
    answered.clear()
    driver.acquire(tuple(vip.name for vip in vips))
    await answered.wait()
    return lease, driver, held


async def _renewals(lease: FastLease, interval: float, length: float, count: int) -> Cost:
    """At the pace of the profile, since what is seldom done costs more: nothing is in the processor's caches."""
    gc.collect()
    spent, lasted = [], []
    lease.hold(clock() + length, True)
    due = clock()
    for _ in range(count):
        due += interval
        await asyncio.sleep(due - clock())
        began, at = time.thread_time(), clock()
        lease.hold(clock() + length, not _in_time(at, due, length))
        lasted.append(clock() - at)
        spent.append(time.thread_time() - began)
    spent.sort()
    return Cost(1e6 * spent[count // 2], 1e6 * spent[int(0.99 * (count - 1))], 1e6 * max(lasted))


def _in_time(now: float, due: float, length: float) -> bool:
    """Whether the former lease still runs: on a busy machine it may not."""
    return now - due < length / 2


def _round(driver: AddressDriver, held: list[AddressKey], count: int, family: str) -> str:
    best = min(_spent(driver.renew) for _ in range(3))
    seconds = driver._life.seconds.of(held[0].packed)
    share = best / RENEW_AT / seconds
    return f"| {count} | {family} | {seconds} s | {1e3 * best:.1f} | {1e6 * best / count:.0f} | {100 * share:.3f} % |"


def _spent(call: Callable[[], None]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began


def _vips(count: int, family: str) -> tuple[Vip, ...]:
    first, prefix = FAMILIES[family]
    base = ip_address(first)
    return tuple(
        Vip(VipName(f"v{number}"), (Address(INTERFACE, str(base + number), prefix, f"{base + number}/{prefix}"),))
        for number in range(1, count + 1)
    )


def _unexpected(item: object) -> None:
    raise SystemExit(f"renewal: {item}: the machine is too busy")


def clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    sys.exit(main())
