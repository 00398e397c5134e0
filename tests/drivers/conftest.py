"""Fixtures of the drivers' tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from cable import Cable, Heard, inside


@pytest.fixture
def cable() -> Iterator[Cable]:
    """Two namespaces and a cable; the test runs inside the first."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = Cable()
    try:
        made.up()
        with inside(made.node):
            yield made
    finally:
        made.down()


@pytest.fixture
def heard() -> Heard:
    return Heard()
