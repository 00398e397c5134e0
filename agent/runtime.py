"""The composition root: from a configuration to a running agent, and its orderly end. Only this imports exporters."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent import realtime
from agent.config.commands import load_from_args
from agent.config.derive import core_settings
from agent.config.features import notes, unsupported
from agent.config.load import Loaded
from agent.config.models import Configuration
from agent.config.problem import ConfigError
from agent.config.ranges import notify_targets, use_arp_cache
from agent.config.reload import fixed
from agent.config.secret import keys
from agent.control.operator import Acting, Operator
from agent.control.protocol import Refused
from agent.control.server import ControlError, Server
from agent.core.events import Event, LoopLag, Reloaded, StateChanged, ViewInstalled
from agent.core.ids import Member, NodeName, ViewId
from agent.core.inputs import Fenced, LeaveRequested, NeighboursRead, Received, Reconfigured
from agent.core.messages import Leave, Message
from agent.core.node import Node
from agent.core.settings import PartitionPolicy, Settings
from agent.drivers import neighbours
from agent.drivers.lease import LeaseUnavailable
from agent.drivers.reaching import Reaching
from agent.drivers.systemd import Notifier, watchdog_interval
from agent.engines.embedded.addresses import EngineError
from agent.engines.embedded.rejections import REASONS
from agent.engines.embedded.udp import EmbeddedEngine
from agent.guarding import Guard, GuardError
from agent.journal import Dump, JournalError
from agent.presence import Presence, Wishes
from agent.pump import Pump
from agent.recorder import Recorder
from agent.state import State, StateError
from exporters.http import Http
from exporters.leases import LAYERS
from exporters.lines import Level
from exporters.listen import ListenError
from exporters.log import Foreign
from exporters.observers import Observers

LAG_INTERVAL = 0.1
"""Seconds between two measurements of the loop's lateness."""

PATIENCE = 1.25
"""Failure timeouts without a step of the core after which the guard takes the agent for hung. Beyond one, others have
taken over and the agent itself would let go of everything (R11)."""


def clock() -> float:
    """The agent's one clock: it counts the time that a suspended machine did not see."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def run(args: argparse.Namespace, guard: Guard) -> int:
    """`molehill run`: 0 after an orderly end, 1 when it could not start."""
    try:
        loaded = load_from_args(args)
        refused = unsupported(loaded.configuration)
        if refused:
            raise ConfigError(refused)
        return asyncio.run(Agent(loaded, args, guard).run())
    except (ConfigError, StateError, EngineError, ControlError, ListenError, GuardError) as error:
        print(error if isinstance(error, ConfigError) else f"molehill: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"molehill: {error}; the agent needs CAP_NET_ADMIN and CAP_NET_RAW (root)", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"molehill: {error}", file=sys.stderr)
        return 1


class Agent:
    """One running node."""

    def __init__(self, loaded: Loaded, args: argparse.Namespace, guard: Guard) -> None:
        self._args = args
        self._guard = guard
        self._configuration = loaded.configuration
        self._warnings = (*loaded.warnings, *notes(loaded.configuration))
        self._crashed: Exception | None = None
        self._serving = False
        self._state_told = ""
        """The core's state as it was told last."""
        self._unleased = False
        """There is no fast lease on this machine although it is wanted."""

    async def run(self) -> int:
        configuration = self._configuration
        self._loop = asyncio.get_running_loop()
        self._reloading = asyncio.Lock()
        self._stopped = asyncio.Event()
        if configuration.realtime:
            self._loop.set_default_executor(realtime.executor())
        self._state = State(Path(configuration.state_dir))
        settings = core_settings(configuration)
        self._settings = settings
        node = Node(settings, self._state.next_incarnation(), draining=self._state.draining)
        self._guard.claim(Path(configuration.state_dir))
        self._observe(node)
        self._recorder = Recorder(node, Path(configuration.state_dir), clock=clock)
        self._pump = Pump(
            node,
            loop=self._loop,
            clock=clock,
            publish=self._publish,
            record=self._recorder.journal.record,
            stopped=self._stopped.set,
            crashed=self._crash,
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._observers.close)
            stack.enter_context(contextlib.redirect_stderr(Foreign(self._log)))
            await self._open_drivers(node.me, stack)
            await self._serve(stack)
            self._pump.connect(self._engine, self._presence, self._guard.beat)
            for warning in self._warnings:
                self._log.say(Level.WARNING, "configuration", str(warning), clock())
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._leave)
            self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
            self._loop.add_signal_handler(signal.SIGUSR1, lambda: self._dump_soon("signal"))
            self._loop.set_exception_handler(self._unhandled)
            gc.collect()
            gc.freeze()
            self._begin()
            self._notifier.ready()
            try:
                await self._work()
            except* Exception as group:
                self._pump.fail(group)
            self._pump.close()
            if self._crashed is not None:
                return await self._last_words(self._crashed)
        return 0

    def _begin(self) -> None:
        if self._configuration.realtime:
            for refused in realtime.enter():
                self._log.say(Level.WARNING, "realtime", refused, clock())
        self._presence.start()
        self._guard.tables(self._presence.filters)
        self._have_watched("")
        self._serving = True
        self._pump.start()

    def _end(self) -> None:
        """After a crash the guard looks for what is left, tells the group, and takes the filter away."""
        orderly = self._crashed is None
        if orderly:
            self._guard.done()
        else:
            self._guard.close()
        self._presence.close(empty=orderly and self._serving)

    async def _work(self) -> None:
        """Until the core has said its last word, or something crashed."""
        async with asyncio.TaskGroup() as tasks:
            work = (self._measure(), self._read_neighbours(), self._reaching.keep(), self._recorder.keep())
            running = [tasks.create_task(part) for part in work]
            await self._stopped.wait()
            for task in running:
                task.cancel()

    # Crashes.

    def _crash(self, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))
        self._log.say(Level.ERROR, "crash", f"the agent gives everything up and ends: {text}", clock())
        self._crashed = error
        self._stopped.set()

    async def _last_words(self, error: Exception) -> int:
        """Everything is taken off the interfaces, and what led to it is written down."""
        while self._presence.busy:  # noqa: ASYNC110  (work in slices)
            await asyncio.sleep(0)
        await self._dump("crash", repr(error))
        return 1

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback that raises was a driver's, the engine's or the pump's; a client's connection may break."""
        loop.default_exception_handler(context)
        error = context.get("exception")
        if "handle" in context and isinstance(error, Exception):
            self._pump.fail(error)

    async def _dump(self, reason: str, error: str = "") -> Dump | None:
        try:
            dump = await self._recorder.dump(reason, error)
        except JournalError as failure:
            self._log.say(Level.ERROR, "journal", str(failure), clock())
            return None
        self._log.say(Level.INFO, "journal", f"{dump.steps} steps of {dump.seconds:.0f} s are in {dump.path}", clock())
        return dump

    def _dump_soon(self, reason: str) -> None:
        self._dumping = asyncio.ensure_future(self._dump(reason))

    async def _journal(self) -> object:
        try:
            dump = await self._recorder.dump("request")
        except JournalError as error:
            raise Refused(str(error)) from error
        return {"path": str(dump.path), "steps": dump.steps, "seconds": dump.seconds, "bytes": dump.size}

    # Parts.

    def _observe(self, node: Node) -> None:
        configuration = self._configuration
        tracing = configuration.tracing
        seen = self._observers = Observers(
            self._settings,
            loop=self._loop,
            clock=clock,
            engine=configuration.engine.kind,
            addresses=_addresses(configuration),
            sealed=_sealed(configuration),
            lease_layers=_lease_layers(configuration),
            reject_reasons=REASONS,
            as_json=self._args.log == "json",
            debug=self._args.debug,
            tracing=(tracing.endpoint, tracing.sample) if tracing is not None else None,
        )
        self._bus, self._status, self._history = seen.bus, seen.status, seen.history
        self._log, self._metrics = seen.log, seen.metrics
        self._metrics.configure(*_watched(configuration))
        self._notifier = Notifier()
        acting = Acting(
            submit=lambda item: self._pump.submit(item),
            status=self._snapshot,
            history=self._history,
            reload=self._reload,
            set_draining=self._set_draining,
            journal=self._journal,
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
        self._reaching = Reaching(lambda: [(each.name, each.address) for each in self._engine.peers], clock)
        self._metrics.count_rejections(lambda: self._engine.rejected)
        self._presence = Presence(
            configuration.cluster,
            _wishes(configuration, settings),
            self._guard,
            clock=clock,
            submit=self._pump.submit,
            publish=self._publish,
        )
        await self._engine.open()
        stack.callback(self._engine.close)
        missing = await self._presence.open()
        stack.callback(self._end)
        if missing:
            self._go_unleased(missing)
        self._guard.open(clock=clock, on_event=self._publish, on_given_up=self._fenced)

    def _go_unleased(self, why: str) -> None:
        """Who may never be one of two has to be silenced; who may be rather serves."""
        if self._settings.partition is PartitionPolicy.QUORUM:
            raise LeaseUnavailable(f"partition: quorum needs the fast lease, and {why}")
        self._unleased = True
        self._settings = replace(self._settings, lease_bound=0.0)
        self._pump.submit(Reconfigured(self._settings))

    # The guard.

    def _have_watched(self, state: str) -> None:
        """A node that has left has nothing to do, and no reason to be stepped: it does not hang."""
        self._state_told = state
        self._guard.watch(0.0 if state == "LEFT" else PATIENCE * self._settings.timing.failure_timeout)

    def _fenced(self) -> None:
        """It has spoken for this agent, which goes on."""
        self._engine.outlive()
        self._pump.submit(Fenced())

    def _prepare_last_words(self, view: ViewId | None) -> None:
        """What the guard says if this agent dies in this view."""
        # Twice, each time sealed anew: a repeated datagram would be taken for a replay.
        words = [word for _ in range(2) for word in self._engine.last_words(Leave(view))] if view is not None else []
        self._guard.last_words(words, (str(self._configuration.bind), self._configuration.engine.port))

    async def _serve(self, stack: contextlib.AsyncExitStack) -> None:
        http = Http(
            self._status,
            self._metrics,
            self._history,
            idle=lambda: clock() - self._pump.turned,
            caught_up=self._bus.caught_up,
            web_config_file=self._configuration.http.web_config,
            complain=lambda text: self._log.say(Level.ERROR, "web_config", text, clock()),
        )
        await http.start(str(self._configuration.http.listen))
        stack.push_async_callback(http.close)
        control = Server(self._configuration.control, self._operator)
        await control.start()
        stack.push_async_callback(control.close)

    # Events and inputs.

    def _publish(self, event: Event) -> None:
        self._bus.publish(event)
        self._operator.observe(event)
        match event:
            case ViewInstalled(view=view):
                self._loop.call_soon(self._prepare_last_words, view.id)
                self._reaching.view([member.name for member in view.members])
            case StateChanged(state=state):
                self._notifier.status(state)
                self._have_watched(state)
                if state == "LEFT":
                    self._prepare_last_words(None)

    def _snapshot(self) -> object:
        """Who asks right after an order sees what it did."""
        self._bus.settle()
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
            self._presence.local(entries)
            self._pump.submit(NeighboursRead(entries))
            await asyncio.sleep(self._configuration.arp_cache.interval)

    # Changes by a person.

    def _set_draining(self, on: bool) -> None:
        try:
            self._state.set_draining(on)
        except StateError as error:
            raise Refused(str(error)) from error

    def _hang_up(self) -> None:
        async def reload() -> None:
            with contextlib.suppress(Refused):  # said in the log and counted
                await self._reload()

        self._hung_up = self._loop.create_task(reload())

    async def _reload(self) -> None:
        """Validates, then applies; a rejected configuration leaves the old one in force.

        Files are read in a thread: 16,384 VIPs take more than a failure timeout.
        """
        async with self._reloading:
            self._notifier.reloading()
            try:
                self._take_over(*await asyncio.to_thread(self._read_anew))
            except (ConfigError, EngineError) as error:
                self._publish(Reloaded(clock(), str(error)))
                raise Refused(f"nothing was changed:\n{error}") from error
            finally:
                self._notifier.ready()

    def _read_anew(self) -> tuple[Configuration, Settings, tuple[bytes, ...]]:
        loaded = load_from_args(self._args)
        problems = [*unsupported(loaded.configuration), *fixed(self._configuration, loaded.configuration)]
        if problems:
            raise ConfigError(problems)
        return loaded.configuration, core_settings(loaded.configuration), keys(loaded.configuration)

    def _take_over(self, configuration: Configuration, settings: Settings, sealed: tuple[bytes, ...]) -> None:
        self._engine.reconfigure(members=_addresses(configuration), keys=sealed)
        if self._unleased:
            settings = replace(settings, lease_bound=0.0)
        self._configuration, self._settings = configuration, settings
        # Before the core, which may order what is new here within the same step.
        self._presence.reconfigure(_wishes(configuration, settings))
        self._have_watched(self._state_told)
        self._pump.submit(Reconfigured(settings))
        self._observers.configure(
            settings,
            _addresses(configuration),
            sealed=_sealed(configuration),
            lease_layers=_lease_layers(configuration),
        )
        self._metrics.configure(*_watched(configuration))
        self._publish(Reloaded(clock(), ""))


def _addresses(configuration: Configuration) -> dict[NodeName, str]:
    return {NodeName(name): str(address) for name, address in configuration.engine.members.items()}


def _wishes(configuration: Configuration, settings: Settings) -> Wishes:
    return Wishes(
        vips=settings.vips,
        targets=notify_targets(configuration),
        use_cache=use_arp_cache(configuration),
        cache_interval=configuration.arp_cache.interval,
        leased=configuration.lease.fast != "off",
        lifetime=int(configuration.lease.address),
        policy=configuration.conflict.policy,
        probe=configuration.conflict.probe,
    )


def _sealed(configuration: Configuration) -> bool | None:
    """Whether this node's messages are encrypted; None: another program carries them."""
    return not configuration.engine.insecure if configuration.engine.kind == "embedded" else None


def _lease_layers(configuration: Configuration) -> tuple[str, ...]:
    """What is meant to silence this node; the kernel filter can be switched off."""
    return LAYERS if configuration.lease.fast != "off" else LAYERS[1:]


def _watched(configuration: Configuration) -> tuple[list[str], list[str]]:
    """Names of all health checks, and the hooks."""
    checks = [*configuration.checks, *(check for vip in configuration.pool for check in vip.checks)]
    return [check.name for check in checks], [*configuration.hooks.acquired, *configuration.hooks.released]
