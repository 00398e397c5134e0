"""What a Wackamole and a Spread file mean as a configuration of this program.

Where the ancestors had a bug, or something that has no counterpart, a sensible reading is taken and said in a warning.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from agent.config.problem import ConfigError, Location, Origins, Place, Problem
from agent.config.spread import TIMEOUTS, Daemon, Spread
from agent.config.tokens import Located
from agent.config.values import format_duration, is_address
from agent.config.wackamole import Address, Wackamole

_AUTHORITY = ("RequiredAuthMethods", "AllowedAuthMethods", "AccessControlPolicy")
_MEANT = frozenset({*TIMEOUTS, "WideAreaNetwork", *_AUTHORITY})
"""Options of Spread that have a counterpart, or a warning of their own."""


@dataclass(slots=True)
class Translation:
    data: dict[str, Any]
    places: dict[Location, Place]
    file: str
    warnings: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    preferred: list[int] = field(default_factory=list)
    """Indices of the VIPs that the local node prefers."""

    @property
    def origins(self) -> Origins:
        return Origins(self.file, self.places)

    def put(self, location: Location, value: Any, file: str, line: int | None) -> None:
        """Sets a value, tables around it made, and says where it comes from."""
        inner = self.data
        for part in location[:-1]:
            inner = inner.setdefault(str(part), {})
        inner[str(location[-1])] = value
        self.places[location] = Place(file, line)

    def warn(self, file: str, line: int | None, what: str, fix: str) -> None:
        self.warnings.append(Problem(file, line, what, fix, "warning"))


def translate(wackamole: Wackamole, spread: Spread, secret: Path | None) -> Translation:
    """Plain data for the models. Raises `ConfigError`: no group, or a daemon that cannot be looked up."""
    result = Translation({}, {}, wackamole.file, [*wackamole.warnings, *spread.warnings])
    _identity(result, wackamole)
    _engine(result, spread, wackamole, secret)
    _vips(result, wackamole)
    _prefer(result, wackamole)
    _notify(result, wackamole)
    _times(result, wackamole)
    if result.problems:
        raise ConfigError(result.problems)
    return result


def _identity(result: Translation, source: Wackamole) -> None:
    file = source.file
    if source.group is None or not source.group.value:
        line = None if source.group is None else source.group.line
        fix = "write `Group = NAME`, the same on all nodes (without it Wackamole never joined)"
        result.problems.append(Problem(file, line, "no Group", fix))
    else:
        result.put(("cluster",), source.group.value, file, source.group.line)
    if source.control is not None:
        result.put(("control",), source.control.value, file, source.control.line)
        if "%" in source.control.value:
            result.warn(
                file, source.control.line, "Wackamole took '%' in Control for a format", "it is taken as it stands now"
            )


def _engine(result: Translation, spread: Spread, wackamole: Wackamole, secret: Path | None) -> None:
    file = spread.file
    result.put(("engine",), {}, file, spread.segments[0].line)
    _segments(result, spread)
    for segment in spread.segments:
        for daemon in segment.daemons:
            address = daemon.address or _look_up(result, file, daemon)
            if address is not None:
                result.put(("engine", "members", daemon.name), address, file, daemon.line)
            if daemon.extras:
                what = f"{', '.join(daemon.extras)} of {daemon.name} is not carried over"
                result.warn(file, daemon.line, what, "the embedded engine talks through the member's one address")
    _timeouts(result, spread)
    others = [(name, option.line) for name, option in spread.options.items() if name not in _MEANT]
    if others:
        names = ", ".join(f"{name} (line {line})" for name, line in others)
        result.warn(
            file, others[0][1], f"not carried over: {names}", "they are the Spread daemon's own; none runs any more"
        )
    for name in _AUTHORITY:
        option = spread.options.get(name)
        if option is not None and option.value not in ("NULL", "PERMIT"):
            what = f"{name} = {option.value} is not carried over"
            result.warn(
                file, option.line, what, "no client connects any more; members prove themselves with secret_file"
            )
    if secret is not None:
        result.put(("engine", "secret_file"), str(secret), str(secret), None)
    else:
        result.put(("engine", "insecure"), True, file, None)
        result.warn(
            file,
            spread.segments[0].line,
            "no key: datagrams are not sealed, so anybody on the network could move VIPs (as with Spread)",
            "make /etc/molehill/secret with `openssl rand -base64 32`, mode 0640, the same on all nodes",
        )
    _daemon_address(result, spread, wackamole)


def _segments(result: Translation, spread: Spread) -> None:
    first, file = spread.segments[0], spread.file
    result.put(("engine", "port"), first.port, file, first.line)
    for segment in spread.segments[1:]:
        if segment.port != first.port:
            what = f"this segment has port {segment.port}, the first one {first.port}"
            result.warn(file, segment.line, what, f"all members use {first.port} now")
    if len(spread.segments) > 1:
        what = f"{len(spread.segments)} segments are one list of members"
        result.warn(file, spread.segments[1].line, what, "heartbeats go to each member by unicast")
        return
    if len(first.addresses) > 1:
        what = f"the segment's further addresses ({', '.join(first.addresses[1:])}) are not carried over"
        result.warn(file, first.line, what, "members are reached by unicast, too")
    address = ipaddress.ip_address(first.addresses[0])
    if address.version == 4 and not address.is_multicast:
        # A segment of one host alone may name that host: heartbeats to it would reach nobody else.
        if all(daemon.address != str(address) for daemon in first.daemons):
            result.put(("engine", "broadcast"), str(address), file, first.line)
    else:
        what = f"multicast segment {address} is not carried over"
        result.warn(file, first.line, what, "heartbeats go to each listed member by unicast")


def _look_up(result: Translation, file: str, daemon: Daemon) -> str | None:
    fix = f"write its address: `{daemon.name} 192.0.2.1`"
    try:
        address = socket.gethostbyname(daemon.name)
    except (OSError, UnicodeError) as error:
        result.problems.append(Problem(file, daemon.line, f"daemon '{daemon.name}' cannot be looked up: {error}", fix))
        return None
    if address.startswith("127."):
        what = f"daemon '{daemon.name}' is looked up as {address}, which no other host can reach"
        result.problems.append(Problem(file, daemon.line, what, fix))
        return None
    what = f"daemon '{daemon.name}' has no address; the name service says {address}"
    result.warn(file, daemon.line, what, "write it into the file: all nodes must find the same")
    return address


def _timeouts(result: Translation, spread: Spread) -> None:
    file, options = spread.file, spread.options
    given = [name for name in TIMEOUTS if name in options]
    if not given:
        wide = options.get("WideAreaNetwork")
        if (wide is None and len(spread.segments) > 1) or (wide is not None and wide.value == "true"):
            line = wide.line if wide is not None else spread.segments[1].line
            result.put(("engine", "profile"), "wan", file, line)
            result.warn(
                file, line, "a wide area: profile wan (heartbeat 500ms, failure_timeout 3s)", "see engine.profile"
            )
        return
    if missing := [name for name in TIMEOUTS if name not in options]:
        what = f"only some timeouts are given ({', '.join(missing)} missing)"
        result.warn(file, options[given[0]].line, what, "Spread does not start so; set all nine or none")
    _token(result, file, options)
    if "HurryTimeout" in options:
        option = options["HurryTimeout"]
        heartbeat = Decimal(option.value) / 1000
        if "TokenTimeout" in options:
            heartbeat = min(heartbeat, Decimal(options["TokenTimeout"].value) / 2500)
        result.put(("engine", "heartbeat"), format_duration(float(heartbeat)), file, option.line)
        what = f"HurryTimeout {option.value} ms becomes heartbeat {format_duration(float(heartbeat))}"
        result.warn(file, option.line, what, "remove all nine timeouts to have 100ms and 400ms")
    elif "TokenTimeout" in options:
        heartbeat = min(Decimal("0.1"), Decimal(options["TokenTimeout"].value) / 2500)
        result.put(("engine", "heartbeat"), format_duration(float(heartbeat)), file, options["TokenTimeout"].line)


def _token(result: Translation, file: str, options: dict[str, Located[str]]) -> None:
    if "TokenTimeout" not in options:
        return
    option = options["TokenTimeout"]
    parts = [options[name].value for name in ("TokenTimeout", "SegTimeout", "GatherTimeout") if name in options]
    timeout = format_duration(float(Decimal(option.value) / 1000))
    result.put(("engine", "failure_timeout"), timeout, file, option.line)
    what = f"TokenTimeout {option.value} ms becomes failure_timeout {timeout}"
    detection = sum(map(int, parts))
    fix = f"Spread took Token + Seg + Gather ({detection} ms) to see a dead daemon; this is the whole of it now"
    result.warn(file, option.line, what, fix)


def _daemon_address(result: Translation, spread: Spread, wackamole: Wackamole) -> None:
    if wackamole.retry_interval is not None:
        seconds, line = wackamole.retry_interval
        result.put(("engine", "retry_interval"), f"{seconds}s", wackamole.file, line)
    if wackamole.spread is None:
        return
    (text, line), port = wackamole.spread, spread.segments[0].port
    number, at, host = text.partition("@")
    if number != str(port):
        what = f"Spread = {text}, but {spread.file} has port {port}"
        result.warn(wackamole.file, line, what, f"members talk on port {port} now")
    if at and host not in ("localhost", "127.0.0.1", "::1"):
        what = f"Spread = {text} was a daemon on another host"
        result.warn(wackamole.file, line, what, "this node is a member itself now and must be in the list of daemons")


def _entry(address: Address) -> str:
    head = "" if address.interface is None else f"{address.interface}:"
    tail = "" if address.net == address.bits else f"n{address.net}"
    return f"{head}{address.address}/{address.bits}{tail}"


def _vips(result: Translation, source: Wackamole) -> None:
    vips = []
    for index, (group, line) in enumerate(source.vips):
        result.places["vips", index] = Place(source.file, line)
        for number, address in enumerate(group):
            result.places["vips", index, "addresses", number] = Place(source.file, address.line)
        vips.append({"addresses": [_entry(address) for address in group]})
    result.put(("vips",), vips, source.file, source.vips[0].line if source.vips else None)


def _prefer(result: Translation, source: Wackamole) -> None:
    preferred: set[int] = set()
    for wanted in source.prefer:
        network = ipaddress.ip_network(f"{wanted.address}/{wanted.bits}", strict=False)
        text = f"Prefer {wanted.address}/{wanted.bits}"
        heads, others = set(), set()
        for index, (group, _) in enumerate(source.vips):
            inside = [ipaddress.ip_address(address.address) in network for address in group]
            if inside[0]:
                heads.add(index)
            elif any(inside):
                others.add(index)
        if not heads | others:
            result.warn(source.file, wanted.line, f"{text} matches no VIP", "remove it, or name a VIP's address")
        if wanted.bits < 32:
            what = f"{text} was misread by Wackamole (ranges did not work)"
            result.warn(source.file, wanted.line, what, f"all {len(heads | others)} VIPs in it are preferred now")
        if others:
            what = f"{text} matches a group that it is not the first address of, which had no effect"
            result.warn(source.file, wanted.line, what, "the group is preferred now")
        preferred |= heads | others
        for index in heads | others:
            result.places.setdefault(("vips", index, "prefer"), Place(source.file, wanted.line))
    if preferred:
        result.preferred = sorted(preferred)
        what = "Prefer was each node's own wish"
        fix = "`prefer` lists the nodes of a VIP, best first, and should be the same in all files"
        result.warn(source.file, source.prefer[0].line, what, fix)


def _notify(result: Translation, source: Wackamole) -> None:
    items: list[Any] = []
    for item in source.notify:
        result.places["notify", len(items)] = Place(source.file, item.line)
        if item.address is None:
            if "arp-cache" not in items:
                items.append("arp-cache")
            continue
        text = f"{item.address.address}/{item.address.bits}"
        if item.address.interface is not None:
            text = f"{item.address.interface}:{text}"
        elif is_address(item.address.address):
            what = f"Notify {text} has no interface, so Wackamole told nobody"
            result.warn(source.file, item.line, what, "it counts for every interface with a VIP on its network now")
        items.append(text if item.throttle is None else {"range": text, "throttle": item.throttle})
    if items:
        result.put(("notify",), items, source.file, source.notify[0].line)


def _times(result: Translation, source: Wackamole) -> None:
    file = source.file
    if source.mature is not None:
        result.put(("mature",), f"{source.mature.value}s", file, source.mature.line)
    else:
        result.put(("mature",), "5s", file, None)
        result.warn(
            file, None, "no Mature: 5s is taken", "Wackamole's manual said 5s, its code took 300 s; write what you want"
        )
    if source.arp_cache is not None:
        result.put(("arp_cache", "interval"), f"{source.arp_cache.value}s", file, source.arp_cache.line)
    else:
        result.put(("arp_cache", "interval"), "60s", file, None)
    _balance(result, source)


def _balance(result: Translation, source: Wackamole) -> None:
    file, line = source.file, source.balance
    if source.balance_interval is not None:
        seconds, at = source.balance_interval
        result.put(("balance", "interval"), f"{seconds}s", file, at)
    else:
        result.put(("balance", "interval"), "4s", file, line)
        if line is not None:
            what = "Balance without Interval: 4s is taken"
            result.warn(file, line, what, "Wackamole's manual said 4s, its code took 300 s; write what you want")
    most = source.acquisitions_per_round
    if most is None:
        result.put(("balance", "acquisitions_per_round"), 1, file, line)
    elif most.value is None:
        result.put(("balance", "acquisitions_per_round"), "all", file, most.line)
        what = "AcquisitionsPerRound = all moved at most half of the VIPs, once after each change of members"
        result.warn(file, most.line, what, "every round moves as many as an even spread needs now")
    else:
        result.put(("balance", "acquisitions_per_round"), max(1, most.value), file, most.line)
        meant = "moves of the whole cluster in a round"
        what = f"AcquisitionsPerRound = {most.value} counts {meant} (the manual said: of each node)"
        fix = "that is kept, without Wackamole's limit of half of the VIPs"
        if most.value == 0:
            what, fix = (
                "AcquisitionsPerRound = 0 stopped balancing",
                "1 is taken: use a long Interval to balance seldom",
            )
        result.warn(file, most.line, what, fix)
