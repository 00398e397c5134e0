"""The main job, shown: the seed's cluster, a node cut off, what a client sees, the heal and its announcement."""

from __future__ import annotations

import json
import select
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from agent.lab import formation, network, sources, state
from agent.lab.arp import Capture, Seen
from agent.lab.lab import HTTP_PORT, Lab, down, now
from agent.lab.plan import LabError
from agent.lab.probing import Probing

VIP = "192.168.3.145"
ADDED = {"www3": "192.168.3.142"}
TAKE_OVER_SECONDS = 15.0
MERGE_SECONDS = 15.0
SETTLE = 0.3


@dataclass(slots=True)
class Story:
    """What has been seen so far, and what should have been and was not."""

    quiet: bool
    facts: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr if self.quiet else sys.stdout, flush=True)

    def check(self, good: bool, text: str) -> None:
        self.say(f"    {'ok  ' if good else 'FAIL'} {text}")
        if not good:
            self.failures.append(text)


def show(name: str, *, profile: str | None = None, remove: bool = False, as_json: bool = False) -> int:
    """Runs the demonstration; 0 when every step of it was seen. Raises LabError where it cannot go on."""
    story = Story(quiet=as_json)
    _clear(name, story)
    settings = [] if profile is None else [f"engine.profile={profile}"]
    plan = sources.from_directory(
        name, sources.seed_directory(), network.free_management_network(), ADDED, settings, made_by="demo"
    )
    story.say("1 the seed's wackamole.conf and spread.conf, with www3 added")
    lab = Lab.create(plan)
    try:
        _tell(lab, story)
    finally:
        if remove:
            for line in down(name):
                story.say(f"    {line}")
        else:
            named = "" if name == "lab" else f" --name {name}"
            story.say(f"the lab stays up: molehill lab status{named}; molehill lab down{named} removes it")
    if as_json:
        print(json.dumps({"ok": not story.failures, "failures": story.failures, **story.facts}, indent=1))
    if story.failures:
        raise LabError(f"not as it should be: {'; '.join(story.failures)}")
    return 0


def _clear(name: str, story: Story) -> None:
    """A lab that an earlier demonstration left is removed; another one is not."""
    try:
        if state.read_plan(state.directory_of(name)).made_by != "demo":
            raise LabError(f"a lab {name!r} is up that is not the demonstration's; `molehill lab down` removes it")
    except LabError:
        if (state.directory_of(name) / "plan.json").exists():
            raise
    for line in down(name):
        story.say(f"  left by an earlier demonstration: {line}")


def _tell(lab: Lab, story: Story) -> None:
    waited = formation.wait_formed(lab)
    for node in lab.plan.nodes:
        story.say(f"    {node.name} {node.ports[0].addresses[0]}  http://{node.management}:{HTTP_PORT}/")
    story.say(f"    whole after {waited:.1f} s (mature = 5s): one view of {len(lab.plan.nodes)}, every VIP held once")
    with Probing(lab) as probing, Capture(lab.plan) as capture:
        probing.wait_answered(5.0)
        holder = lab.holders()[VIP][0]
        story.say(f"2 {VIP} is held by {holder}")
        story.facts |= {"formed_seconds": waited, "holder": holder}
        winner = _fail_over(lab, story, probing, capture, holder)
        _merge(lab, story, probing, capture, holder, winner)


def _fail_over(lab: Lab, story: Story, probing: Probing, capture: Capture, holder: str) -> str:
    """The holder is cut off; returns who serves the client then."""
    capture.frames()
    since = now()
    lab.cut(holder)
    story.say(f"3 {holder} is cut off from the others and from the client; its link stays up")
    deadline = since + TAKE_OVER_SECONDS
    while not (others := [node for node in lab.holders()[VIP] if node != holder]):
        if now() > deadline:
            raise LabError(f"nobody took {VIP} over within {TAKE_OVER_SECONDS:g} s of the cut")
        select.select([], [], [], 0.01)
    winner = others[0]
    _pause(SETTLE)
    until = now()
    outage = next(one for one in probing.outages(since, until) if one.address == VIP)
    first = next((seen for seen in capture.frames() if seen.address == VIP and seen.node == winner), None)
    story.say(f"    the client had no answer for {outage.seconds * 1e3:.0f} ms; now {winner} holds {VIP}")
    if first is not None:
        story.say(f"    {winner} announced it {(first.at - since) * 1e3:.0f} ms after the cut")
    story.check(outage.served and outage.after == winner, f"{winner} answers the client")
    story.check(outage.before == holder, f"{holder} answered before")
    twice = lab.held_twice(since, until)
    story.check(not twice, "no two connected nodes had it at any moment")
    both = lab.holders()[VIP]
    story.say(f"    behind the cut {holder} still serves its own side: on {' and '.join(both)} (partition: component)")
    story.facts |= {"outage_seconds": outage.seconds, "new_holder": winner, "during_partition": both}
    return winner


def _merge(lab: Lab, story: Story, probing: Probing, capture: Capture, holder: str, winner: str) -> None:
    capture.frames()
    healed = lab.heal()
    story.say("4 the network heals")
    deadline = healed + MERGE_SECONDS
    frames: list[Seen] = []
    while True:
        frames += [seen for seen in capture.frames() if seen.address == VIP and seen.gratuitous]
        holders = lab.holders()[VIP]
        if len(holders) == 1 and any(seen.node == holders[0] for seen in frames):
            break
        if now() > deadline:
            break
        capture.wait(0.02)
    _pause(SETTLE)
    until = now()
    frames += [seen for seen in capture.frames() if seen.address == VIP and seen.gratuitous]
    holders = lab.holders()[VIP]
    keeper = holders[0] if len(holders) == 1 else ""
    ends = [one.until for one in lab.held_twice(healed, until) if one.address == VIP]
    for seen in frames[:8]:
        story.say(
            f"    {(seen.at - healed) * 1e3:8.1f} ms  ARP {seen.kind} from {seen.node or 'a stranger'} ({seen.mac}): "
            f"{VIP} is here"
        )
    story.check(bool(keeper), f"one holder again: {' and '.join(holders) or 'nobody'}")
    if ends:
        story.say(f"    both had it for {(max(ends) - healed) * 1e3:.0f} ms after the heal, then the loser released it")
    story.check(any(seen.node == keeper for seen in frames), f"{keeper or 'the winner'} announced it again")
    last = frames[-1].node if frames else ""
    story.check(last == keeper, f"the last word on the wire is {keeper or 'the winner'}'s")
    loser = holder if keeper == winner else winner
    story.check(loser not in holders, f"{loser} released it")
    outage = next(one for one in probing.outages(healed, until) if one.address == VIP)
    story.check(outage.served, f"the client is served (longest gap since the heal {outage.seconds * 1e3:.1f} ms)")
    left = formation.wait_formed(lab, timeout=MERGE_SECONDS)
    story.say(f"5 whole again: one view, every VIP held once ({left:.1f} s later)")
    story.facts |= {
        "kept_by": keeper,
        "released_by": loser,
        "duplicate_seconds_after_heal": max(ends) - healed if ends else 0.0,
        "announcements": [
            {"after_heal": seen.at - healed, "kind": seen.kind, "node": seen.node, "mac": seen.mac} for seen in frames
        ],
        "outage_at_heal_seconds": outage.seconds,
    }


def _pause(seconds: float) -> None:
    """Time for a second answer to show itself: nothing is waited for."""
    time.sleep(seconds)
