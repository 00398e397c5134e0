"""`molehill witness`: a stand-alone exporter for the monitoring host, which sees the cluster as its clients do.

Each round it asks by ARP (neighbour discovery for IPv6) who has each VIP, and the agents which view they are in. So it
sees a split brain also when Prometheus reaches one side only, and a VIP that nobody serves although its agent thinks
so. It shares no code path with the agents' own judgement but the frames.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from agent.config.problem import ConfigError
from exporters.listen import ListenError, open_socket
from exporters.witness_agents import Agents, Said
from exporters.witness_metrics import Heard, Round, RoundCollector
from exporters.witness_plan import Asked, Plan, WitnessError, add_arguments, from_arguments
from exporters.witness_segment import Question, Segment, questions

BATCH = 16
"""Questions sent in one go."""

RATE = 2_000.0
"""Questions a second at most: 1,000 VIPs are asked within half a second, and a round of 10,000 takes longer."""

ANSWER_WINDOW = 0.45
"""Seconds for which an answer belongs to its question. Later ones were to somebody else on this host."""


class Watch:
    """Rounds of questions. Everything on the loop's thread."""

    def __init__(self, plan: Plan, collector: RoundCollector) -> None:
        self._plan = plan
        self._collector = collector
        self._segments: dict[str, Segment] = {}
        self._frames: list[tuple[Asked, Segment, bytes]] = []
        self._sent: dict[bytes, float] = {}
        self._heard: dict[bytes, Heard] = {}
        self._rounds = 0
        self._anew = False
        """Interfaces and own addresses are to be looked up again."""
        self._trouble: frozenset[str] = frozenset()

    async def open(self) -> list[str]:
        """Builds the frames and opens the sockets; what could not be, and why. Raises `WitnessError`: not allowed."""
        self.close()
        groups: dict[str, list[Question]] = {}
        troubles: list[str] = []
        for question in await asyncio.to_thread(questions, self._plan.asked):
            if isinstance(question, WitnessError):
                troubles.append(str(question))
            else:
                groups.setdefault(question.interface, []).append(question)
        for interface, group in groups.items():
            segment = self._segments[interface] = Segment(interface, group, self._answered)
            try:
                segment.open()
            except OSError as error:
                troubles.append(f"{interface} cannot be opened: {error.strerror}")
                continue
            self._frames += [(question.asked, segment, question.frame()) for question in group]
        return troubles

    def close(self) -> None:
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()
        self._frames.clear()

    async def run(self) -> None:
        """Round after round, for ever."""
        plan = self._plan
        names = {asked.text: asked.vip for asked in plan.asked}
        agents = Agents(plan.agents, names, timeout=max(0.5, min(2.0, plan.interval)))
        said = Said()
        try:
            while True:
                started = time.monotonic()
                asking = asyncio.ensure_future(agents.ask())
                unsent = await self._ask()
                self._publish(said, unsent)  # a slow agent does not hold the segment's news back
                said = await asking
                self._collector.round = replace(self._round, said=said)
                self._tell(unsent | {f"{address}: {why}" for address, why in said.silent})
                await asyncio.sleep(max(0.0, started + plan.interval - time.monotonic()))
        finally:
            await agents.close()

    async def _ask(self) -> set[str]:
        """Asks for every address, and waits for the last answers. What could not be asked, and why."""
        self._sent, self._heard = {}, {}
        unsent: set[str] = set()
        pause = max(BATCH / RATE, min(0.02, 0.3 * self._plan.interval * BATCH / len(self._plan.asked)))
        if self._anew:
            unsent.update(await self.open())
        for position in range(0, len(self._frames), BATCH):
            for asked, segment, frame in self._frames[position : position + BATCH]:
                self._heard[asked.address] = Heard()
                self._sent[asked.address] = time.monotonic()
                failure = segment.ask(frame)
                if failure:
                    del self._heard[asked.address], self._sent[asked.address]
                    unsent.add(f"{segment.interface}: {failure}")
            await asyncio.sleep(pause)
        await asyncio.sleep(min(ANSWER_WINDOW, 0.5 * self._plan.interval))
        self._anew = bool(unsent)
        return unsent

    def _answered(self, asked: Asked, mac: bytes) -> None:
        sent, heard = self._sent.get(asked.address), self._heard.get(asked.address)
        if sent is None or heard is None:
            return
        seconds = time.monotonic() - sent
        if seconds > ANSWER_WINDOW or mac in heard.macs:
            return
        heard.macs.append(mac)
        if heard.seconds is None:
            heard.seconds = seconds

    def _publish(self, said: Said, unsent: set[str]) -> None:
        heard: dict[str, tuple[Heard, ...]] = {}
        for asked in self._plan.asked:
            one = self._heard.get(asked.address)
            if one is not None:
                heard[asked.vip] = (*heard.get(asked.vip, ()), one)
        self._sent, self._heard = {}, {}
        self._rounds += not unsent
        self._round = self._collector.round = Round(heard, said, self._rounds)

    def _tell(self, trouble: set[str]) -> None:
        """Each trouble once when it comes and once when it is over."""
        for text in sorted(trouble - self._trouble):
            print(f"molehill witness: {text}", file=sys.stderr, flush=True)
        for text in sorted(self._trouble - trouble):
            print(f"molehill witness: no longer: {text}", file=sys.stderr, flush=True)
        self._trouble = frozenset(trouble)


class Page:
    """`/metrics`, and `/-/healthy`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def start(self, listen: str, stack: contextlib.AsyncExitStack) -> None:
        """Raises `ListenError`."""
        sock = open_socket(listen)
        app = web.Application()
        app.add_routes(
            [web.get("/", self._root), web.get("/-/healthy", self._healthy), web.get("/metrics", self._metrics)]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, sock).start()

    async def _root(self, request: web.Request) -> web.Response:
        return web.Response(text="molehill witness: see /metrics\n")

    async def _healthy(self, request: web.Request) -> web.Response:
        return web.Response(text="healthy\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encode, self._registry)
        response = web.Response(body=body, headers={"Content-Type": content_type}, zlib_executor_size=4_096)
        response.enable_compression()
        return response


async def serve(plan: Plan) -> None:
    """Until SIGTERM or SIGINT. Raises `WitnessError` and `ListenError`."""
    collector = RoundCollector(plan.cluster, plan.vips, len(plan.agents))
    watch = Watch(plan, collector)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(watch.close)
        troubles = await watch.open()
        if troubles:
            raise WitnessError(troubles[0])
        await Page(collector.registry()).start(plan.listen, stack)
        watching = asyncio.ensure_future(watch.run())
        ending = asyncio.ensure_future(stop.wait())
        await asyncio.wait((watching, ending), return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, ending):
            task.cancel()
        outcome, _ = await asyncio.gather(watching, ending, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome


def run(args: argparse.Namespace) -> int:
    """0 after SIGTERM, 1 when it cannot work."""
    try:
        asyncio.run(serve(from_arguments(args)))
    except (WitnessError, ListenError, ConfigError) as error:
        print(error if isinstance(error, ConfigError) else f"molehill witness: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m exporters.witness`."""
    parser = argparse.ArgumentParser(prog="molehill witness", description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
