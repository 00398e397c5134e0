"""Hosts outside the group that claim a VIP while this node holds it. Their addresses are a stranger's word: bounded."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.events import ConflictSeen
from agent.core.ids import VipName
from exporters.schema import RivalStatus
from exporters.wall import Wall

KEPT = 900.0
"""Seconds for which a rival that is quiet is still named: longer than any alert about it lasts."""

PER_VIP = 4
RIVALS_MAX = 256
"""Somebody who invents addresses pushes out older ones, of the same VIP first."""


@dataclass(frozen=True, slots=True)
class Rival:
    first: float
    """Seconds of the node's clock."""
    claims: int
    last: ConflictSeen


Rivals = dict[tuple[VipName, str], Rival]
"""By VIP and hardware address, the latest seen last."""


def fold(rivals: Rivals, event: ConflictSeen) -> None:
    known = rivals.pop((event.vip, event.mac), None)
    if known is None or event.at - known.last.at >= KEPT:
        known = Rival(event.at, 0, event)
    rivals[event.vip, event.mac] = Rival(known.first, known.claims + 1, event)
    of_vip = [key for key in rivals if key[0] == event.vip]
    if len(of_vip) > PER_VIP:
        del rivals[of_vip[0]]
    elif len(rivals) > RIVALS_MAX:
        del rivals[next(iter(rivals))]


def present(rivals: Rivals, now: float) -> Rivals:
    """Without those that have been quiet for long."""
    return {key: rival for key, rival in rivals.items() if now - rival.last.at < KEPT}


def rival_statuses(rivals: Rivals, wall: Wall) -> dict[VipName, list[RivalStatus]]:
    """By VIP; in each the latest first."""
    rows: dict[VipName, list[RivalStatus]] = {}
    for (vip, mac), rival in reversed(present(rivals, wall.clock()).items()):
        rows.setdefault(vip, []).append(
            RivalStatus(
                mac=mac,
                address=rival.last.address,
                interface=rival.last.interface,
                first=wall.instant(rival.first),
                last=wall.instant(rival.last.at),
                claims=rival.claims,
                answer=rival.last.answer,
            )
        )
    return rows
