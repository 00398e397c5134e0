"""Every rule of wackamole.conf's grammar, and what it means here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.config.load import Loaded, load_wackamole
from agent.config.models import Configuration
from agent.config.problem import ConfigError
from agent.config.ranges import notify_targets, use_arp_cache
from agent.config.wackamole import Wackamole, parse_wackamole

SPREAD = "Spread_Segment 10.0.0.255:4803 { n1 10.0.0.1  n2 10.0.0.2 }\n"
VIPS = "VIPs { e:10.0.0.10/24 e:10.0.0.11/24 { e:10.0.0.12/24 e:10.0.0.13/24 } }\n"

Load = Callable[[str], Loaded]


def parse(text: str) -> Wackamole:
    return parse_wackamole(text, "w.conf")


def refused(text: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [(problem.line, problem.what, problem.fix) for problem in caught.value.problems]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def run(text: str) -> Loaded:
        wackamole, spread = tmp_path / "w.conf", tmp_path / "s.conf"
        wackamole.write_text(text)
        spread.write_text(SPREAD)
        return load_wackamole(wackamole, spread, node="n1", secret=tmp_path / "none")

    return run


def warned(loaded: Loaded, *words: str) -> list[int | None]:
    """Lines of the warnings on the Wackamole file that have all the words."""
    return [
        problem.line
        for problem in loaded.warnings
        if problem.file.endswith("w.conf") and all(word in str(problem) for word in words)
    ]


@pytest.mark.parametrize(
    ("text", "pick", "value"),
    [
        ("Group = www", lambda w: w.group.value, "www"),
        ("gROUP = www", lambda w: w.group.value, "www"),
        ("Group = www#comment", lambda w: w.group.value, "www"),
        ('Group = "a # b {x} all"', lambda w: w.group.value, "a # b {x} all"),
        ("Group = 'single'", lambda w: w.group.value, "single"),
        ('Group = "all"', lambda w: w.group.value, "all"),
        ('Group = x"y"', lambda w: w.group.value, 'x"y"'),
        ('Group = "x"y', lambda w: w.group.value, '"x"y'),
        ("Group\n\n=\r\n\twww", lambda w: (w.group.value, w.group.line), ("www", 4)),
        ("Group = a Group = b", lambda w: w.group.value, "b"),
        ("Spread = 4803", lambda w: w.spread.value, "4803"),
        ("Spread = 4803@host", lambda w: w.spread.value, "4803@host"),
        ("SpreadRetryInterval = 7s", lambda w: w.retry_interval.value, 7),
        ("Control = /run/w", lambda w: w.control.value, "/run/w"),
        ("Mature = 5s", lambda w: w.mature.value, 5),
        ("mature = 5S#x", lambda w: w.mature.value, 5),
        ("Mature = 2m", lambda w: w.mature.value, 120),
        ("Mature = 1h", lambda w: w.mature.value, 3600),
        ("Arp-Cache = 90s", lambda w: w.arp_cache.value, 90),
        ("Balance{Interval = 4s}", lambda w: (w.balance_interval.value, w.acquisitions_per_round), (4, None)),
        ("balance { AcquisitionsPerRound = 3 }", lambda w: w.acquisitions_per_round.value, 3),
        ("Balance { interval = 1s interval = 2s }", lambda w: w.balance_interval.value, 2),
        ("VIFs { 10.0.0.1/24 }", lambda w: [(a.interface, a.net) for g in w.vips for a in g.value], [(None, 24)]),
        ("VIPs{e:10.0.0.1/32n16}", lambda w: [(a.bits, a.net) for g in w.vips for a in g.value], [(32, 16)]),
        (
            "VirtualInterfaces { e:10.0.0.1/24 { e:10.0.0.2/24\nf:10.1.0.2/16 } } VIPs { e:10.0.0.3/24 }",
            lambda w: [[(a.address, a.line) for a in g.value] for g in w.vips],
            [[("10.0.0.1", 1)], [("10.0.0.2", 1), ("10.1.0.2", 2)], [("10.0.0.3", 2)]],
        ),
        ("Notify None", lambda w: w.notify, []),
        ("Notify arp-cache", lambda w: [n.address for n in w.notify], [None]),
        (
            "Notify { e:10.0.0.1/32 throttle 9 ping e:10.0.0.0/24 arp-cache ping } Notify { e:10.0.1.0/24 }",
            lambda w: [(n.address and n.address.address, n.throttle) for n in w.notify],
            [("10.0.0.1", 9), ("10.0.0.0", None), (None, None), ("10.0.1.0", None)],
        ),
        ("Prefer None", lambda w: w.prefer, []),
        ("Prefer { }", lambda w: w.prefer, []),
        ("Prefer 10.0.0.1/32", lambda w: [p.address for p in w.prefer], ["10.0.0.1"]),
        ("Prefer { 10.0.0.1/32 e:10.0.0.2/32 }", lambda w: [p.address for p in w.prefer], ["10.0.0.1", "10.0.0.2"]),
        ("", lambda w: (w.group, w.vips), (None, [])),
        ("# only a comment", lambda w: w.group, None),
    ],
)
def test_grammar(text: str, pick: Callable[[Any], Any], value: object) -> None:
    assert pick(parse(text)) == value


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("Spread=4803", "'Spread=4803' is one word", "put white space around '=': `Spread = 4803`"),
        ("Spread =4803", "expected '=' after Spread, not '=4803'", "`Spread = VALUE` with white space"),
        ("Mature = 5", "expected a time after Mature, not '5'", "`Mature = 5s`"),
        ("Mature = 5ms", "not '5ms'", "s, m or h"),
        ("Group = prefer", "expected a string after Group, not 'prefer'", 'in quotes: Group = "prefer"'),
        ("Group = 5", "expected a string after Group, not '5'", 'Group = "5"'),
        ("Group =", "not the end of the file", "write a value"),
        ("Nonsense", "unknown keyword 'Nonsense'", "make it a comment"),
        ("VirtualInterface { e:10.0.0.1/24 }", "unknown keyword 'VirtualInterface'", "did you mean VirtualInterfaces?"),
        ("Balance { }", "Balance is empty", "remove it"),
        ("Balance { Interval = 4s", "'{' has no '}'", "add '}' before the end of the file"),
        ("Balance { Foo = 4 }", "'Foo' is not known in Balance", "`Interval = 4s`"),
        ("VIPs { 10.0.0.1 }", "expected an address, not '10.0.0.1'", "`10.0.0.1/24`"),
        ("VIPs { e:10.0.0.256/24 }", "10.0.0.256 is not an IPv4 address", "up to 255"),
        ("VIPs { e:10.0.0.1/33 }", "33 is not a prefix length", "0 to 32"),
        ("VIPs { e:10.0.0.1/24n99 }", "99 is not a prefix length", "0 to 32"),
        ("VIPs { e:1:10.0.0.1/24 }", "not 'e:1:10.0.0.1/24'", "without alias: `e:10.0.0.1/24`"),
        ("VIPs { e:2001:db8::1/64 }", "not 'e:2001:db8::1/64'", "no IPv6"),
        ("VIPs { { } }", "an empty group", "write addresses into it"),
        ("Notify e:10.0.0.1/32", "expected None, arp-cache or '{' after Notify", "Notify { "),
        ("Notify { arp-cache throttle 5 }", "throttle is not allowed on arp-cache", "remove it"),
        ("Notify { e:10.0.0.1/32 ping throttle 5 }", "throttle stands before ping", "throttle 128 ping"),
        ("Notify { e:10.0.0.1/32 throttle = 5 }", "expected a number after throttle, not '='", "without '='"),
        ("RunDynamic a:b on  up", "expected `on up`", "exactly one space"),
        ("RunDynamic = a:b on up", "RunDynamic takes no '='", "remove the '='"),
        ("ModuleDir /x", "'=' expected after ModuleDir", "`ModuleDir = DIRECTORY`"),
        ("Interval = 5s", "'Interval' stands outside of a block", "`Balance { ... }`"),
        ("ping", "'ping' stands outside of a block", "`Notify { ... }`"),
        ("}", "expected a keyword, not '}'", "line above"),
        ("Control = '/run/x", "quote ' is not closed", "close it"),
        ("Mature = 99999999999s", "too long a time", "write less"),
    ],
)
def test_syntax_errors(text: str, what: str, fix: str) -> None:
    found = refused(f"\n{text}\n")
    assert [line for line, _, _ in found] == [2] * len(found)
    assert any(what in found_what and fix in found_fix for _, found_what, found_fix in found), found


def test_one_error_costs_one_statement() -> None:
    text = "Group www\nMature = 5s\nMatur = 4s\nVIPs { e:10.0.0.1 e:10.0.0.2/24\ne:10.0.0.3/99 }\nControl = all\n"
    assert [line for line, _, _ in refused(text)] == [1, 3, 4, 5, 6]


def test_missing_brace_is_found_at_the_next_keyword() -> None:
    assert refused("VIPs { e:10.0.0.1/24\nMature = 5s\nGroup 5\n") == [
        (1, "'{' has no '}'", "add '}' before 'Mature' (line 2)"),
        (3, "expected '=' after Group, not '5'", "write `Group = VALUE` with white space around '='"),
    ]


def test_hours_are_hours_with_a_warning(load: Load) -> None:
    loaded = load(f"Group = g\n{VIPS}\nMature = 1h\n")
    assert loaded.configuration.mature == 3600
    assert warned(loaded, "Mature = 1h was 1 seconds in Wackamole") == [4]


def test_defaults_where_code_and_manual_differ(load: Load) -> None:
    loaded = load(f"Group = g\n{VIPS}Balance {{ AcquisitionsPerRound = 2 }}\n")
    configuration = loaded.configuration
    assert (configuration.mature, configuration.balance.interval, configuration.arp_cache.interval) == (5, 4, 60)
    assert configuration.balance.acquisitions_per_round == 2
    assert warned(loaded, "no Mature: 5s", "300 s") == [None]
    assert warned(loaded, "Balance without Interval: 4s", "300 s") == [3]
    assert warned(loaded, "AcquisitionsPerRound = 2 counts moves of the whole cluster") == [3]


def test_nothing_said_about_balance_is_one_move_a_round(load: Load) -> None:
    loaded = load(f"Group = g\n{VIPS}Mature = 5s")
    assert loaded.configuration.balance.acquisitions_per_round == 1
    assert not warned(loaded, "alance")
    zero = load(f"Group = g\n{VIPS}Balance {{ AcquisitionsPerRound = 0 Interval = 4s }}")
    assert zero.configuration.balance.acquisitions_per_round == 1
    assert warned(zero, "stopped balancing") == [3]


def test_names_and_groups(load: Load) -> None:
    pool = load(f"Group = g\n{VIPS}").configuration.pool
    assert [(vip.name, len(vip.addresses)) for vip in pool] == [("10.0.0.10", 1), ("10.0.0.11", 1), ("10.0.0.12", 2)]


def test_attached_network_does_not_follow_the_netmask(load: Load) -> None:
    text = "Group = g VIPs { e:10.0.0.10/32 e:10.0.0.11/16 e:10.0.0.12/16n20 e:10.0.0.13/24 }"
    entries = [str(vip.addresses[0]) for vip in load(text).configuration.pool]
    assert entries == ["e:10.0.0.10/32n24", "e:10.0.0.11/16n24", "e:10.0.0.12/16n20", "e:10.0.0.13/24"]


@pytest.mark.parametrize(
    ("prefer", "names", "words"),
    [
        ("Prefer 10.0.0.10/32", ["10.0.0.10"], "each node's own wish"),
        ("Prefer { 10.0.0.10/32 10.0.0.12/32 }", ["10.0.0.10", "10.0.0.12"], "each node's own wish"),
        ("Prefer 10.0.0.10/31", ["10.0.0.10", "10.0.0.11"], "ranges did not work"),
        ("Prefer 10.0.0.13/32", ["10.0.0.12"], "not the first address of"),
        ("Prefer 10.9.9.9/32", [], "matches no VIP"),
        ("Prefer www7", [], "Wackamole never looked names up"),
    ],
)
def test_prefer(load: Load, prefer: str, names: list[str], words: str) -> None:
    loaded = load(f"Group = g\n{VIPS}{prefer}\n")
    assert [vip.name for vip in loaded.configuration.pool if vip.prefer == ("n1",)] == names
    assert [vip.name for vip in loaded.configuration.pool if vip.prefer] == names
    assert warned(loaded, words) == [3]


def test_notify(load: Load) -> None:
    loaded = load(f"Group = g\n{VIPS}Notify {{ 10.0.0.0/24 throttle 5 arp-cache\ne:10.0.0.1/32 ping f:10.0.0.1/32 }}")
    targets = [(t.interface, str(t.network), t.throttle) for t in notify_targets(loaded.configuration)]
    assert targets == [("e", "10.0.0.0/24", 5), ("e", "10.0.0.1/32", None), ("f", "10.0.0.1/32", None)]
    assert use_arp_cache(loaded.configuration)
    assert warned(loaded, "has no interface, so Wackamole told nobody") == [3]
    assert warned(loaded, "ping is not carried over") == [4]
    assert warned(loaded, "f:10.0.0.1/32 is on no VIP's network") == [4]


@pytest.mark.parametrize(
    "statement",
    [
        "RunDynamic notify.so:up on up",
        "RunDynamic Main::down ON DOWN",
        "RunDynamic x post up",
        "RunDynamic x post down",
        "PerlUse Some::Module",
        "PerlUseLib /usr/lib/perl",
        "ModuleDir = /usr/lib/wackamole",
        "LogFacility = LOG_DAEMON",
    ],
)
def test_code_and_log_are_not_carried_over(load: Load, statement: str) -> None:
    loaded = load(f"Group = g\n{VIPS}{statement}\n")
    assert warned(loaded, statement.split()[0], "is not carried over") == [3]


def test_spread_daemon_elsewhere(load: Load) -> None:
    loaded = load(f"Group = g\n{VIPS}Spread = 3333@10.0.0.2\nControl = /run/%d.sock")
    assert loaded.configuration.engine.port == 4803
    assert warned(loaded, "has port 4803") == [3]
    assert warned(loaded, "daemon on another host") == [3]
    assert warned(loaded, "'%' in Control") == [4]
    assert loaded.configuration.control == "/run/%d.sock"


def test_comments_in_another_encoding_and_dos_lines(tmp_path: Path) -> None:
    wackamole, spread = tmp_path / "w.conf", tmp_path / "s.conf"
    wackamole.write_bytes(b"# caf\xe9\r\nGroup = g\r\nVIPs { e:10.0.0.9/24 }\r\n")
    spread.write_bytes(b"\xef\xbb\xbf# \xe9\r\n" + SPREAD.encode())
    loaded = load_wackamole(wackamole, spread, node="n1", secret=tmp_path / "none")
    assert isinstance(loaded.configuration, Configuration)
    assert loaded.configuration.cluster == "g"
