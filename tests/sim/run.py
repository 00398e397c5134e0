"""One seed: a cluster drawn from it, a phase in which anything may fail and nothing may be wrong, then a phase in
which everything is healed and all must come right."""

from __future__ import annotations

import random
from dataclasses import dataclass

from agent.core.ids import NodeName, VipName
from agent.core.ownership import Phase
from agent.core.placement import plan_round, plan_urgent
from agent.core.settings import Address, PartitionPolicy, Settings, Timing, Vip
from tests.sim.checkers import Checkers
from tests.sim.nemesis import Nemesis
from tests.sim.violation import Violation
from tests.sim.world import Host, World

SAFETY = (2.0, 9.0)
"""Virtual seconds of faults."""


@dataclass(frozen=True)
class Result:
    seed: int
    nodes: int
    steps: int
    views: int
    acquisitions: int
    trace: tuple[str, ...]


def settings_of(rng: random.Random) -> list[Settings]:
    names = [NodeName(f"n{i}") for i in range(1, rng.choice((2, 2, 3, 3, 3, 4, 4, 5, 6, 7)) + 1)]
    timing = Timing(
        heartbeat=0.1,
        failure_timeout=rng.choice((0.3, 0.4)),
        mature=rng.choice((0.3, 1.0)),
        balance_interval=rng.choice((0.5, 1.0, 2.0)),
    )
    picky = rng.random() < 0.4
    vips = []
    for i in range(rng.randint(1, 9)):
        address = f"10.0.1.{i + 1}"
        prefer = (rng.choice(names),) if picky and rng.random() < 0.3 else ()
        nodes = tuple(rng.sample(names, rng.randint(1, len(names)))) if picky and rng.random() < 0.3 else ()
        vips.append(Vip(VipName(address), (Address("eth0", address, 32, "10.0.0.0/16"),), prefer, nodes))
    limit = rng.choice((None, 1, 2))
    kind = rng.choice(("free", "leased", "leased", "quorum", "quorum"))
    # Nine tenths of the failure timeout is what the agent takes by itself; some far beyond it, where R9 has to wait.
    usual = 0.9 * timing.failure_timeout
    lease = 0.0 if kind == "free" else rng.choice((usual, usual, usual, 0.22, 1.0, 2.5))
    partition = PartitionPolicy.QUORUM if kind == "quorum" else PartitionPolicy.COMPONENT
    votes = tuple((name, 2) for name in names if rng.random() < 0.15) if kind == "quorum" else ()
    witness = names[-1] if kind == "quorum" and rng.random() < 0.3 else None
    settings = []
    for name in names:
        known = vips if rng.random() < 0.95 else vips[: max(1, len(vips) - 1)]
        settings.append(
            Settings(
                cluster="sim",
                node=name,
                vips=tuple(known),
                members=tuple(names),
                timing=timing,
                acquisitions_per_round=limit,
                weight=rng.choice((1.0, 1.0, 2.0)) if picky else 1.0,
                digest=f"{len(known)}",
                serves=name != witness,
                partition=partition,
                votes=votes,
                lease_bound=lease,
            )
        )
    return settings


def run(seed: int, *, keep_trace: bool = False) -> Result:
    """Raises Violation; its notes carry the transcript when `keep_trace`."""
    rng = random.Random(seed)
    settings = settings_of(rng)
    checkers = Checkers(keep_trace=keep_trace, least_lease=settings[0].lease_bound)
    world = World(rng.getrandbits(32), settings, checkers)
    checkers.hosts = world.hosts
    world.guards = settings[0].lease_bound > 0.0 and rng.random() < 0.5
    nemesis = Nemesis(world, random.Random(rng.getrandbits(32)))
    leased = settings[0].lease_bound > 0.0
    quorum = settings[0].partition is PartitionPolicy.QUORUM
    checkers.never_two = quorum or (leased and not nemesis.breaks_network)
    try:
        for host in world.hosts.values():
            world.after(rng.uniform(0.0, 0.5), lambda host=host: world.start(host))  # type: ignore[misc]
        world.after(rng.uniform(0.3, 1.5), nemesis.unleash)
        world.run(rng.uniform(*SAFETY))
        nemesis.quiet()
        _liveness(world, settings[0].timing, max(len(host.settings.vips) for host in world.hosts.values()))
    except Violation as violation:
        _note(violation, seed, checkers)
        raise
    except Exception as error:
        violation = Violation(f"the core raised {error!r}")
        _note(violation, seed, checkers)
        raise violation from error
    trace = tuple(checkers.trace)
    return Result(seed, len(world.hosts), world.steps, checkers.view_changes, checkers.acquisitions, trace)


def _note(violation: Violation, seed: int, checkers: Checkers) -> None:
    """What a replay prints: the seed, and the last lines of the transcript where it was kept."""
    violation.add_note(f"seed {seed}")
    violation.add_note("\n".join(checkers.trace[-400:]))


def _liveness(world: World, timing: Timing, vips: int) -> None:
    """After the last fault: one view of all that live, every VIP once, evenly, every request answered."""
    settle = world.now + 16.0 * timing.failure_timeout + timing.mature
    converged: dict[NodeName, int] = {}
    lease = max(host.settings.lease_bound for host in world.hosts.values())
    bound = settle + lease + (vips + 3) * timing.balance_interval + 2.0
    while world.now < bound:
        world.run(world.now + 0.25)
        if world.now >= settle and not converged and _one_view(world):
            converged = {h.name: _epoch(h) for h in world.hosts.values() if h.node is not None}
        if converged and not _unfinished(world):
            break
    unfinished = _unfinished(world)
    if unfinished:
        raise Violation(f"liveness at {world.now:.3f}: {unfinished}")
    world.run(world.now + 8.0 * timing.failure_timeout)
    further = {name for name, epoch in converged.items() if _epoch(world.hosts[name]) > epoch + 1}
    if further or (_living(world) and not converged):
        raise Violation(f"liveness: views go on changing on {sorted(further)} after everything was healed")


def _epoch(host: Host) -> int:
    assert host.node is not None
    view = host.node.membership.view
    return view.id.epoch if view is not None else 0


def _living(world: World) -> list[Host]:
    return [h for h in world.hosts.values() if h.node is not None and h.node.membership.active]


def _one_view(world: World) -> bool:
    living = _living(world)
    ids = {h.node.membership.view.id if h.node and h.node.membership.view else None for h in living}
    return len(ids) == 1 and None not in ids


def _addresses(host: Host, name: VipName) -> tuple[Address, ...] | None:
    return next((vip.addresses for vip in host.settings.vips if vip.name == name), None)


def _unfinished(world: World) -> str:
    """What is not yet as it must be; empty: nothing."""
    living = _living(world)
    if not living:
        return ""
    names = {host.name for host in living}
    for host in living:
        node = host.node
        assert node is not None
        view = node.membership.view
        if view is None or set(view.names()) != names or not node.membership.operational:
            return f"{host.name} is in {view}, living are {sorted(names)}"
        if node.serving.operator:
            return f"{host.name} waits for {node.serving.operator}"
        if node.serving.record is None or not node.serving.record.mature:
            return f"{host.name} is not mature"
    record = living[0].node.serving.record if living[0].node else None
    assert record is not None
    settings = living[0].settings
    if settings.partition is PartitionPolicy.QUORUM:
        kept = [host.name for host in living if host.up]
        if sum(settings.votes_of(name) for name in names) < settings.votes_needed:
            return f"{kept} hold without a quorum" if kept else ""
    silent = [host.name for host in living if host.up and not host.answers(world.now)]
    if silent:
        return f"the lease of {silent} is over"
    candidates = record.candidates()
    for spec in record.specs:
        holders = [host.name for host in living if spec.name in host.up]
        able = [c for c in candidates if (c.knows is None or spec.name in c.knows)]
        able = [c for c in able if not spec.nodes or c.name in spec.nodes]
        # Whom a reload made ineligible while nobody else is eligible keeps it.
        if len(holders) > 1 or (able and not holders):
            return f"{spec.name} is held by {holders}, eligible {[c.name for c in able]}"
        wrong = [h.name for h in living if spec.name in h.up and h.defined[spec.name] != _addresses(h, spec.name)]
        if wrong:
            return f"{spec.name} is up as it was defined before a reload on {wrong}"
        phases = [h.node.serving.ownership.holdings[spec.name].phase for h in living if h.node and spec.name in h.up]
        if any(phase is not Phase.HELD for phase in phases):
            return f"{spec.name} is in {phases}"
    if record.handovers:
        return f"hand-overs {record.handovers}"
    if plan_round(candidates, record.specs, record.owners, None) or plan_urgent(
        candidates, record.specs, record.owners
    ):
        return f"not balanced: {record.owners}"
    return ""
