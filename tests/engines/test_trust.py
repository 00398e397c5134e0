"""Who is believed: first contact, restarts, recordings, clashes. Datagrams are fed by hand; no network."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.events import DatagramRejected, NameClash
from agent.core.ids import Member, NodeName
from agent.engines.embedded.rejections import REASONS, Reason
from agent.engines.embedded.seal import name_tag
from agent.engines.embedded.trust import ANSWERS_BURST, WINDOW, Peer, Trust, Window
from agent.engines.embedded.udp import CLASH_PAUSE, EVENTS_RATE
from tests.engines.wire_nodes import KEY, OTHER_KEY, Node, Speaker, leave

A, B = "127.0.0.1", "127.0.0.2"


def told(node: Node, datagram: bytes, source: str = B) -> str:
    """Feeds a datagram; the reason why it was rejected, or the empty string."""
    before = len(node.rejections())
    node.engine.receive(datagram, source)
    return "".join(node.rejections()[before:])


def test_reasons_are_a_closed_set_of_words() -> None:
    assert len(set(REASONS)) == len(REASONS) == len(Reason)
    assert all(reason.isidentifier() for reason in REASONS)


def test_trust_takes_an_echo_and_then_messages_pass_once() -> None:
    node, speaker = Node("a"), Speaker("b", 5)
    assert told(node, speaker.say(node, leave(1), echo=False)) == "untrusted"
    assert not node.trusts(Member(NodeName("b"), 5))
    assert told(node, speaker.say(node, None)) == ""
    assert node.trusts(Member(NodeName("b"), 5))
    datagram = speaker.say(node, leave(2), echo=False)  # trust is earned once a life
    assert told(node, datagram) == ""
    assert told(node, datagram) == "replay"
    assert node.messages == [(Member(NodeName("b"), 5), leave(2))]


def test_a_recording_of_our_former_life_earns_no_trust() -> None:
    former, speaker = Node("a", 1), Speaker("b")
    recording = [speaker.say(former, leave(number)) for number in range(3)]
    assert all(told(former, datagram) == "" for datagram in recording)
    node = Node("a", 2)
    assert [told(node, datagram) for datagram in recording] == ["untrusted"] * 3
    assert node.messages == []


def test_a_recording_earns_no_trust_even_if_our_incarnation_was_forgotten() -> None:
    former, speaker = Node("a", 1), Speaker("b")
    recording = speaker.say(former, leave(1))
    assert told(Node("a", 1), recording) == "untrusted"


def test_a_restarted_peer_is_taken_and_its_old_life_is_not() -> None:
    node, old, new = Node("a"), Speaker("b", 5), Speaker("b", 6, session=b"speaker2")
    assert told(node, old.say(node, leave(1))) == ""
    assert told(node, new.say(node, leave(2), echo=False)) == "untrusted"
    assert told(node, old.say(node, leave(3))) == ""  # in flight while the new one is still to be proven
    assert told(node, new.say(node, leave(4))) == ""
    assert told(node, old.say(node, leave(5))) == "stale_incarnation"
    assert told(node, new.say(node, leave(6))) == ""
    assert [(sender.incarnation, message) for sender, message in node.messages] == [
        (5, leave(1)),
        (5, leave(3)),
        (6, leave(4)),
        (6, leave(6)),
    ]


@pytest.mark.parametrize("incarnation", [4, 5])
def test_another_life_needs_a_higher_incarnation(incarnation: int) -> None:
    node = Node("a")
    told(node, Speaker("b", 5).say(node, leave(1)))
    imposter = Speaker("b", incarnation, session=b"speaker2")
    assert told(node, imposter.say(node, leave(2))) == "stale_incarnation"


def test_what_a_removed_member_said_stays_used_up() -> None:
    node, speaker = Node("a"), Speaker("b")
    datagram = speaker.say(node, leave(1))
    assert told(node, datagram) == ""
    node.engine.reconfigure(members={NodeName("a"): A}, keys=[KEY])
    assert told(node, speaker.say(node, leave(2))) == "unknown_member"
    node.engine.reconfigure(members={NodeName("a"): A, NodeName("b"): B}, keys=[KEY])
    assert told(node, datagram) == "replay"
    assert told(node, speaker.say(node, leave(3))) == ""


def test_address_name_and_direction_must_fit() -> None:
    node, speaker = Node("a"), Speaker("b")
    assert told(node, speaker.say(node, leave(1)), "127.0.0.3") == "address"
    assert told(node, Speaker("z").say(node, leave(1))) == "unknown_member"
    assert told(node, speaker.say(node, leave(1), meant="c")) == "misdirected"
    assert node.messages == []


def test_keys_clusters_and_modes_must_fit() -> None:
    node, open_node = Node("a"), Node("a", keys=())
    assert told(node, Speaker("b", cluster="ftp").say(node, leave(1))) == "cluster"
    assert told(node, Speaker("b", keys=(OTHER_KEY,)).say(node, leave(1))) == "key"
    assert told(node, Speaker("b", keys=()).say(node, leave(1))) == "unsealed"
    assert told(open_node, Speaker("b").say(open_node, leave(1))) == "sealed"
    assert told(open_node, Speaker("b", keys=()).say(open_node, leave(1))) == ""
    assert not open_node.engine.sealed


def test_keys_are_rotated_while_messages_flow() -> None:
    node = Node("a")
    old, new = Speaker("b", keys=(KEY, OTHER_KEY)), Speaker("c", keys=(OTHER_KEY, KEY))
    assert told(node, new.say(node, leave(1)), "127.0.0.3") == "key"
    node.engine.reconfigure(members={NodeName("b"): B, NodeName("c"): "127.0.0.3"}, keys=[KEY, OTHER_KEY])
    assert told(node, old.say(node, leave(2))) == ""
    assert told(node, new.say(node, leave(3)), "127.0.0.3") == ""
    old.sealer.rekey([OTHER_KEY])
    assert told(node, old.say(node, leave(4))) == ""  # trust and counters outlive the key
    node.engine.reconfigure(members={NodeName("b"): B}, keys=[OTHER_KEY])
    assert told(node, old.say(node, leave(5))) == ""
    old.sealer.rekey([KEY])
    assert told(node, old.say(node, leave(6))) == "key"


def test_our_own_broadcast_is_dropped_in_silence() -> None:
    node = Node("a", 3)
    echo = Speaker("a", 3, session=node.life.session).say(node, leave(1))
    node.engine.receive(echo, A)
    assert (node.messages, node.events) == ([], [])


def test_our_name_from_elsewhere_is_a_clash_at_most_every_ten_seconds() -> None:
    node = Node("a", 3)
    rival = Speaker("a", 9, session=b"rivalish")
    assert told(node, rival.say(node, leave(1)), "127.0.0.9") == "name_clash"
    assert told(node, rival.say(node, leave(2)), "127.0.0.9") == "name_clash"
    node.now += CLASH_PAUSE
    assert told(node, rival.say(node, leave(3)), A) == "name_clash"
    clashes = [event for event in node.events if isinstance(event, NameClash)]
    assert clashes == [NameClash(100.0, "127.0.0.9"), NameClash(110.0, A)]
    copy = Speaker("a", 3, session=node.life.session)
    assert told(node, copy.say(node, leave(4)), "127.0.0.9") == "name_clash"
    assert node.messages == []


def test_a_clash_needs_a_seal() -> None:
    node = Node("a", 3)
    forged = bytearray(Speaker("a", 9).say(node, leave(1)))
    forged[-1] ^= 1
    assert told(node, bytes(forged), "127.0.0.9") == "seal"


def test_our_own_former_life_is_no_clash() -> None:
    node = Node("a", 3)
    assert told(node, Speaker("a", 2, session=b"mineform").say(node, leave(1)), A) == "stale_incarnation"


def test_a_flood_of_rejections_is_counted_but_not_told_one_by_one() -> None:
    node = Node("a")
    flood = 3 * int(EVENTS_RATE)
    for _ in range(flood):
        node.engine.receive(b"rubbish", "192.0.2.1")
    assert node.engine.rejected == {"magic": flood}
    assert len(node.events) == EVENTS_RATE
    node.now += 1.0
    node.engine.receive(b"rubbish", "192.0.2.1")
    assert node.events[-1] == DatagramRejected(101.0, "magic", "192.0.2.1")


def test_answers_to_one_peer_are_bounded() -> None:
    peer = Peer(NodeName("b"), name_tag(NodeName("b")), B)
    assert sum(peer.may_answer(1000.0) for _ in range(1000)) == ANSWERS_BURST
    assert peer.may_answer(1000.1)


def test_discovered_members_are_bounded_and_keep_their_address() -> None:
    node = Node("a", members={}, bind=A, broadcast="127.255.255.255")
    for number in range(400):
        told(node, Speaker(f"n{number}").say(node, leave(1), echo=False), f"127.0.1.{number % 250}")
    assert len(node.engine.peers) == 127
    speaker = Speaker("b")
    assert told(node, speaker.say(node, leave(1)), B) == ""
    assert told(node, speaker.say(node, leave(2)), "127.0.0.3") == "address"
    moved = Speaker("b", 2, session=b"speaker2")
    assert told(node, moved.say(node, leave(3)), "127.0.0.3") == ""
    assert [peer.address for peer in node.engine.peers if peer.name == "b"] == ["127.0.0.3"]


def test_memory_of_removed_members_is_bounded() -> None:
    trust = Trust(Member(NodeName("a"), 1), b"session1")
    for batch in range(20):
        trust.configure({NodeName(f"n{batch}-{number}"): B for number in range(100)})
        assert len(trust.configured()) == 100
    assert len(trust.peers) <= 512


@settings(deadline=None)
@given(st.lists(st.integers(0, 3 * WINDOW), max_size=200))
def test_the_window_lets_each_counter_pass_once(counters: list[int]) -> None:
    window, seen, top = Window(), set[int](), 0
    for counter in counters:
        expected = counter not in seen and counter > top - WINDOW
        assert window.take(counter) is expected
        if expected:
            seen.add(counter)
        top = max(top, counter)


def test_the_window_bears_reordering_within_it() -> None:
    window, counters = Window(), list(range(1, WINDOW))
    Random(1).shuffle(counters)
    assert all(window.take(counter) for counter in counters)
    assert not any(window.take(counter) for counter in counters)
