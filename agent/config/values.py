"""Grammar of the configuration's values. Pure; a value that breaks its grammar raises `Invalid` with the fix."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from agent.config.problem import Invalid

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

INTERFACE_NAME_MAX = 15
"""Linux: IFNAMSIZ is 16 with the closing zero."""

SOCKET_PATH_MAX = 107
"""Linux: sun_path is 108 bytes with the closing zero."""

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_UNITS = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_PREFIX = re.compile(r"(?P<address>[^/]+)(?:/(?P<prefix>[0-9]{1,3})(?:n(?P<network>[0-9]{1,3}))?)?")
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,62}")
_WORD = re.compile(r"[!-~]{1,64}")


def parse_duration(value: object) -> float:
    """Seconds of `10ms`, `5s`, `1.5s`, `2m`, `1h`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Invalid(f"{value} has no unit", f"write `{value}s` or `{value}ms`")
    if not isinstance(value, str) or (found := _DURATION.fullmatch(value)) is None:
        raise Invalid(f"{show(value)} is not a duration", "write a number and one of ms, s, m, h: `400ms`, `5s`, `2m`")
    return float(Decimal(found[1]) * _UNITS[found[2]])


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` turns into the same number."""
    exact = Decimal(repr(seconds))
    for unit, size in _UNITS.items():
        if exact % size == 0 and (exact or unit == "s"):
            return f"{int(exact / size)}{unit}"
    return f"{(exact / _UNITS['ms']).normalize():f}ms"


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """`[interface:]address/prefix[nNETWORK]`: an address of a VIP, or a range of hosts to notify."""

    interface: str | None
    address: IpAddress
    prefix: int
    """Prefix length put on the interface; of a range: its size."""
    network_prefix: int
    """Prefix length of the directly attached network (Wackamole's nNET); the same as `prefix` unless written."""

    @property
    def network(self) -> IpNetwork:
        """The directly attached network: only hosts in it are told of a move by directed ARP."""
        return ipaddress.ip_network((self.address, self.network_prefix), strict=False)

    @property
    def range(self) -> IpNetwork:
        """The hosts that a notify entry means."""
        return ipaddress.ip_network((self.address, self.prefix), strict=False)

    def __str__(self) -> str:
        if self.interface is None:
            head = str(self.address)
        elif is_address(f"{self.interface}:{self.address}"):
            head = f"{self.interface}:[{self.address}]"
        else:
            head = f"{self.interface}:{self.address}"
        tail = "" if self.network_prefix == self.prefix else f"n{self.network_prefix}"
        return f"{head}/{self.prefix}{tail}"


def parse_interface_address(value: object) -> InterfaceAddress:
    """Reads `eth4:192.0.2.1/24`, `eth4:192.0.2.1/32n24`, `eth4:2001:db8::1/64`, `eth4:[2001:db8::1]/64`.

    IPv6 has colons itself: what is an address as a whole has no interface; else the first colon ends the interface.
    """
    if isinstance(value, InterfaceAddress):
        return value
    form = "write `interface:address/prefix`, as in `eth0:192.0.2.10/24`"
    if not isinstance(value, str) or (found := _PREFIX.fullmatch(value)) is None:
        raise Invalid(f"{show(value)} is not an address with its interface", form)
    interface, address = _split_interface(value, found["address"], form)
    if found["prefix"] is None:
        raise Invalid(f"{show(value)} has no prefix length", f"write `{value}/{24 if address.version == 4 else 64}`")
    prefix = int(found["prefix"])
    network = prefix if found["network"] is None else int(found["network"])
    for length in (prefix, network):
        if length > address.max_prefixlen:
            raise Invalid(
                f"{show(value)}: {length} is not a prefix length of IPv{address.version}",
                f"write 0 to {address.max_prefixlen}",
            )
    return InterfaceAddress(interface, address, prefix, network)


def _split_interface(whole: str, text: str, form: str) -> tuple[str | None, IpAddress]:
    if is_address(text.strip("[]")) and (text.startswith("[") == text.endswith("]")):
        return None, parse_ip(text.strip("[]"))
    interface, colon, rest = text.partition(":")
    if rest.startswith("[") and rest.endswith("]"):
        rest = rest[1:-1]
    if not colon or not is_address(rest):
        inner = "" if (rest or text) == whole else f": {show(rest or text)}"
        raise Invalid(f"{show(whole)}{inner} is not an IPv4 or IPv6 address", form)
    return parse_interface(interface), parse_ip(rest)


def parse_interface(value: object) -> str:
    """A name that Linux takes for a network interface."""
    if not isinstance(value, str) or not value or value in (".", ".."):
        raise Invalid(f"{show(value)} is not an interface name", "write a name as `ip link` shows it, as in eth0")
    if any(character.isspace() or character in "/:" or not character.isprintable() for character in value):
        raise Invalid(f"{show(value)} is not an interface name", "write a name without white space, `/` and `:`")
    if len(value.encode()) > INTERFACE_NAME_MAX:
        raise Invalid(
            f"interface name {show(value)} has {len(value.encode())} characters",
            f"Linux allows {INTERFACE_NAME_MAX}; see `ip link`",
        )
    return value


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def parse_ip(value: object) -> IpAddress:
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    if not isinstance(value, str) or not is_address(value):
        raise Invalid(f"{show(value)} is not an IPv4 or IPv6 address", "write it as in 192.0.2.10 or 2001:db8::10")
    return ipaddress.ip_address(value)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a server listens."""

    host: str
    """Empty: every address of the host."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(value: object) -> Listen:
    """Reads `:9748`, `127.0.0.1:9748`, `[::1]:9748`."""
    if isinstance(value, Listen):
        return value
    form = "write `:9748`, `127.0.0.1:9748` or `[::1]:9748`"
    if not isinstance(value, str):
        raise Invalid(f"{show(value)} is not an address to listen on", form)
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise Invalid(f"{show(value)} has no port from 1 to 65535", form)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare and (not is_address(bare) or (":" in bare) == (bare == host)):
        raise Invalid(f"{show(value)}: {show(host)} is not an address of this host", form)
    return Listen(bare, int(port))


def parse_node_name(value: object) -> str:
    """A member's name: what Spread takes for a daemon (addresses among them) and what fits a metric label."""
    if not isinstance(value, str):
        raise Invalid(f"{show(value)} is not a name", quoted(value))
    if _NODE_NAME.fullmatch(value) is None:
        raise Invalid(
            f"{show(value)} is not a node name", "use up to 63 letters, digits and `._:-`, a letter or digit first"
        )
    return value


def parse_word(value: object) -> str:
    """The name of a cluster, VIP or check: one word of visible ASCII."""
    if not isinstance(value, str):
        raise Invalid(f"{show(value)} is not a name", quoted(value))
    if _WORD.fullmatch(value) is None:
        raise Invalid(f"{show(value)} is not a name", "use 1 to 64 visible ASCII characters without white space")
    return value


def parse_socket_path(value: object) -> str:
    """An absolute path that fits a Unix socket."""
    text = parse_absolute_path(value)
    if len(text.encode()) > SOCKET_PATH_MAX:
        raise Invalid(
            f"{show(value)} has {len(text.encode())} bytes", f"a Unix socket's path has at most {SOCKET_PATH_MAX}"
        )
    return text


def parse_absolute_path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise Invalid(f"{show(value)} is not an absolute path", "write the whole path, beginning with `/`")
    return value


def quoted(value: object) -> str:
    """The fix for what should be text and is not."""
    return f'put it in quotes: "{value}"' if isinstance(value, int | float) else "write one word"


def show(value: object) -> str:
    """A value as messages quote it: never longer than a line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"'{text.encode('unicode_escape').decode() if not text.isprintable() else text}'"
