"""The client's prober: `python -m agent.lab.prober STATE_DIRECTORY`, in the client's namespace.

Its record is descriptor 3.

Each round sends one datagram to every VIP; the kernel stamps the answers on arrival, so that a late reader does not
make a gap. What the prober itself missed is recorded as a stall.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from agent.lab.echo import PORT
from agent.lab.probe_record import Writer
from agent.lab.scheduling import SO_RCVBUFFORCE, favour
from agent.lab.state import read_plan

STALL_FROM = 0.001
DATAGRAMS_A_SECOND = 10_000
"""What one process of Python sends and receives with a third of a core."""
PAYLOAD = struct.Struct("<IH")
ANSWER = struct.Struct("<IHB")
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("=qq")


def period_for(addresses: int) -> float:
    """Seconds between two probes of one address: 1 ms up to 10 addresses, 10 ms up to 100, then as the load allows."""
    if addresses <= 10:
        return 0.001
    return max(0.010, addresses / DATAGRAMS_A_SECOND)


class _Family:
    """The socket of one address family."""

    def __init__(self, family: int, addresses: dict[int, str], writer: Writer) -> None:
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._addresses = addresses
        self._targets = [(index, (address, PORT)) for index, address in addresses.items()]
        self._writer = writer

    def send(self, sequence: int) -> int:
        """Number of datagrams that the kernel refused."""
        failed = 0
        send, pack = self._socket.sendto, PAYLOAD.pack
        for index, target in self._targets:
            try:
                send(pack(sequence, index), target)
            except OSError:
                failed += 1
        return failed

    def drain(self, offset: float) -> None:
        """`offset`: boot time less wall time."""
        receive = self._socket.recvmsg
        while True:
            try:
                payload, control, _, sender = receive(64, 64)
            except BlockingIOError:
                return
            except OSError:
                continue
            if len(payload) != ANSWER.size or not control:
                continue
            sequence, index, node = ANSWER.unpack(payload)
            if self._addresses.get(index) != sender[0]:
                continue
            seconds, nanoseconds = _TIMESPEC.unpack(control[0][2])
            self._writer.reply(seconds + nanoseconds * 1e-9 + offset, index, node, sequence)


def _boot_less_wall() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_REALTIME)


def probe(addresses: list[str], path: Path, period: float) -> None:
    """Until SIGTERM, or until who started it is gone."""
    going = True

    def stop(*_: Any) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    writer = Writer(path, period)
    families = [
        _Family(family, {number: text for number, text in enumerate(addresses) if (":" in text) == colon}, writer)
        for family, colon in ((socket.AF_INET, False), (socket.AF_INET6, True))
        if any((":" in text) == colon for text in addresses)
    ]
    favour()
    sequence = failed = 0
    due = time.clock_gettime(time.CLOCK_BOOTTIME)
    parent = os.getppid()
    while going:
        if sequence % 256 == 0 and os.getppid() != parent:
            break
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if now - due > STALL_FROM:
            writer.stall(now, now - due)
            due = now
        sequence = (sequence + 1) & 0xFFFFFFFF
        for family in families:
            failed += family.send(sequence)
        offset = _boot_less_wall()
        for family in families:
            family.drain(offset)
        writer.publish(now, failed)
        due += period
        pause = due - time.clock_gettime(time.CLOCK_BOOTTIME)
        if pause > 0:
            time.sleep(pause)
    writer.close()


def main(arguments: list[str]) -> int:
    addresses = [address for _, address in read_plan(Path(arguments[0])).addresses()]
    probe(addresses, Path("/proc/self/fd/3"), period_for(len(addresses)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
