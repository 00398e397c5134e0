"""An agent for the guard's tests: it holds addresses and does what it is told, a JSON line each way.

Everything of the guard's is real; only what decides about addresses is missing.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import sys
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from agent import guard as clockwork
from agent.core.events import Event, LeaseLayer
from agent.drivers import rtnetlink
from agent.drivers.addresses import TAG
from agent.drivers.records import AddressKey
from agent.guarding import Guard, GuardError


def say(**what: object) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def keys(ifindex: int, texts: list[str]) -> list[AddressKey]:
    found = [ip_interface(text) for text in texts]
    return [AddressKey(ifindex, each.packed[: each.max_prefixlen // 8], each.network.prefixlen) for each in found]


class StandIn:
    def __init__(self, ifindex: int, guard: Guard) -> None:
        self._ifindex = ifindex
        self._guard = guard
        self._requests = rtnetlink.RequestSocket()
        self._patience = 0.0
        self._beating: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._rest = b""
        self._loop.add_reader(0, self._read)
        self._guard.open(clock=clockwork.clock, on_event=self._event, on_given_up=lambda: say(event="given up"))
        await self._ended

    def _read(self) -> None:
        data = os.read(0, 1 << 20)
        if not data:
            self._ended.set_result(None)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            ((verb, value),) = json.loads(line).items()
            answer = getattr(self, f"do_{verb}")(value)
            say(did=verb, answer=answer, guard=self._guard.pid)

    def _event(self, event: Event) -> None:
        assert isinstance(event, LeaseLayer)
        say(event=event.layer, active=event.active, detail=event.detail, guard=self._guard.pid)

    # Verbs.

    def do_hold(self, texts: list[str]) -> bool:
        return self._guard.hold(keys(self._ifindex, texts))

    def do_put(self, texts: list[str]) -> bool:
        """Announced and put up."""
        wanted = keys(self._ifindex, texts)
        if not self._guard.hold(wanted):
            return False
        for start in range(0, len(wanted), 64):
            part = wanted[start : start + 64]
            answers = self._requests.execute([rtnetlink.add_address(key, tag=TAG) for key in part])
            assert answers is not None
            assert {answer.code for answer in answers} == {0}, answers
        return True

    def do_drop(self, texts: list[str]) -> None:
        gone = keys(self._ifindex, texts)
        self._requests.execute([rtnetlink.delete_address(key) for key in gone])
        self._guard.forget(gone)

    def do_patience(self, patience: float) -> None:
        self._patience = patience
        self._guard.watch(patience)
        self._beat()

    def do_term_new_guard(self, _: None) -> int:
        """To the one that has just been started, and has not said yet that it watches."""
        os.kill(self._guard.pid, signal.SIGTERM)
        return self._guard.pid

    def do_no_patience(self, _: None) -> None:
        self._guard.watch(0.0)

    def do_beat(self, _: None) -> None:
        self._guard.beat()

    def _beat(self) -> None:
        self._guard.beat()
        self._beating = self._loop.call_later(self._patience / 5, self._beat)

    def do_fall_silent(self, _: None) -> None:
        """Runs and answers, but beats no more: a core that is stuck."""
        assert self._beating is not None
        self._beating.cancel()

    def do_words(self, words: dict[str, Any]) -> None:
        datagrams = [(bytes.fromhex(datagram), tuple(there)) for datagram, there in words["datagrams"]]
        source = words.get("source")
        self._guard.last_words(datagrams, None if source is None else tuple(source))

    def do_tables(self, batches: list[str]) -> None:
        self._guard.tables([bytes.fromhex(batch) for batch in batches])

    def do_claim(self, path: str) -> str:
        try:
            self._guard.claim(Path(path), 0.2)
        except GuardError as error:
            return str(error)
        return ""

    def do_done(self, _: None) -> None:
        self._guard.done()
        self._ended.set_result(None)

    def do_packets(self, count: int) -> None:
        """Packet sockets like those of the announcer: the kernel takes 10 ms to close each."""
        self._packets = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) for _ in range(count)]

    def do_close(self, _: None) -> None:
        """Looks no longer after the guard, and lives on."""
        self._guard.close()

    def do_burden(self, mebibytes: int) -> None:
        """Memory like that of a real agent."""
        self._burden = b"x" * (mebibytes << 20)

    def do_put_after_guard(self, texts: list[str]) -> bool:
        """Hangs until the guard has ended, and then goes on as if nothing had been."""
        handle = os.pidfd_open(self._guard.pid)
        select.select([handle], [], [])
        os.close(handle)
        return self.do_put(texts)


def main() -> None:
    guard = Guard(as_json="json" in sys.argv)
    guard.start()
    if "early" in sys.argv:
        os.kill(guard.pid, signal.SIGSTOP)  # it has not come to its first line yet
    if "deaf" in sys.argv or "early" in sys.argv:
        deaf = StandIn(int(sys.argv[1]), guard)
        deaf.do_put(sys.argv[3:])
        guard.beat()
        say(event="guard", guard=guard.pid)
        os.read(0, 1)
    asyncio.run(StandIn(int(sys.argv[1]), guard).run())


if __name__ == "__main__":
    main()
