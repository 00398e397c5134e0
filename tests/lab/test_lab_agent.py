"""The agents for real: processes, kernel addresses and frames, as a client on the segment sees them."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from agent import cli
from agent.lab import arp, formation, namespaces, network
from agent.lab.lab import Lab, now
from agent.lab.plan import generate, with_arguments
from agent.lab.probing import Probing
from tests.lab.clusters import even, on, until

pytestmark = [pytest.mark.netns, pytest.mark.lab]

FAILURE_TIMEOUT = 0.4
"""Profile lan."""

SCHEDULING = 0.25
"""Seconds that a loaded machine may add to what the protocol needs: still less than a timeout."""


@pytest.fixture
def cluster(lab_name: str) -> Callable[..., Lab]:
    def make(nodes: int = 3, vips: int = 6, *settings: str, ipv6: bool = False) -> Lab:
        plan = generate(lab_name, nodes, vips, network.free_management_network(), ipv6=ipv6)
        told = [part for text in settings for part in ("--set", text)]
        lab = Lab.create(with_arguments(plan, *told))
        formation.wait_formed(lab, timeout=60)
        even(lab)
        return lab

    return make


@pytest.fixture
def quiet(cluster: Callable[..., Lab]) -> Iterator[Lab]:
    """Three nodes and six VIPs, and no timed balance round; at the end no two connected nodes ever had one VIP."""
    lab = cluster(3, 6, "balance.interval=10m")
    since = now()
    yield lab
    assert lab.held_twice(since, now()) == []


def test_the_demonstration_shows_all_of_it(lab_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "demo", "--name", lab_name, "--down", "--json"]) == 0
    captured = capsys.readouterr()
    story = json.loads(captured.out)
    assert story["ok"]
    assert story["holder"] != story["new_holder"]
    assert 0.1 < story["outage_seconds"] < FAILURE_TIMEOUT + 2 * SCHEDULING
    assert story["duplicate_seconds_after_heal"] < 2 * FAILURE_TIMEOUT
    # Until the merge both may announce; the winner has the last word.
    assert story["announcements"][-1]["node"] == story["kept_by"]
    assert namespaces.with_prefix(f"mh-{lab_name}-") == []


def test_a_lost_host_is_taken_over_and_the_client_follows(quiet: Lab) -> None:
    with Probing(quiet) as probing:
        probing.wait_answered(30)
        hit = on(quiet, "www2")
        assert len(hit) == 2
        since = quiet.lose("www2")
        until(lambda: all(set(quiet.holders()[address]) & {"www1", "www3"} for address in hit))
        seen = {one.address: one for one in probing.outages(since, now() + 0.5)}
        for address in hit:
            assert seen[address].served
            assert seen[address].before == "www2"
            assert seen[address].after in ("www1", "www3")
            assert 0.2 < seen[address].seconds < FAILURE_TIMEOUT + 2 * SCHEDULING
        quiet.reboot("www2")
        formation.wait_formed(quiet)
        assert on(quiet, "www2") == []
        quiet.ask("www1", "balance")
        until(lambda: len(on(quiet, "www2")) == 2)


def test_sigterm_hands_everything_over_before_the_process_ends(quiet: Lab) -> None:
    with Probing(quiet) as probing:
        probing.wait_answered(30)
        hit = on(quiet, "www3")
        since = now()
        quiet.kill("www3", signal.SIGTERM)
        assert quiet.wait_ended("www3", 30)
        ended = now()
        until(lambda: all(quiet.holders()[address] in (["www1"], ["www2"]) for address in hit))
        taken = [c.at for c in quiet.changes() if c.at > since and c.address in hit and c.present]
        assert max(taken) < ended, "handed over before the process ended"
        recording = probing.recording(since, ended + 0.5)
        seen = [one for one in probing.outages(since, ended + 0.5, recording) if one.address in hit]
        assert all(one.served and one.turns == 1 for one in seen)
        assert max(one.seconds for one in seen) < SCHEDULING + recording.worst_stall(since, ended + 0.5)
        formation.wait_formed(quiet, ["www1", "www2"])


def test_leave_and_join(quiet: Lab) -> None:
    quiet.ask("www1", "leave")
    assert on(quiet, "www1") == []
    formation.wait_formed(quiet, ["www2", "www3"])
    quiet.ask("www1", "join")
    formation.wait_formed(quiet)
    assert on(quiet, "www1") == []
    quiet.ask("www2", "balance")
    until(lambda: sorted(len(on(quiet, f"www{number}")) for number in (1, 2, 3)) == [2, 2, 2])


def test_two_halves_merge_and_a_client_with_the_losers_mac_reaches_the_winner_at_once(
    cluster: Callable[..., Lab],
) -> None:
    """The client sits with the half that loses the merge, so that its neighbour entries name the losers."""
    lab = cluster(4, 8, "balance.interval=10m")
    with Probing(lab) as probing, arp.Capture(lab.plan) as capture:
        probing.wait_answered(30)
        split = lab.split(["www3", "www4", "client"])
        until(lambda: all(len(nodes) == 2 for nodes in lab.holders().values()))
        probing.wait_answered(30)
        assert lab.held_twice(split, now()) == []
        capture.frames()
        healed = lab.heal()
        until(lambda: all(len(nodes) == 1 for nodes in lab.holders().values()))
        formation.wait_formed(lab)
        end = now() + 0.5
        recording = probing.recording(healed, end)
        duplicates = lab.held_twice(healed, end)
        assert duplicates, "both halves held everything when the network healed"
        assert max(one.until for one in duplicates) - healed < 2 * FAILURE_TIMEOUT
        moved = [one for one in probing.outages(healed, end, recording) if one.turns]
        assert moved, "the client was served by losers before"
        slack = SCHEDULING + recording.worst_stall(healed, end)
        for one in probing.outages(healed, end, recording):
            assert one.served
            assert one.seconds < slack
            assert one.runs[-1][0] == lab.holders()[one.address][0]
        told = {seen.address: seen.node for seen in capture.frames() if seen.gratuitous}
        assert told == {address: nodes[0] for address, nodes in lab.holders().items()}


def test_an_address_deleted_by_hand_comes_back(quiet: Lab) -> None:
    (address, *_) = on(quiet, "www1")
    with Probing(quiet) as probing:
        probing.wait_answered(30)
        since = now()
        network.batch([f"addr del {address}/16 dev eth0"], quiet.plan.namespace("www1"))
        until(lambda: any(c.at >= since and c.address == address and not c.present for c in quiet.changes()))
        until(lambda: len(quiet.holders()[address]) == 1)
        probing.wait_answered(30)
    own = [one for _, one, _ in network.kernel_addresses(quiet.plan, "www1")]
    assert "10.72.0.1" in own, "the node's own address is never touched"


def test_addresses_that_a_crash_left_are_removed_at_the_next_start(quiet: Lab) -> None:
    hit = on(quiet, "www2")
    quiet.cut("www2")
    quiet.kill("www2", everything=True)
    assert quiet.wait_ended("www2", 30)
    assert set(hit) <= set(on(quiet, "www2"))
    since = now()
    quiet.start("www2")

    def removed() -> set[str]:
        return {one.address for one in quiet.changes() if one.node == "www2" and one.at >= since and not one.present}

    until(lambda: set(hit) <= removed())
    quiet.stop_at_once("www2")
    quiet.heal()
    quiet.start("www2")
    formation.wait_formed(quiet)
    assert on(quiet, "www2") == []


def test_ipv6_moves_and_is_announced(cluster: Callable[..., Lab]) -> None:
    lab = cluster(2, 2, "balance.interval=10m", ipv6=True)
    six = next(address for address in on(lab, "www1") if ":" in address)
    with Probing(lab) as probing, arp.Capture(lab.plan) as capture:
        probing.wait_answered(30)
        capture.frames()
        since = now()
        lab.kill("www1", signal.SIGTERM)
        assert lab.wait_ended("www1", 30)
        end = now() + 0.5
        recording = probing.recording(since, end)
        (seen,) = [one for one in probing.outages(since, end, recording) if one.address == six]
        # Whose answers the longest gap is between says nothing: the move takes less than a stall of this machine.
        assert ([node for node, _ in seen.runs], seen.served) == (["www1", "www2"], True)
        assert seen.seconds < SCHEDULING + recording.worst_stall(since, end)
        assert ("www2", "na") in {(frame.node, frame.kind) for frame in capture.frames() if frame.address == six}


def test_http_answers_on_the_management_link_while_the_node_is_cut_off(cluster: Callable[..., Lab]) -> None:
    quiet = cluster()
    quiet.cut("www1")
    until(lambda: all("www1" in nodes for nodes in quiet.holders().values()))
    host = quiet.plan.node("www1").management

    def held() -> int:
        with urllib.request.urlopen(f"http://{host}:9748/api/v1/status", timeout=15) as answer:
            status = json.load(answer)
        assert status["node"] == "www1"
        return len([vip for vip in status["vips"] if vip["held"]])

    until(lambda: held() == 6)
    since = quiet.heal()
    until(lambda: all(len(nodes) == 1 for nodes in quiet.holders().values()))
    ends = [one.until for one in quiet.held_twice(since, now())]
    assert max(ends) - since < 2 * FAILURE_TIMEOUT
