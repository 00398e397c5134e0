"""Metrics that are rendered from state: nothing is done for them when something happens.

prometheus_client needs 44 ms for the families of 1,000 VIPs; these lines are made in a tenth of that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from agent.core.view import Cause
from exporters.leases import TIMED, Layer
from exporters.lines import ACQUIRE_ADVICE
from exporters.rivals import present
from exporters.status import Status

STATES = ("boot", "gather", "run", "balance", "left")

VIPS_FULL = 100
"""Up to so many VIPs every combination of VIP and cause starts at 0, so that rate() sees the first event: at most
100 x 14 causes x 2 families = 2,800 series. Beyond it only the causes that alerts watch start at 0."""

WATCHED = (Cause.FAILOVER, Cause.BALANCE)

STRETCH = 256
"""Lines rendered at a stretch: 0.5 to 1 ms."""

BREATH = 0.0002
"""Seconds between two stretches."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """Events of single VIPs since the agent started."""

    acquired: Mapping[tuple[str, str], int]
    """By VIP and cause."""
    released: Mapping[tuple[str, str], int]
    failed: Mapping[tuple[str, str], int]
    """By VIP and reason."""
    conflicts: Mapping[str, int]
    """Claims of other hosts by VIP."""
    dropped: int
    """Events that no exporter saw because the queue was full."""
    broken: int
    """Exporters that were switched off after an error."""
    spans_dropped: int
    """Spans that no collector took."""
    checks: Mapping[str, bool]
    """Health checks by name: whether each passes; True before its first verdict."""
    hooks: Mapping[str, int]
    """Failures of each hook."""


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    """Of a counter without `_total`."""
    kind: str
    """`gauge` or `counter`."""
    help: str
    samples: Iterable[tuple[Labels, float]]


def render(families: Iterable[Family], const: Labels, *, openmetrics: bool) -> str:
    """Text of either format, without the end mark of OpenMetrics. `const` are labels that all samples get.

    Not for the event loop's thread: it pauses now and then, so that the loop's thread gets the interpreter at once.
    """
    start = ",".join(f'{name}="{_escape(value)}"' for name, value in const)
    lines: list[str] = []
    for family in families:
        sample = f"{family.name}_total" if family.kind == "counter" else family.name
        title = family.name if openmetrics else sample
        lines += (f"# HELP {title} {family.help}", f"# TYPE {title} {family.kind}")
        for labels, value in family.samples:
            own = "".join(f',{name}="{_escape(text)}"' for name, text in labels)
            lines.append(f"{sample}{{{start}{own}}} {value!r}")
            if not len(lines) % STRETCH:
                time.sleep(BREATH)
    return "\n".join(lines) + "\n"


def families(status: Status, counts: Counts) -> Iterator[Family]:
    settings = status.settings
    view = status.view.view if status.view is not None else None
    yield Family("molehill_state", "gauge", "State of the node: 1 for the present one.", _states(status.state))
    yield _single(
        "molehill_mature", "Whether the node may serve VIPs: the group has been up long enough.", status.mature
    )
    yield _single("molehill_fit", "Whether the node's health checks and links allow it to be given VIPs.", status.fit)
    yield _single("molehill_draining", "Whether the node is drained by an operator.", status.draining)
    yield Family(
        "molehill_view_info",
        "gauge",
        "The installed view (epoch-coordinator-incarnation), equal on all its members; always 1.",
        [((("view", str(view.id)),), 1)] if view is not None else [],
    )
    yield _single(
        "molehill_view_members", "Members of the installed view.", len(view.members) if view is not None else 0
    )
    yield _single(
        "molehill_configured_members", "Members in the configuration; 0 if discovered.", len(settings.members)
    )
    yield Family(
        "molehill_config_info",
        "gauge",
        "Hash of the cluster-wide settings, equal on all nodes that are configured alike; always 1.",
        [((("hash", settings.digest),), 1)],
    )
    yield _single(
        "molehill_quorate",
        "Whether this component may serve VIPs: always under `partition: component`.",
        status.quorate,
    )
    counted = status.counted
    yield Family(
        "molehill_votes",
        "gauge",
        "Votes of the members of the view; only under `partition: quorum`.",
        [((), counted.votes)] if counted is not None else [],
    )
    yield Family(
        "molehill_votes_needed",
        "gauge",
        "Votes that a view needs to hold VIPs; only under `partition: quorum`.",
        [((), counted.needed)] if counted is not None else [],
    )
    yield Family(
        "molehill_sealed",
        "gauge",
        "Whether this agent's messages are encrypted and proven genuine; only of the embedded engine.",
        [((), int(status.sealed))] if status.sealed is not None else [],
    )
    yield _single("molehill_vips_uncovered", "VIPs that no member of the view owns.", status.uncovered)
    yield _single(
        "molehill_vip_spread", "Weighted load of the fullest member minus the emptiest, in VIPs.", status.spread
    )
    yield Family(
        "molehill_arp_cache_entries",
        "gauge",
        "Neighbours known: of this node's own tables (local) and of all members (shared).",
        [((("scope", "local"),), status.arp_cache[0]), ((("scope", "shared"),), status.arp_cache[1])],
    )
    yield Family(
        "molehill_events_dropped", "counter", "Events that no exporter saw: the queue was full.", [((), counts.dropped)]
    )
    yield _single("molehill_exporters_failed", "Exporters that are switched off because of an error.", counts.broken)
    yield Family("molehill_spans_dropped", "counter", "Spans that no collector took.", [((), counts.spans_dropped)])
    yield from _of_leases(status)
    yield Family(
        "molehill_check_up",
        "gauge",
        "Whether the health check passes; 1 before its first verdict.",
        [((("check", name),), int(up)) for name, up in sorted(counts.checks.items())],
    )
    yield Family(
        "molehill_hook_failures",
        "counter",
        "Times the hook failed or was too slow.",
        [((("hook", path),), count) for path, count in sorted(counts.hooks.items())],
    )
    yield from _of_vips(status, counts)


def _of_leases(status: Status) -> Iterator[Family]:
    yield Family(
        "molehill_lease_layer_active",
        "gauge",
        "Whether this layer would silence the node in time: kernel filter (fast), address lifetime (address), guard.",
        [((("layer", name),), int(layer.active)) for name, layer in status.layers.items()],
    )
    yield Family(
        "molehill_lease_expired",
        "counter",
        "Times the lease ran out before it was renewed.",
        [((("layer", name),), status.layers.get(name, Layer()).expired) for name in TIMED],
    )


def _of_vips(status: Status, counts: Counts) -> Iterator[Family]:
    names = [str(vip.name) for vip in status.settings.vips]
    yield Family(
        "molehill_vip_held",
        "gauge",
        "Whether the VIP's addresses are up on this node: over all nodes the sum should be 1.",
        [((("vip", vip),), int(vip in status.held_since)) for vip in names],
    )
    yield Family(
        "molehill_vip_acquired_timestamp_seconds",
        "gauge",
        "When this node acquired the VIP that it holds, in Unix time.",
        [((("vip", vip),), since) for vip, since in sorted(status.held_since.items())],
    )
    yield Family(
        "molehill_vip_owner_info",
        "gauge",
        "Who owns the VIP in this node's view; absent if nobody does; always 1.",
        [
            ((("vip", vip), ("owner", owner.node)), 1)
            for vip, owner in sorted(status.owners.items())
            if owner.node is not None
        ],
    )
    causes = [cause.value for cause in (Cause if len(names) <= VIPS_FULL else WATCHED)]
    reasons = tuple(ACQUIRE_ADVICE) if len(names) <= VIPS_FULL else ()
    yield Family(
        "molehill_vip_acquisitions",
        "counter",
        "Times this node acquired the VIP.",
        _counted(counts.acquired, "cause", names, causes),
    )
    yield Family(
        "molehill_vip_releases",
        "counter",
        "Times this node released the VIP.",
        _counted(counts.released, "cause", names, causes),
    )
    yield Family(
        "molehill_vip_acquire_failures",
        "counter",
        "Times this node could not put the VIP's addresses up.",
        _counted(counts.failed, "reason", names, reasons),
    )
    yield Family(
        "molehill_vip_conflicts",
        "counter",
        "Times another host claimed the VIP while this node held it.",
        [((("vip", vip),), counts.conflicts.get(vip, 0)) for vip in names],
    )
    yield Family(
        "molehill_vip_conflict_info",
        "gauge",
        "Who claimed a VIP that this node held in the last 15 minutes, the latest four of each; always 1.",
        [((("vip", vip), ("mac", mac)), 1) for vip, mac in sorted(present(status.rivals, status.wall.clock()))],
    )


def _single(name: str, text: str, value: float) -> Family:
    return Family(name, "gauge", text, [((), float(value))])


def _states(state: str) -> list[tuple[Labels, float]]:
    return [((("state", name),), int(name == state.lower())) for name in STATES]


def _counted(
    counts: Mapping[tuple[str, str], int], label: str, vips: Iterable[str], words: Iterable[str]
) -> list[tuple[Labels, float]]:
    """What happened, and zeroes for what might; nothing of VIPs that are no longer configured."""
    known = set(vips)
    zeroes = {(vip, word): 0 for vip in sorted(known) for word in words}
    return [
        ((("vip", vip), (label, word)), count) for (vip, word), count in (zeroes | dict(counts)).items() if vip in known
    ]


@lru_cache(maxsize=4_096)
def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
