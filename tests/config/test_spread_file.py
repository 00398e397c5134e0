"""Every rule of spread.conf's grammar, and what it means here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config.load import Loaded, load_wackamole
from agent.config.problem import ConfigError
from agent.config.spread import TIMEOUTS, Spread, parse_spread

NINE = dict(zip(TIMEOUTS, (5000, 2000, 1000, 1000, 2500, 2000, 5000, 5000, 60000), strict=True))
PAIR = "Spread_Segment 10.0.0.255 {\n n1 10.0.0.1\n n2 10.0.0.2\n}\n"

Load = Callable[[str], Loaded]


def parse(text: str) -> Spread:
    return parse_spread(text, "s.conf")


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def run(text: str) -> Loaded:
        wackamole, spread = tmp_path / "w.conf", tmp_path / "s.conf"
        wackamole.write_text("Group = g VIPs { e:10.0.9.9/24 } Mature = 5s")
        spread.write_text(text)
        return load_wackamole(wackamole, spread, node="n1", secret=tmp_path / "none")

    return run


def warned(loaded: Loaded, *words: str) -> list[int | None]:
    return [p.line for p in loaded.warnings if p.file.endswith("s.conf") and all(word in str(p) for word in words)]


@pytest.mark.parametrize(
    ("head", "addresses", "port"),
    [
        ("10.0.0.255:4000", ["10.0.0.255"], 4000),
        ("10.0.0.255", ["10.0.0.255"], 4803),
        ("225.0.1.1:4803 10.0.0.255", ["225.0.1.1", "10.0.0.255"], 4803),
        ("[ff02::1]:4000", ["ff02::1"], 4000),
        ("[ff02::1%eth0]:4000", ["ff02::1"], 4000),
        ("[ff02::1]", ["ff02::1"], 4803),
        ("10.0.0.255:4803 [ff02::1]:4803", ["10.0.0.255", "ff02::1"], 4803),
    ],
)
def test_segment(head: str, addresses: list[str], port: int) -> None:
    (segment,) = parse(f"Spread_Segment {head} {{ a 10.0.0.1 }}").segments
    assert (segment.addresses, segment.port) == (addresses, port)


@pytest.mark.parametrize(
    ("daemon", "name", "address", "extras"),
    [
        ("www1 10.0.0.1", "www1", "10.0.0.1", ()),
        ("www1 10.0.0.1;", "www1", "10.0.0.1", ()),
        ("www1 10.0.0.1 ;", "www1", "10.0.0.1", ()),
        ("10.0.0.1", "10.0.0.1", "10.0.0.1", ()),
        ("www1", "www1", None, ()),
        ("www1 2001:db8::1", "www1", "2001:db8::1", ()),
        ("www1 [2001:db8::1]", "www1", "2001:db8::1", ()),
        ("www1 10.0.0.1 VirtualID = 7", "www1", "10.0.0.1", ("VirtualID = 7",)),
        ("www1 10.0.0.1 { D 10.0.0.1 C 10.1.0.1 M C 127.0.0.1 }", "www1", "10.0.0.1", None),
        ("www1 10.0.0.1 VirtualID = 7 { 10.0.0.1 }", "www1", "10.0.0.1", ("VirtualID = 7", "{ 10.0.0.1 }")),
        ('"www 1" 10.0.0.1', "www 1", "10.0.0.1", ()),
    ],
)
def test_daemon(daemon: str, name: str, address: str | None, extras: tuple[str, ...] | None) -> None:
    (segment,) = parse(f"Spread_Segment 10.0.0.255 {{ {daemon} other 10.0.0.9 }}").segments
    first, other = segment.daemons
    assert (first.name, first.address) == (name, address)
    assert extras is None or first.extras == extras
    assert other.name == "other"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("DebugFlags = { PRINT !EXIT }", "DebugFlags", "PRINT !EXIT"),
        ("DebugFlags = { }", "DebugFlags", ""),
        ("EventPriority = INFO", "EventPriority", "INFO"),
        ('EventLogFile = "/var/log/a b#%h"', "EventLogFile", "/var/log/a b#%h"),
        ("EventTimeStamp", "EventTimeStamp", "[%a %d %b %Y %H:%M:%S]"),
        ('EventTimeStamp = "[%H]"', "EventTimeStamp", "[%H]"),
        ("EventPreciseTimeStamp", "EventPreciseTimeStamp", "true"),
        ("DangerousMonitor = YES", "DangerousMonitor", "true"),
        ("SocketPortReuse = auto", "SocketPortReuse", "auto"),
        ("RuntimeDir = /run/spread", "RuntimeDir", "/run/spread"),
        ("RequiredAuthMethods = IP", "RequiredAuthMethods", "IP"),
        ('AllowedAuthMethods = "NULL IP"', "AllowedAuthMethods", "NULL IP"),
        ("AccessControlPolicy = PERMIT", "AccessControlPolicy", "PERMIT"),
        ("MaxSessionMessages = 1000", "MaxSessionMessages", "1000"),
        ("ActiveIPVersion = IPv6", "ActiveIPVersion", "IPv6"),
        ("Window = 60 PersonalWindow = 20 AcceleratedWindow = 15", "PersonalWindow", "20"),
        ("AcceleratedRing = false", "AcceleratedRing", "false"),
        ("WideAreaNetwork = false", "WideAreaNetwork", "false"),
        ("ExcludeSegAddrsFromHash = true IgnoreMulticastJoinErrors = no", "IgnoreMulticastJoinErrors", "false"),
        ("LookupTimeout = 30000#ms", "LookupTimeout", "30000"),
    ],
)
def test_options(text: str, name: str, value: str) -> None:
    assert parse(PAIR + text).options[name].value == value
    assert parse(f"{text}\n{PAIR}").options[name].line == 1


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("spread_segment 10.0.0.255 { }", "unknown keyword 'spread_segment'", "Spread_Segment? (case matters)"),
        ("DaemonUser=spread", "'DaemonUser=spread' is one word", "`DaemonUser = spread`"),
        ("DaemonUser =", "expected a value after DaemonUser", "`DaemonUser = VALUE`"),
        ("Window = many", "'many' is not a number", "`Window = 1000`"),
        ("TokenTimeout = 5s", "'5s' is not a number", "of milliseconds"),
        ("TokenTimeout = 1234567890", "of up to 9 digits", "bare number"),
        ("WideAreaNetwork = perhaps", "'perhaps' is not true or false", "`WideAreaNetwork = false`"),
        ("EventPriority = LOUD", "'LOUD' is no EventPriority", "one of pDEBUG"),
        ("DebugFlags = PRINT", "expected '{' after DebugFlags =", "`DebugFlags = { PRINT EXIT }`"),
        ("DebugFlags = { LOUD }", "'LOUD' is not a debug flag", "known are"),
        ("Spread_Segment { a 10.0.0.9 }", "expected an address after Spread_Segment", "Spread_Segment 192.0.2.255"),
        ("Spread_Segment 10.0.0.255:0 { a 10.0.0.9 }", "has no port from 1 to 65535", ""),
        ("Spread_Segment ff02::1 { a 10.0.0.9 }", "'ff02::1' is not a segment's address", ""),
        ("Spread_Segment 10.0.0.255 { }", "a segment without daemons", "list them"),
        ("Spread_Segment 10.0.0.255 { n1 10.0.0.9 }", "daemon 'n1' is given twice", "the first is on line 2"),
        ("Spread_Segment 10.0.0.255 { a 10.0.0.999 }", "'10.0.0.999' is not an IP address", "`a 192.0.2.1`"),
        ("Spread_Segment 10.0.0.255 { a 10.0.0.9 VirtualID = x }", "'x' is not a VirtualID", "`VirtualID = 1`"),
        ("Spread_Segment 10.0.0.255 { a 10.0.0.9 { X 10.0.0.9 } }", "'X' is not an interface's address", "C 192.0.2.1"),
        ("Spread_Segment 10.0.0.255 { a 10.0.0.9", "'{' has no '}'", "before the end of the file"),
        ("www3 10.0.0.3", "unknown keyword 'www3'", "remove it"),
        ("]", "']' without its other bracket", "[ff02::1]:4803"),
    ],
)
def test_syntax_errors(text: str, what: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"{PAIR}\n{text}\n")
    assert {problem.line for problem in caught.value.problems} == {6}
    assert any(what in p.what and fix in p.fix for p in caught.value.problems), str(caught.value)


def test_no_timeouts_is_our_default(load: Load) -> None:
    engine = load(PAIR).configuration.engine
    assert (engine.heartbeat, engine.failure_timeout, engine.profile) == (0.1, 0.4, "lan")


def test_nine_timeouts(load: Load) -> None:
    loaded = load(PAIR + "".join(f"{name} = {value}\n" for name, value in NINE.items()))
    engine = loaded.configuration.engine
    assert (engine.heartbeat, engine.failure_timeout) == (2.0, 5.0)
    assert warned(loaded, "TokenTimeout 5000 ms becomes failure_timeout 5s", "(12000 ms)") == [5]
    assert warned(loaded, "HurryTimeout 2000 ms becomes heartbeat 2s") == [6]
    assert not warned(loaded, "only some timeouts")


@pytest.mark.parametrize(
    ("given", "heartbeat", "timeout"),
    [
        ("TokenTimeout = 1000", 0.1, 1.0),
        ("TokenTimeout = 100", 0.04, 0.1),
        ("TokenTimeout = 1000 HurryTimeout = 900", 0.4, 1.0),
        ("SegTimeout = 100", 0.1, 0.4),
    ],
)
def test_some_timeouts(load: Load, given: str, heartbeat: float, timeout: float) -> None:
    loaded = load(PAIR + given)
    engine = loaded.configuration.engine
    assert (engine.heartbeat, engine.failure_timeout) == (heartbeat, timeout)
    assert warned(loaded, "only some timeouts", "set all nine or none") == [5]


def test_a_timeout_of_nothing_is_an_error_on_its_line(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load(PAIR + "TokenTimeout = 0")
    assert [problem.line for problem in caught.value.problems] == [5, 5]


def test_several_segments(load: Load) -> None:
    loaded = load(f"{PAIR}Spread_Segment 10.1.0.255:4000 {{ n3 10.1.0.1 }}")
    engine = loaded.configuration.engine
    assert list(engine.members) == ["n1", "n2", "n3"]
    assert (engine.broadcast, engine.port, engine.profile) == (None, 4803, "wan")
    assert (engine.heartbeat, engine.failure_timeout) == (0.5, 3.0)
    assert warned(loaded, "port 4000") == warned(loaded, "profile wan") == warned(loaded, "2 segments") == [5]


@pytest.mark.parametrize(
    ("head", "broadcast"),
    [("10.0.0.255", "10.0.0.255"), ("225.0.1.1", None), ("10.0.0.255 225.0.1.1", "10.0.0.255"), ("10.0.0.1", None)],
)
def test_broadcast(load: Load, head: str, broadcast: str | None) -> None:
    loaded = load(f"Spread_Segment {head} {{ n1 10.0.0.1 }}")
    found = loaded.configuration.engine.broadcast
    assert (None if found is None else str(found)) == broadcast
    assert warned(loaded, "225.0.1.1") == ([1] if "225" in head else [])


def test_ipv6_daemons(load: Load) -> None:
    loaded = load("Spread_Segment [ff02::1]:4803 { n1 2001:db8::1 n2 [2001:db8::2] }")
    assert [str(address) for address in loaded.configuration.engine.members.values()] == ["2001:db8::1", "2001:db8::2"]


def test_what_is_not_carried_over(load: Load) -> None:
    daemons = "Spread_Segment 10.0.0.255 {\n n1 10.0.0.1 VirtualID = 3 { C 10.0.0.1 }\n}\n"
    loaded = load(f"{daemons}RequiredAuthMethods = IP\nWindow = 9\n")
    assert warned(loaded, "VirtualID = 3, { C 10.0.0.1 } of n1 is not carried over") == [2]
    assert warned(loaded, "RequiredAuthMethods = IP is not carried over") == [4]
    assert warned(loaded, "not carried over: Window (line 5)") == [5]


def test_a_daemon_without_address_is_looked_up(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"n2": "10.0.0.2", "n3": "127.0.1.1"}

    def lookup(name: str) -> str:
        if name not in known:
            raise OSError("unknown")
        return known[name]

    monkeypatch.setattr("socket.gethostbyname", lookup)
    loaded = load("Spread_Segment 10.0.0.255 { n1 10.0.0.1\nn2 }")
    assert str(loaded.configuration.engine.members["n2"]) == "10.0.0.2"
    assert warned(loaded, "name service says 10.0.0.2") == [2]
    with pytest.raises(ConfigError) as caught:
        load("Spread_Segment 10.0.0.255 { n1 10.0.0.1\nn3\nn4 }")
    assert [(p.line, p.fix) for p in caught.value.problems] == [
        (2, "write its address: `n3 192.0.2.1`"),
        (3, "write its address: `n4 192.0.2.1`"),
    ]
