"""The patched bytes are what scapy builds, and what is parsed is what was built."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from agent.drivers import frames

macs = st.binary(min_size=6, max_size=6)
v4 = st.binary(min_size=4, max_size=4)
v6 = st.binary(min_size=16, max_size=16)
few = settings(max_examples=60, deadline=None)


def ip(packed: bytes) -> str:
    return str(ip_address(packed))


def ether(destination: bytes, source: bytes) -> Ether:
    return Ether(dst=destination.hex(":"), src=source.hex(":"))


@few
@given(macs, v4, v4, macs)
def test_arp_frames_are_those_of_scapy(mac: bytes, vip: bytes, target: bytes, target_mac: bytes) -> None:
    own = mac.hex(":")
    zero = "00:00:00:00:00:00"

    def arp(op: int, psrc: bytes, hwdst: str, pdst: bytes) -> ARP:
        return ARP(op=op, hwsrc=own, psrc=ip(psrc), hwdst=hwdst, pdst=ip(pdst))

    everyone = ether(frames.BROADCAST, mac)
    assert frames.gratuitous_request(mac, vip) == bytes(everyone / arp(1, vip, zero, vip))
    assert frames.gratuitous_reply(mac, vip) == bytes(everyone / arp(2, vip, own, vip))
    assert frames.directed_request(mac, vip, target) == bytes(everyone / arp(1, vip, zero, target))
    told = ether(target_mac, mac)
    assert frames.directed_request(mac, vip, target, target_mac) == bytes(told / arp(1, vip, zero, target))
    assert frames.probe(mac, vip) == bytes(everyone / arp(1, bytes(4), zero, vip))


@few
@given(macs, v6, v6, macs, st.booleans())
def test_neighbour_frames_are_those_of_scapy(
    mac: bytes, vip: bytes, target: bytes, target_mac: bytes, router: bool
) -> None:
    def na(override: bool) -> ICMPv6ND_NA:
        return ICMPv6ND_NA(R=router, S=0, O=override, tgt=ip(vip)) / ICMPv6NDOptDstLLAddr(lladdr=mac.hex(":"))

    def packet(to_mac: bytes, to: str) -> IPv6:
        return ether(to_mac, mac) / IPv6(src=ip(vip), dst=to, hlim=255)

    nodes, routers = bytes.fromhex("333300000001"), bytes.fromhex("333300000002")
    assert frames.advertisement(mac, vip, router=router) == bytes(packet(nodes, "ff02::1") / na(True))
    assert frames.advertisement(mac, vip, router=router, everyone=False) == bytes(
        packet(routers, "ff02::2") / na(False)
    )
    assert frames.directed_advertisement(mac, vip, target, target_mac, router=router) == bytes(
        packet(target_mac, ip(target)) / na(True)
    )
    group = bytes.fromhex("ff0200000000000000000001ff") + target[-3:]
    asked = ICMPv6ND_NS(tgt=ip(target)) / ICMPv6NDOptSrcLLAddr(lladdr=mac.hex(":"))
    assert frames.solicitation(mac, vip, target) == bytes(packet(b"\x33\x33" + group[-4:], ip(group)) / asked)


@few
@given(macs, v4, v4)
def test_arp_claims_are_read_back(mac: bytes, vip: bytes, target: bytes) -> None:
    assert frames.parse_arp(frames.gratuitous_reply(mac, vip) + bytes(18)) == frames.Claim(
        "reply", vip, mac, vip, frames.BROADCAST
    )
    assert frames.parse_arp(frames.directed_request(mac, vip, target)) == frames.Claim(
        "request", vip, mac, target, frames.BROADCAST
    )


@few
@given(macs, v6, v6)
def test_neighbour_claims_are_read_back(mac: bytes, vip: bytes, target: bytes) -> None:
    advertised = frames.parse_nd(frames.advertisement(mac, vip, router=False))
    assert advertised == frames.Claim("na", vip, mac, vip, bytes.fromhex("333300000001"))
    asked = frames.parse_nd(frames.solicitation(mac, vip, target))
    assert asked is not None
    assert (asked.kind, asked.address, asked.mac, asked.target) == ("ns", vip, mac, target)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
@example(frames.advertisement(bytes(6), bytes(16), router=False)[:78])
def test_foreign_bytes_are_no_claim_and_no_error(data: bytes) -> None:
    frames.parse_arp(data)
    frames.parse_nd(data)
    assert frames.parse_arp(data[:41]) is None
    assert frames.parse_nd(data[:77]) is None


@pytest.mark.parametrize("position", [21, 55, 56, 60, 70, 84])
def test_an_advertisement_that_was_tampered_with_is_refused(position: int) -> None:
    good = bytearray(frames.advertisement(bytes(range(6)), bytes(range(16)), router=True))
    assert frames.parse_nd(bytes(good))
    good[position] ^= 0x11
    assert frames.parse_nd(bytes(good)) is None
