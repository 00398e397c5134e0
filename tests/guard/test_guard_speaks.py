"""What the guard says and takes away besides addresses, and how it lives."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from guarded import PATIENCE, ROOT, Agent, Place

from agent.core.ids import Member, NodeName, ViewId
from agent.core.messages import Leave
from agent.drivers import nftables, removal, rtnetlink
from agent.drivers.lease_table import LeaseTable
from agent.drivers.records import AddressKey
from agent.engines.embedded.udp import EmbeddedEngine
from agent.guard import WATCHING, Memory, Watch
from agent.guarding import Guard

pytestmark = pytest.mark.netns

VIPS = ["10.9.0.50/24", "fd00:9::50/64"]


def listener(place: Place, address: str) -> socket.socket:
    """A peer's socket on an address of this host."""
    place.ip(f"addr add {address}/128 dev lo nodad" if ":" in address else f"addr add {address}/32 dev lo")
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, 0))
    made.settimeout(PATIENCE)
    return made


@pytest.mark.parametrize(("peer", "own"), [("10.6.0.2", "10.6.0.1"), ("fd00:6::2", "fd00:6::1")])
def test_prepared_words_go_out_from_the_agents_own_port(
    place: Place, begin: Callable[..., Agent], peer: str, own: str
) -> None:
    hears = listener(place, peer)
    with listener(place, own) as of_agent:
        port = of_agent.getsockname()[1]
    agent = begin()
    agent.ask("put", VIPS)
    words = [(os.urandom(60).hex(), [peer, hears.getsockname()[1]]) for _ in range(3)]
    if ":" in peer:
        words = [(datagram, [*there, 0, 0]) for datagram, there in words]
    agent.ask("words", {"datagrams": [(b"old".hex(), words[0][1])], "source": [own, port]})
    agent.ask("words", {"datagrams": words, "source": [own, port]})
    agent.kill()
    for datagram, _ in words:
        heard, sender = hears.recvfrom(2000)
        assert place.addresses() == set(), "it is said after it is true"
        assert heard == bytes.fromhex(datagram)
        assert sender[:2] == (own, port)
    agent.wait_guard()
    hears.setblocking(False)
    with pytest.raises(BlockingIOError):
        hears.recv(2000)
    hears.close()


def test_a_hanging_agent_keeps_its_port(place: Place, begin: Callable[..., Agent]) -> None:
    hears = listener(place, "10.6.0.2")
    with listener(place, "10.6.0.1") as of_agent:
        port = of_agent.getsockname()[1]
        agent = begin()
        agent.ask("words", {"datagrams": [("0102", hears.getsockname())], "source": ["10.6.0.1", port]})
        agent.ask("patience", 0.5)
        agent.kill(signal.SIGSTOP)
        heard, sender = hears.recvfrom(2000)
    assert heard == b"\1\2"
    assert sender[0] == "10.6.0.1"
    assert sender[1] != port
    agent.wait_guard()
    agent.kill(signal.SIGCONT)
    agent.event("given up")
    agent.event("guard")
    agent.event("guard")
    agent.kill()
    agent.wait_guard()
    hears.setblocking(False)
    with pytest.raises(BlockingIOError):
        hears.recv(2000)  # spoken words are not spoken again
    hears.close()


async def test_a_peers_engine_believes_the_guard(place: Place, begin: Callable[..., Agent]) -> None:
    """Sealed by one real engine, sent by the guard, taken by another; whoever sealed it is not heard any more."""
    heard: list[tuple[Member, object]] = []
    came = asyncio.Event()

    def take(sender: Member, message: object) -> None:
        heard.append((sender, message))
        came.set()

    addresses = {NodeName("a"): "10.6.0.1", NodeName("b"): "10.6.0.2"}
    for address in addresses.values():
        place.ip(f"addr add {address}/32 dev lo")
    engines = [
        EmbeddedEngine(
            cluster="www",
            me=Member(name, 7),
            bind=addresses[name],
            port=4803,
            members=addresses,
            broadcast=None,
            keys=[b"k" * 32],
            clock=time.monotonic,
            on_message=take,
            on_event=lambda event: None,
        )
        for name in addresses
    ]
    for engine in engines:
        await engine.open()
    view = ViewId(3, Member(NodeName("a"), 7))
    async with asyncio.timeout(PATIENCE):
        while not heard:  # until each trusts the other
            engines[0].send(Leave(view), ())
            await asyncio.sleep(0.01)
    agent = begin()
    spoken = Leave(ViewId(4, Member(NodeName("a"), 7)))
    words = engines[0].last_words(spoken) + engines[0].last_words(spoken)
    datagrams = [(datagram.hex(), list(there)) for datagram, there in words]
    agent.ask("words", {"datagrams": datagrams, "source": ["10.6.0.1", 4803]})
    heard.clear()
    agent.kill()
    async with asyncio.timeout(PATIENCE):
        while len(heard) < 2:
            came.clear()
            await came.wait()
    assert heard == [(Member(NodeName("a"), 7), spoken)] * 2
    assert engines[1].rejected["replay"] == 0
    engines[0].send(Leave(view), ())
    engines[1].drain()
    assert engines[1].rejected["replay"] == 1
    for engine in engines:
        engine.close()


def table(name: str) -> tuple[list[bytes], list[str]]:
    """What makes a fast lease's table, and what removes it."""
    made = LeaseTable(name)
    remove = [bytes(nftables.batch([request])).hex() for request in made.remove()]
    return made.build([bytes((10, 9, 0, 50))]), remove


def tables(place: Place) -> set[str]:
    return {line for line in place.execute("nft", "list", "tables").splitlines() if line}


@pytest.fixture
def filtered(place: Place) -> list[str]:
    """A fast lease's tables, and somebody else's."""
    build, remove = table("www")
    channel = nftables.FilterSocket()
    assert channel.commit(build) is None
    channel.close()
    place.execute("nft", "add", "table", "inet", "theirs")
    assert len(tables(place)) == 4
    return remove


def test_filter_tables_go_when_the_agent_is_dead(
    place: Place, begin: Callable[..., Agent], filtered: list[str]
) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("tables", filtered)
    agent.kill()
    agent.wait_guard()
    assert tables(place) == {"table inet theirs"}
    assert place.addresses() == set()
    assert "left: nft" not in agent.said()


def test_filter_tables_stay_while_a_hanging_agent_lives(
    place: Place, begin: Callable[..., Agent], filtered: list[str]
) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("tables", filtered)
    agent.ask("patience", 0.5)
    agent.kill(signal.SIGSTOP)
    agent.wait_guard()
    assert place.addresses() == set()
    assert len(tables(place)) == 4


def test_tables_that_are_gone_already_are_no_complaint(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("tables", table("www")[1])
    agent.kill()
    agent.wait_guard()
    assert "level=warning" in agent.said()


# Its life.


def test_it_outlives_what_ends_others(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    assert os.getsid(agent.guard) == agent.guard
    assert os.getpgid(agent.guard) != agent.process.pid
    ignored = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGABRT, signal.SIGQUIT, signal.SIGUSR1)
    for number in ignored:
        os.kill(agent.guard, number)
    assert not agent.guard_ends_within(0.1)
    agent.kill()
    agent.wait_guard()
    assert place.addresses() == set()


def test_signals_do_not_get_in_while_it_starts(place: Place, begin: Callable[..., Agent]) -> None:
    agent = begin()
    agent.ask("put", VIPS)
    os.kill(agent.guard, signal.SIGKILL)
    assert agent.event("guard")["active"] is False
    started = agent.ask("term_new_guard")
    assert agent.event("guard")["guard"] == started
    agent.kill()
    agent.wait_guard()
    assert place.addresses() == set()


def test_it_keeps_none_of_the_agents_files(begin: Callable[..., Agent], tmp_path: Path) -> None:
    with (tmp_path / "inherited").open("w") as stray:
        agent = begin(hand_down=(stray.fileno(),))
        agent.ask("claim", str(tmp_path))
        of_agent = links(agent.process.pid)
        assert str(tmp_path / "inherited") in of_agent.values()
    kept = links(agent.guard)
    assert set(kept) >= {0, 1, 2, 3, 4, 5}
    assert kept[0] == kept[1] == "/dev/null"
    assert not {target for target in kept.values() if "inherited" in target}
    assert len(kept) <= 8, f"standard files, three given, a netlink socket, the lock: {kept}"


def links(pid: int) -> dict[int, str]:
    directory = Path(f"/proc/{pid}/fd")
    return {int(entry.name): os.readlink(entry) for entry in directory.iterdir()}


def test_it_is_lean(begin: Callable[..., Agent]) -> None:
    """What it imports, and so what it weighs: 3 MiB of its own."""
    code = "import sys; sys.path.append(sys.argv[1]); import agent.guard; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.split())
    assert not modules & {"typing", "socket", "enum", "re", "collections", "contextlib", "asyncio", "ctypes"}
    assert {name for name in modules if name.startswith("agent")} == {
        "agent",
        "agent.guard",
        "agent.drivers",
        "agent.drivers.removal",
    }
    agent = begin()
    agent.ask("burden", 200)
    assert own_kilobytes(agent.process.pid) > 200_000
    assert own_kilobytes(agent.guard) < 6_000


def own_kilobytes(pid: int) -> int:
    """What would be free if the process were gone (USS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_a_late_guard_gives_the_agent_time_to_beat() -> None:
    """Due long ago, and this process was not run either: excused once, for a quarter of the patience."""
    guard = Guard()
    ours, theirs = socket.socketpair()
    agent = os.pidfd_open(os.getpid())
    patience = 0.2
    guard.watch(patience)
    memory = Memory(guard.memory)
    watch = Watch(agent, theirs.fileno(), memory)
    beat, _ = memory.pulse()
    wait_until(beat + 2 * patience)
    late = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert watch._hangs() is False
    assert memory.phase() == WATCHING
    assert watch.wait() == "hangs"
    judged = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert judged - late >= patience / 4
    memory.begin(WATCHING)
    wait_until(judged + 2 * patience)
    assert watch._hangs() is True, "on a starved machine it would be late each time"
    guard.close()
    for each in (ours, theirs):
        each.close()
    os.close(agent)


def test_a_guard_in_time_judges_at_once() -> None:
    guard = Guard()
    ours, theirs = socket.socketpair()
    agent = os.pidfd_open(os.getpid())
    patience = 0.2
    guard.watch(patience)
    memory = Memory(guard.memory)
    watch = Watch(agent, theirs.fileno(), memory)
    beat, _ = memory.pulse()
    assert watch.wait() == "hangs"
    assert time.clock_gettime(time.CLOCK_BOOTTIME) - beat >= patience
    assert guard.hold([AddressKey(1, bytes(4), 32)]) is False, "the agent sees it before it does anything"
    guard.close()
    for each in (ours, theirs):
        each.close()
    os.close(agent)


def wait_until(at: float) -> None:
    select.select([], [], [], max(0.0, at - time.clock_gettime(time.CLOCK_BOOTTIME)))


def test_agent_and_guard_stopped_together_go_on_as_if_nothing_had_been(
    place: Place, begin: Callable[..., Agent]
) -> None:
    """The whole machine stood still, for instance: nobody else can have taken anything over."""
    agent = begin()
    agent.ask("put", VIPS)
    agent.ask("patience", 2.0)
    agent.kill(signal.SIGSTOP)
    os.kill(agent.guard, signal.SIGSTOP)
    wait_until(time.clock_gettime(time.CLOCK_BOOTTIME) + 2.2)
    os.kill(agent.guard, signal.SIGCONT)
    agent.kill(signal.SIGCONT)
    agent.ask("beat")
    assert not agent.guard_ends_within(0.6)
    assert place.addresses() == set(VIPS)


# Bytes.


@pytest.mark.parametrize("key", [AddressKey(7, bytes((10, 9, 0, 50)), 24), AddressKey(9, bytes(range(16)), 64)])
def test_the_requests_are_those_of_the_driver(key: AddressKey) -> None:
    assert packed(removal.delete_address(key)) == rtnetlink.delete_address(key)
    for on in (True, False):
        assert packed(removal.set_promotion(7, on)) == rtnetlink.set_promotion(7, on=on)


def packed(request: tuple[int, bytes]) -> bytes:
    return rtnetlink.message(request[0], 0, request[1])


def test_what_was_announced_earlier_is_sure() -> None:
    """So that the tags need not be read, in the normal case: an agent dies long after its last acquisition."""
    guard = Guard()
    first, second, third = (AddressKey(7, bytes((10, 9, 0, host)), 24) for host in (1, 2, 3))
    memory = Memory(guard.memory)
    guard.hold([first, second])
    assert memory.addresses() == ([], [second, first]), "last announced, first removed"
    guard.hold([third])
    assert memory.addresses() == ([second, first], [third])
    guard.forget([second])
    guard.beat()
    assert memory.addresses() == ([third, first], [])
    guard.hold([second])
    assert memory.addresses() == ([third, first], [second]), "in a place that was free"
    guard.close()


def test_words_that_do_not_fit_are_refused() -> None:
    guard = Guard()
    there = ("10.6.0.1", 4803)
    guard.last_words([(os.urandom(1400), there) for _ in range(2 * 127)])  # as many as there can be, twice
    before = Memory(guard.memory).words()
    assert len(before[1]) == 254
    with pytest.raises(ValueError, match="the guard keeps"):
        guard.last_words([(os.urandom(1400), there) for _ in range(500)])
    assert Memory(guard.memory).words() == before
    guard.last_words([])
    assert Memory(guard.memory).words() == (None, [])
    guard.close()
