"""What this node may not acquire yet, since a lost holder's lease may still run (R9)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set

from agent.core.ids import VipName
from agent.core.messages import OTHERS
from agent.core.settings import Address, Vip


class Waits:
    """Times on this node's clock; `OTHERS` stands for every VIP that the view did not know."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: dict[VipName, float] = {}

    def take(self, now: float, waits: Iterable[tuple[VipName, float]], longest: float) -> None:
        """Those of an Install, in seconds from now, in place of all former ones. None is longer than `longest`."""
        self._until = {vip: now + min(wait, longest) for vip, wait in waits}

    def slept(self, now: float, seconds: float, names: Set[VipName]) -> None:
        """Nobody knows what was acquired meanwhile: all is waited for."""
        every = {OTHERS, *names}
        self._until = {vip: max(now + seconds, self._until.get(vip, now)) for vip in sorted(every)}

    def coming_off(self, now: float, seconds: float, parts: Iterable[Address], vips: Iterable[Vip]) -> None:
        """What is being taken off here may be another VIP's by now: one of `vips`, or of another node's table."""
        off = {part.address for part in parts}
        names = [vip.name for vip in vips if any(part.address in off for part in vip.addresses)]
        self._until.update({vip: max(now + seconds, self._until.get(vip, now)) for vip in (OTHERS, *names)})

    def over(self, vip: VipName, now: float) -> bool:
        return self._until.get(vip, now) <= now

    def end(self, vips: Iterable[VipName]) -> float:
        """When the first of these may be acquired; infinite when none of them is waited for."""
        # A view that was left for the next gather at once has not looked at what waits in it yet.
        return min((self._until[vip] for vip in vips if vip in self._until), default=float("inf"))

    def declare(
        self, now: float, own: Set[VipName], known: Set[VipName], held: Collection[VipName]
    ) -> tuple[tuple[VipName, float], ...]:
        """What is left, for a Join that declares `held`.

        `own`: in this node's table; `known`: to the view that the waits come from.
        """
        until = self._until
        if not self.over(OTHERS, now):
            # What a reload brought since was none of those that the view knew.
            until = dict.fromkeys(sorted(own - known), until[OTHERS]) | until
        return tuple((vip, at - now) for vip, at in until.items() if at > now and vip not in held)
