"""The page in Chromium, over a real server that is fed with events: what it shows, and that all of it is text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.core import events as e
from agent.core.ids import NodeName, VipName
from agent.core.settings import PartitionPolicy, Settings, Vip
from agent.core.view import Cause, View, ViewCause
from exporters import page
from exporters.bus import Bus
from exporters.history import History
from exporters.http import Http
from exporters.metrics import Metrics
from exporters.status import Status
from exporters.wall import Wall
from tests.exporters.browser import Tab, browser, chromium
from tests.exporters.events_of_every_kind import EVERY, W1, W2, W3, installed, settings, vip_name

FACTS = (Path(__file__).parent / "page_facts.js").read_text()
CHECKS = (Path(__file__).parent / "page_checks.js").read_text()

needs_browser = pytest.mark.skipif(chromium() is None, reason="chromium is not installed")

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@dataclass
class Shown:
    """A server, its node's clock, and the page of it in a browser."""

    tab: Tab
    server: Http
    status: Status
    history: History
    clock: list[float]

    def see(self, *events: e.Event) -> None:
        for event in events:
            self.status(event)
            self.history(event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/"

    async def open(self) -> None:
        await self.tab.open(self.url)
        await self.tab.until("document.querySelector('#contact')?.dataset.contact === 'live'")
        await self.tab.value(FACTS)
        await self.tab.until("facts.contact() === 'live'")

    def foreign(self) -> list[str]:
        return [url for url in self.tab.requests if not url.startswith((self.url, "data:", "about:"))]


def serve(about: Settings, clock: list[float]) -> tuple[Http, Status, History]:
    wall = Wall(clock=lambda: clock[0])
    status, history = Status(about, wall, engine="embedded"), History(wall)
    metrics = Metrics(status, Bus(asyncio.get_running_loop()), reject_reasons=())
    return Http(status, metrics, history, idle=lambda: 0.0), status, history


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    async with browser() as it:
        await it.look(1280, 900, dark=False)
        yield it


async def show(tab: Tab, about: Settings) -> Shown:
    clock = [100.0]
    server, status, history = serve(about, clock)
    await server.start("127.0.0.1:0")
    return Shown(tab, server, status, history, clock)


@pytest.fixture
async def shown(tab: Tab) -> AsyncIterator[Shown]:
    it = await show(tab, settings(6))
    yield it
    await it.server.close()
    assert it.foreign() == []


@pytest.fixture
async def full(tab: Tab) -> AsyncIterator[Shown]:
    """More VIPs than are in sight at once: with search and groups."""
    it = await show(tab, settings(30))
    yield it
    await it.server.close()
    assert it.foreign() == []


def settled(vips: int = 6) -> tuple[e.Event, ...]:
    owners = installed(vips=vips).owners
    return (
        e.StateChanged(90.0, "RUN"),
        installed(90.0, vips=vips),
        e.OwnersChanged(90.1, owners, (), 0.0),
        *(e.HeartbeatReceived(99.95, peer.name, 0.0004, 0) for peer in (W2, W3)),
        *(e.LeaseLayer(89.0, layer, True, "") for layer in ("fast", "address", "guard")),
        e.LeaseTaken(90.0, until=90.15),
        e.LeaseRenewed(99.9, "fast", margin=0.05, until=100.05),
    )


async def test_the_policy_allows_this_page_and_nothing_else(shown: Shown) -> None:
    async with aiohttp.ClientSession() as client:
        async with client.get(shown.url) as response:
            policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
            body = await response.read()
            tag = response.headers["ETag"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
        assert "unsafe" not in str(policy)
        left = body.replace(b"http://www.w3.org/2000/svg", b"")
        for outside in (b"http:", b"https:", b"//cdn", b"@import", b"innerHTML", b"insertAdjacent", b"document.write"):
            assert outside not in left, outside
        async with client.get(shown.url, headers={"If-None-Match": tag}) as response:
            assert response.status == 304


def test_it_is_assembled_from_all_its_files() -> None:
    made = page.assemble().body.decode()
    folder = Path(page.__file__).parent
    assert {path.name for path in folder.glob("*.js")} == set(page.SCRIPTS)
    assert page.STYLE_MARK not in made
    assert page.SCRIPT_MARK not in made
    assert made.count("</script>") == 1


@needs_browser
async def test_a_settled_cluster(shown: Shown) -> None:
    shown.see(*settled())
    await shown.open()
    facts = await shown.tab.value("facts.holders()")
    assert facts == {str(vip): [str(node)] for vip, node in installed(vips=6).owners}
    assert await shown.tab.value("facts.notices()") == []
    assert await shown.tab.value("facts.figure('members')") == "3 of 3"
    members = await shown.tab.value("facts.members()")
    assert members["www2"][:5] == ["in view", "fit", "2", "50\u00a0ms ago", "0.4\u00a0ms"]
    assert await shown.tab.value("document.title") == "www1 RUN 3/3 - Molehill"
    assert shown.tab.complaints == []


@needs_browser
async def test_it_follows_without_being_loaded_again(shown: Shown) -> None:
    shown.see(*settled())
    await shown.open()
    await shown.tab.value("window.same = true")
    view = View(installed().view.id._replace(epoch=8), (W1, W2))
    table = tuple((vip, W1.name if node == W3.name else node) for vip, node in installed(vips=6).owners)
    shown.see(
        e.MemberSuspected(99.0, W3, 0.4, None),
        e.GatherStarted(99.0, 8, "suspect"),
        e.StateChanged(99.0, "GATHER"),
    )
    await shown.tab.until("facts.notices().some((text) => text.includes('Fail-over under way'))")
    notices = await shown.tab.value("facts.notices()")
    assert any("suspect: www3 silent" in text for text in notices)
    assert any("2 VIPs without an answer" in text for text in notices)
    states = await shown.tab.value("facts.states()")
    assert [vip for vip, word in states.items() if word == "holder silent"] == [vip_name(2), vip_name(5)]
    assert await shown.tab.value("facts.figure('VIPs covered')") == "4 of 6"
    assert await shown.tab.value("facts.figure('members')") == "3 of 3, 1 suspected"
    shown.clock[0] = 102.0
    gone = replace(
        installed(99.02, cause=ViewCause.DISCONNECT),
        view=view, joined=(), left=(W3,), gather_started=99.0, failed_since=98.6, owners=table,
    )  # fmt: skip
    shown.see(
        gone,
        e.StateChanged(99.02, "RUN"),
        e.OwnersChanged(99.02, table, (), 2.0),
        e.AcquireStarted(99.02, vip_name(2), Cause.FAILOVER),
        e.VipAcquired(99.021, vip_name(2), Cause.FAILOVER, 99.02, 98.6),
    )
    await shown.tab.until("!facts.notices().some((text) => text.includes('Fail-over under way'))")
    await shown.tab.until(f"facts.holders()['{vip_name(2)}'][0] === 'www1'")
    newest = await shown.tab.until("facts.story().find((text) => /View 8-.*Acquired/s.test(text))")
    assert "disconnect: 2 members, left www3" in newest
    assert "detection 400\u00a0ms" in newest
    assert "gather 20\u00a0ms" in newest
    assert "Acquired 1 VIP here (failover, without holder 421\u00a0ms): 10.0.0.3" in newest
    assert any("1 member missing" in text for text in await shown.tab.value("facts.notices()"))
    assert await shown.tab.value("facts.figure('imbalance')") == "2 most less least"
    assert await shown.tab.value("facts.figure('members')") == "2 of 3"
    assert await shown.tab.value("window.same")
    assert shown.tab.complaints == []


@needs_browser
async def test_uncovered_vips_come_first_and_can_be_shown_alone(full: Shown) -> None:
    full.see(*settled(30), e.OwnersChanged(99.0, installed(vips=29).owners, (vip_name(29),), 1.0))
    await full.open()
    assert (await full.tab.value("facts.notices()")) == ["critical1 VIP uncoveredNobody answers for 10.0.0.30."]
    assert await full.tab.value("facts.figure('VIPs covered')") == "29 of 30"
    states = await full.tab.value("facts.states()")
    assert next(iter(states.items())) == (vip_name(29), "uncovered")
    await full.tab.value("[...document.querySelectorAll('#groups button')][1].click()")
    assert await full.tab.value("facts.states()") == {vip_name(29): "uncovered"}
    assert await full.tab.value("document.querySelector('#groups [aria-pressed=true]').textContent") == "unsettled 1"
    await full.tab.value("[...document.querySelectorAll('#groups button')][3].click()")
    shown = await full.tab.value("facts.holders()")
    assert {node for nodes in shown.values() for node in nodes} == {"www2"}


@needs_browser
async def test_no_view_and_departure(shown: Shown) -> None:
    await shown.open()
    assert "In no view" in (await shown.tab.value("facts.notices()"))[0]
    shown.see(*settled(), e.StateChanged(99.0, "LEFT"))
    await shown.tab.until("facts.notices()[0].includes('Left the group')")
    assert shown.tab.complaints == []


@needs_browser
async def test_an_agent_that_is_gone_is_told_and_one_that_is_back_is_followed(tab: Tab) -> None:
    shown = await show(tab, settings(6))
    shown.see(*settled())
    await shown.open()
    port = shown.server.port
    await shown.server.close()
    await tab.until("facts.contact().startsWith('stale since')")
    assert "No contact with the agent" in (await tab.value("facts.notices()"))[0]
    assert await tab.value("facts.holders()")
    assert await tab.value(CHECKS) == []
    # Another life: its numbers begin again.
    server, status, history = serve(settings(6), [100.0])
    reborn = replace(installed(98.0, vips=6), joined=(W1,))
    for event in (e.Started(97.0, W1._replace(incarnation=9)), *settled(), reborn):
        status(event)
        history(event)
    await server.start(f"127.0.0.1:{port}")
    try:
        await tab.until("facts.contact() === 'live'")
        await tab.until("facts.story().some((text) => text.includes('Started as www1#9'))")
        assert len([text for text in await tab.value("facts.story()") if "View 7" in text]) == 2
        history(e.Reloaded(99.5, "line 3 is wrong"))
        await tab.until("facts.story()[0].includes('line 3 is wrong')")
    finally:
        await server.close()


@needs_browser
async def test_names_and_messages_are_text_and_nothing_else(tab: Tab) -> None:
    about = settings(2)
    evil = Vip(VipName(HOSTILE), about.vips[0].addresses)
    shown = await show(tab, replace(about, cluster=HOSTILE, members=(*about.members, NodeName(HOSTILE)), vips=(evil,)))
    shown.see(
        *settled(),
        e.OwnersChanged(99.0, ((VipName(HOSTILE), NodeName(HOSTILE)),), (), 0.0),
        e.VipAcquireFailed(99.0, VipName(HOSTILE), "netlink", HOSTILE, 1.0),
        e.ArpSent(99.0, VipName(HOSTILE), HOSTILE, HOSTILE, HOSTILE, EVERY_OCCASION, HOSTILE),
        *EVERY,
    )
    try:
        await shown.open()
        assert await tab.value("document.querySelectorAll('img, #main script, header script').length") == 0
        assert HOSTILE in await tab.value("document.querySelector('#cluster').textContent")
        assert HOSTILE in await tab.value("facts.holders()")
        assert "Molehill" in await tab.value("document.title")
        assert tab.complaints == []
        assert shown.foreign() == []
    finally:
        await shown.server.close()


EVERY_OCCASION = next(event.occasion for event in EVERY if isinstance(event, e.ArpSent))


@needs_browser
@pytest.mark.parametrize("count", [1_000, 16_384])
async def test_very_many_vips_are_a_window_that_scrolls_and_is_searched(tab: Tab, count: int) -> None:
    shown = await show(tab, settings(count))
    shown.see(*settled(count))
    try:
        await shown.open()
        assert await tab.value("document.querySelectorAll('#holdings-body tr').length") < 80
        assert await tab.value("document.querySelector('#holdings').getAttribute('aria-rowcount')") == str(count + 1)
        last = vip_name(count - 1)
        await tab.value("{ const box = document.querySelector('#holdings-box'); box.scrollTop = box.scrollHeight; }")
        await tab.until(f"'{last}' in facts.holders()")
        index = "[...document.querySelectorAll('#holdings-body tr:not(.gap)')].at(-1).getAttribute('aria-rowindex')"
        assert await tab.value(index) == str(count + 1)
        await tab.value("document.querySelector('#find').focus()")
        await tab.call("Input.insertText", text=vip_name(777))
        assert await tab.until("Object.keys(facts.holders()).length === 1 && facts.holders()") == {
            vip_name(777): ["www1"]
        }
        took = await tab.value("(() => [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(() => { const t = performance.now(); "
                               "document.querySelector('#find').dispatchEvent(new Event('input')); "
                               "return performance.now() - t; }))()")  # fmt: skip
        assert min(took) < 250, "milliseconds of one drawing; what else runs on this machine is not measured"
        assert tab.complaints == []
    finally:
        await shown.server.close()


def troubled() -> tuple[e.Event, ...]:
    """A bit of everything that is coloured."""
    owners = installed(vips=4).owners
    return (
        *settled(),
        e.OwnersChanged(99.0, owners, (vip_name(4), vip_name(5)), 2.0),
        e.VipAcquireFailed(99.1, vip_name(0), "interface_down", "eth4", 1.0),
        e.VipWaits(99.1, vip_name(3), "lease"),
        e.MemberSuspected(99.2, W2, 0.4, None),
        e.StandingsChanged(99.2, (W3.name,), (W1.name,), ()),
        e.ConfigDiffers(99.2, (W3.name,), ()),
        e.ArpSent(99.3, vip_name(1), "eth4", "request", vip_name(1), EVERY_OCCASION, "no buffer space"),
        e.Reloaded(99.4, "line 3 is wrong"),
        e.LeaseLayer(99.4, "fast", False, "no nf_tables in this kernel"),
        e.ConflictSeen(99.4, vip_name(1), vip_name(1), "eth4", "02:00:00:00:00:66", "defended"),
    )


@needs_browser
async def test_leases_quorum_and_rivals(tab: Tab) -> None:
    shown = await show(tab, replace(settings(6), partition=PartitionPolicy.QUORUM))
    shown.see(*settled(), e.QuorumChanged(90.0, True, 3, 2))
    mine = vip_name(0)
    shown.see(e.AcquireStarted(91.0, mine, Cause.START), e.VipAcquired(91.0, mine, Cause.START, 91.0, 91.0))
    leases, facts = "facts.terms('leases')", "facts.terms('facts')"
    try:
        await shown.open()
        assert await tab.value("facts.notices()") == []
        assert (await tab.value(leases))["fast (packet filter)"] == "in force 50\u00a0ms left at the last renewal"
        assert (await tab.value(facts))["Quorum"] == "quorate: 3 votes, 2 are needed"
        assert await tab.value("document.querySelector('#leases-note').textContent") == ""
        shown.see(e.LeaseLost(99.0, "fast"), e.QuorumChanged(99.0, False, 1, 2))
        await tab.until("facts.notices().some((text) => text.includes('criticalSilent'))")
        notices = await tab.value("facts.notices()")
        assert any("1 of 2 votes that are needed" in text for text in notices)
        assert (await tab.value(leases))["fast (packet filter)"].startswith("no lease runs")
        shown.see(e.LeaseLayer(99.4, "fast", False, "no nf_tables in this kernel"))
        await tab.until("facts.notices().some((text) => text.includes('fast (no nf_tables in this kernel)'))")
        assert "that takes seconds" in await tab.value("document.querySelector('#leases-note').textContent")
        shown.see(e.ConflictSeen(99.4, mine, mine, "eth4", "02:00:00:00:00:66", "defended"))
        await tab.until("facts.notices().some((text) => text.includes('by 02:00:00:00:00:66 on eth4 (1 claim'))")
        assert (await tab.value("facts.states()"))[mine] == "claimed by another host"
        shown.status.sealed = False
        shown.see(e.Reloaded(99.5, ""))
        await tab.until("facts.notices().some((text) => text.includes('Not sealed'))")
        assert tab.complaints == []
    finally:
        await shown.server.close()


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
async def test_it_is_read_by_everybody(full: Shown, dark: bool, width: int) -> None:
    await full.tab.look(width, 800, dark=dark, phone=width < 500)
    full.see(*troubled())
    await full.open()
    assert await full.tab.value(CHECKS) == []
    assert await full.tab.value("document.documentElement.scrollWidth") <= width
    assert len(await full.tab.value("facts.notices()")) >= 6
    assert full.tab.complaints == []


@needs_browser
async def test_the_checks_notice_what_is_wrong(full: Shown) -> None:
    full.see(*troubled())
    await full.open()
    await full.tab.value(
        """{
          document.querySelector("#find").closest("label").replaceWith(document.querySelector("#find"));
          document.querySelector("#members-body th").removeAttribute("scope");
          document.querySelector(".pip").parentElement.querySelector(".unseen").remove();
          document.querySelector("#sends-total").style.color = "#999";
          document.querySelector("#groups button").textContent = "";
          document.querySelector("#h-story").id = "moved";
        }"""
    )
    found = "\n".join(await full.tab.value(CHECKS))
    for complaint in ("no label", "no scope", "without a word", "contrast", "no name", "which is not there"):
        assert complaint in found


@needs_browser
async def test_all_of_it_is_reached_by_the_keyboard_and_the_focus_is_seen(full: Shown) -> None:
    full.see(*troubled())
    await full.open()
    wanted = await full.tab.value(
        "[...document.querySelectorAll('a, button, input, summary, [tabindex=\"0\"]')]"
        ".filter((e) => e.checkVisibility()).length"
    )
    reached: list[Any] = []
    focused = """(() => {
      const e = document.activeElement, style = getComputedStyle(e);
      const place = [...document.querySelectorAll("*")].indexOf(e);
      const name = `${e.tagName}.${e.textContent.slice(0, 30)} ${place}`;
      return [name, style.outlineStyle, parseFloat(style.outlineWidth)];
    })()"""
    for _ in range(wanted):
        await full.tab.press("Tab", 9)
        reached.append(await full.tab.value(focused))
    assert reached[0][0].startswith("A.Skip")
    assert len({name for name, _, _ in reached}) == wanted
    assert [it for it in reached if it[1] == "none" or it[2] < 2] == []


@needs_browser
async def test_who_wants_no_motion_sees_none(shown: Shown) -> None:
    shown.see(*settled())
    await shown.tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    await shown.open()
    moving = (
        "[...document.querySelectorAll('*')].filter((e) => { const s = getComputedStyle(e);"
        " return parseFloat(s.transitionDuration) || s.animationName !== 'none'; }).length"
    )
    assert await shown.tab.value(moving) == 0
    await shown.tab.call("Emulation.setEmulatedMedia", features=[])
    assert await shown.tab.value(moving) > 0


@needs_browser
async def test_when_no_stream_is_free_it_asks_instead(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.http.STREAMS_MAX", 0)
    shown.see(*settled())
    await shown.tab.open(shown.url)
    await shown.tab.until("document.querySelector('#contact-text')?.textContent === 'live, by polling'")
    await shown.tab.value(FACTS)
    shown.see(e.Reloaded(99.5, "line 3 is wrong"))
    await shown.tab.until("facts.story()[0].includes('line 3 is wrong')")
