"""What the address driver tells the guard, and the sweep after both are dead."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from guarded import ROOT, Agent, Place

from agent.core.ids import VipName
from agent.core.inputs import AddressesAdded, AddressesFailed, AddressesRemoved, Input
from agent.core.settings import Address, Vip
from agent.drivers import nftables
from agent.drivers.lease_table import LeaseTable
from agent.drivers.netlink import AddressDriver
from agent.guard import Memory
from agent.guarding import Guard

pytestmark = pytest.mark.netns

WEB, MAIL = (
    Vip(VipName(name), (Address("eth0", f"10.9.0.{host}", 24, "10.9.0.0/24"),))
    for name, host in (("web", 50), ("mail", 60))
)


class Driven:
    """An address driver with a guard's memory behind it."""

    def __init__(self) -> None:
        self.guard = Guard()
        self.said: list[Input] = []
        self.driver = AddressDriver(
            (WEB, MAIL),
            clock=time.monotonic,
            on_input=self.said.append,
            on_event=lambda event: None,
            on_add=self._add,
            on_removed=self.guard.forget,
        )
        self.allowed = True
        self.up_when_announced: list[set[str]] = []
        self.look: Callable[[], set[str]] = set

    def _add(self, keys: object) -> bool:
        self.up_when_announced.append(self.look())
        return self.guard.hold(keys) and self.allowed  # type: ignore[arg-type]

    def announced(self) -> set[str]:
        """As the guard reads it."""
        sure, unsure = Memory(self.guard.memory).addresses()
        return {".".join(map(str, packed)) + f"/{prefix}" for _, packed, prefix in sure + unsure}


async def test_announced_before_and_forgotten_after(place: Place) -> None:
    place.ip("addr add 10.9.0.60/24 dev eth0")
    driven = Driven()
    driven.look = place.addresses
    await driven.driver.open()
    driven.driver.acquire((WEB.name,))
    assert driven.up_when_announced == [{"10.9.0.60/24"}]
    assert driven.announced() == {"10.9.0.50/24"}
    driven.driver.acquire((MAIL.name,))
    assert isinstance(driven.said[-1], AddressesFailed), "a person's"
    assert driven.announced() == {"10.9.0.50/24"}
    driven.driver.release((WEB.name,))
    assert driven.said[-1] == AddressesRemoved((WEB.name,))
    assert driven.announced() == set()
    driven.driver.close()
    driven.guard.close()


async def test_an_address_that_the_kernel_refuses_is_not_the_guards(place: Place) -> None:
    """A person put it there, and the driver has not heard of it when it asks."""
    driven = Driven()
    await driven.driver.open()
    place.ip("addr add 10.9.0.50/24 dev eth0")
    driven.driver.acquire((WEB.name,))
    assert isinstance(driven.said[-1], AddressesFailed)
    assert driven.announced() == set()
    driven.driver.close()
    driven.guard.close()


async def test_an_address_that_a_person_took_away_is_not_the_guards(place: Place) -> None:
    driven = Driven()
    await driven.driver.open()
    driven.driver.acquire((WEB.name,))
    place.ip("addr del 10.9.0.50/24 dev eth0")
    driven.driver.renew()  # which looks first
    assert driven.announced() == set()
    driven.driver.close()
    driven.guard.close()


async def test_nothing_is_put_up_that_the_guard_does_not_allow(place: Place) -> None:
    driven = Driven()
    await driven.driver.open()
    driven.allowed = False
    driven.driver.acquire((WEB.name,))
    (failed,) = [item for item in driven.said if isinstance(item, AddressesFailed)]
    assert "the guard" in failed.detail
    assert place.addresses() == set()
    assert driven.announced() == set()
    driven.allowed = True
    driven.driver.acquire((WEB.name,))
    assert driven.said[-1] == AddressesAdded((WEB.name,))
    driven.driver.close()
    driven.guard.close()


# Both dead.


def sweep(state_dir: Path, *before: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "agent", "sweep"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STATE_DIRECTORY": str(state_dir)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def make_tables(place: Place) -> None:
    channel = nftables.FilterSocket()
    assert channel.commit(LeaseTable("www").build([bytes((10, 9, 0, 50))])) is None
    channel.close()
    place.execute("nft", "add", "table", "inet", "theirs")


def tables(place: Place) -> set[str]:
    return set(place.execute("nft", "list", "tables").splitlines())


CAPABILITIES = "-all,+net_admin,+net_raw"


def test_the_sweep_with_the_units_capabilities(place: Place, begin: Callable[..., Agent], tmp_path: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs util-linux")
    place.ip("addr add 10.9.0.1/24 dev eth0")
    make_tables(place)
    agent = begin()
    assert agent.ask("claim", str(tmp_path)) == ""
    agent.ask("put", ["10.9.0.50/24", "10.9.0.51/24", "fd00:9::50/64"])
    agent.kill(signal.SIGSTOP)  # so that it cannot replace its guard
    os.kill(agent.guard, signal.SIGKILL)
    agent.kill()
    agent.process.wait()
    assert len(place.addresses()) == 4
    done = sweep(tmp_path, "setpriv", "--no-new-privs", "--bounding-set", CAPABILITIES, "--inh-caps", CAPABILITIES)
    assert done.returncode == 0, done.stderr
    assert place.addresses() == {"10.9.0.1/24"}
    assert tables(place) == {"table inet theirs"}
    assert "3 addresses and 3 filter tables" in done.stderr
    again = sweep(tmp_path)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_the_sweep_leaves_a_living_agent_alone(place: Place, begin: Callable[..., Agent], tmp_path: Path) -> None:
    agent = begin()
    assert agent.ask("claim", str(tmp_path)) == ""
    agent.ask("put", ["10.9.0.50/24"])
    done = sweep(tmp_path)
    assert done.returncode == 1
    assert "an agent runs" in done.stderr
    assert place.addresses() == {"10.9.0.50/24"}
