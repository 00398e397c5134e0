"""Pacemaker's IPaddr2 on corosync, token 1 s: no fencing device, no watchdog, the default quorum policy."""

from __future__ import annotations

from xml.etree import ElementTree

from agent.lab.plan import Host, Plan
from tests.bench.rival_systems.boot import Boot, Directory, File, Program, own_address, places

USER = "hacluster"
GROUP = "haclient"
TOKEN = 1000
"""Milliseconds."""
PREFERENCES = 100
"""Score of a place over the next one."""


class Pacemaker:
    name = "pacemaker"
    profile = "token1000"
    programs: tuple[str, ...] = (
        "/usr/sbin/corosync",
        "/usr/sbin/corosync-cfgtool",
        "/usr/sbin/pacemakerd",
        "/usr/lib/ocf/resource.d/heartbeat/IPaddr2",
    )
    origin = "`make rivals` unpacks Debian's corosync, pacemaker and resource-agents"

    def boot(self, plan: Plan, host: Host) -> Boot:
        owner = f"{USER}:{GROUP}"
        return Boot(
            programs=(
                Program(("corosync", "-f"), ready=("corosync-cfgtool", "-s")),
                Program(("pacemakerd",)),
            ),
            files=(
                File("/etc/corosync/corosync.conf", corosync_configuration(plan)),
                # The same on every node, and older than what a running cluster has: nobody has to load it.
                File("/var/lib/pacemaker/cib/cib.xml", cluster_information(plan), 0o600, owner),
            ),
            directories=(
                *(
                    Directory(f"/var/lib/pacemaker/{name}", owner)
                    for name in ("", "blackbox", "cib", "cores", "pengine")
                ),
                Directory("/var/log/pacemaker", owner),
                Directory("/run/crm", owner),
                Directory("/var/lib/corosync"),
                Directory("/var/log/corosync"),
            ),
            users=((USER, GROUP),),
        )


def corosync_configuration(plan: Plan) -> str:
    """knet without encryption; all timers but the token's are defaults."""
    nodes = "".join(
        f"    node {{\n        ring0_addr: {own_address(plan, node)}\n"
        f"        name: {node.name}\n        nodeid: {number}\n    }}\n"
        for number, node in enumerate(plan.nodes, start=1)
    )
    return (
        f"totem {{\n    version: 2\n    cluster_name: bench\n    transport: knet\n"
        f"    crypto_cipher: none\n    crypto_hash: none\n    token: {TOKEN}\n}}\n"
        f"nodelist {{\n{nodes}}}\n"
        "quorum {\n    provider: corosync_votequorum\n}\n"
        "logging {\n    to_stderr: yes\n    to_syslog: no\n    to_logfile: no\n}\n"
    )


def cluster_information(plan: Plan) -> str:
    """The cluster information base: one IPaddr2 per VIP, and where it is to be."""
    root = ElementTree.Element(
        "cib",
        {
            "validate-with": "pacemaker-3.0",
            "crm_feature_set": "3.0.0",
            "admin_epoch": "0",
            "epoch": "1",
            "num_updates": "0",
        },
    )
    settings = ElementTree.SubElement(root, "configuration")
    options = ElementTree.SubElement(
        ElementTree.SubElement(settings, "crm_config"), "cluster_property_set", {"id": "options"}
    )
    _pairs(options, "options", {"stonith-enabled": "false"})
    ElementTree.SubElement(settings, "nodes")
    resources = ElementTree.SubElement(settings, "resources")
    constraints = ElementTree.SubElement(settings, "constraints")
    for number, (interface, address, _) in enumerate(places(plan, plan.nodes[0])):
        key = f"vip{number}"
        resource = ElementTree.SubElement(
            resources, "primitive", {"id": key, "class": "ocf", "provider": "heartbeat", "type": "IPaddr2"}
        )
        attributes = ElementTree.SubElement(resource, "instance_attributes", {"id": f"{key}-attributes"})
        _pairs(attributes, key, {"ip": address, "nic": interface, "cidr_netmask": "32"})
        ElementTree.SubElement(
            ElementTree.SubElement(resource, "operations"),
            "op",
            {"id": f"{key}-monitor", "name": "monitor", "interval": "10s", "timeout": "20s"},
        )
    for node in plan.nodes:
        for number, (_, _, place) in enumerate(places(plan, node)):
            score = PREFERENCES * (len(plan.nodes) - place)
            ElementTree.SubElement(
                constraints,
                "rsc_location",
                {"id": f"vip{number}-{node.name}", "rsc": f"vip{number}", "node": node.name, "score": str(score)},
            )
    ElementTree.SubElement(root, "status")
    return ElementTree.tostring(root, encoding="unicode")


def _pairs(parent: ElementTree.Element, prefix: str, values: dict[str, str]) -> None:
    for name, value in values.items():
        ElementTree.SubElement(parent, "nvpair", {"id": f"{prefix}-{name}", "name": name, "value": value})
