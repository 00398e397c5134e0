"""More schedules against the promise: who was late, alone, or reloaded at the wrong moment (see test_lease_attacks)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.settings import Timing
from tests.core.test_lease import TIMING, answering, host
from tests.core.test_lease_attacks import exact_kernels, made
from tests.sim.world import World

__all__ = ["exact_kernels"]

PATIENT = Timing(mature=5.0)


@pytest.mark.parametrize("sleep", [0.385, 0.7, 1.5])
def test_who_wakes_alone_does_not_answer_beside_one_that_woke_before(sleep: float) -> None:
    """b sleeps, a is alone with everything and falls asleep just before b wakes, who takes over; then a wakes."""
    world = made("ab", timing=PATIENT, until=8.0)
    world.pause(host(world, "b"))
    world.run(9.0)
    assert len(host(world, "a").answers(world.now)) == 6
    world.pause(host(world, "a"))
    world.run(9.001)
    world.resume(host(world, "b"))
    world.run(9.0 + sleep)
    world.resume(host(world, "a"))
    world.run(12.0)
    assert sum(map(len, answering(world).values())) == 6


def test_who_sleeps_at_its_start_has_not_looked_around() -> None:
    """b is stopped right after its first step for longer than `mature`; as it wakes, a is late, with a lease."""
    world = made("ab", timing=PATIENT, until=8.0)
    world.crash(host(world, "b"))
    world.run(9.0)
    world.start(host(world, "b"))
    world.pause(host(world, "b"))
    world.run(15.05)
    world.pause(host(world, "a"))
    world.resume(host(world, "b"))
    world.run(15.05 + 0.3)
    world.resume(host(world, "a"))
    world.run(20.0)
    assert sum(map(len, answering(world).values())) == 6
