from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agent.core import events as e
from agent.core.effects import Occasion
from agent.core.settings import PartitionPolicy, Settings
from agent.core.view import Assigned, Cause, HandedOver, Move, ViewCause
from exporters.schema import StatusResponse, VipStatus
from exporters.status import Status
from exporters.wall import Wall
from tests.exporters.events_of_every_kind import EVERY, W1, W2, W3, installed, settings, vip_name

WALL = Wall(clock=lambda: 100.0, wall=lambda: 1_800_000_000.0)
A, B, C = vip_name(0), vip_name(1), vip_name(2)


def status(*events: e.Event, about: Settings | None = None) -> Status:
    result = Status(about or settings(), WALL, engine="embedded", addresses={W1.name: "10.0.0.101"})
    for event in events:
        result(event)
    return result


def vip(of: Status, name: str) -> VipStatus:
    (row,) = [row for row in of.snapshot().vips if row.name == name]
    return row


def owners(at: float, *pairs: tuple[str, str], uncovered: tuple[str, ...] = ()) -> e.OwnersChanged:
    return e.OwnersChanged(at=at, owners=pairs, uncovered=uncovered, spread=1.0)  # type: ignore[arg-type]


def test_the_contract_of_the_top_level() -> None:
    keys = "cluster node state mature fit draining quorate view members vips leases arp_cache engine version"
    assert " ".join(StatusResponse.model_fields) == keys


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_every_event_leaves_a_status_that_can_be_told(event: e.Event) -> None:
    told = status(installed(), event).snapshot()
    assert StatusResponse.model_validate_json(told.model_dump_json()) == told


def test_at_the_start_nothing_is_known() -> None:
    told = status().snapshot()
    assert (told.state, told.mature, told.view) == ("BOOT", False, None)
    assert [(row.name, row.in_view, row.heard, row.incarnation) for row in told.members] == [
        (name, False, None, None) for name in ("www1", "www2", "www3")
    ]
    assert [(row.name, row.owner, row.state) for row in told.vips] == [(v, None, "uncovered") for v in (A, B, C)]
    assert told.vips[0].addresses == ["eth4:10.0.0.1/16"]
    assert told.vips[0].prefer == ["www2"]


def test_a_view_tells_members_and_owners() -> None:
    told = status(e.StateChanged(9.0, "RUN"), installed(at=99.0)).snapshot()
    assert told.view is not None
    assert (told.view.id, told.view.members, told.view.cause) == ("7-www1-3", ["www1", "www2", "www3"], "join")
    assert told.view.since == datetime(2027, 1, 15, 7, 59, 59, tzinfo=UTC)
    assert (told.state, told.mature) == ("RUN", True)
    assert [(row.owner, row.state, row.cause) for row in told.vips] == [
        ("www1", "elsewhere", "start"),
        ("www2", "elsewhere", "start"),
        ("www3", "elsewhere", "start"),
    ]
    assert [row.vips for row in told.members] == [1, 1, 1]
    assert told.members[0].address == "10.0.0.101"
    assert told.members[1].incarnation == 5


def test_the_life_of_a_vip_on_this_node() -> None:
    here = status(installed())
    seen = []
    for event in (
        e.VipWaits(10.1, A, "lease"),
        e.AcquireStarted(10.2, A, Cause.START),
        e.VipAcquired(10.3, A, Cause.START, started=10.2, since=10.0),
        e.ReleaseStarted(11.0, A, Cause.BALANCE),
        e.VipReleased(11.1, A, Cause.BALANCE, started=11.0),
    ):
        here(event)
        row = vip(here, A)
        seen.append((row.state, row.held))
    assert seen == [("waiting", False), ("acquiring", False), ("held", True), ("releasing", True), ("elsewhere", False)]


def test_a_failed_acquisition_is_shown_until_the_vip_is_somebody_elses() -> None:
    here = status(installed(), e.VipAcquireFailed(10.1, A, "interface_down", "eth4", 1.0))
    assert vip(here, A).state == "failed"
    here(owners(10.2, (A, "www2"), (B, "www2"), (C, "www3")))
    assert vip(here, A).state == "elsewhere"


def test_why_and_since_when_an_owner_is_the_owner() -> None:
    here = status(installed(at=50.0))
    here(replace(installed(at=60.0, cause=ViewCause.DISCONNECT), owners=((A, W1.name), (B, W1.name))))
    assert (vip(here, A).since, vip(here, A).cause) == (WALL.instant(50.0), "start")
    assert (vip(here, B).owner, vip(here, B).since, vip(here, B).cause) == ("www1", WALL.instant(60.0), "failover")
    assert (vip(here, C).owner, vip(here, C).state) == (None, "uncovered")
    moved = HandedOver((Move(B, W1.name, W2.name, Cause.BALANCE),))
    view = installed().view.id
    here(e.Decided(70.0, view, 3, moved, flushed=False))
    here(owners(70.0, (A, "www1"), (B, "www2")))
    assert (vip(here, B).owner, vip(here, B).cause, vip(here, B).since) == ("www2", "balance", WALL.instant(70.0))
    here(e.Decided(80.0, view, 4, Assigned(((C, W3.name),), Cause.UNFIT), flushed=False))
    here(owners(80.0, (A, "www1"), (B, "www2"), (C, "www3")))
    assert vip(here, C).cause == "unfit"


def test_a_vip_that_only_others_have_is_shown_without_addresses() -> None:
    here = status(installed(), owners(10.5, ("10.9.9.9", "www2")))
    assert (vip(here, "10.9.9.9").owner, vip(here, "10.9.9.9").addresses) == ("www2", [])


def test_members_are_told_by_what_is_heard_of_them() -> None:
    here = status(
        installed(),
        e.HeartbeatReceived(98.0, W2.name, rtt=0.002, missed=0),
        e.HeartbeatReceived(99.0, W2.name, rtt=None, missed=1),
        e.StandingsChanged(99.0, unfit=(W3.name,), draining=(W1.name,), leaving=(W2.name,)),
        e.ConfigDiffers(99.0, members=(W3.name,), vips=()),
    )
    told = here.snapshot()
    rows = {row.name: row for row in told.members}
    assert (rows["www2"].heard, rows["www2"].rtt) == (WALL.instant(99.0), 0.002)
    assert [(r.fit, r.draining, r.leaving, r.config_matches) for r in told.members] == [
        (True, True, False, True),
        (True, False, True, True),
        (False, False, False, False),
    ]
    assert (told.fit, told.draining) == (True, True)
    here(e.ConfigDiffers(99.5, members=(), vips=()))
    assert all(row.config_matches for row in here.snapshot().members)


def test_ready_is_mature_and_in_a_view() -> None:
    assert "in no view yet" in status().not_ready
    assert "not mature" in status(installed(mature=False)).not_ready
    assert status(installed(mature=False), e.BecameMature(11.0)).not_ready == ""
    assert (
        status(installed(), e.StandingsChanged(1.0, unfit=(W1.name,), draining=(W1.name,), leaving=())).not_ready == ""
    )
    left = status(installed(), e.StateChanged(12.0, "LEFT"))
    assert "left the group" in left.not_ready
    assert left.snapshot().view is None


def test_quorate_is_what_the_core_counted_and_only_under_that_policy() -> None:
    few, enough = e.QuorumChanged(10.1, False, 1, 2), e.QuorumChanged(10.2, True, 2, 2)
    assert status(installed(), few).quorate
    strict = replace(settings(), partition=PartitionPolicy.QUORUM)
    assert not status(installed(), about=strict).quorate, "not counted yet"
    here = status(installed(), few, about=strict)
    assert "not quorate: 1 of 2 votes" in here.not_ready
    view = here.snapshot().view
    assert view is not None
    assert (here.snapshot().quorate, view.votes, view.votes_needed) == (False, 1, 2)
    here(enough)
    assert (here.quorate, here.not_ready) == (True, "")
    view = status(installed(), enough).snapshot().view
    assert view is not None
    assert view.votes is None, "nobody counts"


def test_leases_are_told_layer_by_layer() -> None:
    here = status(
        e.LeaseLayer(90.0, "fast", True, ""),
        e.LeaseTaken(99.0, until=99.15),
        e.LeaseRenewed(99.9, "fast", margin=0.05, until=100.1),
        e.LeaseLayer(99.0, "guard", True, "started again"),
    )
    fast, address, guard = here.snapshot().leases
    assert (fast.layer, fast.active, fast.until, fast.margin, fast.expired) == (
        "fast", True, WALL.instant(100.1), 0.05, 0,
    )  # fmt: skip
    assert fast.remaining == pytest.approx(0.1)
    assert (address.layer, address.active, address.until, address.detail) == ("address", False, None, "")
    assert (guard.layer, guard.active, guard.detail, guard.until) == ("guard", True, "started again", None)
    here(e.LeaseLost(100.0, "fast"))
    fast = here.snapshot().leases[0]
    assert (fast.active, fast.until, fast.remaining, fast.expired) == (True, None, None, 1)
    here(e.LeaseTaken(100.1, until=100.2))
    here(e.LeaseLayer(100.2, "fast", False, "no nftables"))
    fast = here.snapshot().leases[0]
    assert (fast.active, fast.until, fast.detail) == (False, None, "no nftables")


def test_rivals_of_a_vip_are_told_the_latest_first() -> None:
    def claim(at: float, mac: str, answer: str = "noted") -> e.ConflictSeen:
        return e.ConflictSeen(at, A, A, "eth4", mac, answer)

    here = status(claim(90.0, "02::1"), claim(91.0, "02::2", "defended"), claim(95.0, "02::1", "yielded"))
    then = here.copy()
    first, second = vip(here, A).rivals
    assert (first.mac, first.first, first.last, first.claims, first.answer) == (
        "02::1", WALL.instant(90.0), WALL.instant(95.0), 2, "yielded",
    )  # fmt: skip
    assert (second.mac, second.claims, second.interface, second.address) == ("02::2", 1, "eth4", A)
    assert vip(here, B).rivals == []
    here(claim(99.0, "02::3"))
    assert [rival.mac for rival in vip(then, A).rivals] == ["02::1", "02::2"], "a copy does not follow"


def test_whether_the_engine_seals_is_told() -> None:
    assert Status(settings(), WALL, engine="embedded", sealed=False).snapshot().engine.sealed is False
    assert Status(settings(), WALL, engine="corosync").snapshot().engine.sealed is None


def test_a_copy_does_not_follow() -> None:
    here = status(installed())
    then = here.copy()
    here(e.AcquireStarted(10.2, A, Cause.START))
    here(owners(10.5, (A, "www3")))
    assert (vip(then, A).state, vip(then, A).owner) == ("elsewhere", "www1")


def test_what_this_node_announced_is_counted_per_vip() -> None:
    here = status(installed())
    assert vip(here, A).announced is None
    for at, kind, error in ((20.0, "request", ""), (20.1, "reply", ""), (20.2, "directed", "no buffer space")):
        here(e.ArpSent(at, A, "eth4", kind, "10.0.0.9", Occasion.ACQUIRE, error))
    told = vip(here, A).announced
    assert told is not None
    assert (told.frames, told.errors, told.kind, told.target, told.occasion) == (
        2, 1, "directed", "10.0.0.9", "acquire",
    )  # fmt: skip
    assert told.last == WALL.instant(20.2)
    assert vip(here, B).announced is None


def test_a_lost_frame_is_told_until_everyone_was_told_again() -> None:
    here = status(installed())

    def after(*frames: tuple[str, str, str, str]) -> bool:
        for interface, kind, target, error in frames:
            here(e.ArpSent(20.0, A, interface, kind, target, Occasion.REFRESH, error))
        told = vip(here, A).announced
        assert told is not None
        return told.failing

    assert not after(("eth4", "request", "10.0.0.1", ""))
    assert after(("eth4", "directed", "10.0.0.9", "ENOBUFS"))
    assert after(("eth4", "directed", "10.0.0.8", ""), ("eth5", "request", "10.0.1.1", "")), "not to all of them"
    assert after(("eth4", "na", "fd00::1", "")), "nor by the other protocol"
    assert not after(("eth4", "request", "10.0.0.1", ""))
    assert after(("eth4", "request", "10.0.0.1", "ENETDOWN"))
    assert not after(("eth4", "reply", "10.0.0.1", ""))
    told = vip(here, A).announced
    assert told is not None
    assert told.errors == 2, "which stay counted"


def test_silence_and_spread_are_told() -> None:
    here = status(installed(), e.HeartbeatReceived(98.5, W2.name, rtt=None, missed=0), owners(99.0, (A, "www1")))
    told = here.snapshot()
    assert {row.name: row.silence for row in told.members} == {"www1": None, "www2": 1.5, "www3": None}
    assert told.view is not None
    assert (told.view.spread, round(told.view.gathered, 6)) == (1.0, 0.02)
