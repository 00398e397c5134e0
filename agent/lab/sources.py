"""Plans from configuration files: the seed's own, or another directory's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.config.document import read_bytes
from agent.config.load import Loaded, load, load_wackamole
from agent.config.problem import ConfigError
from agent.config.spread import parse_spread
from agent.lab.plan import LabError, Plan, VipPlan, lay_out
from agent.lab.processes import PACKAGE_ROOT

SEED = (PACKAGE_ROOT / "tests" / "seed", PACKAGE_ROOT.parent / "shared" / "seed")
"""Where the seed's files lie in a checkout, first choice first."""


def seed_directory() -> Path:
    for directory in SEED:
        if (directory / "wackamole.conf").exists():
            return directory
    raise LabError(f"the seed's files are in a checkout only (looked in {' and '.join(map(str, SEED))})")


def parse_added(texts: Sequence[str]) -> dict[str, str]:
    """`--add NAME=ADDRESS`."""
    found = {}
    for text in texts:
        name, equals, address = text.partition("=")
        if not equals or not name or not address:
            raise LabError(f"--add {text!r}: write NAME=ADDRESS, as in www3=192.168.3.142")
        found[name] = address
    return found


def from_directory(
    name: str, directory: Path, management: str, added: dict[str, str], settings: Sequence[str], *, made_by: str = "up"
) -> Plan:
    """A directory with molehill.yaml, or with wackamole.conf and spread.conf. Raises LabError."""
    if (directory / "molehill.yaml").exists():
        arguments = ["--config", str((directory / "molehill.yaml").resolve())]
        return _plan(name, management, arguments, added, settings, made_by, sealed=False)
    return from_wackamole(
        name,
        directory / "wackamole.conf",
        directory / "spread.conf",
        management,
        added,
        settings,
        made_by=made_by,
    )


def from_wackamole(
    name: str,
    wackamole: Path,
    spread: Path,
    management: str,
    added: dict[str, str],
    settings: Sequence[str],
    *,
    made_by: str = "up",
) -> Plan:
    """The two files as they are; a key of the lab's own seals the group's datagrams. Raises LabError."""
    for path in (wackamole, spread):
        if not path.exists():
            raise LabError(f"{path} does not exist")
    arguments = ["--wackamole-conf", str(wackamole.resolve()), "--spread-conf", str(spread.resolve())]
    return _plan(name, management, arguments, added, settings, made_by, sealed=True)


def _plan(
    name: str,
    management: str,
    arguments: list[str],
    added: dict[str, str],
    settings: Sequence[str],
    made_by: str,
    *,
    sealed: bool,
) -> Plan:
    chosen = [f"engine.members.{node}={address}" for node, address in added.items()]
    chosen += settings
    configuration = _load(arguments, chosen).configuration
    members = {str(node): str(address) for node, address in configuration.engine.members.items()}
    if not members:
        raise LabError("the configuration names no members (engine.members): give the lab's nodes with --add")
    vips = []
    for vip in configuration.vips or ():
        addresses = tuple((str(entry.interface), str(entry.address), entry.network_prefix) for entry in vip.addresses)
        vips.append(VipPlan(vip.name, addresses))
    if sealed and not any(text.startswith(("engine.secret_file=", "engine.insecure=")) for text in settings):
        chosen += ["engine.insecure=false", "engine.secret_file={state}/secret"]
    told = [part for text in chosen for part in ("--set", text)]
    return lay_out(name, members, tuple(vips), management, (*arguments, *told), made_by=made_by)


def _first_daemon(spread: Path) -> str | None:
    """A node that the files know: which one does not matter here, but this machine is none of them."""
    parsed = parse_spread(read_bytes(spread).decode("utf-8", "surrogateescape"), str(spread))
    return next((daemon.name for segment in parsed.segments for daemon in segment.daemons), None)


def _load(arguments: list[str], settings: Sequence[str]) -> Loaded:
    """As the agents will read it; once without a node, which may not be among the files' own."""
    try:
        if arguments[0] == "--config":
            return load(Path(arguments[1]), overrides=settings)
        wackamole, spread = Path(arguments[1]), Path(arguments[3])
        return load_wackamole(wackamole, spread, node=_first_daemon(spread), overrides=settings)
    except ConfigError as error:
        raise LabError(str(error)) from None
