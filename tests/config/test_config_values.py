"""Grammar of single values."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.problem import Invalid
from agent.config.values import (
    InterfaceAddress,
    Listen,
    format_duration,
    parse_duration,
    parse_interface,
    parse_interface_address,
    parse_listen,
    show,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10ms", 0.01), ("5s", 5.0), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0), ("0s", 0.0), ("0.4ms", 0.0004)],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("value", [5, 5.0, "5", "5 s", "s", "-5s", "5d", "٥s", "1e3s", "", None, True, [], "5s\n"])
def test_no_duration(value: object) -> None:
    with pytest.raises(Invalid):
        parse_duration(value)


@settings(deadline=None)
@given(st.integers(0, 10**9 - 1))
def test_durations_of_whole_milliseconds_survive_writing(milliseconds: int) -> None:
    seconds = parse_duration(f"{milliseconds}ms")
    assert parse_duration(format_duration(seconds)) == seconds == milliseconds / 1000


@pytest.mark.parametrize(
    ("text", "interface", "address", "prefix", "network"),
    [
        ("eth4:192.0.2.1/24", "eth4", "192.0.2.1", 24, "192.0.2.0/24"),
        ("eth4:192.0.2.1/32n24", "eth4", "192.0.2.1", 32, "192.0.2.0/24"),
        ("192.0.2.1/24", None, "192.0.2.1", 24, "192.0.2.0/24"),
        ("eth4:2001:db8::1/64", "eth4", "2001:db8::1", 64, "2001:db8::/64"),
        ("eth4:[2001:db8::1]/64", "eth4", "2001:db8::1", 64, "2001:db8::/64"),
        ("2001:db8::1/64", None, "2001:db8::1", 64, "2001:db8::/64"),
        ("[2001:db8::1]/64", None, "2001:db8::1", 64, "2001:db8::/64"),
        ("be0:[2001:db8::1]/64", "be0", "2001:db8::1", 64, "2001:db8::/64"),
        ("be0:2001:db8::1/64", None, "be0:2001:db8::1", 64, "be0:2001:db8::/64"),
        ("eth0.100:2001:DB8:0::1/128n64", "eth0.100", "2001:db8::1", 128, "2001:db8::/64"),
        ("wlan-0:fe80::1/10", "wlan-0", "fe80::1", 10, "fe80::/10"),
        ("eth4:::1/128", "eth4", "::1", 128, "::1/128"),
    ],
)
def test_interface_address(text: str, interface: str | None, address: str, prefix: int, network: str) -> None:
    entry = parse_interface_address(text)
    assert (entry.interface, str(entry.address), entry.prefix) == (interface, address, prefix)
    assert entry.network == ipaddress.ip_network(network)
    assert parse_interface_address(str(entry)) == entry


@pytest.mark.parametrize(
    "value",
    [
        *("eth4:192.0.2.1", "eth4:192.0.2.1/33", "eth4:192.0.2.1/24n33", "eth4/24", "eth4:/24", "/24", ""),
        *("eth4:192.0.2.01/24", "eth4:[192.0.2.1/24", "eth4:fe80::1%eth4/64", "sixteencharacter:192.0.2.1/24"),
        *("eth 4:192.0.2.1/24", "eth4:192.0.2.1/-1", "eth4:192.0.2.1/24n", "eth4:192.0.2.1/24/24"),
        *(".:192.0.2.1/24", "eth0:1:192.0.2.1/24", 5, None),
    ],
)
def test_no_interface_address(value: object) -> None:
    with pytest.raises(Invalid) as caught:
        parse_interface_address(value)
    assert caught.value.fix


@settings(deadline=None)
@given(
    st.from_regex(r"[a-z][a-z0-9.]{0,14}", fullmatch=True),
    st.ip_addresses(),
    st.integers(0, 32),
    st.integers(0, 32),
)
def test_every_interface_address_survives_writing(
    interface: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int, network: int
) -> None:
    if "%" in str(address):
        return
    entry = InterfaceAddress(interface, address, prefix, network)
    assert parse_interface_address(str(entry)) == entry


@pytest.mark.parametrize("name", ["eth0", "eth0.100", "br-lan", "x" * 15, "wg_0", "veth@a"])
def test_interface_name(name: str) -> None:
    assert parse_interface(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "a:b", "x" * 16, "é" * 8, "a\x01", 5])
def test_no_interface_name(name: object) -> None:
    with pytest.raises(Invalid):
        parse_interface(name)


@pytest.mark.parametrize(
    ("text", "listen"),
    [(":9748", Listen("", 9748)), ("127.0.0.1:1", Listen("127.0.0.1", 1)), ("[::1]:65535", Listen("::1", 65535))],
)
def test_listen(text: str, listen: Listen) -> None:
    assert parse_listen(text) == listen
    assert str(listen) == text


@pytest.mark.parametrize("value", [9748, "9748", ":0", ":65536", "::1:80", "[::1]", "host:80", "[127.0.0.1]:80", None])
def test_no_listen(value: object) -> None:
    with pytest.raises(Invalid):
        parse_listen(value)


def test_shown_values_stay_on_one_line() -> None:
    assert show("a\nb\x1b[31m") == "'a\\nb\\x1b[31m'"
    assert len(show("x" * 1000)) <= 62
