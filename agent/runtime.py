"""The composition root: from a configuration to a running agent, and its orderly end. Only this imports exporters."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import signal
import sys
import time
from pathlib import Path

from agent.config.commands import load_from_args
from agent.config.derive import core_settings
from agent.config.features import notes, unsupported
from agent.config.load import Loaded
from agent.config.models import Configuration
from agent.config.problem import ConfigError, Problem
from agent.config.ranges import notify_targets, use_arp_cache
from agent.config.secret import keys
from agent.control.operator import Acting, Operator
from agent.control.protocol import Refused
from agent.control.server import ControlError, Server
from agent.core.events import Event, LoopLag, Reloaded, StateChanged
from agent.core.ids import Member, NodeName
from agent.core.inputs import LeaveRequested, NeighboursRead, Received, Reconfigured
from agent.core.messages import Message
from agent.core.node import Node
from agent.drivers import neighbours
from agent.drivers.announcer import Announcer
from agent.drivers.netlink import AddressDriver
from agent.drivers.systemd import Notifier, watchdog_interval
from agent.engines.embedded.addresses import EngineError
from agent.engines.embedded.rejections import REASONS
from agent.engines.embedded.udp import EmbeddedEngine
from agent.pump import Pump
from agent.state import State, StateError
from exporters.bus import Bus
from exporters.history import History
from exporters.http import Http
from exporters.lines import Level
from exporters.listen import ListenError
from exporters.log import Log
from exporters.metrics import Metrics
from exporters.status import Status
from exporters.wall import Wall

LAG_INTERVAL = 0.1
"""Seconds between two measurements of the loop's lateness."""


def clock() -> float:
    """The agent's one clock: it counts the time that a suspended machine did not see."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def run(args: argparse.Namespace) -> int:
    """`molehill run`: 0 after an orderly end, 1 when it could not start."""
    try:
        loaded = load_from_args(args)
        refused = unsupported(loaded.configuration)
        if refused:
            raise ConfigError(refused)
        return asyncio.run(Agent(loaded, args).run())
    except (ConfigError, StateError, EngineError, ControlError, ListenError) as error:
        print(error if isinstance(error, ConfigError) else f"molehill: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"molehill: {error}; the agent needs CAP_NET_ADMIN and CAP_NET_RAW (root)", file=sys.stderr)
        return 1


class Agent:
    """One running node."""

    def __init__(self, loaded: Loaded, args: argparse.Namespace) -> None:
        self._args = args
        self._configuration = loaded.configuration
        self._warnings = (*loaded.warnings, *notes(loaded.configuration))

    async def run(self) -> int:
        configuration = self._configuration
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._state = State(Path(configuration.state_dir))
        settings = core_settings(configuration)
        self._settings = settings
        node = Node(settings, self._state.next_incarnation(), draining=self._state.draining)
        self._observe(node)
        self._pump = Pump(node, loop=self._loop, clock=clock, publish=self._publish, stopped=self._stopped.set)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._log.close)
            stack.callback(self._bus.flush)
            await self._open_drivers(node.me, stack)
            await self._serve(stack)
            self._pump.connect(self._engine, self._addresses, self._announcer)
            for warning in self._warnings:
                self._log.say(Level.WARNING, "configuration", str(warning), clock())
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._leave)
            self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
            gc.collect()
            gc.freeze()
            self._addresses.remove_strays()
            self._pump.start()
            self._notifier.ready("in no view yet")
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._measure()), tasks.create_task(self._read_neighbours())]
                await self._stopped.wait()
                for task in running:
                    task.cancel()
            self._pump.close()
        return 0

    # Parts.

    def _observe(self, node: Node) -> None:
        configuration = self._configuration
        self._bus = Bus(self._loop)
        wall = Wall(clock)
        addresses = _addresses(configuration)
        self._status = Status(self._settings, wall, engine=configuration.engine.kind, addresses=addresses)
        self._history = History(wall)
        self._log = Log(sys.stderr, wall, as_json=self._args.log == "json", debug=self._args.debug)
        self._metrics = Metrics(self._status, self._bus, reject_reasons=REASONS)
        for name, subscriber in (
            ("status", self._status),
            ("metrics", self._metrics),
            ("history", self._history),
            ("log", self._log),
        ):
            self._bus.subscribe(name, subscriber)
        self._notifier = Notifier()
        acting = Acting(
            submit=lambda item: self._pump.submit(item),
            status=self._snapshot,
            history=self._history,
            reload=self._reload,
            set_draining=self._set_draining,
        )
        self._operator = Operator(node, acting)

    async def _open_drivers(self, me: Member, stack: contextlib.AsyncExitStack) -> None:
        configuration, settings = self._configuration, self._settings
        engine = configuration.engine
        self._engine = EmbeddedEngine(
            cluster=configuration.cluster,
            me=me,
            bind=str(configuration.bind),
            port=engine.port,
            members=_addresses(configuration),
            broadcast=str(engine.broadcast) if engine.broadcast is not None else None,
            keys=keys(configuration),
            clock=clock,
            on_message=self._receive,
            on_event=self._publish,
        )
        self._announcer = Announcer(
            settings.vips,
            notify_targets(configuration),
            use_arp_cache(configuration),
            clock=clock,
            on_event=self._publish,
            interval=configuration.arp_cache.interval,
        )
        self._addresses = AddressDriver(
            settings.vips,
            clock=clock,
            on_input=self._pump.submit,
            on_event=self._publish,
            on_link=self._announcer.link_changed,
        )
        await self._engine.open()
        stack.callback(self._engine.close)
        await self._announcer.open()
        stack.callback(self._announcer.close)
        await self._addresses.open()
        stack.callback(self._addresses.close)

    async def _serve(self, stack: contextlib.AsyncExitStack) -> None:
        http = Http(self._status, self._metrics, self._history, idle=lambda: clock() - self._pump.turned)
        await http.start(str(self._configuration.http.listen))
        stack.push_async_callback(http.close)
        control = Server(self._configuration.control, self._operator)
        await control.start()
        stack.push_async_callback(control.close)

    # Events and inputs.

    def _publish(self, event: Event) -> None:
        self._bus.publish(event)
        self._operator.observe(event)
        if isinstance(event, StateChanged):
            self._notifier.status(event.state)

    def _snapshot(self) -> object:
        """Who asks right after an order sees what it did."""
        self._bus.drain()
        return self._status.snapshot().model_dump(mode="json")

    def _receive(self, sender: Member, message: Message) -> None:
        self._pump.submit(Received(sender, message))

    def _leave(self) -> None:
        self._notifier.stopping("handing over")
        self._pump.submit(LeaveRequested(stop=True))

    async def _measure(self) -> None:
        """How late the loop runs its timers; feeds systemd's watchdog as long as the core is stepped."""
        watchdog = watchdog_interval()
        fed = clock()
        while True:
            due = clock() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            now = clock()
            self._publish(LoopLag(now, max(0.0, now - due)))
            if watchdog is not None and now - fed >= watchdog / 2 and now - self._pump.turned < watchdog:
                self._notifier.watchdog()
                fed = now

    async def _read_neighbours(self) -> None:
        """The node's part of the shared ARP cache."""
        while self._configuration.pool:
            entries = await neighbours.read(self._settings.vips)
            self._announcer.local(entries)
            self._pump.submit(NeighboursRead(entries))
            await asyncio.sleep(self._configuration.arp_cache.interval)

    # Changes by a person.

    def _set_draining(self, on: bool) -> None:
        try:
            self._state.set_draining(on)
        except StateError as error:
            raise Refused(str(error)) from error

    def _hang_up(self) -> None:
        with contextlib.suppress(Refused):  # said in the log and counted
            self._reload()

    def _reload(self) -> None:
        """Validates, then applies; a rejected configuration leaves the old one in force."""
        self._notifier.reloading()
        try:
            loaded = load_from_args(self._args)
            problems = [*unsupported(loaded.configuration), *_fixed(self._configuration, loaded.configuration)]
            if problems:
                raise ConfigError(problems)
            sealed = keys(loaded.configuration)
        except ConfigError as error:
            self._publish(Reloaded(clock(), str(error)))
            raise Refused(f"nothing was changed:\n{error}") from error
        finally:
            self._notifier.ready()
        configuration = self._configuration = loaded.configuration
        self._settings = core_settings(configuration)
        self._engine.reconfigure(members=_addresses(configuration), keys=sealed)
        self._pump.submit(Reconfigured(self._settings))
        self._addresses.reconfigure(self._settings.vips)
        targets, cache = notify_targets(configuration), use_arp_cache(configuration)
        self._announcer.reconfigure(self._settings.vips, targets, cache, configuration.arp_cache.interval)
        self._status.configure(self._settings, _addresses(configuration))
        self._publish(Reloaded(clock(), ""))


def _addresses(configuration: Configuration) -> dict[NodeName, str]:
    return {NodeName(name): str(address) for name, address in configuration.engine.members.items()}


def _fixed(old: Configuration, new: Configuration) -> list[Problem]:
    """What a running agent cannot change."""
    pairs = {
        "cluster": (old.cluster, new.cluster),
        "node": (old.node, new.node),
        "state_dir": (old.state_dir, new.state_dir),
        "control": (old.control, new.control),
        "http.listen": (old.http.listen, new.http.listen),
        "engine.bind": (old.bind, new.bind),
        "engine.port": (old.engine.port, new.engine.port),
        "engine.broadcast": (old.engine.broadcast, new.engine.broadcast),
    }
    return [
        Problem("reload", None, f"{key} is {after!s}, the running agent has {before!s}", "restart the agent for that")
        for key, (before, after) in pairs.items()
        if before != after
    ]
