"""Feeds hostile datagrams to a node: `python -m tests.engines.fuzz_decoder --inputs 1000000 --seed 1`.

Passes when nothing but the defined rejections comes out, memory stays within its bounds, and the node still takes a
legal message at the end. Inputs are what anyone can send (random bytes; mutated, cut and spliced datagrams), and what
only a member with the key could: payloads that are malformed under a good seal, wild fragments, other lives.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from agent.engines.embedded import envelope
from agent.engines.embedded.codec import MESSAGE_TAGS, VERSION, encode
from agent.engines.embedded.fragments import BYTES_MAX, Part
from agent.engines.embedded.rejections import REASONS
from agent.engines.embedded.seal import CACHE_MAX, DATAGRAM_MAX
from agent.engines.embedded.trust import Echo
from tests.engines.wire_nodes import KEY, Node, Speaker, leave
from tests.engines.wire_samples import message

SOURCES = ("127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3", "192.0.2.1")
POOL = 400
GROWTH_MAX = 128 * 1024 * 1024
"""Bytes that the process may grow by: the bounds on fragments, subkeys and windows, several times over."""
TOKENS = tuple(
    bytes.fromhex(token)
    for token in (
        *("ddffffffff", "dfffffffff", "dbffffffff", "c6ffffffff"),  # lengths that nobody has memory for
        *("cb7ff8000000000000", "cb7ff0000000000000", "cfffffffffffffffff", "d38000000000000000"),
        *("c0", "c3", "90", "80", "a0", "a1ff", "a100", "c1", "d40000", "91" * 40),
    )
)
"""MessagePack that hurts."""


class Fuzz:
    """One node, one speaker that it trusts, and a source of bad ideas."""

    def __init__(self, seed: int, keys: tuple[bytes, ...]) -> None:
        self.rng = Random(seed)
        self.node = Node("a", keys=keys)
        self.speaker = Speaker("b", keys=keys)
        self.strangers = [Speaker(name, keys=keys, session=b"stranger") for name in ("a", "c", "z", "b")]
        self.strangers.append(Speaker("b", keys=() if keys else (KEY,)))
        self.payloads = [encode(message(self.rng, self.rng.choice((0, 1, 3)))) for _ in range(POOL)]
        self.datagrams = [self.speaker.say(self.node, leave(number)) for number in range(20)]
        self.kinds: tuple[Callable[[], bytes], ...] = (
            self.noise,
            self.mutated_datagram,
            self.spliced_datagrams,
            self.sealed_mutation,
            self.sealed_mutation,
            self.sealed_mutation,
            self.sealed_noise,
            self.fragment,
            self.envelope_noise,
            self.stranger,
        )

    def noise(self) -> bytes:
        head = self.rng.choice((b"", b"Mh", self.rng.choice(self.datagrams)[: self.rng.randrange(50)]))
        return head + self.rng.randbytes(self.rng.choice((0, 1, 40, 300, DATAGRAM_MAX, 1500)))

    def mutated(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.rng.choice((1, 1, 2, 8))):
            at = self.rng.randrange(len(changed) + 1)
            match self.rng.randrange(5):
                case 0 if at < len(changed):
                    changed[at] ^= 1 << self.rng.randrange(8)
                case 1 if at < len(changed):
                    changed[at] = self.rng.randrange(256)
                case 2:
                    changed[at : at + self.rng.randrange(9)] = self.rng.choice(TOKENS)
                case 3:
                    del changed[at : at + self.rng.randrange(1, 20)]
                case _:
                    changed[at:at] = self.rng.randbytes(self.rng.randrange(1, 9))
        return bytes(changed)

    def mutated_datagram(self) -> bytes:
        datagram = self.sealed(self.rng.choice(self.payloads)[:1000])
        if self.rng.random() < 0.5:
            self.datagrams[self.rng.randrange(len(self.datagrams))] = datagram
        return datagram[: self.rng.randrange(len(datagram))] if self.rng.random() < 0.3 else self.mutated(datagram)

    def spliced_datagrams(self) -> bytes:
        first, second = self.rng.sample(self.datagrams, 2)
        at = self.rng.randrange(len(first))
        return first[:at] + second[self.rng.choice((at, self.rng.randrange(len(second)))) :]

    def sealed(self, payload: bytes, kind: int = envelope.WHOLE, part: Part | None = None) -> bytes:
        echo = Echo(self.node.engine._intake.trust.tag, self.node.life.session)
        return self.speaker.sealer.seal(envelope.seal_in(kind, True, [echo], part, payload))

    def sealed_mutation(self) -> bytes:
        payload = self.rng.choice(self.payloads)
        if len(payload) > 1200:
            cut = self.rng.randrange(len(payload))
            payload = payload[:2] + payload[cut : cut + 1200]
        if self.rng.random() < 0.2:
            other = self.rng.choice(self.payloads)
            payload = payload[: self.rng.randrange(2, len(payload))] + other[self.rng.randrange(len(other)) :][:600]
        return self.sealed(self.mutated(payload))

    def sealed_noise(self) -> bytes:
        head = bytes((VERSION, self.rng.choice((0, *MESSAGE_TAGS.values()))))
        return self.sealed(head + self.rng.randbytes(self.rng.choice((0, 5, 60, 900))))

    def fragment(self) -> bytes:
        wild = self.rng.random() < 0.5
        total = self.rng.choice((0, 1, 2, 3, 900, 4096, 4097, 65535))
        position = self.rng.randrange(65536) if wild else self.rng.randrange(max(1, total))
        number = self.rng.choice((1, 2, 3, self.rng.randrange(2**32)))
        content = self.rng.choice(self.payloads)[: self.rng.choice((0, 1, 1200))]
        return self.sealed(content, envelope.FRAGMENT, Part(number, position, total))

    def envelope_noise(self) -> bytes:
        body = self.rng.randbytes(self.rng.choice((0, 1, 2, 14, 100)))
        return self.speaker.sealer.seal(self.mutated(body) if self.rng.random() < 0.5 else body)

    def stranger(self) -> bytes:
        speaker = self.rng.choice((self.speaker, *self.strangers))
        return speaker.say(
            self.node,
            leave(self.rng.randrange(100)),
            echo=self.rng.random() < 0.1,
            meant=self.rng.choice((None, None, "c")),
        )

    def run(self, inputs: int) -> Counter[str]:
        """Feeds so many inputs; what became of them. AssertionError where a bound was broken."""
        node, engine = self.node, self.node.engine
        engine.receive(self.speaker.say(node, None), "127.0.0.2")
        tally: Counter[str] = Counter()
        for number in range(inputs):
            engine.receive(self.rng.choice(self.kinds)(), self.rng.choice(SOURCES))
            tally["delivered"] += len(node.messages)
            node.messages.clear()
            node.events.clear()
            if number % 100 == 0:
                node.now += self.rng.choice((0.0, 0.01, 3.0))
                assert engine._intake.reassembly.cost <= BYTES_MAX
                assert engine._sealer.cached <= CACHE_MAX
                assert len(engine._waiting) == 0
        tally.update(engine.rejected)
        assert set(engine.rejected) <= set(REASONS)
        engine.receive(self.speaker.say(node, leave(77)), "127.0.0.2")
        assert [told for _, told in node.messages] == [leave(77)], "the node no longer takes a legal message"
        return tally


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for keys, share in (((KEY,), options.inputs * 4 // 5), ((), options.inputs - options.inputs * 4 // 5)):
        fuzz = Fuzz(options.seed, keys)
        fuzz.run(min(2000, share))  # what the interpreter allocates once
        fuzz = Fuzz(options.seed, keys)
        before, started = resident(), time.perf_counter()
        tally = fuzz.run(share)
        seconds, growth = time.perf_counter() - started, resident() - before
        print(f"{'sealed' if keys else 'insecure'}: {share} inputs in {seconds:.1f} s, {share / seconds:.0f} a second, "
              f"memory {growth / 2**20:+.1f} MiB")  # fmt: skip
        print("  " + ", ".join(f"{reason} {count}" for reason, count in sorted(tally.items())))
        assert growth < GROWTH_MAX, f"memory grew by {growth} bytes"


if __name__ == "__main__":
    main()
