import asyncio
import io

from agent.core.events import BecameMature, Event, GatherStarted
from exporters import bus as bus_module
from exporters.bus import Bus


def event(number: int) -> Event:
    return BecameMature(at=float(number))


async def test_events_reach_every_subscriber_in_order_and_after_the_publisher_went_on() -> None:
    bus = Bus(asyncio.get_running_loop())
    seen: list[tuple[str, float]] = []
    done = asyncio.Event()
    bus.subscribe("a", lambda it: seen.append(("a", it.at)))
    bus.subscribe("b", lambda it: seen.append(("b", it.at)))
    bus.subscribe("end", lambda it: done.set() if it.at == 2 else None)
    for number in range(3):
        bus.publish(event(number))
    assert seen == []
    async with asyncio.timeout(30):
        await done.wait()
    assert seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]


async def test_the_loop_gets_its_turn_between_slices() -> None:
    """Each event costs 1 ms of a clock that only observing moves: a slice takes no more than its time and one event."""
    now = 0.0
    slices: list[int] = []
    done = asyncio.Event()

    def observe(it: Event) -> None:
        nonlocal now
        now += 0.001
        slices[-1] += 1
        if it.at == 19:
            done.set()

    bus = Bus(asyncio.get_running_loop(), timer=lambda: now)
    bus.subscribe("slow", observe)
    for number in range(20):
        bus.publish(event(number))
    while not done.is_set():
        slices.append(0)
        bus.drain()
    assert sum(slices) == 20
    assert max(slices) <= bus_module.SLICE / 0.001 + 1
    assert bus_module.SLICE + 0.001 < 0.005


async def test_who_asks_sees_what_happened_before() -> None:
    """However slowly: an order that made many events is over when its answer is read."""
    seen: list[float] = []
    now = 0.0

    def observe(it: Event) -> None:
        nonlocal now
        now += 0.01
        seen.append(it.at)

    bus = Bus(asyncio.get_running_loop(), timer=lambda: now)
    bus.subscribe("slow", observe)
    for number in range(bus_module.SETTLED + 1):
        bus.publish(event(number))
    bus.settle()
    assert len(seen) == bus_module.SETTLED
    bus.flush()


async def test_nothing_is_observed_while_a_fail_over_is_under_way() -> None:
    now = 0.0
    seen: list[float] = []
    bus = Bus(asyncio.get_running_loop(), timer=lambda: now)
    bus.subscribe("any", lambda it: seen.append(it.at))
    bus.publish(event(0))
    now = bus_module.DELAY
    bus.publish(GatherStarted(0.0, 2, "suspect"))
    bus._drain_when_calm()
    assert seen == [], "put off"
    now += bus_module.LATEST
    bus._drain_when_calm()
    assert len(seen) == 2, "but not for ever"


async def test_a_flood_leaves_the_loop_responsive() -> None:
    """A loop that is asked for a turn every millisecond gets many of them while 20,000 events are observed."""
    turns = 0
    done = asyncio.Event()
    bus = Bus(asyncio.get_running_loop())
    bus.subscribe("work", lambda it: sum(range(200)))
    bus.subscribe("end", lambda it: done.set() if it.at == 19_999 else None)
    for number in range(20_000):
        bus.publish(event(number))
    async with asyncio.timeout(120):
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)
    assert turns > 20


async def test_a_subscriber_that_raises_is_removed_and_told_of_once() -> None:
    complaints = io.StringIO()
    bus = Bus(asyncio.get_running_loop(), complaints=complaints)
    seen: list[float] = []

    def broken(it: Event) -> None:
        raise LookupError("no such thing")

    bus.subscribe("broken", broken)
    bus.subscribe("sound", lambda it: seen.append(it.at))
    bus.publish(event(1))
    bus.publish(event(2))
    bus.flush()
    assert seen == [1, 2]
    assert bus.failed == ["broken"]
    assert complaints.getvalue().count("broken failed on BecameMature(at=1.0)") == 1
    assert complaints.getvalue().count("LookupError: no such thing") == 1


async def test_a_full_queue_drops_the_newest_and_counts() -> None:
    bus = Bus(asyncio.get_running_loop(), limit=2)
    seen: list[float] = []
    bus.subscribe("a", lambda it: seen.append(it.at))
    for number in range(5):
        bus.publish(event(number))
    assert bus.dropped == 3
    bus.flush()
    assert seen == [0, 1]
    bus.publish(event(9))
    bus.flush()
    assert seen == [0, 1, 9]


async def test_events_are_observed_in_the_order_in_which_they_happened() -> None:
    """The pump carries effects out, and drivers publish what they did, before it publishes the step's own events."""
    bus = Bus(asyncio.get_running_loop())
    seen: list[float] = []
    upcoming: list[Event | None] = []
    bus.subscribe("a", lambda it: (seen.append(it.at), upcoming.append(bus.coming(BecameMature))))
    for number in (5, 3, 4, 1):
        bus.publish(event(number))
    waiting = asyncio.create_task(bus.caught_up())
    await asyncio.sleep(0)
    bus.flush()
    await waiting
    assert seen == [1, 3, 4, 5]
    assert upcoming == [event(3), event(4), event(5), None]
