"""The filter programs in the real kernel: what passes, and how long a program gets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.drivers import bpf_filter, frames

OURS = bytes.fromhex("02000000000a")
RIVAL = bytes.fromhex("0200000000ff")
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

v4 = st.binary(min_size=4, max_size=4)
near = st.integers(0, 40).map(lambda number: bytes((10, 72, 0, number)))
v6 = st.one_of(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=1, max_size=1).map(lambda last: bytes.fromhex("fd72") + bytes(13) + last),
)


class Pair:
    """A filter runs on whatever a socket receives: here the frames come over a local pair, as a network's would."""

    def __init__(self) -> None:
        self._sender, self._receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._receiver.setblocking(False)

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()

    def load(self, program: list[bpf_filter.Instruction]) -> None:
        bpf_filter.attach(self._receiver, program)

    def passes(self, frame: bytes) -> bool:
        self._sender.send(frame)
        try:
            return self._receiver.recv(4096) == frame
        except BlockingIOError:
            return False


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def scattered(count: int, size: int) -> list[bytes]:
    random = Random(count)
    return [random.randbytes(size) for _ in range(count)]


def claims(address: bytes, mac: bytes = RIVAL) -> list[bytes]:
    """Every form in which a host says that it has an address."""
    if len(address) == 4:
        reply = frames.gratuitous_reply(mac, address)
        return [frames.gratuitous_request(mac, address), reply, frames.directed_request(mac, address, bytes(4))]
    return [
        frames.advertisement(mac, address, router=True),
        frames.advertisement(mac, address, router=False, everyone=False),
        frames.solicitation(mac, address, bytes(16)),
    ]


def build(addresses: list[bytes], senders: list[bytes], most: int = 4096) -> list[bpf_filter.Instruction]:
    made = bpf_filter.arp if len(addresses[0]) == 4 else bpf_filter.neighbour_discovery
    return made(tuple(addresses), senders, most)


@few
@given(st.lists(st.one_of(v4, near), min_size=1, max_size=60), st.lists(st.one_of(v4, near), max_size=20))
def test_claims_to_our_addresses_pass_and_no_others(pair: Pair, ours: list[bytes], others: list[bytes]) -> None:
    pair.load(build(ours, [OURS]))
    for address in {*ours, *others}:
        assert {pair.passes(frame) for frame in claims(address)} == {address in ours}


@few
@given(st.lists(v6, min_size=1, max_size=40), st.lists(v6, max_size=20))
def test_the_same_of_ipv6(pair: Pair, ours: list[bytes], others: list[bytes]) -> None:
    pair.load(build(ours, [OURS]))
    for address in {*ours, *others}:
        assert {pair.passes(frame) for frame in claims(address)} == {address in ours}


@few
@given(st.lists(st.binary(min_size=6, max_size=6), max_size=40), st.binary(min_size=6, max_size=6))
@pytest.mark.parametrize("size", [4, 16])
def test_known_senders_do_not_pass(pair: Pair, size: int, known: list[bytes], other: bytes) -> None:
    address = bytes(range(1, size + 1))
    pair.load(build([address], known))
    for mac in [*known, other, other[:2] + known[0][2:] if known else other]:
        assert {pair.passes(frame) for frame in claims(address, mac)} == {mac not in known}


@pytest.mark.parametrize("size", [4, 16])
def test_questions_for_our_addresses_do_not_pass(pair: Pair, size: int) -> None:
    """Hosts ask for a VIP all day long, some before they take it (probes): none of this is a claim to what we hold."""
    vip, host = bytes(range(1, size + 1)), bytes(range(2, size + 2))
    pair.load(build([vip], [OURS]))
    if size == 4:
        asking = [frames.directed_request(RIVAL, host, vip), frames.probe(RIVAL, vip)]
    else:
        asking = [frames.solicitation(RIVAL, host, vip), frames.duplicate_solicitation(RIVAL, vip)]
    for frame in asking:
        assert not pair.passes(frame)
    assert pair.passes(claims(vip)[0])


@pytest.mark.parametrize("size", [4, 16])
def test_cut_and_foreign_frames_do_not_pass(pair: Pair, size: int) -> None:
    vip = bytes(range(1, size + 1))
    pair.load(build([vip], [OURS]))
    whole = claims(vip)[0]
    needed = 32 if size == 4 else 78
    assert pair.passes(whole[:needed])
    for length in range(1, needed):
        assert not pair.passes(whole[:length])
    changes = {14: b"\0\6", 18: b"\1"} if size == 4 else {20: b"\x11", 21: b"\x40", 54: b"\x85"}
    for offset, value in changes.items():
        assert not pair.passes(whole[:offset] + value + whole[offset + len(value) :])


@pytest.mark.parametrize("size", [4, 16])
def test_a_thousand_are_matched_exactly_and_the_kernel_takes_it(pair: Pair, size: int) -> None:
    site = bytes.fromhex("fd720001000200030004")[: size - 2] if size == 16 else b"\x0a\x48"
    ours = [site[: size - 2].ljust(size - 2, b"\1") + (2 * number).to_bytes(2, "big") for number in range(1000)]
    program = build(ours, scattered(128, 6))
    assert len(program) < 2500
    pair.load(program)
    for address in ours:
        assert pair.passes(claims(address)[0])
        beside = (int.from_bytes(address, "big") + 1).to_bytes(size, "big")
        assert not pair.passes(claims(beside)[0])


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("most", bpf_filter.LENGTHS)
def test_more_than_fit_let_too_much_pass_but_never_too_little(pair: Pair, size: int, most: int) -> None:
    ours = scattered(16_384, size)
    program = build(ours, scattered(200, 6), most)
    assert len(program) <= most
    pair.load(program)
    assert all(pair.passes(claims(address)[0]) for address in ours[::16])
    passed = sum(pair.passes(claims(address)[0]) for address in scattered(1000, size))
    assert passed < 1000, "it keeps nothing out"


def test_the_smallest_gaps_are_filled_first(pair: Pair) -> None:
    """Two sites of too many addresses: what lies between the sites stays out."""
    sites = (0x0A480000, 0xC0A80000)
    ours = [(site + 2 * number).to_bytes(4, "big") for site in sites for number in range(2000)]
    pair.load(build(ours, [], 256))
    assert pair.passes(claims(ours[0])[0])
    assert pair.passes(claims(ours[-1])[0])
    for between in (0x0A480000 + 4000, 0x60000000, 0xC0A80000 - 1):
        assert not pair.passes(claims(between.to_bytes(4, "big"))[0])


def test_addresses_in_a_row_cost_nothing() -> None:
    row = [(0x0A480000 + number).to_bytes(4, "big") for number in range(16_384)]
    assert len(build(row, [])) == len(build(row[:2], []))
