"""From events to traces: what belongs together, on one node and on all of them."""

from dataclasses import replace

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from agent.core import events as e
from agent.core.effects import Occasion
from agent.core.ids import VipName
from agent.core.view import Assigned, Cause, HandedOver, Matured, Move, Moves, View
from exporters.announcements import EVENTS_MAX, LONGEST, QUIET
from exporters.trace_ids import identify
from exporters.weaver import UNFINISHED
from tests.exporters.events_of_every_kind import EVERY, W1, W2, W3
from tests.exporters.traced import (
    NEW,
    OLD,
    Watched,
    acquired,
    announced,
    change,
    decided,
    failover,
    frame,
    released,
    suspected,
)

MOVE = Move(VipName("a"), W1.name, W2.name, Cause.BALANCE)


def test_identities_follow_from_cluster_and_view_alone() -> None:
    # printf 'www\0007-www1-3' | sha256sum
    known = identify("www", "7-www1-3")
    assert known.trace_text + known.root_text == "a450eb88cb59572924991c1a41a45831e4048f1fbc7067bb"
    assert str(NEW) == "7-www1-3"
    others = [identify("www", "8-www1-3"), identify("www2", "7-www1-3"), identify("www", "7-www1-3", 1)]
    assert len({known, *others, identify("www", "7-www1-31")}) == 5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_sampling_is_opentelemetrys_own_rule(share: float) -> None:
    sampler = TraceIdRatioBased(share)
    identities = [identify("www", f"{epoch}-www1-3") for epoch in range(2_000)]
    mine = [one.sampled(share) for one in identities]
    theirs = [sampler.should_sample(None, one.trace, "x").decision is Decision.RECORD_AND_SAMPLE for one in identities]
    assert mine == theirs
    assert sum(mine) == pytest.approx(2_000 * share, abs=100)


def test_a_failover_is_one_tree() -> None:
    node = Watched().see(*failover()).rest(110.0)
    trace = identify("www", str(NEW))
    of_new = [span for span in node.spans if span.incident.view == NEW]
    assert {span.incident.identity for span in of_new} == {trace}
    root = next(span for span in of_new if span.parent is None)
    assert (root.name, root.span) == ("change view", trace.root)
    assert (root.start, root.end) == (pytest.approx(99.6), 100.003)
    assert root.links == ((identify("www", str(OLD)).trace, identify("www", str(OLD)).root),)
    assert root.attributes["members.left"] == ("www3",)
    detect, acquire = node.one("detect failure"), node.one("acquire vip")
    assert (detect.start, detect.end, detect.parent) == (pytest.approx(99.6), 99.997, trace.root)
    gathers = [span for span in node.named("gather state") if span in of_new]
    assert [(span.start, span.end) for span in gathers] == [(99.998, 99.999)]
    assert [point.name for point in gathers[0].points] == ["gather started", "vote heard"]
    assert acquire.parent == trace.root
    assert (acquire.start, acquire.end) == (pytest.approx(100.001), 100.003)
    assert acquire.attributes["vip.address"] == ("10.0.0.1", "fd00::1")
    add, announce = node.one("add address"), node.one("announce vip")
    assert {add.parent, announce.parent} == {acquire.span}
    assert (add.start, add.end, announce.start, announce.end) == (acquire.start, 100.002, 100.002, 100.003)
    assert len(announce.points) == 2


def test_all_nodes_take_part_in_one_trace_and_one_of_them_has_the_root() -> None:
    first = Watched(W1).see(*failover()).rest(110.0)
    second = Watched(W2).see(*[event for event in failover() if not isinstance(event, e.ArpSent)]).rest(110.0)
    traces = [{span.incident.identity.trace for span in node.spans} for node in (first, second)]
    assert traces[0] == traces[1]
    assert [len([span for span in node.spans if span.parent is None]) for node in (first, second)] == [2, 0]
    roots = {span.span for span in first.spans if span.parent is None}
    assert {span.parent for span in second.spans if span.name != "add address"} <= roots


def test_a_defence_is_a_trace_of_its_own_with_the_rivals_address() -> None:
    node = Watched().see(*failover()).rest(110.0)
    frames = announced(200.001, Occasion.DEFEND), frame(200.002, Occasion.DEFEND)
    claim = e.ConflictSeen(200.0, VipName("a"), "10.0.0.1", "eth4", "02:00:00:00:00:66", "defended")
    node.see(claim, *frames).rest(201.0)
    root = node.one("defend vip")
    assert [point.attributes["network.peer.mac"] for point in root.points] == ["02:00:00:00:00:66"]
    told = node.named("announce vip")[-1]
    assert (told.parent, told.attributes["announce.occasion"]) == (root.span, "defend")
    node.see(frame(300.0, Occasion.DEFEND), replace(claim, at=300.001)).rest(310.0)
    assert len(node.named("defend vip")) == 2, "in either order it is one"
    assert len(node.named("defend vip")[1].points) == 1


def test_questions_before_an_acquisition_belong_to_it() -> None:
    node = Watched().see(*failover()[:5])
    started, taken = acquired(100.5)
    started = replace(started, at=100.01)
    asked = [replace(frame(at), kind="probe") for at in (100.02, 100.2)]
    node.see(started, *asked).rest(100.35)
    node.see(taken, announced(100.5, Occasion.ACQUIRE), frame(100.501)).rest(110.0)
    acquire = node.one("acquire vip")
    assert (acquire.start, acquire.end) == (100.01, 100.501)
    probe = node.one("probe vip")
    assert (probe.parent, probe.start, probe.end, len(probe.points)) == (acquire.span, 100.02, 100.2, 2)
    assert len(node.one("announce vip").points) == 1


def test_a_rival_that_is_found_by_asking_is_told_in_the_change() -> None:
    node = Watched().see(*failover()[:5], acquired(100.5)[0])
    node.see(
        e.ConflictSeen(100.51, VipName("a"), "10.0.0.1", "eth4", "02:00:00:00:00:66", "yielded"),
        e.VipAcquireFailed(100.52, VipName("a"), "conflict", "somebody has it", 1.0),
    ).rest(110.0)
    root = next(span for span in node.spans if span.parent is None and span.incident.view == NEW)
    assert [point.name for point in root.points] == ["address claimed by another host"]
    assert node.one("acquire vip").attributes["error.type"] == "conflict"


def roots(node: Watched, of: str) -> list[float]:
    """Ends of the roots of one view's change."""
    return [span.end for span in node.spans if span.parent is None and span.span == identify("www", of).root]


@pytest.mark.parametrize("slow", [False, True], ids=["found at once", "found after it came to rest"])
def test_the_root_of_a_first_member_that_dies_young_is_told_by_the_next(slow: bool) -> None:
    """www1 installs the view and is lost; www2 and www3 find out before or after their own part has come to rest."""
    later = 3.0 if slow else 0.3
    nodes = [Watched(node) for node in (W2, W3)]
    for node in nodes:
        node.see(change(100.0, OLD, W1, W2, W3), *acquired(100.1, node.me.name))
        if slow:
            node.rest(101.0)
        gone = replace(change(100.1 + later, NEW, W2, W3, left=(W1,)), failed_since=100.1)
        node.see(gone).rest(110.0)
    assert roots(nodes[0], str(OLD)) == [100.1]
    assert roots(nodes[1], str(OLD)) == [], "one of them is enough"
    assert len(roots(nodes[0], str(NEW))) == 1


def test_a_root_that_was_told_is_not_told_again() -> None:
    def survivor(*after: e.Event) -> Watched:
        return Watched(W2).see(change(100.0, OLD, W1, W2, W3)).rest(103.0).see(*after).rest(110.0)

    lost = replace(change(103.5, NEW, W2, W3, left=(W1,)), failed_since=103.1)
    assert roots(survivor(lost), str(OLD)) == [], "the lost one lived long enough to tell it"
    young = replace(lost, failed_since=100.1)
    assert roots(survivor(replace(young, left=(W3,), view=View(NEW, (W1, W2)))), str(OLD)) == [], "www1 is there"
    assert roots(survivor(replace(young, failed_since=None)), str(OLD)) == [], "it left in order and told what it knew"
    assert roots(survivor(young), str(OLD)) == [100.0]


def test_what_leads_to_a_view_is_told_to_belong_there_before_the_view_is_observed() -> None:
    node = Watched().see(change(40.0, OLD, W1, W2, W3))
    node.see(suspected(99.997))
    assert node.incidents.trace_id() is None
    node.waiting.append(change(100.0, NEW, W1, W2, left=(W3,)))
    node.see(suspected(99.997))
    assert node.incidents.trace_id() == identify("www", str(NEW)).trace_text
    assert node.incidents.exemplar() == {
        "trace_id": identify("www", str(NEW)).trace_text,
        "span_id": identify("www", str(NEW)).root_text,
    }


def test_no_frame_is_lost_past_the_limit_of_one_span() -> None:
    node = Watched().see(*failover()[:-2])
    sent = [(100.003 + number * 1e-4, f"10.0.{number // 200}.{number % 200}") for number in range(3 * EVENTS_MAX + 7)]
    node.see(*(frame(at, target=target) for at, target in sent)).rest(110.0)
    assert sorted(node.frames()) == sent
    spans = node.named("announce vip")
    assert [len(span.points) for span in spans] == [EVENTS_MAX, EVENTS_MAX, EVENTS_MAX, 7]
    assert {span.parent for span in spans} == {node.one("acquire vip").span}


def test_a_paced_announcement_is_told_while_it_goes_on() -> None:
    node = Watched().see(*failover()[:-2])
    sent = [(100.003 + number * QUIET / 2, f"10.0.0.{number}") for number in range(90)]
    for at, target in sent:
        node.see(frame(at, target=target)).rest(at + 0.001)
    assert len(node.named("announce vip")) >= 2
    assert max(span.end - span.start for span in node.named("announce vip")) <= LONGEST + QUIET
    node.rest(200.0)
    assert sorted(node.frames()) == sent
    assert node.one("acquire vip").end < 100.003 + LONGEST + QUIET
    assert len([span for span in node.spans if span.parent is None and span.incident.view == NEW]) == 1


def test_the_repetition_belongs_to_the_acquisition_and_makes_no_second_root() -> None:
    node = Watched().see(*failover()).rest(101.0)
    node.see(announced(101.102, Occasion.REPEAT), frame(101.103, Occasion.REPEAT)).rest(110.0)
    late = node.named("announce vip")[1]
    assert late.incident.identity == identify("www", str(NEW))
    assert late.parent == node.one("acquire vip").span
    assert late.attributes["announce.occasion"] == "repeat"
    assert len([span for span in node.spans if span.span == identify("www", str(NEW)).root]) == 1


def test_an_acquisition_that_had_to_wait_makes_no_second_root() -> None:
    node = Watched().see(*failover()).rest(101.0).see(*acquired(103.0, "b"), frame(103.001, vip="b")).rest(110.0)
    assert len([span for span in node.spans if span.span == identify("www", str(NEW)).root]) == 1
    assert [span.attributes["vip.name"] for span in node.named("acquire vip")] == ["a", "b"]


def test_refreshes_are_traces_of_their_own() -> None:
    node = Watched().see(*failover()).rest(110.0)
    for at in (160.0, 220.0):
        node.see(announced(at, Occasion.REFRESH, "a", "b"))
        node.see(frame(at + 0.001, Occasion.REFRESH), frame(at + 0.001, Occasion.REFRESH, "b")).rest(at + 10)
    roots = node.named("refresh announcements")
    assert len({root.incident.identity.trace for root in roots}) == 2
    for root in roots:
        told = [span for span in node.named("announce vip") if span.incident is root.incident]
        assert [span.attributes["vip.name"] for span in told] == ["a", "b"]
        assert {span.parent for span in told} == {root.span}
        assert root.links == ((identify("www", str(NEW)).trace, identify("www", str(NEW)).root),)


@pytest.mark.parametrize(("timed", "name"), [(True, "balance vips"), (False, "hand over vips")])
def test_a_round_of_moves_is_a_trace_of_its_own_on_giver_and_taker(timed: bool, name: str) -> None:
    moves = decided(130.0, 4, Moves((MOVE,), timed=timed))
    done = e.BalanceRoundDone(130.01, NEW, 4, 0.01)
    over = decided(130.006, 5, HandedOver((MOVE,)))
    start = change(100.0, NEW, W1, W2)
    round_ = e.BalanceRound(130.0, NEW, 4, (MOVE,), timed)
    giver = Watched(W1).see(start, moves, round_, *released(130.004), over, done).rest(140.0)
    taker = Watched(W2).see(start, moves, round_, over, done, *acquired(130.008, cause=Cause.BALANCE))
    taker.see(announced(130.008, Occasion.ACQUIRE), frame(130.009)).rest(140.0)
    trace = identify("www", str(NEW), 4)
    root = giver.one(name)
    assert (root.incident.identity, root.span, root.parent) == (trace, trace.root, None)
    assert (root.start, root.end) == (130.0, 130.01)
    assert root.attributes["decision.seq"] == 4
    assert giver.one("release vip").incident.identity == trace
    assert giver.one("remove address").parent == giver.one("release vip").span
    assert taker.named(name) == []
    assert {taker.one("acquire vip").incident.identity, taker.one("announce vip").incident.identity} == {trace}


@pytest.mark.parametrize(
    ("decision", "name"),
    [
        (Matured(((VipName("a"), W1.name),)), "begin serving"),
        (Assigned(((VipName("a"), W1.name),), Cause.REPAIR), "assign vips"),
    ],
)
def test_what_the_group_gives_out_inside_a_view_is_a_trace(decision: Matured | Assigned, name: str) -> None:
    node = Watched().see(change(100.0, NEW, W1, W2), decided(105.0, 1, decision), *acquired(105.002)).rest(110.0)
    assert node.one(name).incident.identity == identify("www", str(NEW), 1)
    assert node.one("acquire vip").incident.identity == identify("www", str(NEW), 1)


def test_a_flushed_decision_is_no_trace() -> None:
    flushed = e.Decided(100.0, OLD, 4, Moves((MOVE,), timed=True), flushed=True)
    node = Watched().see(change(40.0, OLD, W1, W2), flushed, change(100.0, NEW, W1, W2), *released(100.002))
    assert node.one("release vip").incident.identity == identify("www", str(NEW))


def test_a_new_view_forgets_the_orders_of_the_old_one_but_not_what_is_under_way() -> None:
    node = Watched().see(
        change(40.0, OLD, W1, W2), decided(50.0, 3, Assigned(((VipName("a"), W1.name),), Cause.REPAIR), OLD)
    )
    _, done = acquired(100.001)
    node.see(e.AcquireStarted(99.9, VipName("a"), Cause.REPAIR), change(100.0, NEW, W1, W2), done)
    assert node.one("add address").incident.identity == identify("www", str(OLD), 3)
    node.see(e.ReleaseStarted(101.0, VipName("a"), Cause.MERGE))
    assert node.incidents.now is not None
    assert node.incidents.now.identity == identify("www", str(NEW))


def test_an_address_that_somebody_removed_is_mended_in_a_trace_of_this_node() -> None:
    node = Watched(W2).see(change(100.0, NEW, W1, W2), e.VipLost(110.0, VipName("a"), "by hand"))
    node.see(*acquired(110.002, cause=Cause.REPAIR), announced(110.002, Occasion.ACQUIRE), frame(110.003)).rest(120.0)
    root = node.one("repair vips")
    assert root.parent is None
    assert [point.name for point in root.points] == ["address lost"]
    assert node.one("acquire vip").parent == root.span
    assert root.end == 110.003


def test_who_gives_everything_up_tells_it_with_the_view_that_follows() -> None:
    node = Watched(W2).see(change(40.0, OLD, W1, W2), e.Excluded(99.0, W1, NEW), *released(99.002, cause=Cause.MERGE))
    assert node.named("release vip") == []
    node.see(change(100.0, NEW, W1, W2))
    assert node.one("release vip").incident.identity == identify("www", str(NEW))


def test_failures_are_errors_with_their_kind() -> None:
    node = Watched().see(change(100.0, NEW, W1, W2), e.AcquireStarted(100.0, VipName("a"), Cause.FAILOVER))
    node.see(e.VipAcquireFailed(100.001, VipName("a"), "no_carrier", "eth4 is down", 1.0))
    for name in ("add address", "acquire vip"):
        assert node.one(name).error == "eth4 is down"
        assert node.one(name).attributes["error.type"] == "no_carrier"
    node.see(*acquired(102.0), frame(102.001, error="ENETDOWN"), frame(102.001)).rest(110.0)
    announce = node.one("announce vip")
    assert [point.name for point in announce.points] == ["frame failed", "frame sent"]
    assert (announce.error, announce.attributes["error.type"]) == ("ENETDOWN", "ENETDOWN")


def test_what_is_never_answered_is_told_as_unfinished() -> None:
    node = Watched().see(change(100.0, NEW, W1, W2), e.AcquireStarted(100.0, VipName("a"), Cause.FAILOVER))
    node.see(e.ReleaseStarted(100.0, VipName("b"), Cause.MERGE)).rest(100.0 + UNFINISHED / 2)
    assert node.weaver.busy
    node.rest(100.0 + UNFINISHED + 1)
    assert [node.one(name).error for name in ("acquire vip", "release vip")] == ["unfinished", "unfinished"]
    assert not node.weaver.busy


def test_taken_again_before_the_first_announcement_came_to_rest() -> None:
    node = Watched().see(*failover(), *released(100.1), *acquired(100.2), frame(100.201)).rest(110.0)
    assert len(node.named("acquire vip")) == 2
    assert len(node.named("release vip")) == 1
    assert len(list(node.frames())) == 3


def test_unsampled_traces_cost_no_span_and_mark_nothing() -> None:
    node = Watched(share=0.0)
    for event in failover():
        node.see(event)
        assert node.incidents.exemplar() is None
        assert node.incidents.trace_id() is None
    assert node.rest(110.0).spans == []
    assert not node.weaver.busy


def test_every_event_is_understood_in_any_order() -> None:
    for events in (EVERY, EVERY[::-1]):
        node = Watched().see(*events, *events).rest(1e6)
        assert not node.weaver.busy
        assert len({span.span for span in node.spans}) == len(node.spans)


def test_nothing_is_remembered_of_rounds_that_are_over() -> None:
    node = Watched().see(change(100.0, NEW, W1, W2))
    for seq in range(1, 500):
        node.see(decided(100.0 + seq, seq, Moves((MOVE,), timed=True)), e.BalanceRoundDone(100.5 + seq, NEW, seq, 0.5))
        node.rest(101.2 + seq)
    assert len(node.named("balance vips")) == 499
    assert len(node.incidents._rounds) == 0
