"""When a claim is answered, and how often it is told: over hours of virtual time."""

from __future__ import annotations

from agent.core.ids import VipName
from agent.drivers import defence
from agent.drivers.defence import Defence, Verdict

WEB = VipName("web")
RIVAL = b"\x02\0\0\0\0\x99"


class Run:
    """A defender and its clock, turned as the watch turns it: every tenth of a second."""

    def __init__(self, *, yielding: bool = False) -> None:
        self.defence = Defence(yielding=yielding)
        self.now = 100.0
        self.ticks = 0
        self.announced: list[tuple[float, VipName]] = []

    def claim(self, vip: VipName = WEB, mac: bytes = RIVAL) -> Verdict:
        verdict = self.defence.claimed(self.now, vip, mac)
        if verdict.answer == "defended":
            self.announced.append((self.now, vip))
        return verdict

    def until(self, seconds: float) -> None:
        """To so many seconds after the beginning."""
        while self.ticks < round(10 * seconds):
            self.ticks += 1
            self.now = 100.0 + self.ticks / 10
            self.announced += [(self.now, vip) for vip in self.defence.take(self.now)]

    def times(self, vip: VipName = WEB) -> list[float]:
        return [round(at - 100.0, 1) for at, name in self.announced if name == vip]


def test_one_claim_is_answered_at_once_and_again_after_the_locktime() -> None:
    run = Run()
    assert run.claim() == Verdict("defended", True)
    run.until(60)
    assert run.times() == [0.0, 1.1]
    assert not run.defence.any


def test_the_second_round_waits_for_a_rival_that_announces_a_few_times() -> None:
    run = Run()
    for second in range(3):
        run.until(second)
        run.claim()
    run.until(60)
    assert run.times() == [0.0, 3.1]


def test_a_claim_after_the_second_round_is_answered_when_the_interval_is_over() -> None:
    """It was the rival's last word: nobody else would correct those who heard it."""
    run = Run()
    run.claim()
    run.until(2)
    assert run.claim() == Verdict("noted", True)
    run.until(60)
    assert run.times() == [0.0, 1.1, 10.0, 11.1]


def test_a_stubborn_rival_meets_one_defence_in_ten_seconds() -> None:
    run = Run()
    for number in range(300):
        run.until(number / 5)
        run.claim()
    run.until(80)
    assert run.times() == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0, 61.1]


def test_a_claim_a_minute_is_met_each_time() -> None:
    run = Run()
    for minute in range(5):
        run.until(60 * minute)
        assert run.claim() == Verdict("defended", True)
    assert run.times() == [0.0, 1.1, 60.0, 61.1, 120.0, 121.1, 180.0, 181.1, 240.0]


def test_nothing_is_announced_for_what_is_not_held_any_more() -> None:
    run = Run()
    run.claim()
    run.claim(VipName("other"))
    run.until(2)
    run.claim()
    run.defence.forget([WEB])
    run.until(60)
    assert run.times() == [0.0, 1.1]
    assert run.times(VipName("other")) == [0.0, 1.1]


def test_a_flood_is_told_once_a_second() -> None:
    run = Run()
    told = 0
    for number in range(50):
        run.until(number / 10)
        told += sum(run.claim().tell for _ in range(1000))
    assert told == 5


def test_each_rival_is_told_of() -> None:
    run = Run()
    assert [run.claim(mac=bytes((2, 0, 0, 0, 0, number))).tell for number in range(4)] == [True] * 4


def test_made_up_rivals_are_told_a_few_times_and_remembered_as_few() -> None:
    run = Run()
    told = sum(run.claim(mac=number.to_bytes(6, "big")).tell for number in range(10_000))
    assert told == defence.RIVALS_MAX
    assert len(run.defence._contests[WEB].quiet) == defence.RIVALS_MAX


def test_notes_about_all_vips_together_are_bounded() -> None:
    run = Run()
    vips = [VipName(f"vip{number}") for number in range(1000)]
    for vip in vips:
        run.claim(vip)
    told = [run.claim(vip, b"\x02\0\0\0\0\x98").tell for vip in vips]
    assert sum(told) == defence.TOLD_MAX
    run.until(1.1)
    assert run.claim(vips[-1], b"\x02\0\0\0\0\x98").tell


def test_who_yields_says_so_once_a_second_and_announces_nothing() -> None:
    run = Run(yielding=True)
    answers = [run.claim(mac=bytes((2, 0, 0, 0, 0, number))) for number in range(3)]
    assert answers == [Verdict("yielded", True), Verdict("yielded", False), Verdict("yielded", False)]
    run.until(1)
    assert run.claim() == Verdict("yielded", True)
    run.until(60)
    assert run.times() == []
