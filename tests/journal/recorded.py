"""Simulated nodes with a flight recorder each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.core.ids import Member
from agent.core.node import Output
from agent.journal import BYTES_MAX, Journal
from tests.core.cluster import Recorder, settings, vips
from tests.sim.checkers import Checkers
from tests.sim.world import Host, World


class Taping(Checkers):
    """Checks the invariants too. Every life of a node has a journal of its own."""

    bytes_max = BYTES_MAX

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.journals: dict[Member, Journal] = {}
        self.outputs: dict[Member, list[list[Output]]] = {}

    def before(self, host: Host, now: float, item: Any) -> None:
        assert host.node is not None
        if host.node.me not in self.journals:
            self.journals[host.node.me] = Journal(
                host.node, clock=lambda: host.clock(self.now), bytes_max=self.bytes_max
            )
            self.outputs[host.node.me] = []
        self.now = now
        super().before(host, now, item)

    def after(self, host: Host, now: float, item: Any, outputs: Any) -> None:
        assert host.node is not None
        self.journals[host.node.me].record((host.clock(now), item, outputs))
        self.outputs[host.node.me].append(outputs)
        super().after(host, now, item, outputs)


class TapedRecorder(Taping, Recorder):
    pass


def taped(names: list[str], count: int = 6, *, bytes_max: int = BYTES_MAX) -> tuple[World, TapedRecorder]:
    """A cluster that is up and has every VIP held."""
    tape = TapedRecorder()
    tape.bytes_max = bytes_max
    world = World(1, settings(names, vips(count)), tape)
    tape.hosts = world.hosts
    for host in world.hosts.values():
        world.start(host)
    world.run(2.0)
    return world, tape


def of(tape: Taping, name: str) -> tuple[Journal, list[list[Output]]]:
    """Journal and outputs of the node's first life."""
    member = next(member for member in tape.journals if member.name == name)
    return tape.journals[member], tape.outputs[member]


def written(journal: Journal, directory: Path, reason: str = "request", error: str = "") -> Path:
    return journal.recording(reason, error).write(directory).path
