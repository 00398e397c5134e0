import asyncio
import json

import pytest

from agent.core import events as e
from agent.core.effects import Occasion
from agent.core.ids import NodeName
from agent.core.view import Cause
from exporters.history import History, Recorded
from exporters.record import LIST_MAX, fields, type_name
from exporters.schema import EventResponse
from exporters.wall import Wall
from tests.exporters.events_of_every_kind import EVERY, installed, one, vip_name

WALL = Wall(clock=lambda: 100.0, wall=lambda: 1_800_000_000.0)


def history(*events: e.Event, limit: int = 5_000) -> History:
    result = History(WALL, limit=limit)
    for event in events:
        result(event)
    return result


def numbered(count: int) -> list[e.Event]:
    return [e.StateChanged(at=float(n), state=f"S{n}") for n in range(1, count + 1)]


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type_name(type(event)))
def test_every_event_has_a_record_of_plain_values(event: e.Event) -> None:
    values = fields(event)
    assert json.loads(json.dumps(values)) == values
    assert "at" not in values
    for record in history(event).since(0):
        EventResponse.model_validate(record)


def test_a_record_tells_what_when_and_why() -> None:
    moved = e.VipReleased(at=99.75, vip=vip_name(0), cause=Cause.FAILOVER, started=99.7)
    (record,) = history(moved).since(0)
    assert record == {
        "seq": 1,
        "time": "2027-01-15T07:59:59.750Z",
        "type": "vip_released",
        "level": "info",
        "cause": "failover",
        "message": "released 10.0.0.1 (failover) in 50.0 ms",
        "fields": {"vip": "10.0.0.1", "cause": "failover", "started_before": 0.05},
        "trace_id": None,
    }


def test_a_decision_tells_its_kind() -> None:
    values = fields(one(e.Decided))
    assert values["decision"] == {
        "moves": [{"vip": "10.0.0.1", "giver": "www1", "taker": "www2", "cause": "move", "type": "move"}],
        "type": "handed_over",
    }


def test_numbers_grow_by_one_and_since_is_exclusive() -> None:
    kept = history(*numbered(5))
    assert [record["seq"] for record in kept.since(0)] == [1, 2, 3, 4, 5]
    assert [record["seq"] for record in kept.since(3)] == [4, 5]
    assert kept.since(5) == []
    assert [record["seq"] for record in kept.since(0, page=2)] == [1, 2]
    assert [record["seq"] for record in kept.latest(2)] == [4, 5]
    assert kept.latest(0) == []


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    kept = history(*numbered(10), limit=4)
    assert (kept.first, kept.last) == (7, 10)
    assert [record["seq"] for record in kept.since(0)] == [7, 8, 9, 10]
    assert [record["seq"] for record in kept.since(8)] == [9, 10]
    long = e.ConfigDiffers(at=1.0, members=(NodeName("www2"),) * 1_000, vips=())
    values = fields(long)
    assert len(values["members"]) == LIST_MAX  # type: ignore[arg-type]
    assert values["members_total"] == 1_000


def test_a_number_of_a_former_life_starts_from_the_beginning() -> None:
    assert [record["seq"] for record in history(*numbered(3)).since(900)] == [1, 2, 3]


def test_what_would_push_everything_else_out_is_not_kept() -> None:
    noise: list[e.Event] = []
    for n in range(2_000):
        noise += [
            e.HeartbeatSent(at=n / 100),
            e.HeartbeatReceived(at=n / 100, peer=NodeName("www2"), rtt=0.001, missed=0),
            e.LeaseRenewed(n / 100, "fast", margin=0.05, until=n / 100 + 0.15),
            e.ArpSent(n / 100, vip_name(0), "eth4", "probe", "10.0.0.1", Occasion.ACQUIRE, ""),
            e.DatagramRejected(at=n / 100, reason="unsealed", source="10.9.9.9:1"),
            e.ArpSent(n / 100, vip_name(0), "eth4", "directed", "10.0.9.9", Occasion.ACQUIRE, ""),
            e.ArpSent(n / 100, vip_name(0), "eth4", "request", "10.0.0.1", Occasion.REFRESH, ""),
        ]
    kept = history(*noise)
    assert [record["type"] for record in kept.since(0)] == ["datagram_rejected", "datagram_rejected"]
    assert kept.since(1)[0]["fields"]["held_back"] == 999
    failed = e.ArpSent(1.0, vip_name(0), "eth4", "request", "10.0.0.1", Occasion.REFRESH, "ENETDOWN")
    first = e.ArpSent(1.0, vip_name(0), "eth4", "request", "10.0.0.1", Occasion.ACQUIRE, "")
    assert len(history(failed, first).since(0)) == 2


def test_a_rival_is_named_every_ten_seconds_and_each_answer_to_it_once() -> None:
    claims = [
        e.ConflictSeen(100 + n / 10, vip_name(0), "10.0.0.1", "eth4", f"02:00:00:00:00:{n % 100:02}", answer)
        for n in range(101)
        for answer in ("noted", "yielded")
    ]
    kept = history(*claims).since(0)
    assert [(record["time"][-7:-1], record["fields"]["answer"]) for record in kept] == [
        ("00.000", "noted"), ("00.000", "yielded"), ("10.000", "noted"), ("10.000", "yielded"),
    ]  # fmt: skip
    assert kept[2]["fields"]["held_back"] == 99
    assert "02:00:00:00:00:00 on eth4 claims 10.0.0.1" in kept[2]["message"]


def test_a_time_to_come_is_told_from_the_event_on() -> None:
    (taken,) = history(e.LeaseTaken(100.0, until=100.15)).since(0)
    assert taken["fields"] == {"until_after": 0.15}


async def test_a_follower_gets_what_was_and_what_comes_and_then_the_end() -> None:
    kept = history(*numbered(2))
    seen: list[int] = []
    more = asyncio.Event()

    async def read() -> None:
        async for record in kept.follow(1):
            seen.append(record["seq"])
            more.set()

    reading = asyncio.create_task(read())
    async with asyncio.timeout(30):
        await more.wait()
        more.clear()
        kept(installed())
        await more.wait()
        kept.close()
        await reading
    assert seen == [2, 3]


async def test_a_slow_follower_sees_the_gap() -> None:
    kept = history(limit=3)
    following = kept.follow(0)
    for event in numbered(2):
        kept(event)
    first: Recorded = await anext(following)
    for event in numbered(6):
        kept(event)
    rest = [(await anext(following))["seq"] for _ in range(4)]
    assert first["seq"] == 1
    assert rest == [2, 6, 7, 8]
    await following.aclose()
