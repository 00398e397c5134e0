"""The witness: what it is told to watch, what it says of a round, and what it sees in a real cluster."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent import cli
from agent.lab import formation, namespaces, network
from agent.lab.lab import Lab, down
from agent.lab.plan import generate
from exporters.witness_agents import Agents, Said
from exporters.witness_metrics import MACS_MAX, Heard, Round, RoundCollector
from exporters.witness_plan import Plan, WitnessError, add_arguments, from_arguments
from tests.exporters.collector import refusing_port
from tests.lab.rival_host import RivalHost

CONFIGURATION = """
cluster: www
engine:
  members: {www1: 192.0.2.1, www2: 192.0.2.2}
  secret_file: /nowhere/secret
vips:
  - {name: web, addresses: ["eth4:192.0.2.145/24", "eth4:2001:db8::145/64"]}
  - addresses: ["eth4:192.0.2.146/24"]
http: {listen: ":1234"}
"""


def planned(*words: str) -> Plan:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(words))


def test_a_configuration_names_everything_and_needs_neither_key_nor_membership(tmp_path: Path) -> None:
    file = tmp_path / "molehill.yaml"
    file.write_text(CONFIGURATION)
    plan = planned("-c", str(file))
    assert plan.cluster == "www"
    assert [(asked.vip, asked.text, asked.interface) for asked in plan.asked] == [
        ("web", "192.0.2.145", None),
        ("web", "2001:db8::145", None),
        ("192.0.2.146", "192.0.2.146", None),
    ]
    assert plan.vips == ("web", "192.0.2.146")
    assert plan.agents == ("http://192.0.2.1:1234", "http://192.0.2.2:1234")
    assert planned("-c", str(file), "--agents", "").agents == ()
    assert {asked.interface for asked in planned("-c", str(file), "--interface", "mon0").asked} == {"mon0"}


def test_options_name_everything_too() -> None:
    plan = planned("--cluster", "www", "--vips", "eth0:192.0.2.10/24, web=eth1:2001:db8::1", "--agents", "http://a:1/")
    assert [(asked.vip, asked.text, asked.interface) for asked in plan.asked] == [
        ("192.0.2.10", "192.0.2.10", "eth0"),
        ("web", "2001:db8::1", "eth1"),
    ]
    assert (plan.cluster, plan.agents, plan.listen, plan.interval) == ("www", ("http://a:1",), ":9749", 1.0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give either --config FILE or --vips LIST"),
        (("-c", "x", "--vips", "eth0:192.0.2.1"), "give either"),
        (("--vips", "eth0:192.0.2.1"), "needs --cluster"),
        (("--cluster", "c", "--vips", ","), "there is no VIP"),
        (("--cluster", "c", "--vips", "192.0.2.1"), "write interface:address"),
        (("--cluster", "c", "--vips", "eth0:192.0.2.300"), "'eth0:192.0.2.300' is no VIP"),
        (("--cluster", "c", "--vips", "=eth0:192.0.2.1"), "is no VIP"),
        (
            ("--cluster", "c", "--vips", "eth0:192.0.2.1", "--agents", "www1:9748"),
            "'www1:9748' is no address of an agent",
        ),
        (("--cluster", "c", "--vips", "eth0:192.0.2.1", "--agents", "http://a:b"), "is no address of an agent"),
        (("--cluster", "c", "--vips", "eth0:192.0.2.1", "--interval", "0"), "write 0.1 to 3600"),
    ],
)
def test_wrong_options_are_told(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(WitnessError, match=told.replace("(", r"\(")):
        planned(*words)


def samples(collector: RoundCollector) -> dict[tuple[str, str], float]:
    """By name and VIP (or MAC)."""
    text = generate_latest(collector.registry()).decode()
    return {
        (
            sample.name.removeprefix("molehill_witness_"),
            sample.labels.get("mac") or sample.labels.get("vip", ""),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels["cluster"] == "www"
    }


def mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number))


def test_what_a_round_says() -> None:
    collector = RoundCollector("www", ("one", "two", "none", "split", "half", "unasked"), 3)
    before = samples(collector)
    assert before[("agents_configured", "")] == 3
    assert before[("rounds_total", "")] == 0
    assert not any(name == "answering_macs" for name, _ in before)
    heard = {
        "one": (Heard([mac(1)], 0.25),),
        "two": (Heard([mac(1)], 0.25), Heard([mac(2)], 0.5)),  # an address on each of the holder's interfaces
        "none": (Heard([], None),),
        "split": (Heard([mac(3)], 0.1), Heard([mac(4), mac(5)], 0.2)),
        "half": (Heard([mac(6)], 0.1), Heard([], None)),
    }
    said = Said(2, frozenset({"1-a-1", "1-b-1"}), Counter({"one": 1, "split": 2}), (("http://c", "gone"),))
    collector.round = Round(heard, said, 7)
    found = samples(collector)
    assert {vip: value for (name, vip), value in found.items() if name == "answering_macs"} == {
        "one": 1,
        "two": 1,
        "none": 0,
        "split": 2,
        "half": 0,
    }
    assert {vip: value for (name, vip), value in found.items() if name == "answer_seconds"} == {
        "one": 0.25,
        "two": 0.5,
        "split": 0.2,
    }
    assert {vip: value for (name, vip), value in found.items() if name == "vip_claims"} == {
        "one": 1,
        "two": 0,
        "none": 0,
        "split": 2,
        "half": 0,
        "unasked": 0,
    }
    assert (found[("agents_reached", "")], found[("views", "")], found[("rounds_total", "")]) == (2, 2, 7)
    assert found[("probe_info", "02:00:00:00:00:05")] == 1


def test_hardware_addresses_are_bounded() -> None:
    collector = RoundCollector("www", ("one",), 0)
    collector.round = Round({"one": (Heard([mac(number) for number in range(100)], 0.1),)}, Said(), 1)
    found = samples(collector)
    assert found[("answering_macs", "one")] == 100
    assert sum(name == "probe_info" for name, _ in found) == MACS_MAX
    assert not any(name == "vip_claims" for name, _ in found)  # nobody is asked


async def test_agents_are_compared_and_the_silent_are_named() -> None:
    def status(view: str | None, *held: str) -> web.Response:
        vips = [{"name": f"v{text}", "addresses": [text], "held": True, "state": "held"} for text in held]
        other = {"name": "else", "addresses": ["eth0:192.0.2.9/24"], "held": False}
        return web.json_response({"node": "n", "view": view and {"id": view}, "vips": [*vips, other], "more": 1})

    answers = {
        "a": lambda: status("3-a-1", "eth0:192.0.2.1/24", "eth0:2001:db8::1/64"),
        "b": lambda: status("3-b-1", "eth9:192.0.2.1/32", "eth9:192.0.2.77/32"),
        "c": lambda: status(None),
        "d": lambda: web.Response(text="<html>"),
        "e": lambda: web.Response(status=503),
    }

    async def handle(request: web.Request) -> web.Response:
        return answers[request.match_info["name"]]()

    app = web.Application()
    app.add_routes([web.get("/{name}/api/v1/status", handle)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base, closed = f"http://127.0.0.1:{runner.addresses[0][1]}", refusing_port()
    addresses = (*(f"{base}/{name}" for name in answers), f"http://127.0.0.1:{closed}")
    names = {"192.0.2.1": "web", "2001:db8::1": "web", "192.0.2.9": "other"}
    agents = Agents(addresses, names, timeout=30.0)
    try:
        said = await agents.ask()
    finally:
        await agents.close()
        await runner.cleanup()
    assert said.reached == 3
    assert said.views == {"3-a-1", "3-b-1"}
    assert dict(said.claims) == {"web": 2}
    assert [address for address, _ in said.silent] == [f"{base}/d", f"{base}/e", f"http://127.0.0.1:{closed}"]
    assert "no agent" in said.silent[0][1]


# In a lab, as the client.


def until(holds: Callable[[], object], seconds: float = 60.0) -> float:
    """Seconds that it took."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds, "never came true"
        time.sleep(0.02)
    return time.monotonic() - begun


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    name = f"w{os.getpid() % 1_000_000}"
    try:
        made = Lab.create(generate(name, 3, 6, network.free_management_network(), ipv6=True))
        formation.wait_formed(made, timeout=90)
        route(made)
        yield made
    finally:
        down(name)


def route(lab: Lab) -> None:
    """The client asks the agents over the segment that is cut and split."""
    for node in lab.plan.nodes:
        through = node.ports[0].addresses[0].partition("/")[0]
        network.batch([f"route add {node.management}/32 via {through}"], lab.plan.namespace("client"))


Scrape = Callable[[], dict[tuple[str, str], float]]


@contextmanager
def witness(lab: Lab, *more: str) -> Iterator[tuple[subprocess.Popen[str], Scrape]]:
    namespace = lab.plan.namespace("client")
    agents = ",".join(f"http://{node.management}:9748" for node in lab.plan.nodes)
    line = ["ip", "netns", "exec", namespace, sys.executable, "-m", "agent", "witness"]
    words = ["--config", str(lab.directory / "molehill.yaml"), "--cluster", "www", "--agents", agents]
    process = subprocess.Popen(
        [*line, *words, "--listen", "127.0.0.1:9749", *more],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )

    def scrape() -> dict[tuple[str, str], float]:
        with namespaces.entered(namespace):
            done = subprocess.run(
                ["curl", "-sf", "http://127.0.0.1:9749/metrics"], capture_output=True, text=True, check=False
            )
        return {
            (sample.name.removeprefix("molehill_witness_"), sample.labels.get("vip", "")): sample.value
            for family in text_string_to_metric_families(done.stdout)
            for sample in family.samples
        }

    try:
        until(lambda: process.poll() is not None or scrape().get(("rounds_total", ""), 0) >= 1)
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield process, scrape
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in said) == (0, False), said


def served_once(found: dict[tuple[str, str], float], vips: list[str]) -> bool:
    """Every VIP is answered by one, and one agent says that it holds it, in one and the same scrape."""
    return column(found, "answering_macs") == column(found, "vip_claims") == dict.fromkeys(vips, 1.0)


def healthy(found: dict[tuple[str, str], float], vips: list[str]) -> bool:
    seconds = column(found, "answer_seconds").values()
    return (
        served_once(found, vips)
        and (found[("agents_reached", "")], found[("views", "")]) == (3, 1)
        and all(0 < each < 0.4 for each in seconds)
    )


def column(found: dict[tuple[str, str], float], name: str) -> dict[str, float]:
    return {vip: value for (family, vip), value in found.items() if family == name}


@pytest.mark.netns
@pytest.mark.lab
def test_it_sees_health_a_duplicate_a_dead_agent_and_a_dead_interface(lab: Lab) -> None:
    vips = [vip.name for vip in lab.plan.vips]
    assert any(":" in address for _, address in lab.plan.addresses())
    with witness(lab) as (_, scrape):
        until(lambda: healthy(scrape(), vips))
        with RivalHost(lab.plan) as rival:
            for vip, address in [
                next(p for p in lab.plan.addresses() if "." in p[1]),
                next(p for p in lab.plan.addresses() if ":" in p[1]),
            ]:
                length = 32 if "." in address else 128
                rival.take(address, length)
                took = until(lambda vip=vip: column(scrape(), "answering_macs")[vip] == 2)  # type: ignore[misc]
                assert took < 5.0
                rival.give_up(address, length)
                until(lambda: healthy(scrape(), vips))
        lab.kill("www3")
        until(lambda: scrape()[("agents_reached", "")] == 2)
        assert scrape()[("agents_configured", "")] == 3
        lab.start("www3")
        formation.wait_formed(lab, timeout=90)
        until(lambda: scrape()[("agents_reached", "")] == 3)
        client = lab.plan.namespace("client")
        network.batch([f"link set {lab.plan.interfaces[0]} down"], client)
        until(lambda: not column(scrape(), "answering_macs"))
        rounds = scrape()[("rounds_total", "")]
        until(lambda: scrape()[("agents_reached", "")] == 0)
        assert scrape()[("rounds_total", "")] == rounds
        port = lab.plan.client.ports[0]
        lost = [f"address replace {text} dev {port.interface} nodad" for text in port.addresses if ":" in text]
        network.batch([f"link set {port.interface} up", *lost], client)
        route(lab)
        until(lambda: column(scrape(), "answering_macs") == dict.fromkeys(vips, 1.0))


@pytest.mark.netns
@pytest.mark.lab
def test_it_sees_a_split_from_one_side_and_both_views_from_outside(lab: Lab) -> None:
    """The client stays with www1; www2 and www3 serve everything too, where no ARP question reaches them."""
    vips = [vip.name for vip in lab.plan.vips]
    with witness(lab) as (_, scrape):
        lab.split(["www2", "www3"])
        try:
            until(lambda: scrape()[("agents_reached", "")] == 1)
            until(lambda: served_once(scrape(), vips))
        finally:
            lab.heal()
        formation.wait_formed(lab, timeout=90)
        until(lambda: scrape()[("agents_reached", "")] == 3 and scrape()[("views", "")] == 1)


@pytest.mark.netns
@pytest.mark.lab
def test_what_keeps_it_from_working_is_told(lab: Lab) -> None:
    inside = ["ip", "netns", "exec", lab.plan.namespace("client")]

    def told(*words: str, before: tuple[str, ...] = ()) -> str:
        line = [*inside, *before, sys.executable, "-m", "agent", "witness", "--cluster", "c", *words]
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2], check=False
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        return done.stderr

    interface = lab.plan.interfaces[0]
    assert "this host has no interface 'eth7'" in told("--vips", "eth7:10.72.1.1")
    assert "is no Ethernet interface" in told("--vips", "lo:10.72.1.1")
    assert "no interface of this host is on the network of 198.51.100.1" in told("--config", str(foreign(lab)))
    assert "port 9749 is in use" in in_use(
        lab, lambda: told("--vips", f"{interface}:10.72.1.1", "--listen", "127.0.0.1:9749")
    )
    if shutil.which("capsh"):
        assert "needs CAP_NET_RAW" in told(
            "--vips", f"{interface}:10.72.1.1", before=("capsh", "--drop=cap_net_raw", "--", "-c", '"$0" "$@"')
        )


def foreign(lab: Lab) -> Path:
    file = lab.directory / "foreign.yaml"
    file.write_text(
        json.dumps(
            {
                "cluster": "x",
                "engine": {"members": {"a": "198.51.100.2"}, "insecure": True},
                "vips": [{"addresses": ["eth0:198.51.100.1/24"]}],
            }
        )
    )
    return file


def in_use(lab: Lab, act: Callable[[], str]) -> str:
    with witness(lab):
        return act()


def test_the_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["witness", "--help"])
    assert left.value.code == 0
    assert "--vips LIST" in capsys.readouterr().out
    assert cli.main(["witness"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
