"""Whom directed ARP tells of a move: `notify` as ranges of hosts, and how many hosts that is."""

from __future__ import annotations

from agent.config.models import Configuration, NotifyRange
from agent.config.values import IpNetwork
from agent.drivers.targets import NotifyTarget

TARGETS_MAX = 65_536
"""A /16. At 128 targets a second this takes nine minutes already."""


def notify_targets(configuration: Configuration) -> tuple[NotifyTarget, ...]:
    """The ranges of `notify`; one without interface means every interface with a VIP on an overlapping network."""
    return tuple(
        NotifyTarget(interface, item.range.range, item.throttle)
        for item in configuration.notify
        if isinstance(item, NotifyRange)
        for interface in _interfaces(configuration, item)
    )


def use_arp_cache(configuration: Configuration) -> bool:
    """Whether every entry of the shared ARP cache is told of moves, too."""
    return "arp-cache" in configuration.notify


def vip_networks(configuration: Configuration) -> dict[str, set[IpNetwork]]:
    """Per interface the directly attached networks of the VIPs."""
    networks: dict[str, set[IpNetwork]] = {}
    for vip in configuration.pool:
        for address in vip.addresses:
            if address.interface is not None:
                networks.setdefault(address.interface, set()).add(address.network)
    return networks


def overlap(one: IpNetwork, other: IpNetwork) -> IpNetwork | None:
    """What two networks have in common: the smaller one, or nothing."""
    if one.version != other.version or not one.overlaps(other):
        return None
    return one if one.prefixlen >= other.prefixlen else other


def told(item: NotifyRange, networks: dict[str, set[IpNetwork]]) -> dict[str, int]:
    """Per interface, how many hosts of a range are on a VIP's network."""
    result: dict[str, int] = {}
    for interface, attached in networks.items():
        if item.range.interface not in (None, interface):
            continue
        common = {part for network in attached if (part := overlap(item.range.range, network)) is not None}
        # A network inside another one counts once.
        outer = [
            part for part in common if not any(part != o and part.version == o.version and _in(part, o) for o in common)
        ]
        if outer:
            result[interface] = sum(part.num_addresses for part in outer)
    return result


def _in(one: IpNetwork, other: IpNetwork) -> bool:
    return one.prefixlen >= other.prefixlen and one.overlaps(other)


def _interfaces(configuration: Configuration, item: NotifyRange) -> list[str]:
    if item.range.interface is not None:
        return [item.range.interface]
    return sorted(told(item, vip_networks(configuration)))
