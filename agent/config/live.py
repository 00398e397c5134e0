"""What only this host can tell: its interfaces, its addresses and its kernel's habits. Reads, never changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.config.load import is_local
from agent.config.models import Configuration, NotifyRange
from agent.config.problem import Location, Problem

_UP = 0x1
"""IFF_UP in /sys/class/net/*/flags."""


def check_live(configuration: Configuration, root: Path = Path("/")) -> list[Problem]:
    """Errors for what cannot work on this host, warnings for what works badly. `root` holds sys and proc."""
    return [
        *_interfaces(configuration, root),
        *_kernel(configuration, root),
        *_addresses(configuration),
        *_control(configuration),
    ]


def _used(configuration: Configuration) -> dict[str, Location]:
    """The interfaces of VIPs, each with the place that names it first."""
    used: dict[str, Location] = {}
    for index, vip in enumerate(configuration.pool):
        for number, entry in enumerate(vip.addresses):
            if entry.interface is not None:
                used.setdefault(entry.interface, ("vips", index, "addresses", number))
    return used


def _interfaces(configuration: Configuration, root: Path) -> Iterator[Problem]:
    problem = configuration.origins.problem
    directory = root / "sys/class/net"
    try:
        present = sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        yield problem((), f"{directory} cannot be read: {error.strerror}", "mount sysfs", "warning")
        return
    named = _used(configuration)
    for index, item in enumerate(configuration.notify):
        if isinstance(item, NotifyRange) and item.range.interface is not None:
            named.setdefault(item.range.interface, ("notify", index))
    for name, location in named.items():
        if name not in present:
            yield problem(location, f"interface {name} does not exist", f"this host has {', '.join(present)}")
            continue
        flags = _number(directory / name / "flags")
        if flags is not None and not flags & _UP:
            yield problem(location, f"interface {name} is down", f"`ip link set {name} up`", "warning")


def _kernel(configuration: Configuration, root: Path) -> Iterator[Problem]:
    problem = configuration.origins.problem
    directory = root / "proc/sys/net/ipv4/conf"
    for name, location in _used(configuration).items():
        if not (directory / name).is_dir():
            continue
        # The kernel takes the larger of the two for arp_ignore, and either for promote_secondaries.
        ignore = _either(directory, name, "arp_ignore")
        if ignore is not None and ignore < 1:
            what = f"{name} answers ARP for addresses of other interfaces (arp_ignore is 0)"
            yield problem(location, what, "`sysctl -w net.ipv4.conf.all.arp_ignore=1`", "warning")
        promote = _either(directory, name, "promote_secondaries")
        if promote is not None and promote < 1:
            what = f"removing the first address of a network on {name} removes the others (promote_secondaries is 0)"
            yield problem(location, what, "`sysctl -w net.ipv4.conf.all.promote_secondaries=1`", "warning")


def _either(directory: Path, name: str, key: str) -> int | None:
    found = [_number(directory / part / key) for part in ("all", name)]
    return max((number for number in found if number is not None), default=None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text().strip(), 0)
    except (OSError, ValueError):
        return None


def _addresses(configuration: Configuration) -> Iterator[Problem]:
    bind = configuration.bind
    if bind is not None and not is_local(str(bind)):
        location: Location = (
            ("engine", "bind") if configuration.engine.bind else ("engine", "members", configuration.node)
        )
        what = f"{bind} is not an address of this host"
        yield configuration.origins.problem(location, what, "correct it, or the node's name (`-n NAME`)")


def _control(configuration: Configuration) -> Iterator[Problem]:
    directory = Path(configuration.control).parent
    if not directory.is_dir():
        what = f"directory {directory} of the control socket does not exist"
        yield configuration.origins.problem(("control",), what, "make it, or write another `control`", "warning")
