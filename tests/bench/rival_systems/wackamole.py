"""Wackamole on a Spread daemon of its own on each node, with Spread's default timeouts."""

from __future__ import annotations

import ipaddress

from agent.lab.plan import Host, Plan
from tests.bench.rival_systems.boot import Boot, Directory, File, Program, own_address

PORT = 4803
RUNTIME = "/run/spread"


class Wackamole:
    name = "wackamole"
    profile = "spread"
    programs: tuple[str, ...] = ("/usr/sbin/spread", "/usr/sbin/wackamole")
    origin = (
        "no distribution has them: build Spread (www.spread.org) and Wackamole (www.backhand.org/wackamole) and put "
        "the programs there"
    )

    def boot(self, plan: Plan, host: Host) -> Boot:
        names = "".join(f"{own_address(plan, node)} {node.name}\n" for node in plan.nodes)
        return Boot(
            programs=(
                Program(("spread", "-c", "/etc/spread.conf", "-n", host.name), ready=("test", "-S", f"/tmp/{PORT}")),
                Program(("wackamole", "-d", "-c", "/etc/wackamole.conf")),
            ),
            files=(
                # A node's identity is the address of its host name.
                File("/etc/hosts", f"127.0.0.1 localhost\n{names}"),
                File("/etc/spread.conf", spread_configuration(plan)),
                File("/etc/wackamole.conf", configuration(plan)),
            ),
            directories=(Directory(RUNTIME),),
        )


def spread_configuration(plan: Plan) -> str:
    """One segment; no timeout is named, so that all are Spread's own."""
    network = _network(plan)
    daemons = "".join(f"    {node.name} {own_address(plan, node)}\n" for node in plan.nodes)
    return (
        f"Spread_Segment {network.broadcast_address}:{PORT} {{\n{daemons}}}\n"
        f"DaemonUser = root\nDaemonGroup = root\nRuntimeDir = {RUNTIME}\n"
    )


def configuration(plan: Plan) -> str:
    """As in Wackamole's sample, and with the client to be told of each move.

    /32nL: only whom the network of length L around the VIP has is told, by default the next 255. The sample's
    `AcquisitionsPerRound = all` is one round after each change, which may leave 5, 3 and 2 of 10 for ever: a number
    makes rounds until all is even.
    """
    client = own_address(plan, plan.client)
    interface = plan.client.ports[0].interface
    length = _network(plan).prefixlen
    addresses = "".join(
        f"    {{ {at}:{address}/32n{length} }}\n" for vip in plan.vips for at, address, _ in vip.addresses[:1]
    )
    return (
        f"Spread = {PORT}\nSpreadRetryInterval = 5s\nGroup = wack1\nControl = /run/wack.it\nPrefer None\n"
        f"VirtualInterfaces {{\n{addresses}}}\n"
        f"Arp-Cache = 90s\nNotify {{\n    {interface}:{client}/32\n    arp-cache\n}}\n"
        f"balance {{\n    AcquisitionsPerRound = {len(plan.vips)}\n    interval = 4s\n}}\nmature = 2s\n"
    )


def _network(plan: Plan) -> ipaddress.IPv4Network:
    texts = [text for port in plan.nodes[0].ports for text in port.addresses if "." in text]
    return ipaddress.IPv4Interface(texts[0]).network
