"""What the witness watches: addresses and agents, from its own options or from the cluster's configuration."""

from __future__ import annotations

import argparse
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.config.document import read_yaml
from agent.config.load import load
from agent.config.models import Configuration

DEFAULT_LISTEN = ":9749"
HTTP_PORT = 9748
"""Of the agents."""


class WitnessError(Exception):
    """The witness cannot do its work; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One address of a VIP."""

    vip: str
    address: bytes
    """4 or 16 bytes."""
    interface: str | None
    """None: the one whose network the address is on."""

    @property
    def text(self) -> str:
        return str(ipaddress.ip_address(self.address))


@dataclass(frozen=True, slots=True)
class Plan:
    cluster: str
    asked: tuple[Asked, ...]
    agents: tuple[str, ...]
    """Base addresses, like `http://www1:9748`."""
    listen: str
    interval: float
    """Seconds."""

    @property
    def vips(self) -> tuple[str, ...]:
        """Names, each once, in the order of the plan."""
        return tuple(dict.fromkeys(asked.vip for asked in self.asked))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="the cluster's molehill.yaml, as a node has it"
    )
    parser.add_argument("--cluster", metavar="NAME", help="label of all metrics (default: the configuration's)")
    parser.add_argument(
        "--vips",
        metavar="LIST",
        help="instead of it: as in eth0:192.0.2.10,eth0:192.0.2.11; web=eth0:192.0.2.10 gives a name",
    )
    parser.add_argument("--agents", metavar="LIST", help="as in http://www1:9748,http://www2:9748; empty: ask none")
    parser.add_argument("--interface", metavar="NAME", help="ask on this one, whatever the configuration says")
    parser.add_argument(
        "--listen", default=DEFAULT_LISTEN, metavar="ADDRESS", help="for Prometheus (default: %(default)s)"
    )
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="of a round (default: %(default)g)"
    )


def from_arguments(args: argparse.Namespace) -> Plan:
    """Raises `WitnessError`, and `ConfigError` of the configuration."""
    if not 0.1 <= args.interval <= 3600:
        raise WitnessError(f"--interval {args.interval:g}: write 0.1 to 3600 seconds")
    if (args.config is None) == (args.vips is None):
        raise WitnessError("give either --config FILE or --vips LIST: that is what is watched")
    if args.config is not None:
        configuration = _configuration(args.config)
        cluster, asked, agents = configuration.cluster, _of(configuration, args.interface), _agents_of(configuration)
    else:
        if not args.cluster:
            raise WitnessError("--vips needs --cluster NAME too: the label by which alerts find the agents' metrics")
        cluster, asked, agents = args.cluster, _listed(args.vips, args.interface), ()
    if not asked:
        raise WitnessError("there is no VIP to watch: name some with --vips, or take a configuration that has some")
    if args.agents is not None:
        agents = tuple(_agent(text.strip()) for text in args.agents.split(",") if text.strip())
    return Plan(args.cluster or cluster, asked, agents, args.listen, args.interval)


def _configuration(path: Path) -> Configuration:
    """Read as the first member would: this host is none, and needs no key."""
    data, _ = read_yaml(path)
    engine = data.get("engine")
    members = engine.get("members") if isinstance(engine, dict) else None
    node = next((str(name) for name in members), None) if isinstance(members, dict) else None
    keyless = ("engine.insecure=true", "engine.secret_file=null")
    return load(path, node=node, overrides=keyless if isinstance(engine, dict) else ()).configuration


def _of(configuration: Configuration, interface: str | None) -> tuple[Asked, ...]:
    """Interfaces in the file are the nodes': here the one is taken that is on the VIP's network."""
    return tuple(
        Asked(vip.name, entry.address.packed, interface) for vip in configuration.pool for entry in vip.addresses
    )


def _agents_of(configuration: Configuration) -> tuple[str, ...]:
    port = configuration.http.listen.port
    hosts = (f"[{it}]" if it.version == 6 else str(it) for it in configuration.engine.members.values())
    return tuple(f"http://{host}:{port}" for host in hosts)


def _listed(text: str, interface: str | None) -> tuple[Asked, ...]:
    return tuple(_one(part.strip(), interface) for part in text.split(",") if part.strip())


def _one(text: str, override: str | None) -> Asked:
    name, equals, rest = text.rpartition("=")
    interface, colon, address = rest.partition(":")
    try:
        packed = ipaddress.ip_address(address.partition("/")[0].strip("[]")).packed
    except ValueError:
        packed = b""
    if not colon or not interface or not packed or (equals and not name):
        raise WitnessError(f"--vips: {text!r} is no VIP: write interface:address, as in eth0:192.0.2.10")
    return Asked(name or str(ipaddress.ip_address(packed)), packed, override or interface)


def _agent(text: str) -> str:
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise WitnessError(f"--agents: {text!r} is no address of an agent: write it as in http://www1:{HTTP_PORT}")
    return text.rstrip("/")
