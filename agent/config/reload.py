"""What a running agent cannot take over from a new configuration."""

from __future__ import annotations

from agent.config.models import Configuration
from agent.config.problem import Problem


def fixed(old: Configuration, new: Configuration) -> list[Problem]:
    """An error for each change that needs a restart; and for votes that do not change one at a time."""
    pairs = {
        "cluster": (old.cluster, new.cluster),
        "node": (old.node, new.node),
        "state_dir": (old.state_dir, new.state_dir),
        "control": (old.control, new.control),
        "http.listen": (old.http.listen, new.http.listen),
        "http.web_config": (old.http.web_config, new.http.web_config),
        "tracing": (old.tracing, new.tracing),
        "engine.bind": (old.bind, new.bind),
        "engine.port": (old.engine.port, new.engine.port),
        "engine.broadcast": (old.engine.broadcast, new.engine.broadcast),
        "partition": (old.partition, new.partition),
        "lease.fast": (old.lease.fast == "off", new.lease.fast == "off"),
        "lease.address": (old.lease.address, new.lease.address),
        "conflict.probe": (old.conflict.probe, new.conflict.probe),
        "realtime": (old.realtime, new.realtime),
    }
    problems = [
        Problem("reload", None, f"{key} is {after!s}, the running agent has {before!s}", "restart the agent for that")
        for key, (before, after) in pairs.items()
        if before != after
    ]
    problems += _renamed(old, new)
    if old.partition == "quorum" == new.partition:
        problems += _votes(old, new)
    return problems


def _renamed(old: Configuration, new: Configuration) -> list[Problem]:
    """The group knows VIPs by their names: one is still being taken off here while another node puts the other up."""
    before, after = _names(old), _names(new)
    moved = [(address, before[address], name) for address, name in after.items() if before.get(address, name) != name]
    return [
        Problem(
            "reload",
            None,
            f"{address} goes from VIP {former!r} to VIP {name!r}",
            "take it out of all nodes first and add it with the next reload, or restart the agent",
        )
        for address, former, name in moved
    ]


def _names(configuration: Configuration) -> dict[str, str]:
    return {str(each.address): vip.name for vip in configuration.pool for each in vip.addresses}


def _votes(old: Configuration, new: Configuration) -> list[Problem]:
    """A majority before and one after a change of a single vote always have a member in common."""
    before, after = _counted(old), _counted(new)
    names = sorted(before.keys() | after.keys())
    changed = {name: after.get(name, 0) - before.get(name, 0) for name in names}
    changed = {name: by for name, by in changed.items() if by}
    if sum(abs(by) for by in changed.values()) <= 1:
        return []
    listed = ", ".join(f"{name} {by:+d}" for name, by in changed.items())
    text = f"more than one vote changes under `partition: quorum` ({listed})"
    return [Problem("reload", None, text, "change one member's vote by one, on all nodes, before the next")]


def _counted(configuration: Configuration) -> dict[str, int]:
    return {name: configuration.votes.get(name, 1) for name in configuration.engine.members}
