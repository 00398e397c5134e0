"""What is made of a configuration: settings, digest, keys, ranges, and the look at the live host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.config.derive import core_settings, digest
from agent.config.live import check_live
from agent.config.load import load
from agent.config.models import Configuration
from agent.config.problem import ConfigError
from agent.config.ranges import notify_targets, use_arp_cache
from agent.config.secret import keys
from agent.core.ids import NodeName

BASE = """\
cluster: www
node: www1
engine: {members: {www1: 127.0.0.1, www2: 192.0.2.2}, insecure: true}
vips:
  - {name: a, addresses: ["eth0:10.0.0.10/24", "eth1:10.1.0.10/32n24"], prefer: [www2], nodes: [www2, www1]}
  - {name: b, addresses: ["eth0:2001:db8::b/64"]}
"""


def configured(tmp_path: Path, text: str) -> Configuration:
    path = tmp_path / "molehill.yaml"
    path.write_text(text)
    return load(path).configuration


def test_settings(tmp_path: Path) -> None:
    text = (
        f"{BASE}votes: {{www2: 3, www1: 2}}\nweight: 0.5\nbalance: {{acquisitions_per_round: 2}}\npartition: quorum\n"
    )
    settings = core_settings(configured(tmp_path, text))
    assert settings.members == ("www1", "www2")
    assert settings.votes == (("www1", 2), ("www2", 3))
    assert (settings.weight, settings.acquisitions_per_round, settings.serves) == (0.5, 2, True)
    assert settings.partition == "quorum"
    assert settings.lease_bound == pytest.approx(0.36)
    assert settings.votes_needed == 3
    assert [settings.votes_of(NodeName(name)) for name in ("www1", "www2", "stranger")] == [2, 3, 0]
    assert core_settings(configured(tmp_path, f"{BASE}lease: {{fast: off}}\n")).lease_bound == 0
    assert core_settings(configured(tmp_path, f"{BASE}lease: {{fast: 250ms}}\n")).lease_bound == 0.25
    first = settings.vips[0]
    assert (first.name, first.prefer, first.nodes) == ("a", ("www2",), ("www2", "www1"))
    assert [(a.interface, a.address, a.prefix, a.network) for vip in settings.vips for a in vip.addresses] == [
        ("eth0", "10.0.0.10", 24, "10.0.0.0/24"),
        ("eth1", "10.1.0.10", 32, "10.1.0.0/24"),
        ("eth0", "2001:db8::b", 64, "2001:db8::/64"),
    ]
    assert not core_settings(configured(tmp_path, BASE.partition("vips")[0] + "vips: false\n")).serves


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("node: www1", "node: www2"),
        ("eth0:10", "bond0:10"),
        ("10.0.0.10/24", "10.0.0.10/16"),
        ("prefer: [www2]", "prefer: []"),
        ("[www2, www1]", "[www1, www2]"),
        ("cluster: www", "votes: {www1: 1}\ncluster: www"),
        ("cluster: www", "weight: 3\ncluster: www"),
        ("insecure: true", "insecure: true, port: 5000"),
    ],
)
def test_digest_ignores_what_is_each_nodes_own(tmp_path: Path, old: str, new: str) -> None:
    assert old in BASE
    assert digest(configured(tmp_path, BASE.replace(old, new))) == digest(configured(tmp_path, BASE))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cluster: www", "cluster: web"),
        ("name: a", "name: c"),
        ("10.0.0.10", "10.0.0.11"),
        ("[www2, www1]", "[www2]"),
        ("cluster: www", "partition: quorum\ncluster: www"),
        ("cluster: www", "votes: {www1: 2}\ncluster: www"),
        ("cluster: www", "balance: {interval: 5s}\ncluster: www"),
        ("cluster: www", "balance: {acquisitions_per_round: 1}\ncluster: www"),
        ("cluster: www", "mature: 6s\ncluster: www"),
        ("insecure: true", "insecure: true, heartbeat: 90ms"),
        ("insecure: true", "insecure: true, failure_timeout: 500ms"),
    ],
)
def test_digest_shows_what_must_be_alike(tmp_path: Path, old: str, new: str) -> None:
    assert old in BASE
    assert digest(configured(tmp_path, BASE.replace(old, new))) != digest(configured(tmp_path, BASE))


def sealed(tmp_path: Path, secret: bytes, mode: int = 0o640) -> Configuration:
    path = tmp_path / "secret"
    path.write_bytes(secret)
    os.chmod(path, mode)
    return configured(tmp_path, BASE.replace("insecure: true", f"secret_file: {path}"))


def test_keys(tmp_path: Path) -> None:
    configuration = sealed(tmp_path, b"# new one first\nfedcba9876543210\r\n\n  0123456789abcdef  \n")
    assert keys(configuration) == (b"fedcba9876543210", b"0123456789abcdef")
    assert keys(configured(tmp_path, BASE)) == ()


def test_keys_are_read_again(tmp_path: Path) -> None:
    configuration = sealed(tmp_path, b"0123456789abcdef")
    (tmp_path / "secret").write_bytes(b"fedcba9876543210")
    assert keys(configuration) == (b"fedcba9876543210",)
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match=r"molehill.yaml:3: secret_file .* does not exist; make it with"):
        keys(configuration)


@pytest.mark.parametrize(
    ("secret", "mode", "what"),
    [
        (b"", 0o640, "is empty; write one key a line"),
        (b"\n# only this\n", 0o640, "is empty"),
        (b"0123456789abcdef\nshort\n", 0o640, "the key on line 2 of .* has 5 characters; use at least 16"),
        (b"0123456789abcdef", 0o644, r"is open to everybody \(mode 0644\); chmod 0640"),
        (b"0123456789abcdef", 0o602, r"is open to everybody"),
        (b"x" * 70_000, 0o640, "has more than 65536 bytes"),
    ],
)
def test_bad_secrets(tmp_path: Path, secret: bytes, mode: int, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"molehill.yaml:3: .*{what}"):
        sealed(tmp_path, secret, mode)


def test_insecure_asks_for_no_secret(tmp_path: Path) -> None:
    text = BASE.replace("insecure: true", "insecure: true, secret_file: /nonexistent")
    assert keys(configured(tmp_path, text)) == ()


def test_ranges_without_interface_go_where_a_vip_lives(tmp_path: Path) -> None:
    text = f'{BASE}notify: ["10.0.0.0/8", "2001:db8::1/128", {{range: "eth1:10.1.0.0/24", throttle: 9}}]\n'
    configuration = configured(tmp_path, text)
    assert [(t.interface, str(t.network), t.throttle) for t in notify_targets(configuration)] == [
        ("eth0", "10.0.0.0/8", None),
        ("eth1", "10.0.0.0/8", None),
        ("eth0", "2001:db8::1/128", None),
        ("eth1", "10.1.0.0/24", 9),
    ]
    assert not use_arp_cache(configuration)


def test_ranges_count_only_hosts_on_a_vips_network(tmp_path: Path) -> None:
    configured(tmp_path, f'{BASE}notify: ["eth0:10.0.0.0/8"]\n')
    with pytest.raises(ConfigError, match=r":8: notify eth0:2001:db8::/64 makes 18446744073709551616 hosts"):
        configured(tmp_path, f'{BASE}notify:\n  - "eth0:2001:db8::/64"\n')
    wide = BASE.replace("10.0.0.10/24", "10.0.0.10/16")
    configured(tmp_path, f'{wide}notify: ["eth0:10.0.0.0/16"]\n')
    with pytest.raises(ConfigError, match=r":9: notify eth1:10.1.0.0/24 makes 65792 hosts"):
        configured(tmp_path, f'{wide}notify:\n  - "eth0:10.0.0.0/16"\n  - "eth1:10.1.0.0/24"\n')


def host(root: Path, *, arp_ignore: str = "1", promote: str = "1", flags: str = "0x1003") -> Path:
    for name in ("eth0", "eth1"):
        (root / "sys/class/net" / name).mkdir(parents=True)
        (root / "sys/class/net" / name / "flags").write_text(f"{flags}\n")
    for name in ("all", "eth0", "eth1"):
        directory = root / "proc/sys/net/ipv4/conf" / name
        directory.mkdir(parents=True)
        (directory / "arp_ignore").write_text("0\n" if name != "all" else f"{arp_ignore}\n")
        (directory / "promote_secondaries").write_text("0\n" if name != "eth0" else f"{promote}\n")
    return root


def test_a_good_host(tmp_path: Path) -> None:
    configuration = configured(tmp_path, f"{BASE}control: {tmp_path}/control.sock\n".replace("eth1", "eth0"))
    assert check_live(configuration, host(tmp_path / "root")) == []


@pytest.mark.parametrize(
    ("bad", "line", "severity", "what"),
    [
        ({"arp_ignore": "0"}, 5, "warning", "eth0 answers ARP for addresses of other interfaces"),
        ({"promote": "0"}, 5, "warning", "promote_secondaries is 0"),
        ({"flags": "0x1002"}, 5, "warning", "interface eth0 is down"),
    ],
)
def test_a_badly_set_host(tmp_path: Path, bad: dict[str, str], line: int, severity: str, what: str) -> None:
    configuration = configured(tmp_path, f"{BASE}control: {tmp_path}/control.sock\n".replace("eth1", "eth0"))
    (problem,) = check_live(configuration, host(tmp_path / "root", **bad))
    assert (problem.line, problem.severity) == (line, severity)
    assert what in problem.what
    assert problem.fix


def test_the_wrong_host(tmp_path: Path) -> None:
    text = BASE.replace("127.0.0.1", "192.0.2.1").replace("eth1", "eth7")
    found = check_live(configured(tmp_path, f"{text}control: /nonexistent/c.sock\n"), host(tmp_path / "root"))
    assert [(problem.line, problem.what, problem.severity) for problem in found] == [
        (5, "interface eth7 does not exist", "error"),
        (3, "192.0.2.1 is not an address of this host", "error"),
        (7, "directory /nonexistent of the control socket does not exist", "warning"),
    ]
    assert found[0].fix == "this host has eth0, eth1"


def test_this_machine_is_read_for_real(tmp_path: Path) -> None:
    found = check_live(configured(tmp_path, BASE.replace("eth0", "lo").replace("eth1", "no-such-nic")))
    assert any("interface no-such-nic does not exist" in problem.what and "lo" in problem.fix for problem in found)
    assert not any("interface lo" in problem.what for problem in found)
