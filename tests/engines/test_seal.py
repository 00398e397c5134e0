"""Seals: what fits, what does not, and that no nonce is used twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ids import NodeName
from agent.engines.embedded import seal as module
from agent.engines.embedded.rejections import REASONS, Reason, Rejected
from agent.engines.embedded.seal import CACHE_MAX, DATAGRAM_MAX, Life, Sealer, derive, subkey

KEY, OTHER = b"k" * 16, b"o" * 40
LIFE = Life(7, b"session1")


def sealer(*keys: bytes, cluster: str = "www", name: str = "a", life: Life = LIFE) -> Sealer:
    return Sealer(cluster, keys, NodeName(name), life)


def reason(action: Callable[[], object]) -> str:
    with pytest.raises(Rejected) as caught:
        action()
    return caught.value.reason.value


def opened(by: Sealer, datagram: bytes) -> bytes:
    return by.open(by.read(datagram))


@settings(deadline=None)
@given(body=st.binary(max_size=1300), keys=st.sampled_from([(), (KEY,), (OTHER, KEY)]))
def test_what_is_sealed_opens_to_the_same(body: bytes, keys: tuple[bytes, ...]) -> None:
    sender = sealer(*keys)
    datagram = sender.seal(body)
    assert len(datagram) == len(body) + sender.overhead
    frame = sealer(*keys, name="b").read(datagram)
    assert (frame.name, frame.life, frame.sealed) == ("a", LIFE, bool(keys))
    assert opened(sealer(*keys, name="b"), datagram) == body


def test_the_body_is_not_readable_on_the_wire() -> None:
    assert b"attack at dawn" not in sealer(KEY).seal(b"attack at dawn")
    assert b"attack at dawn" in sealer().seal(b"attack at dawn")


@pytest.mark.parametrize("keys", [(), (KEY,)])
def test_every_changed_bit_is_noticed(keys: tuple[bytes, ...]) -> None:
    datagram, receiver = sealer(*keys).seal(b"body"), sealer(*keys, name="b")
    for bit in range(len(datagram) * 8):
        changed = bytearray(datagram)
        changed[bit // 8] ^= 1 << bit % 8
        assert reason(partial(opened, receiver, bytes(changed))) in REASONS


@pytest.mark.parametrize("keys", [(), (KEY,)])
def test_every_cut_is_noticed(keys: tuple[bytes, ...]) -> None:
    datagram, receiver = sealer(*keys).seal(b"body"), sealer(*keys, name="b")
    for length in range(len(datagram)):
        assert reason(partial(opened, receiver, datagram[:length])) in ("truncated", "seal", "magic")


def test_each_refusal_has_its_own_reason() -> None:
    receiver = sealer(KEY, name="b")
    datagram = sealer(KEY).seal(b"body")
    assert reason(lambda: receiver.read(b"GET / HTTP/1.1\r\n")) == Reason.MAGIC
    assert reason(lambda: receiver.read(datagram[:2] + b"\x02" + datagram[3:])) == Reason.VERSION
    assert reason(lambda: receiver.read(datagram + bytes(DATAGRAM_MAX))) == Reason.OVERSIZED
    assert reason(lambda: receiver.read(datagram[:30])) == Reason.TRUNCATED
    assert reason(lambda: receiver.read(sealer(KEY, cluster="ftp").seal(b""))) == Reason.CLUSTER
    assert reason(lambda: receiver.read(sealer(OTHER).seal(b""))) == Reason.KEY
    assert reason(lambda: receiver.read(sealer().seal(b""))) == Reason.UNSEALED
    assert reason(lambda: sealer(name="b").read(datagram)) == Reason.SEALED
    assert reason(lambda: opened(receiver, datagram[:-1] + bytes((datagram[-1] ^ 1,)))) == Reason.SEAL


def test_one_secret_in_two_clusters_makes_two_keys() -> None:
    assert derive("www", KEY).secret != derive("ftp", KEY).secret
    assert derive("www", KEY).id != derive("ftp", KEY).id


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("life", [LIFE, Life(8, b"session1"), Life(7, b"session2")])
def test_a_subkey_belongs_to_one_life_of_one_sender(name: str, life: Life) -> None:
    same = (name, life) == ("a", LIFE)
    key = derive("www", KEY)
    assert (subkey(key, NodeName(name), life) == subkey(key, NodeName("a"), LIFE)) is same


def test_keys_are_rotated_without_a_gap() -> None:
    old, both, turned, new = sealer(KEY), sealer(KEY, OTHER), sealer(OTHER, KEY), sealer(OTHER)
    for sender, receivers in (
        (old, (both, turned)),
        (both, (old, turned)),
        (turned, (both, new)),
        (new, (turned, both)),
    ):
        for receiver in receivers:
            assert opened(receiver, sender.seal(b"body")) == b"body"
    assert reason(lambda: new.read(old.seal(b""))) == Reason.KEY


def test_counters_go_on_over_a_change_of_keys_and_never_repeat() -> None:
    sender, receiver = sealer(KEY), sealer(KEY, OTHER)
    counters = []
    for keys in ([KEY], [OTHER], [KEY], []):
        sender.rekey(keys)
        if keys:
            counters += [receiver.read(sender.seal(b"")).counter for _ in range(3)]
    sender.rekey([KEY])
    counters.append(receiver.read(sender.seal_last(b"")).counter)
    counters.append(receiver.read(sender.seal_last(b"")).counter)
    counters.append(receiver.read(sender.seal(b"")).counter)
    assert len(set(counters)) == len(counters)
    assert max(counters[:9]) < counters[9] > counters[11]


@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_short_key_is_refused_and_changes_nothing(length: int) -> None:
    sender = sealer(KEY)
    with pytest.raises(ValueError, match=f"{length} bytes is too short"):
        sender.rekey([OTHER, b"x" * length])
    assert opened(sealer(KEY), sender.seal(b"body")) == b"body"


def test_the_cache_of_subkeys_is_bounded_and_forgers_do_not_fill_it() -> None:
    receiver = sealer(KEY, name="b")
    for number in range(CACHE_MAX + 50):
        opened(receiver, sealer(KEY, life=Life(number, b"session1")).seal(b""))
    assert receiver.cached == CACHE_MAX
    fresh = sealer(KEY, name="c")
    for number in range(20):
        datagram = bytearray(sealer(KEY, life=Life(number, b"session1")).seal(b""))
        datagram[-1] ^= 1
        assert reason(partial(opened, fresh, bytes(datagram))) == Reason.SEAL
    assert fresh.cached == 0


def test_the_header_leaves_room() -> None:
    assert module._HEADER.size == 45 - 8
    assert len(sealer(KEY, name="日" * 64).seal(b"")) < 300
