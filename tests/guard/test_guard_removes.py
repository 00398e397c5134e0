"""What the guard takes away when the agent dies or hangs, and what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from guarded import Agent, Place

from agent.guarding import FIRST_SLOTS

pytestmark = pytest.mark.netns

VIPS = ["10.9.0.50/24", "10.9.0.51/24", "10.8.0.1/32", "fd00:9::50/64"]


def test_a_killed_agents_addresses_are_gone(place: Place, begin: Callable[..., Agent]) -> None:
    place.ip("addr add 10.9.0.1/24 dev eth0")
    agent = begin()
    assert agent.ask("put", VIPS) is True
    assert place.addresses() == {"10.9.0.1/24", *VIPS}
    agent.kill()
    place.until(lambda: place.addresses() == {"10.9.0.1/24"})
    agent.wait_guard()
    (line,) = agent.said().splitlines()
    assert "level=warning event=guard_acted" in line
    assert "4 addresses removed" in line
    assert " removed=4 left=0 " in line


def test_the_line_can_be_json(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin("json")
    agent.ask("put", VIPS)
    agent.kill()
    agent.wait_guard()
    assert json.loads(agent.said())["removed"] == 4


def test_only_what_was_announced_goes(place: Place, begin: Callable[..., Agent]) -> None:
    """A person's addresses, one with our tag that was not announced, one that was given back, another prefix."""
    others = {"10.9.0.1/24", "10.9.0.60/24", "10.9.0.50/16", "10.7.0.1/32"}
    place.ip("addr add 10.9.0.1/24 dev eth0")
    place.add_tagged("10.9.0.60/24")
    place.ip("addr add 10.9.0.50/16 dev eth0")
    agent = begin()
    agent.ask("put", [*VIPS, "10.7.0.1/32", "10.7.0.2/32"])
    agent.ask("drop", ["10.7.0.1/32", "10.7.0.2/32"])
    place.ip("addr add 10.7.0.1/32 dev eth0")
    agent.ask("beat")
    agent.kill()
    agent.wait_guard()
    assert place.addresses() == others


def test_what_was_announced_last_goes_only_with_our_tag(place: Place, begin: Callable[..., Agent]) -> None:
    """Killed between the announcement and the kernel's refusal: a person had put the same address there."""
    place.ip("addr add 10.9.0.70/24 dev eth0")
    agent = begin()
    agent.ask("put", ["10.9.0.50/24"])
    agent.ask("hold", ["10.9.0.70/24", "10.9.0.71/24"])
    agent.kill()
    agent.wait_guard()
    assert place.addresses() == {"10.9.0.70/24"}
    assert " removed=1 left=0 " in agent.said()


def test_announced_and_never_put_up(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("hold", VIPS)
    agent.ask("beat")  # so that it takes them for its own
    agent.kill()
    agent.wait_guard()
    assert " removed=4 left=0 " in agent.said(), "gone is gone"


def test_an_agent_that_held_nothing_is_not_mentioned(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.kill()
    agent.wait_guard()
    assert agent.said() == ""


def test_after_an_orderly_end_nothing_is_touched(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("done")
    agent.wait_guard()
    assert place.addresses() == set(VIPS)
    assert agent.said() == ""
    assert agent.process.wait() == 0


def test_more_addresses_than_there_was_room_for(place: Place, begin: Callable[..., Agent]) -> None:
    many = [f"10.10.{number // 200}.{number % 200 + 1}/16" for number in range(FIRST_SLOTS + 200)]
    place.ip("addr add 10.10.255.254/16 dev eth0")
    agent = begin()
    agent.ask("put", many)
    agent.ask("drop", many[::3])
    agent.ask("put", many[::3])
    assert len(place.addresses()) == len(many) + 1
    agent.kill()
    agent.wait_guard()
    assert place.addresses() == {"10.10.255.254/16"}
    assert f" removed={len(many)} left=0 " in agent.said()


def test_a_persons_secondary_address_survives_its_primary(place: Place, begin: Callable[..., Agent]) -> None:
    def promotes() -> str:
        return place.execute("sysctl", "-n", "net.ipv4.conf.eth0.promote_secondaries").strip()

    place.execute("sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=0")
    place.execute("sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=0")
    agent = begin()
    agent.ask("put", VIPS)
    place.ip("addr add 10.9.0.1/24 dev eth0")
    assert "secondary" in place.ip("-o addr show to 10.9.0.1")
    agent.kill()
    agent.wait_guard()
    assert place.addresses() == {"10.9.0.1/24"}
    assert promotes() == "0"


def test_the_guard_acts_while_the_kernel_still_closes_the_agents_files(
    place: Place, begin: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = begin()
    agent.ask("claim", str(tmp_path))
    agent.ask("packets", 100)
    agent.ask("put", VIPS)
    ended = os.pidfd_open(agent.process.pid)
    agent.kill()
    agent.wait_guard()
    assert not select.select([ended], [], [], 0)[0], "100 packet sockets take a second"
    assert place.addresses() == set()
    os.close(ended)


def test_a_line_that_is_closed_is_not_the_agents_end(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("close")
    assert not agent.guard_ends_within(0.2)
    agent.kill()
    agent.wait_guard()
    assert place.addresses() == set()


def test_killed_before_it_has_heard_its_guard(place: Place, begin: Callable[..., Agent]) -> None:
    """What was said to it is unread, so that the kernel resets the line."""
    agent = begin("deaf", *VIPS)
    assert not agent.guard_ends_within(0.3), "it has long begun to watch"
    agent.kill()
    agent.wait_guard()
    assert place.addresses() == set()
    assert len(agent.said().splitlines()) == 1


def test_killed_before_its_guard_has_started(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin("early", *VIPS)
    agent.kill()
    agent.process.wait()
    os.kill(agent.guard, signal.SIGCONT)
    agent.wait_guard()
    assert place.addresses() == set()
    assert len(agent.said().splitlines()) == 1


def test_an_interface_that_is_gone_keeps_nothing(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("beat")
    place.ip("link del eth0")
    agent.kill()
    agent.wait_guard()
    assert " left=0 " in agent.said()


def test_a_stopped_agents_addresses_are_gone(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("patience", 0.5)
    agent.kill(signal.SIGSTOP)
    place.until(lambda: not place.addresses())
    agent.wait_guard()
    silence = re.search(r"has not beaten for ([\d.]+) s", agent.said())
    assert silence is not None
    assert float(silence[1]) >= 0.5
    agent.kill(signal.SIGCONT)
    former = agent.event("guard")
    assert former["active"] is False
    assert "took this node's addresses away" in former["detail"]
    agent.event("given up")
    assert agent.event("guard")["active"] is True, "and another watches"
    agent.ask("drop", VIPS)
    assert agent.ask("put", VIPS) is True
    agent.kill()
    agent.wait_guard()
    assert place.addresses() == set()


def test_an_agent_that_runs_but_does_not_beat_hangs(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("patience", 0.5)
    agent.ask("fall_silent")
    place.until(lambda: not place.addresses())
    agent.event("given up")


def test_an_agent_that_hung_puts_nothing_up_before_it_was_told(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS[:1])
    agent.ask("patience", 0.5)
    assert agent.ask("put_after_guard", VIPS) is False
    assert place.addresses() == set()
    agent.event("given up")
    assert agent.ask("put", VIPS) is True


def test_without_a_patience_no_silence_is_too_long(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("patience", 0.5)
    agent.ask("fall_silent")
    agent.event("given up")
    agent.ask("no_patience")
    agent.event("guard")
    agent.event("guard")
    agent.ask("drop", VIPS)
    assert agent.ask("put", VIPS) is True
    agent.kill(signal.SIGSTOP)
    assert not agent.guard_ends_within(1.0)
    assert place.addresses() == set(VIPS)


def test_a_replaced_guard_knows_everything(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    former = agent.guard
    os.kill(former, signal.SIGKILL)
    assert agent.event("guard") | {"guard": 0} == {
        "event": "guard",
        "active": False,
        "detail": f"guard {former} was ended by SIGKILL",
        "guard": 0,
    }
    watching = agent.event("guard")
    assert watching["active"] is True
    assert watching["guard"] != former
    assert place.addresses() == set(VIPS), "a guard's death costs nothing"
    agent.kill()
    agent.wait_guard()
    assert place.addresses() == set()


def test_a_guard_that_does_not_run_is_replaced(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("patience", 0.5)
    former = agent.guard
    os.kill(former, signal.SIGSTOP)
    dead = agent.event("guard")
    assert (dead["active"], dead["detail"]) == (False, f"guard {former} did not run and was ended")
    assert agent.event("guard")["active"] is True
    assert agent.guard != former
    assert place.addresses() == set(VIPS)
    agent.kill(signal.SIGSTOP)
    place.until(lambda: not place.addresses())


def test_guards_that_die_at_once_are_started_less_and_less_often(begin: Callable[..., Agent]) -> None:
    agent = begin()
    gaps = []
    for _ in range(3):
        os.kill(agent.guard, signal.SIGKILL)
        assert agent.event("guard")["active"] is False
        dead = agent.now()
        assert agent.event("guard")["active"] is True
        gaps.append(agent.now() - dead)
    assert gaps[2] > 0.15, gaps
    assert min(gaps[:2]) < gaps[2]


def test_a_stopped_guard_does_not_touch_what_a_later_life_has_put_up(
    place: Place, begin: Callable[..., Agent], tmp_path: Path
) -> None:
    former = begin()
    assert former.ask("claim", str(tmp_path)) == ""
    former.ask("put", VIPS)
    os.kill(former.guard, signal.SIGSTOP)
    former.kill()
    former.process.wait()
    later = begin()
    assert later.ask("claim", str(tmp_path)) == ""
    later.ask("drop", VIPS)
    later.ask("put", VIPS)
    os.kill(former.guard, signal.SIGCONT)
    former.wait_guard()
    assert place.addresses() == set(VIPS)
    assert "a new one runs already" in former.said()


def test_a_second_agent_is_refused(begin: Callable[..., Agent], tmp_path: Path) -> None:
    first, second = begin(), begin()
    assert first.ask("claim", str(tmp_path)) == ""
    assert "another agent runs" in second.ask("claim", str(tmp_path))
    first.kill()
    first.wait_guard()
    assert second.ask("claim", str(tmp_path)) == ""
