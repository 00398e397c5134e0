"""The seed's files run as they are: what they mean, word for word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.config.commands import converted
from agent.config.convert import to_yaml
from agent.config.derive import core_settings
from agent.config.load import Loaded, load, load_wackamole
from agent.config.problem import ConfigError
from agent.config.ranges import notify_targets, use_arp_cache
from agent.config.values import IpNetwork, parse_interface_address
from agent.core.settings import Address, Timing
from agent.drivers.targets import NotifyTarget

SEED = Path(__file__).parent.parent / "seed"
WACKAMOLE, SPREAD = SEED / "wackamole.conf", SEED / "spread.conf"


def seed(node: str | None = "www1", overrides: tuple[str, ...] = (), secret: Path = Path("/nonexistent")) -> Loaded:
    return load_wackamole(WACKAMOLE, SPREAD, node=node, overrides=overrides, secret=secret)


def network(text: str) -> IpNetwork:
    return parse_interface_address(text).range


def test_golden() -> None:
    assert to_yaml(seed().configuration) == (
        "cluster: www\n"
        "node: www1\n"
        "engine:\n"
        "  port: 4803\n"
        "  members: {www1: 192.168.3.140, www2: 192.168.3.141}\n"
        "  broadcast: 192.168.3.255\n"
        "  insecure: true\n"
        "  retry_interval: 5s\n"
        "vips:\n"
        "- name: 192.168.3.145\n"
        "  addresses: ['eth4:192.168.3.145/24']\n"
        "notify: ['eth4:192.168.1.1/32', arp-cache]\n"
        "arp_cache: {interval: 90s}\n"
        "balance: {acquisitions_per_round: all, interval: 4s}\n"
        "mature: 5s\n"
        "control: /var/run/wackamole/wackamole.it\n"
    )


def test_warnings_name_file_and_line() -> None:
    places = [(Path(problem.file).name, problem.line, problem.what.split(",")[0]) for problem in seed().warnings]
    assert places == [
        ("spread.conf", 1, "no key: datagrams are not sealed"),
        ("spread.conf", 6, "not carried over: DebugFlags (line 6)"),
        ("wackamole.conf", 13, "notify eth4:192.168.1.1/32 is on no VIP's network"),
        ("wackamole.conf", 17, "AcquisitionsPerRound = all moved at most half of the VIPs"),
    ]
    assert all(problem.severity == "warning" for problem in seed().warnings)


def test_core_settings() -> None:
    settings = core_settings(seed().configuration)
    assert (settings.cluster, settings.node, settings.members) == ("www", "www1", ("www1", "www2"))
    (vip,) = settings.vips
    assert vip.name == "192.168.3.145"
    assert vip.addresses == (Address("eth4", "192.168.3.145", 24, "192.168.3.0/24"),)
    assert settings.timing == Timing(heartbeat=0.1, failure_timeout=0.4, mature=5.0, balance_interval=4.0)
    assert settings.acquisitions_per_round is None


def test_notify() -> None:
    configuration = seed().configuration
    assert notify_targets(configuration) == (NotifyTarget("eth4", network("192.168.1.1/32"), None),)
    assert use_arp_cache(configuration)


def test_nodes_agree_on_the_digest_and_not_on_their_names() -> None:
    one, two = (core_settings(seed(name).configuration) for name in ("www1", "www2"))
    assert one.digest == two.digest != ""
    assert one.node != two.node


def test_converted_file_loads_to_the_same(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef\n")
    os.chmod(secret, 0o640)
    for where in (Path("/nonexistent"), secret):
        first = seed(secret=where)
        path = tmp_path / "molehill.yaml"
        path.write_text(converted(first))
        again = load(path)
        assert again.configuration == first.configuration
        assert all(f"# {problem}\n" in path.read_text() for problem in first.warnings)
    assert again.configuration.engine.secret_file == str(secret)
    assert not again.configuration.engine.insecure


def test_node_must_be_a_daemon() -> None:
    with pytest.raises(ConfigError) as caught:
        seed("www7")
    assert str(caught.value) == (
        "-n www7: node 'www7' is not among the members (www1, www2); "
        "say which of them this host is: `-n NAME` or `node: NAME`"
    )


def test_a_member_is_added_by_override() -> None:
    loaded = seed("www3", ("engine.members.www3=192.168.3.142", "http.listen=127.0.0.1:9748"))
    assert list(loaded.configuration.engine.members) == ["www1", "www2", "www3"]
    assert str(loaded.configuration.bind) == "192.168.3.142"
    assert str(loaded.configuration.http.listen) == "127.0.0.1:9748"


def test_node_by_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "www2.example.org")
    assert seed(None).configuration.node == "www2"


def test_node_by_local_address(tmp_path: Path) -> None:
    spread = tmp_path / "spread.conf"
    spread.write_text("Spread_Segment 127.255.255.255:4803 { here 127.0.0.7\n there 192.0.2.77 }")
    assert load_wackamole(WACKAMOLE, spread, secret=Path("/nonexistent")).configuration.node == "here"
    spread.write_text("Spread_Segment 127.255.255.255:4803 { here 127.0.0.7\n me 127.0.0.8 }")
    with pytest.raises(ConfigError, match=r"is not among the members \(here, me\)"):
        load_wackamole(WACKAMOLE, spread, secret=Path("/nonexistent"))
