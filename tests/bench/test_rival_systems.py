import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from agent.lab.plan import LabError, generate
from tests.bench.rival_systems import keepalived, pacemaker, ucarp, unpacked, wackamole
from tests.bench.rival_systems.boot import places
from tests.bench.rival_systems.software import SOFTWARE
from tests.bench.system import Molehill
from tests.bench.systems import SYSTEMS

PLAN = generate("t", 3, 10, "10.254.0.0/24")
ADDRESSES = [address for _, address in PLAN.addresses()]


def test_the_first_places_are_spread_over_the_nodes() -> None:
    firsts = [sum(place == 0 for _, _, place in places(PLAN, host)) for host in PLAN.nodes]
    assert firsts == [4, 3, 3]
    for rows in zip(*(places(PLAN, host) for host in PLAN.nodes), strict=True):
        assert sorted(place for _, _, place in rows) == [0, 1, 2]


def test_keepalived_has_an_instance_for_each_vip_with_other_priorities_on_each_node() -> None:
    texts = [keepalived.configuration(PLAN, host) for host in PLAN.nodes]
    for text in texts:
        assert re.findall(r"([\d.]+)/32", text) == ADDRESSES
        assert len(set(re.findall(r"virtual_router_id (\d+)", text))) == len(ADDRESSES)
        assert text.count("{") == text.count("}")
    for chosen in zip(*(re.findall(r"priority (\d+)", text) for text in texts), strict=True):
        assert sorted(chosen) == ["130", "140", "150"]


def test_ucarp_has_a_process_for_each_vip() -> None:
    boots = [ucarp.Ucarp().boot(PLAN, host) for host in PLAN.nodes]
    for boot in boots:
        lines = [" ".join(program.line) for program in boot.programs]
        assert [address for line in lines for address in re.findall(r"--addr=(\S+)", line)] == ADDRESSES
        assert {file.path for file in boot.files} == {ucarp.UP, ucarp.DOWN}
        assert all(file.mode & 0o100 for file in boot.files)
    assert "--srcip=10.72.0.2 " in " ".join(boots[1].programs[0].line)


def test_spread_knows_every_node_and_keeps_its_own_timeouts() -> None:
    text = wackamole.spread_configuration(PLAN)
    assert text.startswith("Spread_Segment 10.72.255.255:4803 {")
    assert re.findall(r"www\d 10\.72\.0\.\d", text) == ["www1 10.72.0.1", "www2 10.72.0.2", "www3 10.72.0.3"]
    assert "Timeout" not in text


def test_wackamole_has_every_vip_and_tells_the_client() -> None:
    text = wackamole.configuration(PLAN)
    # The client is in the same /16, but not in the same /24, which would be the default.
    assert re.findall(r"\{ eth0:([\d.]+)/32n16 \}", text) == ADDRESSES
    client = PLAN.client.ports[0].addresses[0].partition("/")[0]
    assert client.startswith("10.72.255.")
    assert f"    eth0:{client}/32\n    arp-cache\n" in text


def test_pacemaker_has_a_resource_for_each_vip_and_a_score_for_each_node() -> None:
    root = ElementTree.fromstring(pacemaker.cluster_information(PLAN))
    found = [pair.get("value") for pair in root.iter("nvpair") if pair.get("name") == "ip"]
    assert found == ADDRESSES
    scores = {(each.get("rsc"), each.get("node")): each.get("score") for each in root.iter("rsc_location")}
    assert len(scores) == 30
    assert [scores["vip1", name] for name in ("www1", "www2", "www3")] == ["100", "300", "200"]
    identities = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(identities) == len(set(identities))


def test_corosync_has_every_node_once() -> None:
    text = pacemaker.corosync_configuration(PLAN)
    assert re.findall(r"nodeid: (\d)", text) == ["1", "2", "3"]
    assert "token: 1000\n" in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("name", list(SOFTWARE))
def test_a_node_writes_only_where_it_has_directories_of_its_own(name: str) -> None:
    places_of_its_own = ("/etc/", "/var/lib/", "/var/log/", "/run/", "/tmp/")
    boot = SOFTWARE[name].boot(PLAN, PLAN.nodes[0])
    wanted = [file.path for file in boot.files] + [directory.path for directory in boot.directories]
    assert [path for path in wanted if not path.startswith(places_of_its_own)] == []
    assert boot.programs


@pytest.mark.parametrize("name", list(SOFTWARE))
def test_what_is_missing_is_named_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    software = SOFTWARE[name]
    with pytest.raises(LabError) as caught:
        unpacked.require(software, tmp_path / "tree", tmp_path / "machine")
    assert str(caught.value).startswith(f"{name}: {software.programs[0]}")
    assert str(caught.value).endswith(software.origin)


def test_an_unpacked_program_and_an_installed_one_are_both_there(tmp_path: Path) -> None:
    first, *rest = SOFTWARE["wackamole"].programs
    for root, programs in (("tree", [first]), ("machine", rest)):
        for program in programs:
            path = tmp_path / root / program.lstrip("/")
            path.parent.mkdir(parents=True)
            path.touch()
    unpacked.require(SOFTWARE["wackamole"], tmp_path / "tree", tmp_path / "machine")


def test_only_molehill_promises_one_holder_and_in_a_merge_only_with_a_quorum() -> None:
    assert [name for name, system in SYSTEMS.items() if system.promises_one("all SIGKILL", "")] == ["molehill"]
    assert not Molehill().promises_one("heal", "lan")
    assert Molehill().promises_one("heal", "quorum")
