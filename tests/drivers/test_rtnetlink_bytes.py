"""The hand-packed requests are read by pyroute2 as what they are meant to be; what it packs is read here."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from agent.core.ids import VipName
from agent.core.settings import Address, Vip
from agent.drivers import rtnetlink
from agent.drivers.addresses import TAG, AddressTable, plan, prefix_route, strays
from agent.drivers.kernel import keeps_tags
from agent.drivers.lifetime import Lifetimes
from agent.drivers.links import LinkTable
from agent.drivers.records import AddressKey, AddressRecord, LinkRecord

keys = st.one_of(
    st.builds(AddressKey, st.integers(1, 1 << 20), st.binary(min_size=4, max_size=4), st.integers(0, 32)),
    st.builds(AddressKey, st.integers(1, 1 << 20), st.binary(min_size=16, max_size=16), st.integers(0, 128)),
)
LAN = AddressKey(2, ip_address("10.0.0.1").packed, 24)


def decoded(data: bytes) -> ifaddrmsg:
    message = ifaddrmsg(data)
    message.decode()
    return message


@settings(max_examples=100, deadline=None)
@given(keys, st.integers(0, 10_000), st.booleans())
def test_pyroute2_reads_an_addition_as_meant(key: AddressKey, lifetime: int, renew: bool) -> None:
    data = rtnetlink.add_address(key, tag=TAG, flags=rtnetlink.IFA_F_NOPREFIXROUTE, lifetime=lifetime, renew=renew)
    message = decoded(data)
    version6 = len(key.packed) == 16
    text = str(ip_address(key.packed))
    assert message["header"]["type"] == rtnetlink.RTM_NEWADDR
    assert message["header"]["length"] == len(data)
    assert message["header"]["flags"] == (0x101 if renew else 0x601)
    assert (message["family"], message["prefixlen"], message["index"]) == (
        socket.AF_INET6 if version6 else socket.AF_INET,
        key.prefix,
        key.ifindex,
    )
    assert message["scope"] == (253 if key.prefix == 32 and not version6 else 0)
    assert message.get_attr("IFA_LOCAL") == text
    assert message.get_attr("IFA_ADDRESS") == text
    assert message.get_attr("IFA_PROTO") == TAG
    assert message.get_attr("IFA_FLAGS") == 0x200 | (rtnetlink.IFA_F_NODAD if version6 else 0)
    cache = message.get_attr("IFA_CACHEINFO")
    if version6:
        assert (cache["ifa_preferred"], cache["ifa_valid"]) == (0, lifetime or rtnetlink.FOREVER)
    elif lifetime:
        assert (cache["ifa_preferred"], cache["ifa_valid"]) == (lifetime, lifetime)
    else:
        assert cache is None


@settings(max_examples=100, deadline=None)
@given(keys, st.integers(0, 255))
def test_what_is_packed_is_read_back(key: AddressKey, tag: int) -> None:
    data = rtnetlink.add_address(key, tag=tag)
    (at,) = rtnetlink.messages(data)
    record = rtnetlink.read_address(data, at)
    assert record is not None
    assert (record.key, record.tag) == (key, tag)
    deletion = decoded(rtnetlink.delete_address(key))
    assert deletion["header"]["type"] == rtnetlink.RTM_DELADDR
    assert deletion.get_attr("IFA_ADDRESS") == str(ip_address(key.packed))


def test_promotion_is_a_change_of_the_interface_alone() -> None:
    message = ifinfmsg(rtnetlink.set_promotion(7, on=True))
    message.decode()
    assert (message["header"]["type"], message["index"], message["flags"], message["change"]) == (19, 7, 0, 0)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_garbage_is_no_error(data: bytes) -> None:
    for at in rtnetlink.messages(data):
        rtnetlink.read_neighbour(data, at)
    at = rtnetlink.Message(20, 0, 0, 0, len(data))
    for kind, start, end in rtnetlink.attributes(data, 0, len(data)):
        assert 0 <= kind < 0x4000
        assert start <= end <= len(data)
    assert rtnetlink.read_neighbour(data, at) is None or len(data) >= 12


def test_a_word_of_the_bridge_is_not_one_of_the_kernel() -> None:
    message = rtnetlink.message(rtnetlink.RTM_DELLINK, 0, bytes((socket.AF_BRIDGE,)) + bytes(15))
    (at,) = rtnetlink.messages(message)
    assert rtnetlink.read_link(message, at) is None


def test_tags_are_kept_since_5_18() -> None:
    assert not keeps_tags("5.15.0-91-generic")
    assert not keeps_tags("5.17")
    assert keeps_tags("5.18.0-rc1")
    assert keeps_tags("6.1.0")


def vip(address: str, prefix: int, interface: str = "eth0") -> Vip:
    return Vip(VipName(address), (Address(interface, address, prefix, f"{address}/{prefix}"),))


def test_strays_are_told_by_tag_or_else_by_the_configuration() -> None:
    links = LinkTable()
    links.update(LinkRecord(2, "eth0", bytes(6), 0x10001, 6))
    plans = [plan(vip("10.0.0.9", 24), links, {}, Lifetimes(0, 0))]
    tagged = AddressKey(2, ip_address("10.0.0.8").packed, 24)
    configured = AddressKey(2, ip_address("10.0.0.9").packed, 24)
    other_prefix = AddressKey(2, ip_address("10.0.0.9").packed, 32)
    elsewhere = AddressKey(3, ip_address("10.0.0.9").packed, 24)
    table = [AddressRecord(key, 0, 0) for key in (LAN, configured, other_prefix, elsewhere)]
    table.append(AddressRecord(tagged, 0, TAG))
    assert strays(table, plans, (), tags=True) == [tagged]
    assert strays(table, plans, (), tags=False) == [configured]
    assert strays(table, plans, (tagged, configured), tags=True) == []
    assert strays(table, plans, (tagged, configured), tags=False) == []


def test_the_kernel_makes_a_route_only_where_none_leads() -> None:
    def key(address: str, prefix: int) -> AddressKey:
        return AddressKey(2, ip_address(address).packed, prefix)

    assert prefix_route(key("10.0.0.9", 24), [LAN])  # secondary: makes no route, and inherits it
    assert prefix_route(key("10.1.0.9", 24), [LAN])  # the only way into its network
    assert not prefix_route(key("10.0.0.9", 28), [LAN])  # would turn the VIP into a source
    assert not prefix_route(key("10.0.0.9", 32), [])
    assert not prefix_route(key("fd00::9", 64), [key("fd00::1", 64)])
    assert prefix_route(key("fd00::9", 64), [key("fd01::1", 64), LAN])
    assert prefix_route(key("10.0.0.9", 28), [LAN._replace(ifindex=3)])


def test_the_table_knows_the_same_address_and_its_neighbours() -> None:
    table = AddressTable()
    twin = LAN._replace(prefix=32)
    peer = LAN._replace(packed=ip_address("10.0.0.2").packed)
    for key in (LAN, twin, peer):
        table.add(AddressRecord(key, 0, 0))
    assert {record.key for record in table.same(LAN.packed)} == {LAN, twin}
    assert table.neighbours(LAN) == {LAN, peer}
    table.discard(LAN)
    table.discard(LAN)
    assert {record.key for record in table.same(LAN.packed)} == {twin}
    assert table.neighbours(LAN) == {peer}
