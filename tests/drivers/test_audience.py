"""Pace and order of directed announcements, with time as a number."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.effects import Occasion
from agent.core.ids import VipName
from agent.drivers.audience import HOSTS_MAX, Lane, Ranges, net
from agent.drivers.targets import NotifyTarget

A, B = VipName("a"), VipName("b")
HOSTS = [bytes((10, 0, 0, number)) for number in range(1, 11)]


def run(lane: Lane, start: float, stop: float, step: float = 0.01) -> list[tuple[float, int, str]]:
    told = []
    now = start
    while now < stop:
        while telling := lane.take(now):
            told.append((now, telling.host[-1], telling.vip))
        now = round(now + step, 6)
    return told


def test_each_vip_makes_one_full_round_at_the_throttle() -> None:
    lane = Lane(lambda: HOSTS, 5)
    lane.start(A, Occasion.ACQUIRE)
    told = run(lane, 100.0, 101.0)
    assert [host for _, host, _ in told] == [1, 2, 3, 4, 5]
    lane.start(B, Occasion.ACQUIRE)
    told += run(lane, 101.0, 110.0)
    assert sorted(host for _, host, vip in told if vip == A) == list(range(1, 11))
    assert [host for _, host, vip in told if vip == B] == [6, 7, 8, 9, 10, 1, 2, 3, 4, 5]
    assert lane.due() is None
    times = sorted({at for at, _, _ in told})
    for number, at in enumerate(times):
        assert len([other for other in times[number:] if other < at + 1.0]) <= 6


def test_a_stopped_vip_is_not_told_of_any_more() -> None:
    lane = Lane(lambda: HOSTS, None)
    lane.start(A, Occasion.ACQUIRE)
    lane.start(B, Occasion.ACQUIRE)
    first = lane.take(1.0)
    assert first is not None
    assert first.vip == A
    lane.stop([B])
    assert {vip for _, _, vip in run(lane, 1.0, 1.1)} == {A}


def test_hosts_that_went_away_end_the_round() -> None:
    hosts = list(HOSTS)
    lane = Lane(lambda: hosts, None)
    lane.start(A, Occasion.ACQUIRE)
    hosts.clear()
    assert lane.take(1.0) is None
    assert lane.due() is None


def ranges(network: str, *nets: str) -> Ranges:
    return Ranges(NotifyTarget("eth0", ip_network(network), None), [net("eth0", each) for each in nets])


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 255), st.integers(24, 32), st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=3)
)
def test_a_range_is_what_lies_on_a_network_of_a_vip(first: int, prefix: int, nets: list[tuple[int, int]]) -> None:
    told = ip_network(f"10.0.0.{first}/{prefix}", strict=False)
    networks = [ip_network(f"10.0.0.{start}/{length}", strict=False) for start, length in nets]
    hosts = {host for each in networks for host in (each.hosts() if each.prefixlen < 31 else each)}
    found = ranges(str(told), *map(str, networks))
    listed = [found[number] for number in range(len(found))]
    assert sorted(listed) == sorted(host.packed for host in hosts if host in told)


def test_an_endless_range_is_cut() -> None:
    assert len(ranges("fd00::/64", "fd00::/64", "fd00::/48")) == HOSTS_MAX
    assert len(ranges("10.0.0.0/8", "10.0.0.0/8")) == HOSTS_MAX
    assert len(ranges("192.168.1.1/32", "10.0.0.0/8")) == 0
    assert ranges("10.0.0.7/32", "10.0.0.0/24")[0] == ip_address("10.0.0.7").packed
