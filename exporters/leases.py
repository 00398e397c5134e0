"""What keeps this node from answering for a VIP that is not its any more, folded from events."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.core.events import LeaseLayer, LeaseLost, LeaseRenewed, LeaseTaken
from exporters.schema import LeaseStatus
from exporters.wall import Wall

LAYERS = ("fast", "address", "guard")
"""Kernel filter, address lifetime, guard process."""

TIMED = ("fast", "address")
"""Layers that run out; a guard does not."""


@dataclass(frozen=True, slots=True)
class Layer:
    active: bool = False
    detail: str = ""
    until: float | None = None
    """Seconds of the node's clock; None: no lease is running."""
    margin: float | None = None
    """Seconds that were left at the last renewal."""
    expired: int = 0


def fold(layers: dict[str, Layer], event: LeaseLayer | LeaseLost | LeaseTaken | LeaseRenewed) -> None:
    match event:
        case LeaseLayer(layer=name, active=active, detail=detail):
            known = layers.get(name, Layer())
            layers[name] = replace(known, active=active, detail=detail, until=known.until if active else None)
        case LeaseLost(layer=name):
            known = layers.get(name, Layer())
            layers[name] = replace(known, until=None, expired=known.expired + 1)
        case LeaseTaken(until=until):
            layers["fast"] = replace(layers.get("fast", Layer()), until=until)
        case LeaseRenewed(layer=name, until=until, margin=margin):
            layers[name] = replace(layers.get(name, Layer()), active=True, until=until, margin=margin)


def lease_statuses(layers: dict[str, Layer], wall: Wall) -> list[LeaseStatus]:
    now = wall.clock()
    return [
        LeaseStatus(
            layer=name,
            active=layer.active,
            detail=layer.detail,
            until=None if layer.until is None else wall.instant(layer.until),
            remaining=None if layer.until is None else layer.until - now,
            margin=layer.margin,
            expired=layer.expired,
        )
        for name, layer in layers.items()
    ]
