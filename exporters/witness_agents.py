"""What the agents say, by their own status pages: who is reached, which view each is in, what each holds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import aiohttp
import msgspec

BODY_MAX = 64 * 2**20
"""Bytes of a status: 16,384 VIPs are about 5 MB."""

AT_A_TIME = 16
"""Agents that are asked at the same time."""


class _View(msgspec.Struct):
    id: str


class _Vip(msgspec.Struct):
    name: str
    addresses: list[str]
    held: bool


class _Status(msgspec.Struct):
    """The part of `/api/v1/status` that is needed here."""

    node: str
    view: _View | None
    vips: list[_Vip]


@dataclass(frozen=True, slots=True)
class Said:
    """One round."""

    reached: int = 0
    views: frozenset[str] = frozenset()
    claims: Counter[str] = field(default_factory=Counter)
    """Agents that say they hold it, by VIP of the witness."""
    silent: tuple[tuple[str, str], ...] = ()
    """Agents that were not reached, and why."""


class Agents:
    """`ask` once a round. A VIP is recognized by its addresses: its name may be another one here."""

    def __init__(self, addresses: tuple[str, ...], vips: dict[str, str], timeout: float) -> None:
        """`vips`: this witness's name for each address, as text. `timeout` in seconds."""
        self._addresses = addresses
        self._vips = vips
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(timeout))
        self._turns = asyncio.Semaphore(AT_A_TIME)

    async def close(self) -> None:
        await self._session.close()

    async def ask(self) -> Said:
        answers = await asyncio.gather(*(self._one(address) for address in self._addresses))
        each = zip(self._addresses, answers, strict=True)
        reached = [answer for answer in answers if isinstance(answer, _Status)]
        return Said(
            reached=len(reached),
            views=frozenset(status.view.id for status in reached if status.view is not None),
            claims=Counter(vip for status in reached for vip in self._claimed(status.vips)),
            silent=tuple((address, answer) for address, answer in each if isinstance(answer, str)),
        )

    def _claimed(self, vips: Iterable[_Vip]) -> set[str]:
        """Each VIP once per agent."""
        held = (text for vip in vips if vip.held for text in vip.addresses)
        return {self._vips[address] for text in held if (address := _bare(text)) in self._vips}

    async def _one(self, address: str) -> _Status | str:
        """Its status, or why there is none."""
        try:
            async with self._turns, self._session.get(f"{address}/api/v1/status") as response:
                if response.status != 200:
                    return f"HTTP status {response.status}"
                body = await response.content.read(BODY_MAX)
                while not response.content.at_eof() and len(body) < BODY_MAX:
                    body += await response.content.read(BODY_MAX)
        except TimeoutError:
            return "no answer in time"
        except (aiohttp.ClientError, OSError) as error:
            return str(error) or type(error).__name__
        try:
            return await asyncio.to_thread(msgspec.json.decode, body, type=_Status)
        except msgspec.MsgspecError as error:
            return f"what answers is no agent: {error}"


def _bare(text: str) -> str:
    """`eth0:192.0.2.10/24` to `192.0.2.10`."""
    return text.partition(":")[2].rpartition("/")[0]
