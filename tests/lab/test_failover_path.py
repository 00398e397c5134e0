"""What observing costs a fail-over: nothing of it runs before the last frame is out, with a collector and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.lab import formation, network
from agent.lab.lab import Lab, down, molehill
from agent.lab.plan import Host, Plan, generate, with_arguments
from tests.exporters.collector import collector
from tests.lab.clusters import even, until

pytestmark = pytest.mark.lab

ALLOWED = {"bus.publish", "bus._drain_when_calm"}
"""Taking note of an event, and putting off to look at it."""


def profiled(directory: Path) -> Iterator[Path]:
    yield from sorted(directory.glob("*.profile"))


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
            lab.lose("www2")
            until(lambda: len(list(profiled(tmp_path))) == 2)
        finally:
            down(lab_name)
        found = [json.loads(line) for path in profiled(tmp_path) for line in path.read_text().splitlines()]
        assert len(found) == 2
        for one in found:
            assert {"bus.publish", "bus.drain"} <= set(one["before"]), "the hook was there"
            assert set(one["ran"]) <= ALLOWED
        assert bool(receiver.all()) == traced
