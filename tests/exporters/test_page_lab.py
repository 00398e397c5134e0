"""The page in Chromium, over a real cluster: healthy, partitioned and healed, a fail-over under way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from agent.lab.lab import Lab
from tests.exporters.browser import Tab, browser
from tests.exporters.page_lab import CHECKS, SLOW, cluster, fail_over_under_way, missing, open_page, url

pytestmark = [pytest.mark.netns, pytest.mark.lab, pytest.mark.skipif(bool(missing()), reason=missing())]

NAME = f"g{os.getpid() % 1_000_000}"


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    async with browser() as it:
        await it.look(1280, 900, dark=False)
        yield it


async def shows_what_the_kernels_have(tab: Tab, lab: Lab, seconds: float = 60.0) -> None:
    """The page's matrix against the addresses on the interfaces, which the page's agent cannot all see."""
    deadline = asyncio.get_running_loop().time() + seconds
    while (shown := await tab.value("facts.holders()")) != (held := await asyncio.to_thread(lab.holders)):
        assert asyncio.get_running_loop().time() < deadline, f"the page says {shown}, the kernels {held}"
        await asyncio.sleep(0.02)


def clean(tab: Tab, lab: Lab, node: str) -> None:
    assert tab.complaints == []
    foreign = [asked for asked in tab.requests if not asked.startswith((url(lab, node), "data:", "about:"))]
    assert foreign == []


async def test_healthy_then_partitioned_then_healed_without_a_reload(tab: Tab) -> None:
    async with cluster(NAME, 3, 6) as lab, browser() as other:
        await open_page(tab, lab, "www1")
        await open_page(other, lab, "www2")
        await tab.value("window.same = true")
        await shows_what_the_kernels_have(tab, lab)
        await tab.until("facts.notices().length === 0")
        assert await tab.value(CHECKS) == []
        await tab.until("document.body.innerText.includes('since the agent started, none failed')")

        await asyncio.to_thread(lab.cut, "www1")
        await tab.until("facts.notices().some((text) => text.includes('www1 is alone'))")
        await tab.until("Object.values(facts.holders()).every((nodes) => nodes.join() === 'www1')")
        await tab.until("facts.members().www2[0] === 'missing' && facts.members().www3[0] === 'missing'")
        await tab.until("facts.figure('members') === '1 of 3'")
        await tab.until("facts.figure('VIPs covered on this side') === '6 of 6'")
        await tab.until("facts.story().some((text) => /disconnect: 1 member, left www2, www3/.test(text))")
        await other.until("facts.notices().some((text) => text.includes('1 member missing') && text.includes('www1'))")
        await other.until("Object.values(facts.holders()).every((nodes) => nodes.join() !== 'www1')")
        assert await tab.value(CHECKS) == []

        await asyncio.to_thread(lab.heal)
        for one in (tab, other):
            await one.until("facts.notices().length === 0")
            await one.until("facts.figure('members') === '3 of 3'")
            await shows_what_the_kernels_have(one, lab)
            await one.until("facts.story().some((text) => text.includes('merge: 3 members'))")
        assert await tab.value("window.same")
        clean(tab, lab, "www1")
        clean(other, lab, "www2")


async def test_a_fail_over_is_seen_while_it_is_under_way_and_taken_apart_afterwards(tab: Tab) -> None:
    async with cluster(NAME, 3, 6, *SLOW) as lab:
        await open_page(tab, lab, "www1")
        lost = [vip for vip, nodes in lab.holders().items() if nodes == ["www2"]]
        states, state, notices = await fail_over_under_way(tab, lab, lost="www2", stopped="www3")
        assert [vip for vip, word in states.items() if word == "holder silent"] == lost
        assert state == "GATHER"
        assert any("www2 silent" in text for text in notices)
        assert any("2 VIPs without an answer" in text for text in notices)

        await tab.until("!facts.notices().some((text) => text.includes('Fail-over under way'))")
        await tab.until("Object.values(facts.states()).every((word) => word === 'held here')")
        newest = await tab.until("facts.story().find((text) => /View .*left www2.*acquisition/s.test(text))")
        assert "detection" in newest
        assert "gather" in newest
        assert "(failover, without holder" in newest
        lab.kill("www3", signal.SIGCONT)
        await tab.until("facts.figure('members') === '2 of 3'")
        clean(tab, lab, "www1")


async def test_an_agent_that_stands_still_is_stale_and_live_again_afterwards(tab: Tab) -> None:
    async with cluster(NAME, 2, 2) as lab:
        await open_page(tab, lab, "www1")
        lab.kill("www1", signal.SIGSTOP)
        await tab.until("facts.contact().startsWith('stale since')")
        assert any("No contact with the agent" in text for text in await tab.value("facts.notices()"))
        lab.kill("www1", signal.SIGCONT)
        await tab.until("facts.contact() === 'live'")
        await tab.until("facts.notices().length === 0")
        await shows_what_the_kernels_have(tab, lab)
