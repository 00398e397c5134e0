"""What a single value cannot show: every rule that reads more than one key. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import IPv4Network

from agent.config.models import Configuration, NotifyRange
from agent.config.problem import Location, Origins, Problem, Severity
from agent.config.ranges import TARGETS_MAX, told, vip_networks
from agent.config.values import InterfaceAddress, IpAddress, format_duration
from agent.core.settings import MEMBERS_MAX, VIPS_MAX

HEARTBEATS_PER_TIMEOUT = Decimal("2.5")
"""Two lost heartbeats in a row must not look like a dead node."""

LEASE_SHARE = 0.9
"""Of the failure timeout: the longest fast lease. It counts from a heartbeat's sending and peers from its receipt; the
kernel ends it early and never late. What is left, 5 ms of 50 at `fast`, is for clocks that differ by 0.1 % and for
the microseconds between reading a clock and the system call."""


LEASE_LEAST = 2.2
"""Heartbeats: the shortest fast lease. A heartbeat is acknowledged by the others' next one, up to one interval later,
and the one after it after another. What is left is for the way."""


def fast_lease(configuration: Configuration) -> float:
    """Seconds of the fast lease; 0: off."""
    match configuration.lease.fast:
        case float(seconds):
            return seconds
        case "auto":
            return LEASE_SHARE * configuration.engine.failure_timeout
    return 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    location: Location
    what: str
    fix: str
    severity: Severity = "error"


Rule = Callable[[Configuration, Origins], Iterator[Finding]]


def judge(configuration: Configuration, origins: Origins, broken: frozenset[str] = frozenset()) -> list[Problem]:
    """All findings of all rules but those that read a key that is `broken` (its errors are known already)."""
    return [
        origins.problem(finding.location, finding.what, finding.fix, finding.severity)
        for reads, rule in RULES
        if not broken & reads
        for finding in rule(configuration, origins)
    ]


def _members_listed(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    engine = configuration.engine
    if engine.kind != "embedded":
        return
    if engine.multicast is not None and (engine.members or engine.broadcast is not None):
        other = "members" if engine.members else "broadcast"
        yield Finding(("engine", "multicast"), f"engine has both multicast and {other}", "remove one of them")
    if not engine.members and engine.multicast is None and engine.broadcast is None:
        yield Finding(("engine",), "engine has no members", "list them: `members: {www1: 192.0.2.1, www2: 192.0.2.2}`")
    if engine.multicast is not None and not engine.multicast.is_multicast:
        yield Finding(
            ("engine", "multicast"), f"{engine.multicast} is not a multicast address", "write one as in 239.255.72.3"
        )
    if engine.broadcast is not None and engine.broadcast.version != 4:
        yield Finding(("engine", "broadcast"), "IPv6 has no broadcast", "remove it: members are enough")
    if len(engine.members) > MEMBERS_MAX:
        yield Finding(
            ("engine", "members"), f"{len(engine.members)} members", f"at most {MEMBERS_MAX} can form a cluster"
        )


def _member_addresses(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    holders: dict[IpAddress, str] = {}
    first: tuple[str, IpAddress] | None = None
    for name, address in configuration.engine.members.items():
        place = ("engine", "members", name)
        if (holder := holders.setdefault(address, name)) != name:
            yield Finding(place, f"{address} is the address of both {holder} and {name}", "give each member its own")
        first = first or (name, address)
        if address.version != first[1].version:
            yield Finding(
                place,
                f"{name} has an IPv{address.version} address and {first[0]} an IPv{first[1].version} one",
                "use one family for all: they share one socket",
            )
        if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
            yield Finding(place, f"{address} is not the address of a host", "write the member's own address")


def _own_node(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    engine, node = configuration.engine, configuration.node
    if not engine.members:
        return
    if node not in engine.members:
        yield Finding(
            ("node",),
            f"node '{node}' is not among the members ({', '.join(engine.members)})",
            "say which of them this host is: `-n NAME` or `node: NAME`",
        )
    elif engine.bind is not None and engine.bind != engine.members[node]:
        yield Finding(
            ("engine", "bind"),
            f"bind {engine.bind} is not the address of {node} in members ({engine.members[node]})",
            "remove bind, or correct the member's address: its peers send there",
        )


def _timing(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    engine = configuration.engine
    heartbeat, timeout = Decimal(repr(engine.heartbeat)), Decimal(repr(engine.failure_timeout))
    if heartbeat * HEARTBEATS_PER_TIMEOUT > timeout:
        least = format_duration(float(heartbeat * HEARTBEATS_PER_TIMEOUT))
        most = format_duration(float(timeout / HEARTBEATS_PER_TIMEOUT))
        written = engine.model_fields_set
        key = "failure_timeout" if "failure_timeout" in written or "heartbeat" not in written else "heartbeat"
        yield Finding(
            ("engine", key),
            f"failure_timeout {format_duration(engine.failure_timeout)} is below 2.5 heartbeats of "
            f"{format_duration(engine.heartbeat)}",
            f"raise failure_timeout to {least} or lower heartbeat to {most}: two lost heartbeats are no death",
        )


def _lease(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    engine, lease = configuration.engine, configuration.lease
    if isinstance(lease.fast, float):
        most = LEASE_SHARE * engine.failure_timeout
        written = format_duration(lease.fast)
        if lease.fast > most + 1e-9:
            yield Finding(
                ("lease", "fast"),
                f"lease {written} is too long for a failure_timeout of {format_duration(engine.failure_timeout)}",
                f"write auto, or at most {format_duration(int(most * 1000 + 1e-6) / 1000)}: "
                "it has to be over before the others take the VIPs",
            )
        elif lease.fast < LEASE_LEAST * engine.heartbeat - 1e-9:
            yield Finding(
                ("lease", "fast"),
                f"lease {written} runs out before it is renewed: that takes two heartbeats of "
                f"{format_duration(engine.heartbeat)}, since the others' next one acknowledges ours",
                f"write auto, or at least {format_duration(round(LEASE_LEAST * engine.heartbeat, 6))}",
            )
    if lease.address <= engine.heartbeat:
        yield Finding(
            ("lease", "address"),
            f"an address lifetime of {format_duration(lease.address)} runs out before the next heartbeat renews it",
            "write more than one heartbeat",
        )


def _vip_count(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    if len(configuration.pool) > VIPS_MAX:
        yield Finding(("vips",), f"{len(configuration.pool)} VIPs", f"at most {VIPS_MAX} fit into a cluster")
    if configuration.vips == ():
        yield Finding(
            ("vips",),
            "no VIPs: this node serves nothing",
            "list them, or say `vips: false` for a tie-breaker",
            "warning",
        )


def _vip_addresses(configuration: Configuration, origins: Origins) -> Iterator[Finding]:
    names: dict[str, Location] = {}
    taken: dict[IpAddress, Location] = {}
    members = {address: name for name, address in configuration.engine.members.items()}
    for index, vip in enumerate(configuration.pool):
        place: Location = ("vips", index)
        # Two that are named after one address are the same mistake as the address given twice.
        named = vip.name != str(vip.addresses[0].address)
        if (first := names.setdefault(vip.name, place)) != place and named:
            yield Finding(
                (*place, "name"),
                f"VIP name '{vip.name}' is given twice",
                f"rename one; the first is {_there(origins, first, place)}",
            )
        for number, address in enumerate(vip.addresses):
            at = (*place, "addresses", number)
            if (before := taken.setdefault(address.address, at)) != at:
                yield Finding(
                    at, f"{address.address} is given twice", f"remove one; the first is {_there(origins, before, at)}"
                )
            if address.address in members:
                yield Finding(
                    at,
                    f"VIP {address.address} is the own address of member {members[address.address]}",
                    "a VIP is an extra address that no host has of its own; write another",
                )
            for what, fix in _unusable(address):
                yield Finding(at, what, fix)


def _there(origins: Origins, location: Location, here: Location) -> str:
    place = origins.place(location)
    if place.line is None:
        return f"in {place.file}"
    return f"on line {place.line}" if place.file == origins.place(here).file else f"at {place.file}:{place.line}"


def _unusable(entry: InterfaceAddress) -> Iterator[tuple[str, str]]:
    address = entry.address
    if entry.interface is None:
        yield f"VIP {entry} has no interface", f"write `eth0:{entry}` with the interface's name before it"
    ends = (0, 255) if address.version == 4 else ()
    if address.is_multicast or address.is_loopback or address.is_unspecified or int(address) >> 24 in ends:
        yield f"{address} is not an address that a host can serve", "write a unicast address of the interface's network"
        return
    # Of a /32 the attached network (nNET) tells what is a host's address.
    networks = {entry.range if entry.prefix < address.max_prefixlen else entry.network}
    for network in networks:
        if network.prefixlen >= address.max_prefixlen - 1:
            continue
        if address == network.network_address:
            yield f"{address} is the network's own address in {network}", "write a host's address"
        elif isinstance(network, IPv4Network) and address == network.broadcast_address:
            yield f"{address} is the broadcast address of {network}", "write a host's address"


def _names_in_vips(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    members = configuration.engine.members
    for index, vip in enumerate(configuration.pool):
        for key, names in (("prefer", vip.prefer), ("nodes", vip.nodes)):
            for number, name in enumerate(names):
                at = ("vips", index, key, number)
                if members and name not in members:
                    yield Finding(at, f"{key} of VIP '{vip.name}' names {name}, who is no member", _one_of(members))
                if names.index(name) != number:
                    yield Finding(at, f"{key} of VIP '{vip.name}' names {name} twice", "remove one")
        for number, name in enumerate(vip.prefer):
            if vip.nodes and name not in vip.nodes:
                yield Finding(
                    ("vips", index, "prefer", number),
                    f"VIP '{vip.name}' prefers {name}, which its nodes leave out",
                    f"add {name} to nodes or remove it from prefer",
                )


def _one_of(names: dict[str, IpAddress]) -> str:
    return f"write one of {', '.join(names)}"


def _votes(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    members, votes = configuration.engine.members, configuration.votes
    for name in votes:
        if members and name not in members:
            yield Finding(("votes", name), f"votes for {name}, who is no member", _one_of(members))
    if members and not sum(votes.get(name, 1) for name in members):
        yield Finding(("votes",), "nobody has a vote", "give at least one member a vote")


def _quorum(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    if configuration.partition != "quorum":
        return
    members = configuration.engine.members
    if not members:
        yield Finding(
            ("partition",),
            "a quorum of discovered members cannot be counted",
            "list them: `members: {www1: 192.0.2.1, ...}`",
        )
        return
    if configuration.lease.fast == "off":
        yield Finding(
            ("lease", "fast"),
            "without the fast lease a node that was cut off goes on answering while the majority takes over",
            "write `fast: auto`, or `partition: component`",
        )
    total = sum(configuration.votes.get(name, 1) for name in members)
    if total and total % 2 == 0:
        yield Finding(
            ("partition",),
            f"an even number of votes ({total}): split into halves, neither side serves"
            + (", and with two nodes neither survives the other" if total == 2 else ""),
            "add a member with `vips: false` as a tie-breaker, or give one member 2 votes",
            "warning",
        )


def _notify(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    networks = vip_networks(configuration)
    total = 0
    for index, item in enumerate(configuration.notify):
        if not isinstance(item, NotifyRange):
            continue
        hosts = told(item, networks)
        at: Location = ("notify", index)
        if not hosts and networks:
            near = ", ".join(sorted(f"{name}:{network}" for name, found in networks.items() for network in found)[:4])
            yield Finding(
                at,
                f"notify {item.range} is on no VIP's network, so nobody there is told",
                f"name hosts on {near}, or remove it",
                "warning",
            )
        total += sum(hosts.values())
        if total > TARGETS_MAX >= total - sum(hosts.values()):
            yield Finding(
                at,
                f"notify {item.range} makes {total} hosts to tell of every move",
                f"at most {TARGETS_MAX}: name routers only, and arp-cache for the hosts that talk to the VIPs",
            )


def _check_names(configuration: Configuration, _: Origins) -> Iterator[Finding]:
    places: list[tuple[str, Location]] = [
        (check.name, ("checks", number, "name")) for number, check in enumerate(configuration.checks)
    ]
    for index, vip in enumerate(configuration.pool):
        places += [(c.name, ("vips", index, "checks", number, "name")) for number, c in enumerate(vip.checks)]
    count = Counter(name for name, _ in places)
    for name, location in places:
        if count.pop(name, 0) > 1:
            yield Finding(location, f"check name '{name}' is given more than once", "rename: metrics name checks by it")


RULES: tuple[tuple[frozenset[str], Rule], ...] = (
    (frozenset({"engine"}), _members_listed),
    (frozenset({"engine"}), _member_addresses),
    (frozenset({"engine", "node"}), _own_node),
    (frozenset({"engine"}), _timing),
    (frozenset({"engine", "lease"}), _lease),
    (frozenset({"vips"}), _vip_count),
    (frozenset({"engine", "vips"}), _vip_addresses),
    (frozenset({"engine", "vips"}), _names_in_vips),
    (frozenset({"engine", "votes"}), _votes),
    (frozenset({"engine", "votes", "partition", "lease"}), _quorum),
    (frozenset({"notify", "vips"}), _notify),
    (frozenset({"checks", "vips"}), _check_names),
)
"""Each rule with the top-level keys that it reads."""
