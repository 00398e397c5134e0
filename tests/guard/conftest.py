"""Fixtures of the guard's tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guarded import Agent, Place, inside


@pytest.fixture
def place() -> Iterator[Place]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = Place()
    try:
        made.up()
        with inside(made.name):
            yield made
    finally:
        made.down()


@pytest.fixture
def begin(place: Place, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts stand-in agents, and ends them and their guards."""
    agents: list[Agent] = []

    def start(*options: str, hand_down: tuple[int, ...] = ()) -> Agent:
        agents.append(Agent(place, tmp_path / f"agent{len(agents)}.log", *options, hand_down=hand_down))
        return agents[-1]

    try:
        yield start
    finally:
        for agent in agents:
            agent.end()
