"""The rivals that there are adapters for."""

from __future__ import annotations

from tests.bench.rival_systems.boot import Software
from tests.bench.rival_systems.keepalived import Keepalived
from tests.bench.rival_systems.pacemaker import Pacemaker
from tests.bench.rival_systems.ucarp import Ucarp
from tests.bench.rival_systems.wackamole import Wackamole

SOFTWARE: dict[str, Software] = {one.name: one for one in (Keepalived(), Ucarp(), Wackamole(), Pacemaker())}
