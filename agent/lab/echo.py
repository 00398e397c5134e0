"""The nodes' echo service: `python -m agent.lab.echo STATE_DIRECTORY`.

One process answers for every node, by sockets that live in the nodes' namespaces: a probe to a VIP comes back from
that VIP, with the number of the node that has it. It goes on when a node's agent is stopped or dies, as a host's
other services do.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.lab.namespaces import entered
from agent.lab.plan import Plan
from agent.lab.scheduling import favour
from agent.lab.state import read_plan

PORT = 7072
BATCH = 64
_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50
_IP_PKTINFO = 8


def _open(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        sock.bind(("::", PORT))
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind(("0.0.0.0", PORT))
    return sock


def _source(level: int, kind: int, data: bytes) -> tuple[int, int, bytes] | None:
    """The control message that makes the reply leave from the address that was asked."""
    if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
        _, _, asked = struct.unpack("=I4s4s", data)
        return level, kind, struct.pack("=I4s4s", 0, asked, b"\0\0\0\0")
    if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
        return level, kind, data[:16] + b"\0\0\0\0"
    return None


def _answer(sock: socket.socket, node: bytes) -> None:
    """Drains the socket, up to a batch, so that no node starves another."""
    for _ in range(BATCH):
        try:
            payload, control, _, sender = sock.recvmsg(256, 64)
        except OSError:
            return
        for level, kind, data in control:
            source = _source(level, kind, data)
            if source is None:
                continue
            # Refused where the VIP left between question and answer.
            with contextlib.suppress(OSError):
                sock.sendmsg((payload, node), (source,), 0, sender)


def serve(plan: Plan, ready: Callable[[], None]) -> None:
    """Until the process is ended."""
    poll = select.epoll()
    sockets: dict[int, tuple[socket.socket, bytes]] = {}
    for number, node in enumerate(plan.nodes):
        with entered(plan.namespace(node.name)):
            for family in (socket.AF_INET, socket.AF_INET6):
                sock = _open(family)
                sockets[sock.fileno()] = sock, bytes((number,))
                poll.register(sock.fileno(), select.EPOLLIN)
    favour()
    ready()
    while True:
        for descriptor, _ in poll.poll():
            _answer(*sockets[descriptor])


def main(arguments: list[str]) -> int:
    directory = Path(arguments[0])

    def stop(*_: Any) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    serve(read_plan(directory), lambda: (directory / "echo.ready").touch())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
