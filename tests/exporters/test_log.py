import contextlib
import io
import json
import os
import threading

import pytest

from agent.core import events as e
from agent.core.ids import NodeName, VipName
from exporters.lines import Level, describe
from exporters.log import Log, logfmt
from exporters.record import type_name
from exporters.wall import Wall
from tests.exporters.events_of_every_kind import EVERY, installed, one

WALL = Wall(clock=lambda: 100.0, wall=lambda: 1_800_000_000.0)


def lines(*events: e.Event, as_json: bool = False, debug: bool = False) -> list[str]:
    out = io.StringIO()
    log = Log(out, WALL, as_json=as_json, debug=debug)
    for event in events:
        log(event)
    log.close()
    return out.getvalue().splitlines()


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type_name(type(event)))
def test_every_event_is_a_sentence_of_one_line(event: e.Event) -> None:
    (line,) = lines(event, as_json=True, debug=True)
    record = json.loads(line)
    assert record["time"] == "2027-01-15T08:00:00.000Z"
    assert record["event"] == type_name(type(event))
    assert record["level"] in set(Level)
    assert record["msg"]
    assert "\n" not in record["msg"]


def test_wall_time_is_that_of_the_event_and_not_of_the_writing() -> None:
    (line,) = lines(e.BecameMature(at=98.5))
    assert line == ('time=2027-01-15T07:59:58.500Z level=info event=became_mature msg="is mature: VIPs may be served"')


def test_logfmt_quotes_what_would_break_a_line() -> None:
    assert logfmt({"a": "x y", "b": 'q"', "c": "n\nm", "d": "", "e": "k=v", "f": 0.25, "g": True, "h": "é"}) == (
        'a="x y" b="q\\"" c="n\\nm" d="" e="k=v" f=0.25 g=true h=é'
    )


def test_heartbeats_are_for_debugging_only() -> None:
    beat = e.HeartbeatReceived(at=1.0, peer=NodeName("www2"), rtt=None, missed=0)
    assert lines(beat, e.HeartbeatSent(at=1.0)) == []
    assert len(lines(beat, e.HeartbeatSent(at=1.0), debug=True)) == 2


def test_a_flood_of_bad_datagrams_is_one_line_a_reason_each_ten_seconds_with_the_count() -> None:
    flood = [e.DatagramRejected(at=n / 100, reason="unsealed", source=f"10.9.9.{n % 7}:4803") for n in range(1_100)]
    written = lines(*flood, e.DatagramRejected(at=11.0, reason="replayed", source="10.1.1.1:4803"))
    assert len(written) == 3
    assert "held_back" not in written[0]
    assert "held_back=999" in written[1]
    assert "reason=replayed" in written[2]


@pytest.mark.parametrize(
    ("event", "advice"),
    [
        (e.NameClash(at=1.0, source="10.0.0.9:4803"), "give each node its own `node`"),
        (e.ConfigDiffers(at=1.0, members=(NodeName("www2"),), vips=()), "compare `molehill check`"),
        (e.DatagramRejected(at=1.0, reason="unsealed", source="10.0.0.9:4803"), "compare its secret_file"),
        (e.Reloaded(at=1.0, error="molehill.yaml:3: x"), "the old configuration stays in force: molehill.yaml:3: x"),
        (
            e.LeaseLayer(1.0, "fast", False, "no nf_tables"),
            "(no nf_tables): only the lifetime of the addresses protects",
        ),
        (e.LeaseLayer(1.0, "fast", True, "the filter tables were put back"), "in force, but: the filter tables were"),
        (e.LeaseLost(1.0, "fast"), "give this host more CPU"),
        (e.ConflictSeen(1.0, VipName("web"), "10.0.0.1", "eth4", "02:00:00:00:00:66", "noted"), "find that host"),
        (e.QuorumChanged(1.0, False, 1, 2), "1 of 2 votes that are needed"),
        (e.Stalled(at=1.0, seconds=3.0, yielded=True), "give this host more CPU"),
    ],
)
def test_what_an_operator_must_act_on_says_how(event: e.Event, advice: str) -> None:
    line = describe(event)
    assert advice in line.text
    assert line.level in (Level.WARNING, Level.ERROR)


def test_a_long_list_is_not_written_out() -> None:
    event = one(e.OwnersChanged)
    assert isinstance(event, e.OwnersChanged)
    many = e.OwnersChanged(at=1.0, owners=(), uncovered=event.uncovered * 500, spread=0.0)
    assert "and 492 more" in describe(many).text
    assert len(describe(many).text) < 300


def test_a_reader_that_does_not_read_never_holds_the_caller_up() -> None:
    """A pipe takes 64 kB; far more is logged, and the agent goes on."""
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    log = Log(stream, WALL)

    def flood() -> None:
        for n in range(30_000):
            log(installed(at=float(n)))

    log_all = threading.Thread(target=flood)
    log_all.start()
    log_all.join(120)
    assert not log_all.is_alive()
    assert log.lost > 0
    os.close(reading)
    log.close()
    # What was not written is lost with the pipe; closing complains if the buffer still has some of it.
    with contextlib.suppress(BrokenPipeError):
        stream.close()
