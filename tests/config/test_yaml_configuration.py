"""The YAML file: every key of the contract, defaults, lines, overrides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.config.convert import to_yaml
from agent.config.document import parse_yaml
from agent.config.features import notes, unsupported
from agent.config.load import load
from agent.config.models import Configuration
from agent.config.problem import ConfigError
from agent.config.schema import json_schema

SMALL = """\
cluster: www
node: www1
engine: {members: {www1: 192.0.2.1}, insecure: true}
vips: [{addresses: ["e:192.0.2.9/24"]}]
"""

FULL = """\
cluster: www
node: www1
state_dir: /var/lib/other
engine:
  kind: embedded
  bind: 192.168.3.140
  port: 4804
  members: {www1: 192.168.3.140, www2: 192.168.3.141}
  broadcast: 192.168.3.255
  heartbeat: 50ms
  failure_timeout: 200ms
  profile: lan
  insecure: true
  address: null
  retry_interval: 6s
vips:
  - name: web
    addresses: ["eth4:192.168.3.145/24", "eth4:[2001:db8::145]/64"]
    prefer: [www1]
    nodes: [www1, www2]
    checks: [{name: page, http: "http://127.0.0.1/health", interval: 2s, timeout: 500ms, rise: 3, fall: 4}]
notify: ["eth4:192.168.3.1/32", {range: "eth4:192.168.3.0/24", throttle: 128}, arp-cache]
arp_cache: {interval: 91s}
announce: {refresh: 61s}
balance: {acquisitions_per_round: 7, interval: 3s}
mature: 6s
partition: component
votes: {www1: 2}
lease: {fast: 120ms, address: 4s}
conflict: {probe: true, policy: yield}
realtime: true
weight: 2
checks:
  - {name: port, tcp: "127.0.0.1:80"}
  - {name: script, command: [/bin/true, --quick]}
  - {name: wire, link: eth4}
hooks: {acquired: [/etc/molehill/a], released: [/etc/molehill/r]}
http: {listen: "127.0.0.1:9749", web_config: /etc/molehill/web.yml}
control: /run/molehill/other.sock
tracing: {endpoint: "http://127.0.0.1:4318", sample: 0.5}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "molehill.yaml"
    path.write_text(text)
    return path


def test_every_key_is_read(tmp_path: Path) -> None:
    configuration = load(write(tmp_path, FULL)).configuration
    assert configuration.model_fields_set == Configuration.model_fields.keys()
    assert (configuration.engine.heartbeat, configuration.engine.failure_timeout) == (0.05, 0.2)
    assert configuration.balance.acquisitions_per_round == 7
    assert configuration.lease.fast == 0.12
    assert configuration.tracing is not None
    assert configuration.tracing.sample == 0.5
    assert [check.name for check in configuration.checks] == ["port", "script", "wire"]
    assert configuration.pool[0].checks[0].fall == 4


def test_writing_and_reading_again_changes_nothing(tmp_path: Path) -> None:
    first = load(write(tmp_path, FULL)).configuration
    assert load(write(tmp_path, to_yaml(first))).configuration == first


def test_defaults(tmp_path: Path) -> None:
    configuration = load(write(tmp_path, SMALL)).configuration
    assert configuration.state_dir == "/var/lib/molehill"
    assert configuration.engine.port == 4803
    assert (configuration.arp_cache.interval, configuration.announce.refresh, configuration.mature) == (90, 60, 5)
    assert (configuration.balance.acquisitions_per_round, configuration.balance.interval) == ("all", 4)
    assert (configuration.lease.fast, configuration.lease.address) == ("auto", 3)
    assert str(configuration.http.listen) == ":9748"
    assert configuration.pool[0].name == "192.0.2.9"
    assert configuration.tracing is None
    assert not notes(configuration)
    assert not unsupported(configuration)


@pytest.mark.parametrize(
    ("engine", "heartbeat", "timeout"),
    [
        ("profile: lan", 0.1, 0.4),
        ("profile: fast", 0.01, 0.05),
        ("profile: wan", 0.5, 3.0),
        ("profile: wan, heartbeat: 1s", 1.0, 3.0),
        ("profile: fast, failure_timeout: 1s", 0.01, 1.0),
    ],
)
def test_profiles(tmp_path: Path, engine: str, heartbeat: float, timeout: float) -> None:
    found = load(write(tmp_path, SMALL.replace("insecure: true", f"insecure: true, {engine}"))).configuration.engine
    assert (found.heartbeat, found.failure_timeout) == (heartbeat, timeout)


def test_lease_off_is_not_false(tmp_path: Path) -> None:
    configuration = load(write(tmp_path, f"{SMALL}lease: {{fast: off}}\n")).configuration
    assert configuration.lease.fast == "off"
    assert load(write(tmp_path, to_yaml(configuration))).configuration == configuration


def test_tie_breaker_serves_nothing(tmp_path: Path) -> None:
    text = SMALL.partition("vips")[0]
    loaded = load(write(tmp_path, f"{text}vips: false\n"))
    assert loaded.configuration.pool == ()
    assert not loaded.warnings
    (warning,) = load(write(tmp_path, text)).warnings
    assert "no VIPs" in str(warning)


def test_node_is_the_short_host_name_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "www1.example.org")
    path = write(tmp_path, SMALL.replace("node: www1\n", ""))
    assert load(path).configuration.node == "www1"
    with pytest.raises(ConfigError, match=r"^-n other: node 'other' is not among the members \(www1\)"):
        load(path, node="other")


def test_notes_say_what_is_not_in_force(tmp_path: Path) -> None:
    found = notes(load(write(tmp_path, FULL)).configuration)
    assert [(problem.line, problem.what) for problem in found] == [
        (line(row), f"not in force yet: {name}")
        for row, name in (
            ("checks:", "checks"),
            ("hooks:", "hooks"),
            ("    checks:", "checks of VIP 'web'"),
        )
    ]
    assert all(problem.severity == "warning" for problem in found)


def line(start: str) -> int:
    return next(number for number, row in enumerate(FULL.splitlines(), 1) if row.startswith(start))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("insecure: true", "insecure: true, kind: spread"), "engine 'spread' is not in force yet"),
        (("insecure: true", "insecure: true, kind: corosync"), "engine 'corosync' is not in force yet"),
        (("members: {www1: 192.0.2.1}", "multicast: 239.1.2.3"), "cannot be discovered by multicast yet"),
        (("members: {www1: 192.0.2.1}", "broadcast: 192.0.2.255"), "cannot be discovered by broadcast yet"),
    ],
)
def test_unsupported(tmp_path: Path, change: tuple[str, str], what: str) -> None:
    path = write(tmp_path, SMALL.replace(*change))
    (problem,) = unsupported(load(path).configuration)
    assert what in problem.what
    assert problem.severity == "error"
    assert (problem.file, problem.line) == (str(path), 3)


@pytest.mark.parametrize(
    ("override", "pick", "value"),
    [
        ("engine.port=4900", lambda c: c.engine.port, 4900),
        ("engine.members.www3.example=192.0.2.3", lambda c: str(c.engine.members["www3.example"]), "192.0.2.3"),
        ("votes.www1=3", lambda c: c.votes, {"www1": 3}),
        ("mature=0s", lambda c: c.mature, 0),
        ("vips.0.name=front", lambda c: c.pool[0].name, "front"),
        ("vips=false", lambda c: c.vips, False),
        ("notify=[arp-cache]", lambda c: c.notify, ("arp-cache",)),
        ("tracing.endpoint=http://127.0.0.1:4318", lambda c: c.tracing.endpoint, "http://127.0.0.1:4318"),
        ("http.listen=:9999", lambda c: c.http.listen.port, 9999),
    ],
)
def test_overrides(tmp_path: Path, override: str, pick: Any, value: object) -> None:
    assert pick(load(write(tmp_path, SMALL), overrides=[override]).configuration) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.prot=1", "unknown key 'prot' in engine; did you mean 'port'?"),
        ("nothing.at.all=1", "unknown key 'nothing'"),
        ("engine.port=x", "engine.port: 'x' is not a whole number"),
        ("engine.port", "'engine.port' is not KEY=VALUE"),
        ("=5", "'=5' is not KEY=VALUE"),
        ("a..b=5", "'a..b=5' is not KEY=VALUE"),
        ("cluster.name=x", "'cluster' has no keys"),
        ("vips.5.name=x", "'vips.5.name' has no keys"),
        ("mature=[", "not YAML"),
        ("mature=", "'nothing' is not a duration"),
        ("engine=5", "engine: '5' is not keys with values"),
        ("vips.0={addresses: ['e:192.0.2.1/24']}", "VIP 192.0.2.1 is the own address of member www1"),
    ],
)
def test_errors_name_the_override(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, SMALL), overrides=[override])
    lines = [line for line in str(caught.value).splitlines() if line.startswith(f"--set {override}: ")]
    assert any(message in line.replace("nothing is", "'nothing' is") for line in lines), str(caught.value)


def test_lines_of_values_in_blocks() -> None:
    data, origins = parse_yaml("a:\n  - b: 1\n    c:\n\n      5\n  - x\n", "f")
    assert data == {"a": [{"b": 1, "c": 5}, "x"]}
    assert [origins.place(location).line for location in (("a",), ("a", 0, "c"), ("a", 1), ("a", 0, "zz"), ("q",))] == [
        1,
        3,
        6,
        2,
        None,
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2024-02-30", "2024-02-30"),
        ("010", 8),
        ("0x1f", 31),
        ("1_000", 1000),
        ("-5", -5),
        ("089", "089"),
        ("1.5", 1.5),
        ("~", None),
        ("off", False),
        ("Yes", True),
        ("'5'", "5"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert parse_yaml(text, "f")[0] == value


def test_json_schema_knows_every_key() -> None:
    schema = json.loads(json_schema())
    assert schema["properties"].keys() == Configuration.model_fields.keys()
    assert schema["required"] == ["cluster"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Engine"]["properties"]["heartbeat"]["default"] == "100ms"
    assert schema["properties"]["http"]["default"]["listen"] == ":9748"


def test_a_full_pool_loads_soon_enough(tmp_path: Path) -> None:
    rows = [f'  - {{addresses: ["e:10.{n >> 16}.{n >> 8 & 255}.{n & 255}/8"]}}\n' for n in range(1, 16_385)]
    text = SMALL.partition("vips")[0] + "vips:\n" + "".join(rows)
    assert len(load(write(tmp_path, text)).configuration.pool) == 16_384
    with pytest.raises(ConfigError, match=r":4: 16385 VIPs; at most 16384"):
        load(write(tmp_path, text + '  - {addresses: ["e:10.9.0.1/8"]}\n'))


def test_too_many_members(tmp_path: Path) -> None:
    members = ", ".join(f"www{n}: 10.0.0.{n}" for n in range(1, 130))
    with pytest.raises(ConfigError, match=r":3: 129 members; at most 128"):
        load(write(tmp_path, SMALL.replace("www1: 192.0.2.1", members)))
