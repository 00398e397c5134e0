"""keepalived: VRRP 3, an advert each 0.1 s, one instance per VIP."""

from __future__ import annotations

from agent.lab.plan import Host, Plan
from tests.bench.rival_systems.boot import Boot, File, Program, places

ADVERT = 0.1
"""Seconds."""
CONFIGURATION = "/etc/keepalived/keepalived.conf"


class Keepalived:
    name = "keepalived"
    profile = "0.1s"
    programs: tuple[str, ...] = ("/usr/sbin/keepalived",)
    origin = "`make rivals` unpacks Debian's keepalived"

    def boot(self, plan: Plan, host: Host) -> Boot:
        text = configuration(plan, host)
        line = ("keepalived", "--dont-fork", "--log-console", "--use-file", CONFIGURATION)
        return Boot(programs=(Program(line),), files=(File(CONFIGURATION, text),))


def configuration(plan: Plan, host: Host) -> str:
    """Adverts, priorities and addresses; all else is keepalived's default."""
    parts = [f"global_defs {{\n    router_id {host.name}\n    vrrp_version 3\n}}\n"]
    for number, (interface, address, place) in enumerate(places(plan, host), start=1):
        parts.append(
            f"vrrp_instance VI_{number} {{\n"
            f"    state BACKUP\n"
            f"    interface {interface}\n"
            f"    virtual_router_id {number}\n"
            f"    priority {150 - 10 * place}\n"
            f"    advert_int {ADVERT:g}\n"
            f"    virtual_ipaddress {{\n        {address}/32\n    }}\n"
            f"}}\n"
        )
    return "".join(parts)
