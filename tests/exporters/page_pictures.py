"""`python -m tests.exporters.page_pictures DIR`: pictures of the page over real clusters, light, dark and on a phone.

Needs root, Chromium, and for the typeface fonts-inter.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from agent.lab.lab import Lab
from tests.exporters.browser import Tab, browser
from tests.exporters.page_lab import SLOW, cluster, fail_over_under_way, missing, open_page

NAME = "page"
DESK = (1360, 860)
PHONE = (360, 780)


async def take(tab: Tab, directory: Path, state: str, *, phone: bool = True) -> None:
    """The page as it is now, whole."""
    looks = [("light", DESK, False), ("dark", DESK, True), *([("phone", PHONE, True)] if phone else [])]
    for look, (width, height), dark in looks:
        small = look == "phone"
        await tab.look(width, height, dark=dark, phone=small, scale=1.5 if small else 1)
        # Two frames: the first has the new sizes, the second is painted with them.
        await tab.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        path = directory / f"page-{state}-{look}.png"
        await tab.picture(path)
        print(path)


async def three_states(tab: Tab, directory: Path) -> None:
    async with cluster(NAME, 3, 6) as lab:
        await open_page(tab, lab, "www1")
        await settle(tab)
        await asyncio.to_thread(lab.cut, "www1")
        await tab.until("facts.members().www2[0] === 'missing' && facts.members().www3[0] === 'missing'")
        await tab.until("facts.story().some((text) => /left www2, www3.*acquisition/s.test(text))")
        await take(tab, directory, "partitioned")
        await asyncio.to_thread(lab.heal)
        await tab.until("facts.notices().length === 0")
        await asyncio.to_thread(lab.ask, "www1", "balance")
        await tab.until("facts.figure('imbalance').startsWith('0')")
        await settle(tab)
        await take(tab, directory, "healthy")
        await tab.open("about:blank")


async def under_way(tab: Tab, directory: Path) -> None:
    async with cluster(NAME, 3, 6, *SLOW) as lab:
        await open_page(tab, lab, "www1")
        await fail_over_under_way(tab, lab, lost="www2", stopped="www3")
        await take(tab, directory, "failover")
        await tab.open("about:blank")


async def many(tab: Tab, directory: Path) -> None:
    async with cluster(NAME, 5, 1000) as lab:
        await open_page(tab, lab, "www1")
        await settle(tab)
        await cut_two(lab)
        await tab.until("facts.figure('members') === '3 of 5' && facts.figure('VIPs covered').startsWith('1,000')")
        await settle(tab)
        await take(tab, directory, "1000-vips", phone=False)
        await tab.open("about:blank")


async def cut_two(lab: Lab) -> None:
    for node in ("www4", "www5"):
        await asyncio.to_thread(lab.cut, node)


async def settle(tab: Tab) -> None:
    """All that the last events caused is drawn: two answers to the status later."""
    asked = len(tab.requests)
    while len(tab.requests) < asked + 3:
        await tab.until("true")
        await asyncio.sleep(0.05)


async def main(directory: Path, wanted: list[str]) -> int:
    if why := missing():
        print(f"no pictures: {why}", file=sys.stderr)
        return 1
    stories = {"states": three_states, "failover": under_way, "many": many}
    for name in wanted or list(stories):
        async with browser() as tab:
            await tab.look(*DESK, dark=False)
            await stories[name](tab, directory)
            if tab.complaints:
                print("\n".join(tab.complaints), file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", action="append", choices=["states", "failover", "many"], default=[])
    chosen = parser.parse_args()
    chosen.directory.mkdir(parents=True, exist_ok=True)
    raise SystemExit(asyncio.run(main(chosen.directory, chosen.only)))
