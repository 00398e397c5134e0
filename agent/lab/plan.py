"""What a lab consists of: pure data, worked out before anything is made."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec

MANAGEMENT = "mgmt0"
"""The interface of every node that no cut touches."""

RESERVED = ("net", "client")
NODES_MAX = 128
NAME = re.compile(r"[a-z0-9]{1,9}")
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class LabError(Exception):
    """What a person asked of the lab cannot be done; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Port:
    """One interface of a node or of the client."""

    interface: str
    mac: str
    addresses: tuple[str, ...]
    """ADDRESS/PREFIX, IPv4 and IPv6."""


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    ports: tuple[Port, ...]
    """In the order of the plan's interfaces."""
    management: str
    """IPv4 address on the management link; empty: none (the client)."""


@dataclass(frozen=True, slots=True)
class VipPlan:
    name: str
    addresses: tuple[tuple[str, str, int], ...]
    """Interface, address, prefix length."""


@dataclass(frozen=True, slots=True)
class Plan:
    name: str
    interfaces: tuple[str, ...]
    """The nodes' interfaces; each is a segment with a bridge of its own."""
    nodes: tuple[Host, ...]
    client: Host
    vips: tuple[VipPlan, ...]
    management: str
    """IPv4 network of the management link, /24."""
    agent_arguments: tuple[str, ...]
    """What `molehill run` is told on every node, beside its name, paths and HTTP address."""
    configuration: str = ""
    """Text of the configuration file to be written for all nodes; empty: the arguments name one."""
    made_by: str = "up"

    def namespace(self, host: str) -> str:
        return prefix_of(self.name) + host

    def node(self, name: str) -> Host:
        for host in self.nodes:
            if host.name == name:
                return host
        raise LabError(f"no node {name!r} in lab {self.name!r}; it has {', '.join(host.name for host in self.nodes)}")

    def host(self, name: str) -> Host:
        """A node, or `client`."""
        return self.client if name == self.client.name else self.node(name)

    def addresses(self) -> Iterator[tuple[str, str]]:
        """VIP name and address, in the order of the configuration."""
        for vip in self.vips:
            for _, address, _ in vip.addresses:
                yield vip.name, address

    def host_address(self) -> str:
        """The machine's own address on the management link."""
        return str(ipaddress.IPv4Network(self.management)[1])


def prefix_of(name: str) -> str:
    """Namespaces of the lab begin so; a lab's name has no hyphen, so no prefix is the beginning of another."""
    return f"mh-{name}-"


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise LabError(f"--name {name!r}: a lab's name has 1 to 9 small letters and digits")
    return name


def _mac(segment: int, host: int) -> str:
    """Locally administered, fixed per place, so that a frame seen at the client tells its sender."""
    return f"02:6d:68:{segment:02x}:{host >> 8:02x}:{host & 255:02x}"


def _interface_address(
    address: str, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    value = ipaddress.ip_address(address)
    fitting = [network for network in networks if value in network and network.prefixlen < network.max_prefixlen]
    length = max((network.prefixlen for network in fitting), default=24 if value.version == 4 else 64)
    return ipaddress.ip_interface(f"{value}/{length}")


def _free(network: ipaddress.IPv4Network | ipaddress.IPv6Network, taken: set[str]) -> str:
    """A host address of the network that nobody has, from the upper end."""
    for offset in range(5, min(network.num_addresses - 1, 1000)):
        candidate = str(network[-offset])
        if candidate not in taken:
            taken.add(candidate)
            return candidate
    raise LabError(f"no free address for the client in {network}")


def lay_out(
    name: str,
    members: dict[str, str],
    vips: tuple[VipPlan, ...],
    management: str,
    agent_arguments: tuple[str, ...],
    *,
    configuration: str = "",
    made_by: str = "up",
    further_networks: tuple[str, ...] = (),
) -> Plan:
    """Gives every host its ports and addresses.

    `members` are names and addresses of the nodes; the client and each node get a free address in every network
    that VIPs lie in. `further_networks` are added to the first interface. Raises LabError.
    """
    check_name(name)
    if not members:
        raise LabError("a lab needs at least one node")
    if len(members) > NODES_MAX:
        raise LabError(f"{len(members)} nodes: a cluster has at most {NODES_MAX}")
    for node in members:
        if node in RESERVED or not NODE_NAME.fullmatch(node):
            raise LabError(f"a node of the lab cannot be called {node!r}")
    if not vips:
        raise LabError("a lab needs at least one VIP")
    interfaces = tuple(dict.fromkeys(interface for vip in vips for interface, _, _ in vip.addresses))
    if MANAGEMENT in interfaces or any(len(interface) > 15 for interface in interfaces):
        raise LabError(f"interface names have at most 15 letters and are not {MANAGEMENT}: {', '.join(interfaces)}")
    networks: dict[str, dict[ipaddress.IPv4Network | ipaddress.IPv6Network, None]] = {name: {} for name in interfaces}
    for vip in vips:
        for interface, address, length in vip.addresses:
            networks[interface][ipaddress.ip_interface(f"{address}/{length}").network] = None
    for text in further_networks:
        networks[interfaces[0]][ipaddress.ip_network(text)] = None
    home = _home_interface(members, networks)
    taken = {address for vip in vips for _, address, _ in vip.addresses} | set(members.values())
    own = {node: _interface_address(address, networks[home]) for node, address in members.items()}
    for interface_address in own.values():
        networks[home].setdefault(interface_address.network)
    hosts = []
    base = ipaddress.IPv4Network(management)
    for index, node in enumerate((*members, "client")):
        ports = []
        for segment, interface in enumerate(interfaces):
            addresses = [str(own[node])] if node in own and interface == home else []
            covered = [ipaddress.ip_interface(text).network for text in addresses]
            for network in networks[interface]:
                if network.prefixlen >= network.max_prefixlen - 1 or network in covered:
                    continue
                addresses.append(f"{_free(network, taken)}/{network.prefixlen}")
            ports.append(Port(interface, _mac(segment, index + 1), tuple(addresses)))
        hosts.append(Host(node, tuple(ports), str(base[10 + index]) if node != "client" else ""))
    return Plan(
        name=name,
        interfaces=interfaces,
        nodes=tuple(hosts[:-1]),
        client=hosts[-1],
        vips=vips,
        management=management,
        agent_arguments=agent_arguments,
        configuration=configuration,
        made_by=made_by,
    )


def _home_interface(
    members: dict[str, str], networks: dict[str, dict[ipaddress.IPv4Network | ipaddress.IPv6Network, None]]
) -> str:
    """The interface on which the nodes speak: the one whose VIPs lie in the members' network, else the first."""
    first = ipaddress.ip_address(next(iter(members.values())))
    for interface, known in networks.items():
        if any(first in network for network in known):
            return interface
    return next(iter(networks))


def generate(
    name: str, nodes: int, vips: int, management: str, *, profile: str | None = None, ipv6: bool = False
) -> Plan:
    """A cluster of the lab's own: www1.. on 10.72.0.0/16, VIPs from 10.72.1.1, with `ipv6` also fd72::/64."""
    if not 1 <= nodes <= NODES_MAX:
        raise LabError(f"--nodes {nodes}: from 1 to {NODES_MAX}")
    if not 1 <= vips <= 16_384:
        raise LabError(f"--vips {vips}: from 1 to 16384")
    members = {f"www{number}": f"10.72.0.{number}" for number in range(1, nodes + 1)}
    table = []
    for number in range(vips):
        address = f"10.72.{1 + number // 250}.{1 + number % 250}"
        addresses = [("eth0", address, 16)]
        if ipv6:
            addresses.append(("eth0", f"fd72::1:{number + 1:x}", 64))
        table.append(VipPlan(address, tuple(addresses)))
    further = ("fd72::/64",) if ipv6 else ()
    text = _configuration(name, members, table, profile)
    arguments = ("--config", "{state}/molehill.yaml")
    return lay_out(name, members, tuple(table), management, arguments, configuration=text, further_networks=further)


def _configuration(name: str, members: dict[str, str], vips: list[VipPlan], profile: str | None) -> str:
    """JSON is YAML: no quoting to get wrong."""
    document = {
        "cluster": f"lab-{name}",
        "engine": {
            "kind": "embedded",
            "members": members,
            "profile": profile or "lan",
            "secret_file": "{state}/secret",
        },
        "mature": "1s",
        "vips": [
            {"name": vip.name, "addresses": [f"{interface}:{at}/{length}" for interface, at, length in vip.addresses]}
            for vip in vips
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def with_arguments(plan: Plan, *arguments: str) -> Plan:
    return replace(plan, agent_arguments=plan.agent_arguments + arguments)
