"""Real clusters for the page: what the test watches and the pictures show."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from agent.lab import formation, network
from agent.lab.lab import HTTP_PORT, Lab, down
from agent.lab.plan import generate, with_arguments
from tests.exporters.browser import Tab, chromium

FACTS = (Path(__file__).parent / "page_facts.js").read_text()
CHECKS = (Path(__file__).parent / "page_checks.js").read_text()

SLOW = ("engine.failure_timeout=12s", "engine.heartbeat=300ms")
"""A gather that one member does not answer then takes 3 s: long enough to be looked at."""


def missing() -> str:
    """Why there can be no lab with a browser here; empty: there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and iproute2"
    return "" if chromium() else "chromium is not installed"


@contextlib.asynccontextmanager
async def cluster(name: str, nodes: int, vips: int, *settings: str) -> AsyncIterator[Lab]:
    """Formed; gone at the end."""
    told = [part for text in ("balance.interval=10m", *settings) for part in ("--set", text)]
    await asyncio.to_thread(down, name)
    plan = with_arguments(generate(name, nodes, vips, network.free_management_network()), *told)
    try:
        lab = await asyncio.to_thread(Lab.create, plan)
        await asyncio.to_thread(formation.wait_formed, lab, timeout=120)
        yield lab
    finally:
        await asyncio.to_thread(down, name)


def url(lab: Lab, node: str) -> str:
    return f"http://{lab.plan.node(node).management}:{HTTP_PORT}/"


async def open_page(tab: Tab, lab: Lab, node: str) -> None:
    await tab.open(url(lab, node))
    await tab.until("document.querySelector('#contact-text')?.textContent === 'live'")
    await tab.value(FACTS)


async def fail_over_under_way(tab: Tab, lab: Lab, *, lost: str, stopped: str) -> tuple[dict[str, str], str, list[str]]:
    """On the page of the third node, made with SLOW: one host lost, another one stopped while it is being missed.

    Returns while the survivor gathers and waits for the stopped one; states of the VIPs, the node's, and the notices,
    all as they were at one moment of it.
    """
    await asyncio.to_thread(lab.lose, lost)
    silence = (
        "fetch('api/v1/status').then((answer) => answer.json())"
        f".then((told) => told.members.find((member) => member.name === '{lost}').silence > 4)"
    )
    await tab.until(silence)
    lab.kill(stopped, signal.SIGSTOP)
    states, state, notices = await tab.until(
        "facts.notices().some((text) => text.includes('Fail-over under way'))"
        " && [facts.states(), document.querySelector('#state').textContent, facts.notices()]"
    )
    return states, state, notices
