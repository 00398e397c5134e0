"""The plan: names and addresses, before anything is made."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import msgspec
import pytest

from agent.lab import plan, sources
from agent.lab.plan import LabError, Plan, VipPlan, generate, lay_out

MANAGEMENT = "10.254.3.0/24"


def test_generated_plan_gives_every_host_distinct_addresses_in_the_vips_network() -> None:
    made = generate("x", 4, 300, MANAGEMENT, ipv6=True)
    own = [address for host in (*made.nodes, made.client) for port in host.ports for address in port.addresses]
    bare = [text.partition("/")[0] for text in own] + [address for _, address in made.addresses()]
    assert len(bare) == len(set(bare)) == 2 * 5 + 2 * 300
    four = ipaddress.ip_network("10.72.0.0/16")
    six = ipaddress.ip_network("fd72::/64")
    for text in bare:
        address = ipaddress.ip_address(text)
        assert address in (four if address.version == 4 else six)
    assert len({port.mac for host in (*made.nodes, made.client) for port in host.ports}) == 5
    document = json.loads(made.configuration)
    assert [vip["name"] for vip in document["vips"]][:2] == ["10.72.1.1", "10.72.1.2"]
    assert document["engine"]["members"]["www4"] == "10.72.0.4"


def test_plan_survives_its_file() -> None:
    made = generate("x", 2, 2, MANAGEMENT, ipv6=True)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Plan) == made


def test_each_interface_of_the_vips_is_a_segment_where_everyone_has_an_address() -> None:
    vips = (
        VipPlan("router", (("eth4", "192.168.3.145", 24), ("eth5", "10.9.0.1", 16))),
        VipPlan("single", (("eth5", "172.20.0.7", 32),)),
    )
    made = lay_out("x", {"a": "192.168.3.140", "b": "192.168.3.141"}, vips, MANAGEMENT, ())
    assert made.interfaces == ("eth4", "eth5")
    eth4, eth5 = made.node("a").ports
    assert eth4.addresses == ("192.168.3.140/24",)
    assert [ipaddress.ip_interface(text).network for text in eth5.addresses] == [ipaddress.ip_network("10.9.0.0/16")]
    assert made.client.ports[0].addresses[0].endswith("/24")
    assert "192.168.3.145" not in made.client.ports[0].addresses[0]


@pytest.mark.parametrize("name", ["", "a-b", "Upper", "waytoolongname", "a/b"])
def test_names_that_could_meet_another_labs_prefix_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="1 to 9 small letters"):
        generate(name, 1, 1, MANAGEMENT)


@pytest.mark.parametrize(
    ("nodes", "vips", "said"), [(0, 1, "--nodes 0"), (129, 1, "--nodes 129"), (1, 0, "--vips 0"), (1, 16_385, "--vips")]
)
def test_impossible_sizes_are_refused(nodes: int, vips: int, said: str) -> None:
    with pytest.raises(LabError, match=said):
        generate("x", nodes, vips, MANAGEMENT)


def test_reserved_node_names_are_refused() -> None:
    with pytest.raises(LabError, match="'net'"):
        lay_out("x", {"net": "10.0.0.1"}, (VipPlan("v", (("eth0", "10.0.0.9", 24),)),), MANAGEMENT, ())


def test_seed_files_with_an_added_node() -> None:
    made = sources.from_directory("x", sources.seed_directory(), MANAGEMENT, {"www3": "192.168.3.142"}, [])
    assert [(node.name, node.ports[0].addresses) for node in made.nodes] == [
        ("www1", ("192.168.3.140/24",)),
        ("www2", ("192.168.3.141/24",)),
        ("www3", ("192.168.3.142/24",)),
    ]
    assert made.interfaces == ("eth4",)
    assert list(made.addresses()) == [("192.168.3.145", "192.168.3.145")]
    told = " ".join(made.agent_arguments)
    assert "--wackamole-conf" in told
    assert "--set engine.members.www3=192.168.3.142" in told
    assert made.client.ports[0].addresses == ("192.168.3.251/24",)


def test_a_directory_with_yaml(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "molehill.yaml").write_text(
        "cluster: c\nengine:\n  members: {a: 10.5.0.1, b: 10.5.0.2}\n"
        f"  secret_file: {tmp_path}/secret\n"
        'vips:\n  - {name: web, addresses: ["eth7:10.5.0.9/24", "eth7:fd05::9/64"]}\n'
    )
    made = sources.from_directory("x", tmp_path, MANAGEMENT, {}, ["node=a"])
    assert [node.name for node in made.nodes] == ["a", "b"]
    networks = {ipaddress.ip_interface(text).network.with_prefixlen for text in made.node("b").ports[0].addresses}
    assert networks == {"10.5.0.0/24", "fd05::/64"}


def test_a_broken_file_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "molehill.yaml").write_text("cluster: c\nvipz: []\n")
    with pytest.raises(LabError, match=r"molehill\.yaml:2"):
        sources.from_directory("x", tmp_path, MANAGEMENT, {}, [])


@pytest.mark.parametrize("text", ["www3", "=1.2.3.4", "www3="])
def test_bad_added_nodes_are_told(text: str) -> None:
    with pytest.raises(LabError, match="NAME=ADDRESS"):
        sources.parse_added([text])


def test_prefixes_of_two_labs_never_meet() -> None:
    assert not plan.prefix_of("ab").startswith(plan.prefix_of("a"))
