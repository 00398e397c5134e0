"""Makes, changes and removes the lab's network with `ip -batch`: one call per namespace.

    mh-NAME-net      bridge s<I> per interface, ports s<I>n<J> (node J) and s<I>c (client); bridge mgmt with ports m<J>
    mh-NAME-client   the interfaces under their own names
    mh-NAME-<node>   the interfaces, and mgmt0
    root namespace   link mh-NAME, with the first address of the management network

A cut takes the node's ports off their bridge: nothing gets through, and its carrier stays. A split puts ports on
a second bridge t<I>.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.lab import namespaces
from agent.lab.plan import MANAGEMENT, LabError, Plan, prefix_of
from agent.lab.processes import kill_processes

MANAGEMENT_POOL = ipaddress.IPv4Network("10.254.0.0/16")


def require_tools() -> None:
    """Raises LabError where the lab cannot work at all."""
    if shutil.which("ip") is None:
        raise LabError("the lab needs the program `ip`: apt-get install iproute2")
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces, which needs root: run it with sudo")


def batch(lines: Iterable[str], namespace: str | None = None) -> None:
    """Raises LabError with what `ip` said and the line it said it about."""
    commands = list(lines)
    prefix = ["ip"] if namespace is None else ["ip", "-n", namespace]
    done = subprocess.run(
        [*prefix, "-batch", "-"], input="\n".join(commands) + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        raise LabError(f"ip in {namespace or 'this namespace'}: {said}{_blamed(done.stderr, commands)}")


def _blamed(text: str, commands: list[str]) -> str:
    """`Command failed -:3` names the line."""
    number = text.rpartition("-:")[2].strip()
    if number.isdigit() and 0 < int(number) <= len(commands):
        return f" (ip {commands[int(number) - 1]})"
    return ""


def query(arguments: list[str], namespace: str | None = None) -> list[dict[str, object]]:
    """What `ip -j` prints."""
    prefix = ["ip", "-j"] if namespace is None else ["ip", "-j", "-n", namespace]
    done = subprocess.run([*prefix, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(arguments)}: {' '.join(done.stderr.split())}")
    return list(json.loads(done.stdout or "[]"))


def free_management_network() -> str:
    """The first 10.254.x.0/24 that no route of this machine touches."""
    used = []
    for route in query(["-4", "route", "show", "table", "all"]):
        text = str(route.get("dst", ""))
        if text[:1].isdigit():
            used.append(ipaddress.IPv4Network(text, strict=False))
    for candidate in MANAGEMENT_POOL.subnets(new_prefix=24):
        if not any(candidate.overlaps(network) for network in used if network.prefixlen > 0):
            return str(candidate)
    raise LabError(f"no free network in {MANAGEMENT_POOL} for the lab's management link")


def build(plan: Plan) -> None:
    """Everything but processes. Raises LabError; what was made until then is found by `destroy`."""
    middle = plan.namespace("net")
    hosts = (*plan.nodes, plan.client)
    batch(f"netns add {plan.namespace(name)}" for name in ("net", *(host.name for host in hosts)))
    _number_namespaces(plan)
    _settings(middle, {"net/ipv6/conf/default/disable_ipv6": "1", "net/ipv6/conf/all/disable_ipv6": "1"})
    for host in hosts:
        # Addresses of the lab are its own: no duplicate detection, so that a node is there at once.
        _settings(plan.namespace(host.name), {f"net/ipv6/conf/{scope}/accept_dad": "0" for scope in ("all", "default")})
    batch(_links(plan), middle)
    for host in hosts:
        batch(_addresses(plan, host.name), plan.namespace(host.name))
    batch(
        [
            f"link add name mh-{plan.name} type veth peer name mhost netns {middle}",
            f"addr add {plan.host_address()}/24 dev mh-{plan.name}",
            f"link set dev mh-{plan.name} up",
        ]
    )
    batch(["link set dev mhost master mgmt up"], middle)


def _links(plan: Plan) -> list[str]:
    lines = ["link set lo up", "link add name mgmt type bridge mcast_snooping 0", "link set dev mgmt up"]
    for segment, _ in enumerate(plan.interfaces):
        for bridge in (f"s{segment}", f"t{segment}"):
            lines += [f"link add name {bridge} type bridge mcast_snooping 0", f"link set dev {bridge} up"]
    for index, host in enumerate((*plan.nodes, plan.client)):
        namespace = plan.namespace(host.name)
        for segment, port in enumerate(host.ports):
            name = port_name(plan, host.name, segment)
            lines += [
                f"link add name {name} type veth peer name {port.interface} address {port.mac} netns {namespace}",
                f"link set dev {name} master s{segment} up",
            ]
        if host.management:
            lines += [
                f"link add name m{index} type veth peer name {MANAGEMENT} netns {namespace}",
                f"link set dev m{index} master mgmt up",
            ]
    return lines


def _addresses(plan: Plan, name: str) -> list[str]:
    host = plan.host(name)
    lines = ["link set lo up"]
    connected = []
    for port in host.ports:
        lines.append(f"link set dev {port.interface} up")
        for address in port.addresses:
            lines.append(f"addr add {address} {'nodad' if ':' in address else 'brd +'} dev {port.interface}")
            connected.append(ipaddress.ip_interface(address).network)
    if host.management:
        lines += [f"link set dev {MANAGEMENT} up", f"addr add {host.management}/24 brd + dev {MANAGEMENT}"]
    if name == "client":
        for vip in plan.vips:
            for interface, address, _ in vip.addresses:
                if not any(ipaddress.ip_address(address) in network for network in connected):
                    lines.append(f"route add {address} dev {interface}")
    return lines


def _settings(namespace: str, values: dict[str, str]) -> None:
    with namespaces.entered(namespace):
        for path, value in values.items():
            target = Path("/proc/sys") / path
            if target.exists():
                target.write_text(value)


def _number_namespaces(plan: Plan) -> None:
    """The middle namespace knows each node's by its number, for the address watch; before links number them anyhow."""
    batch(
        (f"netns set {plan.namespace(host.name)} {number}" for number, host in enumerate(plan.nodes)),
        plan.namespace("net"),
    )


def port_name(plan: Plan, host: str, segment: int) -> str:
    if host == "client":
        return f"s{segment}c"
    names = [node.name for node in plan.nodes]
    return f"s{segment}n{names.index(plan.node(host).name)}"


def _ports(plan: Plan, host: str) -> list[tuple[int, str]]:
    return [(segment, port_name(plan, host, segment)) for segment, _ in enumerate(plan.interfaces)]


def cut(plan: Plan, host: str, *, link: bool = False) -> None:
    """Nothing passes to or from the host but on the management link. `link`: it loses its carrier too."""
    change = "down" if link else "nomaster"
    batch((f"link set dev {port} {change}" for _, port in _ports(plan, host)), plan.namespace("net"))


def split(plan: Plan, hosts: Iterable[str]) -> None:
    """These hosts reach each other, and the rest each other."""
    lines = [f"link set dev {port} master t{segment}" for host in hosts for segment, port in _ports(plan, host)]
    batch(lines, plan.namespace("net"))


def join(plan: Plan, hosts: Iterable[str]) -> None:
    """Each host is on the common segment again, with carrier."""
    lines = [f"link set dev {port} master s{segment} up" for host in hosts for segment, port in _ports(plan, host)]
    batch(lines, plan.namespace("net"))


def drop_one_way(plan: Plan, pairs: Iterable[tuple[str, str]]) -> None:
    """Frames of the first of each pair do not reach the second; replaces what was set so before. Needs `nft`."""
    wanted = list(pairs)
    if shutil.which("nft") is None:
        if wanted:
            raise LabError("a one-way cut needs the program `nft`: apt-get install nftables")
        return
    lines = ["table netdev lab", "delete table netdev lab"]
    if wanted:
        lines.append("table netdev lab {")
        for target in dict.fromkeys(to for _, to in wanted):
            for segment, port in _ports(plan, target):
                macs = ", ".join(plan.host(source).ports[segment].mac for source, to in wanted if to == target)
                lines += [
                    f"chain {port} {{ type filter hook egress device {port} priority 0;",
                    f"ether saddr {{ {macs} }} drop; }}",
                ]
        lines.append("}")
    done = subprocess.run(
        ["ip", "netns", "exec", plan.namespace("net"), "nft", "-f", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"nft: {' '.join(done.stderr.split())}")


def flush_vips(plan: Plan, host: str) -> None:
    """As a reboot does: only the host's own addresses stay."""
    own = {address.partition("/")[0] for port in plan.node(host).ports for address in port.addresses}
    vips = {address: interface for vip in plan.vips for interface, address, _ in vip.addresses}
    lines = [
        f"addr del {address}/{length} dev {interface}"
        for interface, address, length in kernel_addresses(plan, host)
        if address in vips and address not in own
    ]
    if lines:
        batch(lines, plan.namespace(host))


def kernel_addresses(plan: Plan, host: str) -> list[tuple[str, str, int]]:
    """Interface, address and prefix length of all that the host's kernel has, but loopback and link-local."""
    found = []
    for link in query(["addr", "show"], plan.namespace(host)):
        details = link.get("addr_info")
        if link.get("ifname") in ("lo", MANAGEMENT) or not isinstance(details, list):
            continue
        for entry in details:
            if entry.get("scope") == "global":
                found.append((str(link["ifname"]), str(entry["local"]), int(entry["prefixlen"])))
    return found


def _remove(lines: list[str], is_gone: Callable[[], bool]) -> None:
    """Another command may be removing the same: an error is one only where something is left."""
    try:
        batch(lines)
    except LabError:
        if not is_gone():
            raise


def destroy(name: str) -> list[str]:
    """Ends the processes in the lab's namespaces and removes those and its link; what it did, for people.

    Finds everything by its name, so it also works after a crash, half-way through a build and twice.
    """
    done = []
    names = namespaces.with_prefix(prefix_of(name))
    pids = namespaces.processes_in(names)
    if pids:
        kill_processes(pids)
        done.append(f"ended {len(pids)} processes")
    if Path(f"/sys/class/net/mh-{name}").exists():
        _remove([f"link delete mh-{name}"], lambda: not Path(f"/sys/class/net/mh-{name}").exists())
        done.append(f"removed link mh-{name}")
    if names:
        _remove([f"netns delete {entry}" for entry in names], lambda: not namespaces.with_prefix(prefix_of(name)))
        done.append(f"removed {len(names)} namespaces")
    return done
