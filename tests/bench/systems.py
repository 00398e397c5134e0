"""Every system that can be measured, by the name that the command line gives it."""

from __future__ import annotations

from tests.bench.rival_systems.rival import Rival
from tests.bench.rival_systems.software import SOFTWARE
from tests.bench.system import Molehill, System

SYSTEMS: dict[str, System] = {"molehill": Molehill(), **{name: Rival(one) for name, one in SOFTWARE.items()}}
