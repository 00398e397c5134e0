"""Engines that talk over the loopback interface."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from agent.core.ids import Member, NodeName
from agent.engines.embedded import udp
from agent.engines.embedded.addresses import EngineError
from agent.engines.embedded.seal import DATAGRAM_MAX
from agent.engines.embedded.udp import BATCH, EmbeddedEngine
from tests.engines.wire_nodes import ADDRESSES, KEY, OTHER_KEY, PATIENCE, Node, Speaker, delivered, free_port, leave
from tests.engines.wire_samples import big_install, calm_heartbeat

Open = Callable[..., Awaitable[Node]]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens nodes on one port of their own loopback addresses; closes them all."""
    port = free_port()
    async with AsyncExitStack() as stack:

        async def make(name: str, incarnation: int = 1, **options: Any) -> Node:
            node = Node(name, incarnation, port=port, **options)
            await node.engine.open()
            stack.callback(node.engine.close)
            return node

        yield make


async def trusting(*nodes: Node) -> None:
    """Waits until each trusts each other."""
    async with asyncio.timeout(PATIENCE):
        while not all(one.trusts(other.me) for one in nodes for other in nodes if one is not other):
            for node in nodes:
                node.engine.drain()
            await asyncio.sleep(0)


async def test_opening_is_enough_to_trust(opened: Open) -> None:
    a, b, c = await opened("a"), await opened("b", 7), await opened("c")
    await trusting(a, b, c)
    assert [(peer.name, peer.address, peer.incarnation) for peer in a.engine.peers] == [
        ("b", "127.0.0.2", 7),
        ("c", "127.0.0.3", 1),
    ]


async def test_messages_reach_everyone_or_those_named(opened: Open) -> None:
    a, b, c = await opened("a"), await opened("b"), await opened("c")
    await trusting(a, b, c)
    a.engine.send(leave(1), ())
    a.engine.send(leave(2), (NodeName("c"), NodeName("a")))
    a.engine.send(leave(3), (NodeName("b"),))
    await asyncio.gather(b.until(2), c.until(2))
    assert b.messages == [(a.me, leave(1)), (a.me, leave(3))]
    assert c.messages == [(a.me, leave(1)), (a.me, leave(2))]
    assert not a.messages
    assert not a.engine.send_errors


async def test_a_big_install_passes_in_fragments(opened: Open) -> None:
    a, b, c = await opened("a"), await opened("b"), await opened("c")
    await trusting(a, b, c)
    install = big_install(3, 1000)
    a.engine.send(install, ())
    await asyncio.gather(b.until(1), c.until(1))
    assert b.messages == c.messages == [(a.me, install)]


async def test_the_biggest_install_passes_a_full_send_buffer(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """More datagrams than the kernel takes at once: the rest waits, and none is lost."""
    a, b = await opened("a"), await opened("b")
    await trusting(a, b)
    full = {"left": 5}
    hand_over = EmbeddedEngine._handed_over

    def sometimes(engine: EmbeddedEngine, datagram: bytes, there: tuple[Any, ...]) -> bool:
        full["left"] -= 1
        return full["left"] % 7 != 0 and hand_over(engine, datagram, there)

    monkeypatch.setattr(EmbeddedEngine, "_handed_over", sometimes)
    install = big_install(8, 16_384)
    a.engine.send(install, (NodeName("b"),))
    await b.until(1)
    assert b.messages == [(a.me, install)]
    assert not a.engine.send_errors


async def test_drain_reads_all_that_waits(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await trusting(a, b)
    delivered()
    b.engine.drain()
    count = 5 * BATCH
    for number in range(count):
        a.engine.send(leave(number), (NodeName("b"),))
    assert not b.messages  # the loop did not run
    delivered()
    assert b.engine.drain() == count
    assert [message for _, message in b.messages] == [leave(number) for number in range(count)]
    assert b.engine.drain() == 0


async def test_one_wake_up_reads_a_bounded_batch(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await trusting(a, b)
    delivered()
    b.engine.drain()
    for number in range(3 * BATCH):
        a.engine.send(leave(number), (NodeName("b"),))
    await b.until(1)
    assert len(b.messages) <= BATCH
    await b.until(3 * BATCH)


async def test_a_restart_is_trusted_again_in_both_directions(opened: Open) -> None:
    a, b = await opened("a"), await opened("b", 1)
    await trusting(a, b)
    b.engine.close()
    b = await opened("b", 2)
    await trusting(a, b)
    a.engine.send(leave(1), ())
    b.engine.send(leave(2), ())
    await asyncio.gather(a.until(1), b.until(1))
    assert a.messages == [(Member(NodeName("b"), 2), leave(2))]
    assert b.messages == [(a.me, leave(1))]


async def test_recordings_of_an_old_life_are_useless(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that b ever sent to a is played again to a's next life, from b's own address."""
    a, b = await opened("a", 1), await opened("b", 1)
    recorded: list[bytes] = []
    receive = a.engine.receive

    def record(datagram: bytes, source: str) -> None:
        recorded.append(datagram)
        receive(datagram, source)

    monkeypatch.setattr(a.engine, "receive", record)
    await trusting(a, b)
    for number in range(20):
        b.engine.send(leave(number), ())
    await a.until(20)
    a.engine.close()
    b.engine.close()
    again = await opened("a", 2)
    for datagram in recorded:
        again.engine.receive(datagram, "127.0.0.2")
    assert not again.messages
    assert not again.trusts(Member(NodeName("b"), 1))
    assert set(again.rejections()) == {"untrusted"}
    b = await opened("b", 2)
    again.engine.send(leave(0), ())  # the flood used up all answers: the next heartbeat does it instead
    await trusting(again, b)
    for datagram in recorded:
        again.engine.receive(datagram, "127.0.0.2")
    assert not again.messages
    assert set(again.rejections()) == {"untrusted", "stale_incarnation"}


async def test_last_words_end_a_life(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await trusting(a, b)
    ((words, there),) = [(words, there) for words, there in a.engine.last_words(leave(9)) if there[0] == "127.0.0.2"]
    a.engine.send(leave(1), (NodeName("b"),))
    await b.until(1)  # prepared before, sent after
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guard:
        guard.bind(("127.0.0.1", 0))
        guard.sendto(words, there)
    await b.until(2)
    assert b.messages == [(a.me, leave(1)), (a.me, leave(9))]
    a.engine.send(leave(2), (NodeName("b"),))
    async with asyncio.timeout(PATIENCE):
        while "replay" not in b.rejections():
            b.changed.clear()
            await b.changed.wait()
    with pytest.raises(ValueError, match="fit one datagram"):
        a.engine.last_words(big_install(3, 1000))


async def test_keys_are_rotated_on_running_engines(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await trusting(a, b)
    for keys in ([KEY, OTHER_KEY], [OTHER_KEY, KEY], [OTHER_KEY]):
        for node in (a, b):  # one after the other, with traffic in between
            node.engine.reconfigure(members=ADDRESSES, keys=keys)
            before = len(a.messages), len(b.messages)
            a.engine.send(leave(1), ())
            b.engine.send(leave(2), ())
            await asyncio.gather(a.until(before[0] + 1), b.until(before[1] + 1))
    assert set(a.rejections()) | set(b.rejections()) <= {"untrusted"}


async def test_broken_datagrams_from_the_network_cost_a_counter(opened: Open) -> None:
    a = await opened("a")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.9", 0))
        for rubbish in (b"", b"x", b"GET / HTTP/1.1", bytes(60_000), b"Mh" + bytes(DATAGRAM_MAX)):
            stranger.sendto(rubbish, ("127.0.0.1", a.engine._here.port))
    delivered()
    assert a.engine.drain() == 5
    assert a.rejections() == ["truncated", "truncated", "magic", "oversized", "oversized"]


async def test_the_network_refusing_is_counted_and_nothing_else(opened: Open) -> None:
    members = {NodeName("a"): "127.0.0.1", NodeName("b"): "192.0.2.55", NodeName("c"): "255.255.255.254"}
    a = await opened("a", members=members)
    a.engine.send_errors.clear()
    a.engine.send(calm_heartbeat(3), ())  # bound to loopback: nothing else can be reached
    assert a.engine.send_errors.total() == 2
    assert set(a.engine.send_errors) <= set(errno.errorcode.values())
    a.engine.send_errors.clear()
    a.engine.send(calm_heartbeat(3), (NodeName("z"),))
    a.engine.close()
    a.engine.send(calm_heartbeat(3), (NodeName("b"),))
    assert a.engine.send_errors == {"unknown_member": 1, "closed": 1}


async def test_what_waits_for_the_kernel_keeps_its_order(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await opened("a"), await opened("b")
    await trusting(a, b)
    with monkeypatch.context() as full:
        full.setattr(EmbeddedEngine, "_handed_over", lambda *_: False)
        a.engine.send(leave(1), (NodeName("b"),))
    a.engine.send(leave(2), (NodeName("b"),))  # the buffer has room again, but one waits
    await b.until(2)
    assert [message for _, message in b.messages] == [leave(1), leave(2)]


async def test_what_waits_for_the_kernel_is_bounded(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    a = await opened("a")
    monkeypatch.setattr(EmbeddedEngine, "_handed_over", lambda *_: False)
    for _ in range(udp.WAITING_MAX + 10):
        a.engine.send(leave(1), (NodeName("b"),))
    assert len(a.engine._waiting) == udp.WAITING_MAX
    assert a.engine.send_errors == {"waiting": 10}


async def test_sockets_are_marked_and_roomy(opened: Open) -> None:
    a = await opened("a")
    (opened_socket,) = a.engine._sockets
    assert opened_socket.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 6
    assert opened_socket.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0xC0
    assert opened_socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 208 * 1024
    assert not opened_socket.getblocking()


async def test_ipv6_addresses_are_compared_in_canonical_form(opened: Open) -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    a = await opened("a", members={NodeName("a"): "0:0:0:0:0:0:0:1", NodeName("b"): "fd00:0::B"})
    (opened_socket,) = a.engine._sockets
    assert opened_socket.getsockname()[0] == "::1"
    assert opened_socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 0xC0
    a.engine.receive(Speaker("b").say(a, leave(1)), "fd00::b")
    assert a.messages == [(Member(NodeName("b"), 1), leave(1))]


async def test_a_handler_may_close_the_engine(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await trusting(a, b)
    delivered()
    b.engine.drain()
    b.engine._on_message = lambda sender, message: b.engine.close()
    for number in range(5):
        a.engine.send(leave(number), (NodeName("b"),))
    delivered()
    assert b.engine.drain() == 1
    b.engine.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bind": "192.0.2.1"}, "bind: cannot use UDP 192.0.2.1 port .*no interface has this address"),
        ({"bind": "www1"}, "bind: 'www1' is not an IPv4 or IPv6 address"),
        ({"bind": "::1"}, "not both IPv4 or IPv6"),
        ({"broadcast": "198.51.100.255"}, "broadcast: cannot use UDP 198.51.100.255 port"),
        ({"broadcast": "ff02::1"}, "broadcast: ff02::1 and bind 127.0.0.1 are not both"),
        ({"members": {}, "bind": "127.0.0.1"}, "no members: name them, or"),
        ({"keys": [b"short"]}, "secret: a key of 5 bytes is too short: at least 16 are needed; make one with"),
    ],
)
async def test_errors_name_the_value_and_the_fix(opened: Open, options: dict[str, Any], text: str) -> None:
    with pytest.raises(EngineError, match=text):
        await opened("a", **options)


async def test_a_port_in_use_is_named(opened: Open) -> None:
    await opened("a")
    with pytest.raises(EngineError, match="another program has it"):
        await opened("a")
