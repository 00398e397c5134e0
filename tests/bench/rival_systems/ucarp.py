"""UCARP: an advert each second, one process per VIP."""

from __future__ import annotations

from agent.lab.plan import Host, Plan
from tests.bench.rival_systems.boot import Boot, File, Program, own_address, places

UP = "/etc/ucarp-up"
DOWN = "/etc/ucarp-down"


class Ucarp:
    name = "ucarp"
    profile = "1s"
    programs: tuple[str, ...] = ("/usr/sbin/ucarp",)
    origin = "`make rivals` unpacks Debian's ucarp"

    def boot(self, plan: Plan, host: Host) -> Boot:
        scripts = (
            File(UP, '#!/bin/sh\nexec ip addr add "$2/32" dev "$1"\n', 0o755),
            File(DOWN, '#!/bin/sh\nexec ip addr del "$2/32" dev "$1"\n', 0o755),
        )
        own = own_address(plan, host)
        programs = [
            Program(command(interface, own, number, address, place))
            for number, (interface, address, place) in enumerate(places(plan, host), start=1)
        ]
        return Boot(programs=tuple(programs), files=scripts)


def command(interface: str, own: str, number: int, address: str, place: int) -> tuple[str, ...]:
    """The command line for one VIP; `number` is its vhid, and the node with the lowest skew has it."""
    shape = ("--advbase=1", f"--advskew={20 * place}", "--deadratio=3", "--shutdown", "--neutral", "--preempt")
    return (
        *("ucarp", f"--interface={interface}", f"--srcip={own}", f"--vhid={number}", "--pass=bench"),
        *(f"--addr={address}", *shape, f"--upscript={UP}", f"--downscript={DOWN}"),
    )
