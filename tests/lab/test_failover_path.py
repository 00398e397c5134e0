"""What observing costs a fail-over: nothing of it runs before the last frame is out, with a collector and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.lab import formation, network
from agent.lab.lab import Lab, down, molehill
from agent.lab.plan import Host, Plan, generate, with_arguments
from exporters.bus import DELAY, LATEST
from tests.exporters.collector import collector
from tests.lab.clusters import even, until

pytestmark = pytest.mark.lab

ALLOWED = {"bus.publish", "bus._drain_when_calm"}
"""Taking note of an event, and putting off to look at it."""


ATTEMPTS = 10
"""On a busy machine a fail-over may take longer than observing waits for it."""


def profiled(directory: Path) -> list[dict[str, Any]]:
    """What the agents have noted, one for each fail-over and survivor."""
    paths = sorted(directory.glob("*.profile"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def undisturbed(found: dict[str, Any]) -> bool:
    """Whether this fail-over was as quick as `exporters.bus` counts on."""
    return bool(found["seconds"] < DELAY and found["since_suspicion"] < LATEST)


@pytest.mark.parametrize("traced", [True, False])
def test_nothing_is_observed_between_the_decision_and_the_last_frame(
    lab_name: str, tmp_path: Path, traced: bool
) -> None:
    def command(plan: Plan, host: Host, directory: Path) -> list[str]:
        line = molehill(plan, host, directory)
        line[line.index("agent")] = "tests.lab.profiled_agent"
        return ["env", f"MOLEHILL_PROFILE={tmp_path}/{host.name}.profile", *line]

    with collector("0.0.0.0") as receiver:
        plan = generate(lab_name, 3, 10, network.free_management_network())
        settings = ["mature=200ms", "balance.interval=10m"]
        if traced:
            settings.append(f"tracing.endpoint=http://{plan.host_address()}:{receiver.port}")
        try:
            lab = Lab.create(with_arguments(plan, *(part for text in settings for part in ("--set", text))), command)
            formation.wait_formed(lab, timeout=60)
            even(lab)
            for _ in range(ATTEMPTS):
                earlier = len(profiled(tmp_path))
                lab.lose("www2")
                until(lambda earlier=earlier: len(profiled(tmp_path)) >= earlier + 2)  # type: ignore[misc]
                if sum(map(undisturbed, profiled(tmp_path))) >= 2:
                    break
                lab.reboot("www2")
                formation.wait_formed(lab, timeout=60)
                even(lab)
        finally:
            down(lab_name)
        found = profiled(tmp_path)
        assert sum(map(undisturbed, found)) >= 2, found
        for one in filter(undisturbed, found):
            assert {"bus.publish", "bus.drain"} <= set(one["before"]), "the hook was there"
            assert set(one["ran"]) <= ALLOWED
        assert bool(receiver.all()) == traced
