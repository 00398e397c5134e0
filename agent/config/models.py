"""The configuration as pydantic models: the only place that knows its keys and their types.

Frozen, unknown keys refused. Durations are seconds (float) here and `400ms` in files. What more than one key decides
is in `rules.py`; what the core and the drivers are given is in `derive.py` and `ranges.py`.
"""

from __future__ import annotations

import math
import socket
from contextlib import suppress
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    WithJsonSchema,
    model_validator,
)

from agent.config import values
from agent.config.problem import Invalid, Origins
from agent.config.values import InterfaceAddress, IpAddress, Listen, show

_STRICT = ConfigDict(extra="forbid", frozen=True)

_DURATION_PATTERN = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$"
_TEXT = {"type": "string"}

Duration = Annotated[
    float,
    PlainValidator(values.parse_duration),
    PlainSerializer(values.format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION_PATTERN}),
]
Ip = Annotated[
    IpAddress,
    PlainValidator(values.parse_ip),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
]
Prefixed = Annotated[
    InterfaceAddress,
    PlainValidator(values.parse_interface_address),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "description": "interface:address/prefix"}),
]
Port = Annotated[StrictInt, Field(ge=1, le=65535)]
Node = Annotated[str, PlainValidator(values.parse_node_name), WithJsonSchema(_TEXT)]
Word = Annotated[str, PlainValidator(values.parse_word), WithJsonSchema(_TEXT)]
Interface = Annotated[str, PlainValidator(values.parse_interface), WithJsonSchema({**_TEXT, "maxLength": 15})]
SocketPath = Annotated[str, PlainValidator(values.parse_socket_path), WithJsonSchema(_TEXT)]
AbsolutePath = Annotated[str, PlainValidator(values.parse_absolute_path), WithJsonSchema(_TEXT)]


def _between(least: float, most: float) -> AfterValidator:
    """Limits of a duration, both included."""

    def check(seconds: float) -> float:
        if not least <= seconds <= most:
            low, high = values.format_duration(least), values.format_duration(most)
            size = "short" if seconds < least else "long"
            raise Invalid(f"{values.format_duration(seconds)} is too {size}", f"write {low} to {high}")
        return seconds

    return AfterValidator(check)


def _whole_seconds(seconds: float) -> float:
    if seconds != int(seconds) or seconds < 1:
        raise Invalid(
            f"{values.format_duration(seconds)} is not in whole seconds",
            f"write `{max(1, math.ceil(seconds))}s`: the kernel counts the lifetime of an address in seconds",
        )
    return seconds


def _fast_lease(value: object) -> float | str:
    if value is False or value == "off":
        return "off"
    return "auto" if value == "auto" else values.parse_duration(value)


def _most_moves(value: object) -> int | str:
    if value == "all":
        return "all"
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Invalid(f"{show(value)} is not a number of moves", "write `all` or a number from 1")
    return value


def _weight(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1000:
        raise Invalid(f"{show(value)} is not a weight", "write a number above 0 and up to 1000; 1 is the usual one")
    return float(value)


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Invalid(f"{show(value)} is not a share", "write a number from 0 (none) to 1 (all)")
    return float(value)


def _url(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and " " not in value:
        with suppress(ValueError):
            parts = urlsplit(value)
            # `port` raises on a port that is none.
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
                return value
    raise Invalid(f"{show(value)} is not an HTTP address", "write it as in http://127.0.0.1:8080/health")


def _tcp_target(value: object) -> str:
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not host or not colon or not port.isdecimal() or not port.isascii() or not 1 <= int(port[:6]) <= 65535:
        raise Invalid(f"{show(value)} is not a host and port", "write it as in 127.0.0.1:25")
    return host + colon + port


def _serialized(value: float | str) -> str:
    return value if isinstance(value, str) else values.format_duration(value)


FastLease = Annotated[
    float | str,
    PlainValidator(_fast_lease),
    PlainSerializer(_serialized, return_type=str),
    WithJsonSchema({"anyOf": [{"enum": ["auto", "off", False]}, {"type": "string", "pattern": _DURATION_PATTERN}]}),
]
MostMoves = Annotated[
    int | str,
    PlainValidator(_most_moves),
    WithJsonSchema({"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 1}]}),
]
Weight = Annotated[
    float, PlainValidator(_weight), WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1000})
]
Share = Annotated[float, PlainValidator(_share), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]
Url = Annotated[str, PlainValidator(_url), WithJsonSchema({**_TEXT, "format": "uri"})]

PROFILES = {"lan": ("100ms", "400ms"), "fast": ("10ms", "50ms"), "wan": ("500ms", "3s")}
"""Heartbeat and failure timeout."""


class Engine(BaseModel):
    """How the members find out who is there."""

    model_config = _STRICT
    kind: Literal["embedded", "spread", "corosync"] = "embedded"
    bind: Ip | None = None
    """None: this node's address in `members`."""
    port: Port = 4803
    members: dict[Node, Ip] = Field(default={}, examples=[{"www1": "192.0.2.1", "www2": "192.0.2.2"}])
    multicast: Ip | None = None
    broadcast: Ip | None = None
    """With `members`: heartbeats go out once, to this address, instead of once per member."""
    profile: Literal["lan", "fast", "wan"] = "lan"
    heartbeat: Annotated[Duration, _between(0.001, 60)] = 0.1
    failure_timeout: Annotated[Duration, _between(0.003, 600)] = 0.4
    secret_file: AbsolutePath | None = None
    insecure: StrictBool = False
    address: StrictStr | None = None
    retry_interval: Annotated[Duration, _between(0.1, 3600)] = 5.0

    @model_validator(mode="before")
    @classmethod
    def _apply_profile(cls, data: Any) -> Any:
        if not isinstance(data, dict) or (profile := data.get("profile")) not in ("fast", "wan"):
            return data
        heartbeat, failure_timeout = PROFILES[profile]
        return {"heartbeat": heartbeat, "failure_timeout": failure_timeout, **data}


class Check(BaseModel):
    """A health check: one of the four kinds."""

    model_config = _STRICT
    name: Word = Field(examples=["nginx"])
    http: Url | None = None
    tcp: Annotated[str, PlainValidator(_tcp_target), WithJsonSchema(_TEXT)] | None = None
    command: tuple[StrictStr, ...] | None = Field(default=None, examples=[["/usr/local/bin/healthy", "--quick"]])
    link: Interface | None = None
    interval: Annotated[Duration, _between(0.05, 3600)] = 1.0
    timeout: Annotated[Duration, _between(0.01, 3600)] = 0.5
    rise: Annotated[StrictInt, Field(ge=1, le=1000)] = 2
    fall: Annotated[StrictInt, Field(ge=1, le=1000)] = 2

    @model_validator(mode="after")
    def _one_kind(self) -> Check:
        kinds = [kind for kind in ("http", "tcp", "command", "link") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            given = " and ".join(kinds) or "nothing to look at"
            raise Invalid(f"check '{self.name}' has {given}", "give exactly one of http, tcp, command, link")
        if self.command is not None and not "".join(self.command[:1]).startswith("/"):
            raise Invalid(f"check '{self.name}' has no program to run", "write `command: [/path/of/program, argument]`")
        if self.timeout > self.interval:
            raise Invalid(f"check '{self.name}' has a timeout above its interval", "lower timeout or raise interval")
        return self


class Vip(BaseModel):
    """One group of addresses that moves as a whole."""

    model_config = _STRICT
    name: Word = ""
    """Default: the first address, without prefix."""
    addresses: tuple[Prefixed, ...] = Field(min_length=1, examples=[["eth0:192.0.2.10/24"]])
    prefer: tuple[Node, ...] = Field(default=(), examples=[["www1"]])
    nodes: tuple[Node, ...] = Field(default=(), examples=[["www1", "www2"]])
    checks: tuple[Check, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_after_address(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("addresses"), list | tuple):
            with suppress(Invalid, IndexError):
                return {**data, "name": str(values.parse_interface_address(data["addresses"][0]).address)}
        return data


class NotifyRange(BaseModel):
    """Hosts to be told by directed ARP or NA. In a file also the bare range."""

    model_config = _STRICT
    range: Prefixed
    throttle: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    """Targets a second; None: all at once."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: Any) -> Any:
        if isinstance(data, str) and "/" not in data:
            fix = "write arp-cache, or a range as in eth0:192.0.2.1/32"
            raise Invalid(f"{show(data)} is neither a range of addresses nor arp-cache", fix)
        return {"range": data} if isinstance(data, str) else data


class ArpCache(BaseModel):
    model_config = _STRICT
    interval: Annotated[Duration, _between(1, 86400)] = 90.0


class Announce(BaseModel):
    model_config = _STRICT
    refresh: Annotated[Duration, _between(2, 86400)] = 60.0


class Balance(BaseModel):
    model_config = _STRICT
    acquisitions_per_round: MostMoves = "all"
    interval: Annotated[Duration, _between(0.1, 86400)] = 4.0


class Lease(BaseModel):
    model_config = _STRICT
    fast: FastLease = "auto"
    address: Annotated[Duration, AfterValidator(_whole_seconds), _between(1, 3600)] = 3.0


class Conflict(BaseModel):
    model_config = _STRICT
    probe: StrictBool = False
    policy: Literal["defend", "yield"] = "defend"


class Hooks(BaseModel):
    model_config = _STRICT
    acquired: tuple[AbsolutePath, ...] = Field(default=(), examples=[["/etc/molehill/acquired.d/notify"]])
    released: tuple[AbsolutePath, ...] = Field(default=(), examples=[["/etc/molehill/released.d/notify"]])


class Http(BaseModel):
    model_config = _STRICT
    listen: Annotated[
        Listen, PlainValidator(values.parse_listen), PlainSerializer(str, return_type=str), WithJsonSchema(_TEXT)
    ] = Listen("", 9748)
    web_config: AbsolutePath | None = None


class Tracing(BaseModel):
    model_config = _STRICT
    endpoint: Url = Field(examples=["http://127.0.0.1:4318"])
    sample: Share = 1.0


def short_host_name() -> str:
    return socket.gethostname().partition(".")[0]


def _either(special: object, tag: str, other: str) -> Discriminator:
    """Tells a literal from the general form, so that errors speak only of the form that was written."""

    def choose(value: Any) -> str:
        return tag if value is special or (isinstance(special, str) and value == special) else other

    return Discriminator(choose)


NotifyItem = Annotated[
    Annotated[Literal["arp-cache"], Tag("<cache>")] | Annotated[NotifyRange, Tag("<entry>")],
    _either("arp-cache", "<cache>", "<entry>"),
]
Pool = Annotated[
    Annotated[Literal[False], Tag("<none>")] | Annotated[tuple[Vip, ...], Tag("<list>")],
    _either(False, "<none>", "<list>"),
]


class Configuration(BaseModel):
    """Everything that `/etc/molehill/molehill.yaml` may say."""

    model_config = _STRICT
    cluster: Word = Field(examples=["www"])
    node: Node = Field(default_factory=short_host_name)
    state_dir: AbsolutePath = "/var/lib/molehill"
    engine: Engine = Engine()
    vips: Pool = Field(default=(), examples=[[{"name": "web", "addresses": ["eth0:192.0.2.10/24"]}]])
    """False: this node takes part and votes, but holds nothing."""
    notify: tuple[NotifyItem, ...] = Field(default=(), examples=[["eth0:192.0.2.1/32", "arp-cache"]])
    arp_cache: ArpCache = ArpCache()
    announce: Announce = Announce()
    balance: Balance = Balance()
    mature: Annotated[Duration, _between(0, 86400)] = 5.0
    partition: Literal["component", "quorum"] = "component"
    votes: dict[Node, Annotated[StrictInt, Field(ge=0, le=1000)]] = Field(default={}, examples=[{"www1": 1}])
    lease: Lease = Lease()
    conflict: Conflict = Conflict()
    realtime: StrictBool = False
    weight: Weight = 1.0
    checks: tuple[Check, ...] = Field(default=(), examples=[[{"name": "nginx", "http": "http://127.0.0.1/health"}]])
    hooks: Hooks = Hooks()
    http: Http = Http()
    control: SocketPath = "/run/molehill/control.sock"
    tracing: Tracing | None = None
    _origins: Origins = PrivateAttr(default_factory=Origins)

    @property
    def origins(self) -> Origins:
        """Where each key was written: for messages about keys that are found wrong later."""
        return self._origins

    def written_at(self, origins: Origins) -> Configuration:
        self._origins = origins
        return self

    @property
    def pool(self) -> tuple[Vip, ...]:
        """The VIPs that this node knows."""
        return self.vips or ()

    @property
    def bind(self) -> IpAddress | None:
        """The address that the embedded engine binds; None: not known, members are discovered."""
        return self.engine.bind or self.engine.members.get(self.node)
