"""What a running agent may take over: pure rules on two configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.load import load
from agent.config.models import Configuration
from agent.config.reload import fixed

TEXT = """cluster: www
node: www1
partition: quorum
engine: {members: {www1: 192.0.2.1, www2: 192.0.2.2, www3: 192.0.2.3}, insecure: true}
vips: [{addresses: ["eth0:192.0.2.10/24"]}]
"""


def configured(directory: Path, text: str) -> Configuration:
    path = directory / "molehill.yaml"
    path.write_text(text)
    return load(path).configuration


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ("votes: {www1: 2}", ""),
        ("votes: {www1: 0}", ""),
        ("votes: {www1: 3}", "www1 +2"),
        ("votes: {www1: 2, www2: 0}", "www1 +1, www2 -1"),
        ("lease: {fast: 250ms}", ""),
        ("lease: {address: 5s}", "lease.address is 5.0, the running agent has 3.0"),
        ("conflict: {policy: yield}", ""),
        ("conflict: {probe: true}", "conflict.probe is True"),
        ("realtime: true", "realtime is True"),
    ],
)
def test_what_a_reload_may_change(tmp_path: Path, change: str, refused: str) -> None:
    problems = fixed(configured(tmp_path, TEXT), configured(tmp_path, f"{TEXT}{change}\n"))
    assert bool(problems) == bool(refused)
    assert all(refused in str(problem) for problem in problems)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ('{name: web, addresses: ["eth0:192.0.2.10/24"]}', "192.0.2.10 goes from VIP '192.0.2.10' to VIP 'web'"),
        ('{addresses: ["eth0:192.0.2.9/24", "eth0:192.0.2.10/24"]}', "goes from VIP '192.0.2.10' to VIP '192.0.2.9'"),
        ('{addresses: ["eth0:192.0.2.10/24", "eth0:192.0.2.9/24"]}', ""),
        ('{addresses: ["eth1:192.0.2.10/28"]}', ""),
        ('{addresses: ["eth0:192.0.2.11/24"]}', ""),
    ],
)
def test_an_address_keeps_the_name_of_its_vip(tmp_path: Path, change: str, refused: str) -> None:
    new = TEXT.replace('{addresses: ["eth0:192.0.2.10/24"]}', change)
    problems = fixed(configured(tmp_path, TEXT), configured(tmp_path, new))
    assert bool(problems) == bool(refused)
    assert all(refused in str(problem) for problem in problems)


def test_members_come_and_go_one_at_a_time(tmp_path: Path) -> None:
    old = configured(tmp_path, TEXT)
    one = TEXT.replace("www3: 192.0.2.3", "www3: 192.0.2.3, www4: 192.0.2.4")
    two = one.replace("www4: 192.0.2.4", "www4: 192.0.2.4, www5: 192.0.2.5")
    assert fixed(old, configured(tmp_path, one)) == []
    (problem,) = fixed(old, configured(tmp_path, two))
    assert "www4 +1, www5 +1" in str(problem)


def test_votes_are_nobodys_business_without_a_quorum(tmp_path: Path) -> None:
    text = TEXT.replace("quorum", "component")
    assert fixed(configured(tmp_path, text), configured(tmp_path, f"{text}votes: {{www1: 3, www2: 3}}\n")) == []


def test_the_policy_itself_needs_a_restart(tmp_path: Path) -> None:
    (problem,) = fixed(configured(tmp_path, TEXT), configured(tmp_path, TEXT.replace("quorum", "component")))
    assert "partition is component" in str(problem)
