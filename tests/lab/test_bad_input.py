"""What other hosts, clients and operators may do wrong, to real agents: an outcome, a count, a line that helps."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

import pytest

from agent.lab import arp, formation, network
from agent.lab.lab import Lab, control_path, now
from agent.lab.plan import LabError, generate
from tests.lab.attacker import Attacker, address_of
from tests.lab.clusters import (
    always,
    cluster,
    document,
    events,
    get,
    granted,
    held_once,
    label_of,
    log,
    members,
    metric,
    on,
    overrides,
    punctual,
    raw_http,
    rewrite,
    run_agent,
    status,
    until,
    view,
    wait_logged,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

FLOOD = 5_000


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    """Three nodes that three of four VIPs are configured on; the fourth is for the test of reloading."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with cluster(f"b{os.getpid() % 1_000_000}", 3, 4, agents=False) as lab:
        whole = document(lab)
        rewrite(lab, {**whole, "vips": whole["vips"][:3]})
        rewrite(lab, whole, "four.yaml")
        for node in lab.plan.nodes:
            lab.start(node.name)
        until(lambda: calm(lab), 60)
        yield lab


def calm(lab: Lab) -> bool:
    """One view of all, and all that is configured is held once; the address watch has seen it."""
    try:
        rows = [status(lab, node.name) for node in lab.plan.nodes]
    except LabError:
        return False
    views = {row["view"] and row["view"]["id"] for row in rows}
    held: dict[str, list[str]] = {}
    for row in rows:
        for vip in row["vips"]:
            if vip["held"]:
                held.setdefault(vip["name"], []).append(row["node"])
    wanted = {vip["name"] for row in rows for vip in row["vips"]}
    return (
        len(views) == 1
        and all(len(row["view"]["members"]) == len(rows) and row["state"] == "RUN" for row in rows if row["view"])
        and held.keys() == wanted
        and all(len(nodes) == 1 for nodes in held.values())
        and held == {address: nodes for address, nodes in lab.holders().items() if nodes}
    )


@pytest.fixture
def steady(shared: Lab) -> Iterator[Lab]:
    """Whatever the test does: no view change, no VIP moved, no traceback."""
    until(lambda: calm(shared))
    before = view(shared, "www1"), shared.holders()
    since, said = now(), {node.name: len(log(shared, node.name)) for node in shared.plan.nodes}
    yield shared
    assert (view(shared, "www1"), shared.holders()) == before
    assert [change for change in shared.changes() if change.at > since] == []
    for node in shared.plan.nodes:
        assert "Traceback" not in log(shared, node.name)[said[node.name] :]


# Datagrams.


def rejected(lab: Lab, node: str) -> Counter[str]:
    reasons = (
        "truncated oversized magic version cluster unsealed sealed key seal malformed unknown_member address "
        "name_clash misdirected untrusted stale_incarnation replay limit"
    )
    return Counter({r: int(metric(lab, node, "molehill_datagrams_rejected_total", reason=r)) for r in reasons.split()})


def test_a_flood_of_bad_datagrams_costs_counters_and_nothing_else(steady: Lab) -> None:
    rng = Random(1)
    attacker = Attacker(steady, "www1", "www2")
    try:
        (recording, *_) = attacker.overhear(2)
        kinds = list(attacker.kinds(rng, recording))
        before = rejected(steady, "www1")
        expected: Counter[str] = Counter()
        with punctual(steady, "www1"):
            for number in range(FLOOD):
                reason, datagram, source = kinds[number % len(kinds)]
                attacker.send(datagram, source)
                expected[reason] += 1
            until(lambda: rejected(steady, "www1") - before == expected, why=lambda: rejected(steady, "www1") - before)
        assert metric(steady, "www1", "molehill_view_members") == 3
    finally:
        attacker.close()
    for reason in expected:
        wait_logged(steady, "www1", rf"rejected a datagram of \S+ \({reason}\): \w+")
    wait_logged(steady, "www1", "level=error", f"another host, {address_of(steady, 'client')}, runs with this node's")
    shown = len([line for line in log(steady, "www1").splitlines() if "datagram_rejected" in line.lower()])
    assert shown <= 3 * len(expected), "the log is not flooded"


# The control socket and HTTP.


def exchange(lab: Lab, node: str, data: bytes) -> bytes:
    """What the control socket answers to these bytes before it hangs up or has said a line."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(15)
        sock.connect(str(control_path(lab.directory, node)))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\n", "not a line of JSON"),
        (b"\xff\xfe\x00garbage\n", "not a line of JSON"),
        (b"GET / HTTP/1.1\r\n\r\n", "not a line of JSON"),
        (b"[" * 50_000 + b"\n", "not a line of JSON"),
        (b"x" * 200_000 + b"\n", "longer than 65536 bytes"),
        (b'{"verb": 1}\n', "a request looks like"),
        (b'{"verb": "status", "args": [], "more": 1}\n', "a request looks like"),
        (b'{"verb": "shutdown"}\n', "unknown verb"),
        (b'{"verb": "move", "args": {"vip": 7}}\n', "move takes a VIP's name"),
        (b'{"verb": "move", "args": {"vip": "\\ud800", "node": "\\udfff"}}\n', "not a line of JSON"),
        (b'{"verb": "move", "args": {"vip": "10.72.1.1", "node": "\\ud800"}}\n', "not a line of JSON"),
        (b'{"verb": "plan", "args": {"without": [["www1"]]}}\n', "is not in the view"),
        (b'{"verb": "events", "args": {"lines": -1}}\n', "takes a number from 0"),
        (b'{"verb": "events", "args": {"lines": NaN}}\n', "takes a number from 0"),
        (b'{"verb": "events", "args": {"lines": 1' + b"0" * 30 + b"}}\n", ""),
        (b'{"verb": "status"', ""),
    ],
)
def test_garbage_on_the_control_socket_is_answered_in_words(steady: Lab, data: bytes, says: str) -> None:
    answer = exchange(steady, "www1", data)
    if says:
        reply = json.loads(answer.splitlines()[0])
        assert not reply["ok"]
        assert says in reply["error"]
    assert "error inside the agent" not in answer.decode()
    assert json.loads(exchange(steady, "www1", b'{"verb": "events", "args": {"lines": 5}}\n'))["ok"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET /api/v1/events?since=abc HTTP/1.0\r\n\r\n", 400),
        (b"GET /api/v1/events?since=%ff%00 HTTP/1.0\r\n\r\n", 400),
        (b"GET /api/v1/events?since=1&since=2 HTTP/1.0\r\n\r\n", 400),
        (b"GET /api/v1/events?%ff=1 HTTP/1.0\r\n\r\n", 400),
        (b"POST /api/v1/status HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /metrics HTTP/1.0\r\n\r\n", 405),
        (b"POST /nowhere HTTP/1.0\r\n\r\n", 404),
        (b"GET /%ff/../%00 HTTP/1.0\r\n\r\n", 404),
        (b"GET / HTTP/1.0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 400),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.0\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.0\r\nAccept: " + b"\xff" * 200 + b"\r\n\r\n", 200),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),
        (b"\r\n" * 1000 + b"nonsense\r\n\r\n", 400),
    ],
)
def test_garbage_on_http_is_refused_and_leaves_no_traceback(steady: Lab, data: bytes, code: int) -> None:
    head = raw_http(steady, "www1", data).split(b"\r\n")[0]
    assert head.split()[1:2] == [str(code).encode()]
    assert get(steady, "www1", "/-/healthy") == b"healthy\n"


# Reloading.


def reload_count(lab: Lab, result: str) -> float:
    return metric(lab, "www1", "molehill_reloads_total", result=result)


def test_a_broken_file_is_refused_and_the_old_configuration_goes_on(steady: Lab) -> None:
    path = steady.directory / "molehill.yaml"
    good = path.read_text()
    lines = good.splitlines()
    wrong = next(index for index, line in enumerate(lines) if '"mature"' in line)
    refused, taken = reload_count(steady, "error"), reload_count(steady, "ok")
    try:
        path.write_text("\n".join([*lines[:wrong], ' "matrue": "1s",', *lines[wrong:]]))
        with pytest.raises(LabError, match=rf"(?s)nothing was changed.*molehill\.yaml:{wrong + 1}: .*matrue"):
            steady.ask("www1", "reload")
        steady.kill("www1", signal.SIGHUP)
        place = rf"molehill\.yaml:{wrong + 1}: .*matrue"
        wait_logged(steady, "www1", "level=error", "the old configuration stays in force", place)
        until(lambda: reload_count(steady, "error") == refused + 2)  # else it may read what comes next
        path.write_text('{"cluster": "www", "vips": [')
        with pytest.raises(LabError, match=r"molehill\.yaml:\d: not YAML"):
            steady.ask("www1", "reload")
        path.write_text(good.replace('"cluster": "lab-', '"cluster": "other-'))
        with pytest.raises(LabError, match=r"cluster is other-.*restart the agent"):
            steady.ask("www1", "reload")
        path.unlink()
        with pytest.raises(LabError, match=r"molehill\.yaml: does not exist"):
            steady.ask("www1", "reload")
    finally:
        path.write_text(good)
    until(lambda: reload_count(steady, "error") == refused + 5)
    assert reload_count(steady, "ok") == taken


def test_a_reload_adds_a_vip_and_moves_no_other(shared: Lab) -> None:
    """The last one for this lab: from here on it has four VIPs."""
    until(lambda: calm(shared))
    before = shared.holders()
    (added,) = [address for address, nodes in before.items() if not nodes]
    since = now()
    taken = reload_count(shared, "ok")
    (shared.directory / "molehill.yaml").write_text((shared.directory / "four.yaml").read_text())
    shared.ask("www1", "reload")
    until(lambda: shared.holders()[added] == ["www1"])
    shared.kill("www2", signal.SIGHUP)
    shared.kill("www3", signal.SIGHUP)
    wait_logged(shared, "www3", "the new configuration is in force")
    until(lambda: calm(shared) and held_once(shared))
    until(lambda: reload_count(shared, "ok") == taken + 1)
    assert {change.address for change in shared.changes() if change.at > since} == {added}
    until(lambda: all(member["config_matches"] for member in status(shared, "www2")["members"]))


def test_a_lone_node_takes_a_new_vip_at_once(lab_name: str) -> None:
    """Its next view is installed within the step that takes the new settings: the drivers must know them by then."""
    with cluster(lab_name, 1, 2, agents=False) as lab:
        whole = document(lab)
        rewrite(lab, {**whole, "vips": whole["vips"][:1]})
        lab.start("www1")
        until(lambda: len(on(lab, "www1")) == 1)
        rewrite(lab, whole)
        with arp.Capture(lab.plan) as capture:
            since = now()
            lab.ask("www1", "reload")
            until(lambda: len(on(lab, "www1")) == 2)
            new = whole["vips"][1]["name"]
            until(lambda: len(lab.holders()[new]) == 1)  # so the address watch has seen it
            (up,) = [change.at for change in lab.changes() if change.at > since]
            assert up - since < 2.0
            until(lambda: any(frame.address == new for frame in capture.frames()))
        assert "could not acquire" not in log(lab, "www1")


# Configurations that do not fit together.


def test_a_second_node_of_the_same_name(lab_name: str) -> None:
    """On another address nobody believes it, and both sides say why; on the same address it cannot even start."""
    with cluster(lab_name, 4, 3, agents=False) as lab:
        ours = ["www1", "www2", "www3"]
        for node in ours:
            lab.start(node)
        formation.wait_formed(lab, ours, timeout=60)
        before, holders = view(lab, "www1"), lab.holders()
        here = run_agent(lab, "www1", "-n", "www1")
        assert here.returncode == 1
        assert "cannot use UDP 10.72.0.1 port 4803: Address already in use; another program has it" in here.stderr
        elsewhere = run_agent(lab, "www4", "-n", "www1")
        assert elsewhere.returncode == 1
        assert "no interface has this address: correct engine.bind" in elsewhere.stderr
        assert "Traceback" not in here.stderr + elsewhere.stderr
        plan = lab.plan
        addresses = {"www1": "10.72.0.4", "www2": "10.72.0.2", "www3": "10.72.0.3"}
        impostor = Lab(plan, lambda *them: [*lab._command(*them), "-n", "www1", *overrides(
            f"engine.members={json.dumps(addresses)}")])  # fmt: skip
        impostor.start("www4")
        wait_logged(lab, "www2", "level=warning", r"rejected a datagram of 10\.72\.0\.4 \(address\): .*`members`")
        wait_logged(lab, "www4", "level=error", r"another host, 10\.72\.0\.1, runs with this node's name: give each")
        until(lambda: metric(lab, "www2", "molehill_datagrams_rejected_total", reason="address") > 0)
        assert view(lab, "www1") == before
        assert {a: [n for n in who if n != "www4"] for a, who in lab.holders().items()} == holders


def test_three_clusters_share_a_segment_and_a_port(lab_name: str) -> None:
    """The second has the first one's secret, the third another. They broadcast, so each hears the others."""
    plan = generate(lab_name, 6, 6, network.free_management_network())
    groups = {"one": ("www1", "www2"), "two": ("www3", "www4"), "three": ("www5", "www6")}
    own: dict[str, list[str]] = {}
    for number, (name, nodes) in enumerate(groups.items()):
        vips = [{"name": v.name, "addresses": [f"eth0:{v.name}/16"]} for v in plan.vips[2 * number : 2 * number + 2]]
        addresses = {node: f"10.72.0.{node[3:]}" for node in nodes}
        told = (f"cluster={name}", f"engine.members={json.dumps(addresses)}", f"vips={json.dumps(vips)}")
        secret = ("engine.secret_file={state}/secret3",) if name == "three" else ()
        own |= {node: overrides(*told, "engine.broadcast=10.72.255.255", *secret) for node in nodes}
    with cluster(lab_name, own=own, plan=plan, agents=False) as lab:
        (lab.directory / "secret3").write_text("another secret, which is long enough\n")
        (lab.directory / "secret3").chmod(0o600)
        for host in plan.nodes:
            lab.start(host.name)
        everyone = [node.name for node in plan.nodes]
        until(lambda: all((lab.directory / "nodes" / node / "control.sock").exists() for node in everyone), 60)
        until(lambda: held_once(lab) and all(members(lab, n) == list(g) for g in groups.values() for n in g), 60)
        for group in groups.values():
            # Each has one of its group's two: the first to start may have had both until this balance round.
            until(lambda group=group: shared_out(lab, group), why=lab.holders)  # type: ignore[misc]
            for node in group:
                assert set(on(lab, node)) < {vip["name"] for vip in status(lab, node)["vips"]}
        views = [view(lab, node) for node in everyone]
        for group in groups.values():
            for node in group:
                # A few of its own group are normal before it is trusted, and none afterwards.
                hear_strangers(lab, node)
                before = rejected(lab, node)
                hear_strangers(lab, node)
                counts = rejected(lab, node)
                assert counts.keys() - {r for r, count in counts.items() if not count} <= {"cluster", "untrusted"}
                assert counts["untrusted"] == before["untrusted"]
                wait_logged(lab, node, "level=warning", r"\(cluster\): another cluster .*port")
        always(lambda: [view(lab, node) for node in everyone] == views, 0.5)


def shared_out(lab: Lab, group: Sequence[str]) -> bool:
    """Asks for a balance round; whether each of the group has one VIP."""
    return granted(lab, group[0], "balance") and all(len(on(lab, node)) == 1 for node in group)


def hear_strangers(lab: Lab, node: str) -> None:
    """Until some more datagrams of other clusters have come; what is scraped then is no older than this call."""
    name = "molehill_datagrams_rejected_total"
    before = metric(lab, node, name, reason="cluster")
    until(lambda: metric(lab, node, name, reason="cluster") >= before + 4)


def differing(lab: Lab, node: str) -> set[str]:
    """The members whose configuration is not this node's."""
    return {row["name"] for row in status(lab, node)["members"] if not row["config_matches"]}


def test_other_vips_on_one_node_are_served_by_those_who_know_them(lab_name: str) -> None:
    with cluster(lab_name, 3, 4, own={"www3": ["--config", "{state}/www3.yaml"]}, agents=False) as lab:
        whole = document(lab)
        first, *middle, last = [vip["name"] for vip in whole["vips"]]
        rewrite(lab, {**whole, "vips": whole["vips"][:3]})
        rewrite(lab, {**whole, "vips": whole["vips"][1:]}, "www3.yaml")
        for host in lab.plan.nodes:
            lab.start(host.name)
        until(lambda: held_once(lab) and len(members(lab, "www1")) == 3)
        holders = lab.holders()
        assert holders[first][0] in ("www1", "www2")
        assert holders[last] == ["www3"]
        assert label_of(lab, "www1", "molehill_config_info", "hash") == label_of(
            lab, "www2", "molehill_config_info", "hash"
        )
        assert label_of(lab, "www1", "molehill_config_info", "hash") != label_of(
            lab, "www3", "molehill_config_info", "hash"
        )
        for node, others in (("www1", {"www3"}), ("www2", {"www3"}), ("www3", {"www1", "www2"})):
            until(lambda node=node, others=others: differing(lab, node) == others)  # type: ignore[misc]
            named = ", ".join(sorted(others))
            wait_logged(lab, node, "level=warning", f"other settings than here on {named}", "then `molehill reload`")
        wait_logged(lab, "www1", f"VIPs that differ: .*{first}.*{last}")
        since = now()
        rewrite(lab, whole, "www3.yaml")
        lab.ask("www3", "reload")
        rewrite(lab, whole)
        for node in ("www1", "www2"):
            lab.ask(node, "reload")
        until(lambda: all(row["config_matches"] for n in ("www1", "www2", "www3") for row in status(lab, n)["members"]))
        wait_logged(lab, "www3", "all members are configured alike again")
        hashes = {label_of(lab, node.name, "molehill_config_info", "hash") for node in lab.plan.nodes}
        until(
            lambda: len({label_of(lab, n.name, "molehill_config_info", "hash") for n in lab.plan.nodes}) == 1,
            why=lambda: hashes,
        )
        until(lambda: calm(lab))
        assert [change for change in lab.changes() if change.at > since] == [], "nothing moved by that"
        assert middle
        assert events(lab, "www1")
