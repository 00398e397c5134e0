"""A running lab: its processes, its faults, and what can be asked of it."""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent.control import client
from agent.lab import network, processes, state, watch
from agent.lab.holding import Apart, Held, Twice, held_twice, periods
from agent.lab.namespaces import with_prefix
from agent.lab.plan import Host, LabError, Plan, prefix_of
from agent.lab.processes import Process
from agent.lab.state import Running

HTTP_PORT = 9748
SERVICES = ("echo", "watch")
SERVICE_SECONDS = 10.0
FOREVER = float("inf")

Command = Callable[[Plan, Host, Path], list[str]]
"""The command line of a node's agent, from the plan, the node and the lab's state directory."""


class Fault(msgspec.Struct, frozen=True):
    """A change of the network: who left or came back to the common segment."""

    at: float
    """Seconds of CLOCK_BOOTTIME: for a cut the moment after it was complete, for a heal the moment before it began."""
    verb: str
    """cut, link, split, heal."""
    hosts: tuple[str, ...]


def now() -> float:
    """The lab's clock, the same in all namespaces."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def node_directory(directory: Path, node: str) -> Path:
    return directory / "nodes" / node


def control_path(directory: Path, node: str) -> Path:
    return node_directory(directory, node) / "control.sock"


def molehill(plan: Plan, host: Host, directory: Path) -> list[str]:
    """`molehill run` of this program."""
    settings = {
        "control": str(control_path(directory, host.name)),
        "state_dir": str(node_directory(directory, host.name) / "state"),
        "http.listen": f"{host.management}:{HTTP_PORT}",
    }
    arguments = [argument.replace("{state}", str(directory)) for argument in plan.agent_arguments]
    chosen = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-P", "-m", "agent", "run", *arguments, "-n", host.name, *chosen]


class Lab:
    def __init__(self, plan: Plan, command: Command = molehill) -> None:
        self.plan = plan
        self.directory = state.directory_of(plan.name)
        self._command = command

    @classmethod
    def create(cls, plan: Plan, command: Command = molehill, *, agents: bool = True) -> Lab:
        """Makes the network and starts the services and, if wanted, the agents. Raises LabError and leaves nothing.

        Does not wait for the cluster: `formation.wait_formed` does.
        """
        lab = cls(plan, command)
        if (lab.directory / "plan.json").exists() or with_prefix(prefix_of(plan.name)):
            hint = "" if plan.name == "lab" else f" --name {plan.name}"
            raise LabError(f"a lab {plan.name!r} is there already; `molehill lab down{hint}` removes it")
        try:
            lab._build()
            if agents:
                for node in plan.nodes:
                    lab.start(node.name)
        except BaseException:
            down(plan.name)
            raise
        return lab

    @classmethod
    def open(cls, name: str, command: Command = molehill) -> Lab:
        """A lab that is up. Raises LabError."""
        return cls(state.read_plan(state.directory_of(name)), command)

    def _build(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        state.write(self.directory / "plan.json", self.plan)
        (self.directory / "secret").write_text(secrets.token_hex(32) + "\n")
        (self.directory / "secret").chmod(0o600)
        if self.plan.configuration:
            text = self.plan.configuration.replace("{state}", str(self.directory))
            (self.directory / "molehill.yaml").write_text(text)
        for node in self.plan.nodes:
            (node_directory(self.directory, node.name) / "state").mkdir(parents=True, exist_ok=True)
        network.build(self.plan)
        for service in SERVICES:
            self._start_service(service)
        for service in SERVICES:
            self._await_service(service)

    def _start_service(self, service: str) -> None:
        line = [sys.executable, "-P", "-m", f"agent.lab.{service}", str(self.directory)]
        process = processes.spawn(line, self.log(service), namespace=self.plan.namespace("net"))
        with self._changing() as running:
            running.services[service] = process

    def _await_service(self, service: str) -> None:
        process = self.running().services[service]
        deadline = time.monotonic() + SERVICE_SECONDS
        while not (self.directory / f"{service}.ready").exists():
            if not processes.alive(process) or time.monotonic() > deadline:
                said = self.log(service).read_text(errors="replace").strip().splitlines()[-1:]
                raise LabError(f"the lab's {service} did not start: {' '.join(said) or 'it said nothing'}")
            select.select([], [], [], 0.005)

    @contextmanager
    def _changing(self) -> Iterator[Running]:
        """The lab's memory, written back at the end; one command at a time."""
        with open(self.directory / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            running = state.read_running(self.directory)
            yield running
            state.write(self.directory / "running.json", running)

    def running(self) -> Running:
        return state.read_running(self.directory)

    def log(self, name: str) -> Path:
        """Log file of a node's agent, or of one of the lab's own services."""
        if name in SERVICES:
            return self.directory / f"{name}.log"
        return node_directory(self.directory, self.plan.node(name).name) / "agent.log"

    # Agents.

    def start(self, node: str) -> Process:
        """Starts the node's agent. Raises LabError where it runs."""
        host = self.plan.node(node)
        with self._changing() as running:
            old = running.agents.get(node)
            if old is not None and processes.alive(old):
                raise LabError(f"the agent of {node} runs already (process {old.pid})")
            line = self._command(self.plan, host, self.directory)
            process = processes.spawn(line, self.log(node), namespace=self.plan.namespace(node))
            running.agents[node] = process
        return process

    def agent(self, node: str) -> Process | None:
        """The node's agent if it lives."""
        self.plan.node(node)
        process = self.running().agents.get(node)
        return process if process is not None and processes.alive(process) else None

    def kill(self, node: str, number: signal.Signals = signal.SIGKILL, *, everything: bool = False) -> None:
        """Sends a signal to the node's agent; `everything`: also to what it started. Raises LabError."""
        self.plan.node(node)
        process = self.running().agents.get(node)
        send = processes.signal_all if everything else processes.send_signal
        if process is None or not send(process, number):
            raise LabError(f"no agent runs on {node}; `molehill lab start {node}` starts one")

    def wait_ended(self, node: str, timeout: float) -> bool:
        """True once the node's agent is gone; False after `timeout` seconds."""
        process = self.running().agents.get(node)
        return process is None or not processes.wait_gone([process], timeout)

    def ask(self, node: str, verb: str, arguments: dict[str, Any] | None = None, timeout: float = 5.0) -> Any:
        """A request on the agent's control socket. Raises LabError: nobody there, refused, or late."""
        try:
            return client.ask(str(control_path(self.directory, node)), verb, timeout, **(arguments or {}))
        except client.Failed as failure:
            raise LabError(f"{node}, `{verb}`: {failure}") from None

    # Faults.

    def _fault(self, verb: str, hosts: Iterable[str], at: float) -> None:
        line = msgspec.json.encode(Fault(at, verb, tuple(hosts))) + b"\n"
        with open(self.directory / "faults.jsonl", "ab") as file:
            file.write(line)

    def cut(self, host: str, *, link: bool = False) -> float:
        """Isolates a node (or `client`); `link`: with loss of carrier. Returns when it was complete."""
        with self._changing() as running:
            network.cut(self.plan, host, link=link)
            at = now()
            running.apart[host] = "link" if link else "cut"
            self._fault("link" if link else "cut", [host], at)
        return at

    def split(self, hosts: Iterable[str]) -> float:
        """Puts these nodes (and `client`, if named) on a segment of their own. Returns when it was complete."""
        names = list(dict.fromkeys(hosts))
        for name in names:
            network.port_name(self.plan, name, 0)
        with self._changing() as running:
            earlier = [name for name, why in running.apart.items() if why == "split" and name not in names]
            if earlier:
                raise LabError(f"{', '.join(earlier)} are split off already; `molehill lab heal` first")
            network.split(self.plan, names)
            at = now()
            for name in names:
                running.apart[name] = "split"
            self._fault("split", names, at)
        return at

    def one_way(self, source: str, target: str) -> None:
        """What `source` sends does not reach `target`; the other direction works. `heal` ends it."""
        with self._changing() as running:
            pairs = [*running.one_way, (source, target)]
            network.drop_one_way(self.plan, pairs)
            running.one_way = pairs

    def heal(self, hosts: Iterable[str] = ()) -> float:
        """Undoes all faults of the network, or those of the named hosts. Returns when it began."""
        names = list(hosts)
        with self._changing() as running:
            chosen = names or list(running.apart)
            for name in chosen:
                network.port_name(self.plan, name, 0)
            if running.one_way and not names:
                network.drop_one_way(self.plan, [])
                running.one_way = []
            at = now()
            if chosen:
                network.join(self.plan, chosen)
                self._fault("heal", chosen, at)
            for name in chosen:
                running.apart.pop(name, None)
        return at

    def lose(self, node: str) -> float:
        """The host is lost: its switch port goes down and all its processes die. Returns when it began."""
        began = now()
        self.cut(node, link=True)
        process = self.running().agents.get(node)
        if process is not None:
            processes.send_signal(process, signal.SIGKILL, group=True)
        return began

    def stop_at_once(self, node: str) -> None:
        """Power off: no process of the agent and no VIP is left on the node, and nobody was told."""
        process = self.running().agents.get(node)
        if process is not None:
            processes.signal_all(process, signal.SIGKILL)
            processes.wait_gone([process], 5.0)
        network.flush_vips(self.plan, node)

    def reboot(self, node: str) -> float:
        """The host comes back: no VIP on it, port up, agent started. Returns when it began."""
        began = now()
        self.stop_at_once(node)
        self.heal([node])
        self.start(node)
        return began

    # What happened.

    def changes(self) -> list[watch.Change]:
        return watch.read(self.directory)

    def apart(self) -> list[Apart]:
        """Which nodes could not reach the others, and when: from the faults so far."""
        try:
            lines = (self.directory / "faults.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found = []
        open_: dict[str, tuple[frozenset[str], float]] = {}
        for fault in (msgspec.json.decode(line, type=Fault) for line in lines):
            groups = [frozenset(fault.hosts)] if fault.verb == "split" else [frozenset((host,)) for host in fault.hosts]
            for host in fault.hosts:
                if host in open_:
                    group, since = open_.pop(host)
                    found.append(Apart(group, since, fault.at))
            if fault.verb != "heal":
                open_ |= {host: (group, fault.at) for group in groups for host in group}
        found += [Apart(group, since, FOREVER) for group, since in open_.values()]
        return list(dict.fromkeys(found))

    def held_twice(self, since: float, until: float) -> list[Twice]:
        """Stretches in which two connected nodes had a VIP's address."""
        addresses = [address for _, address in self.plan.addresses()]
        return held_twice(self.changes(), addresses, since, until, self.apart())

    def periods(self, until: float) -> list[Held]:
        """Every stretch in which a node had a VIP's address."""
        vips = {address for _, address in self.plan.addresses()}
        return [held for held in periods(self.changes(), until) if held.address in vips]

    def holders(self) -> dict[str, list[str]]:
        """For each VIP address the nodes that have it now, by the address watch."""
        found: dict[str, dict[str, None]] = {address: {} for _, address in self.plan.addresses()}
        for change in self.changes():
            if change.address in found:
                if change.present:
                    found[change.address][change.node] = None
                else:
                    found[change.address].pop(change.node, None)
        return {address: list(nodes) for address, nodes in found.items()}


def down(name: str) -> list[str]:
    """Removes the lab, whatever state it is in; says what it did. Nothing there: an empty list."""
    directory = state.directory_of(name)
    done = []
    if directory.exists():
        try:
            running = state.read_running(directory)
        except LabError:
            running = Running()
        known = [*running.agents.values(), *running.services.values()]
        for process in known:
            processes.send_signal(process, signal.SIGKILL, group=True)
        processes.wait_gone(known, 5.0)
        if known:
            done.append(f"ended {len(known)} agents and services")
    done += network.destroy(name)
    if state.remove(name):
        done.append(f"removed {directory}")
    return done


def shield(nice: int) -> None:
    """Everything that is started from here on runs before the machine's other work."""
    os.setpriority(os.PRIO_PROCESS, 0, nice)
