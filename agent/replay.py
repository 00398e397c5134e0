"""`molehill replay FILE`: runs a recorded core again, and says where it answers otherwise than it did."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent import __version__
from agent.core.effects import Send
from agent.core.inputs import Input, Received
from agent.core.node import Node, Output
from agent.journalfile import Core, Header, Step, Unreadable, digest, open_journal
from agent.snapshot import Unfit, restore

TEXT_MAX = 160
"""Characters of one printed input or output."""

UNPLAYABLE = (
    "the journal does not begin with a state of the core: it can be read (molehill replay --print), not replayed"
)


@dataclass(frozen=True, slots=True)
class Played:
    """One step, run again."""

    step: Step
    outputs: tuple[Output, ...]
    raised: Exception | None = None

    @property
    def equal(self) -> bool:
        """Whether it ended as recorded."""
        if self.raised is not None:
            return self.step.digest is None
        return digest(list(self.outputs)) == self.step.digest


def replay(content: Iterable[Step | Core]) -> Iterator[Played]:
    """Runs the core from the first state on, step by step, up to and including one that raises.

    Raises `Unreadable` as `content` does, and without a state to start from.
    """
    node: Node | None = None
    for item in content:
        if isinstance(item, Core):
            node = node or _core(item)
            continue
        if node is None:
            raise Unreadable(UNPLAYABLE)
        try:
            yield Played(item, tuple(node.step(item.now, item.item)))
        except Exception as error:
            yield Played(item, (), error)
            return


def _core(item: Core) -> Node:
    try:
        return restore(item.data)
    except Unfit as error:
        raise Unreadable(f"{error}: replay it with the version of molehill that wrote it") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="what `molehill journal` or a crash of the agent wrote")
    parser.add_argument("--print", action="store_true", help="list every step with its outputs")


def run(args: argparse.Namespace) -> int:
    """0: all outputs are equal. 1: they are not, or the file cannot be replayed."""
    try:
        header, content = open_journal(args.file)
        print(describe(header))
        if header.program != __version__:
            print(
                f"molehill: recorded by molehill {header.program}, this is {__version__}: "
                "where their rules differ the outputs do",
                file=sys.stderr,
            )
        return _print(header, content) if args.print else _compare(header, content)
    except Unreadable as error:
        print(f"molehill: {error}", file=sys.stderr)
        return 1


def _compare(header: Header, content: Iterator[Step | Core]) -> int:
    count = 0
    for played in replay(content):
        if not played.equal:
            print(f"the outputs first differ at {line(header, played.step)}")
            print("this core answers:" if played.raised is None else f"this core raises {played.raised!r}")
            print("\n".join(f"    {short(output)}" for output in played.outputs) or "    nothing")
            if played.step.digest is None:
                print(f"the recorded one raised {header.error or 'an exception'}")
            return 1
        if played.raised is not None:
            print(
                f"{count} steps, all equal; then {line(header, played.step)}\n    raises as recorded: {played.raised!r}"
            )
            return 0
        count += 1
    print(f"{count} steps, all equal")
    return 0


def _print(header: Header, content: Iterator[Step | Core]) -> int:
    """Every step; with its outputs, if there is a state to start from."""
    node: Node | None = None
    for item in content:
        if isinstance(item, Core):
            node = node or _core(item)
            continue
        print(line(header, item))
        if node is None:
            continue
        try:
            outputs = node.step(item.now, item.item)
        except Exception as error:
            print(f"    raises {error!r}")
            return 0
        print("".join(f"    {short(output)}\n" for output in outputs), end="")
    return 0


def describe(header: Header) -> str:
    """One line: whose journal it is, and why and when it was written."""
    why = f"{header.reason}: {header.error}" if header.error else header.reason
    return (
        f"node {header.node}#{header.incarnation} of cluster {header.cluster}, molehill {header.program}, "
        f"written at {_wall(header, header.clock)} ({why})"
    )


def line(header: Header, step: Step) -> str:
    """Number, wall time and input of a step."""
    return f"step {step.number}, {_wall(header, step.now)}: {_told(step.item)}"


def _wall(header: Header, at: float) -> str:
    """By the difference of both clocks when the journal was written."""
    instant = datetime.fromtimestamp(header.wall - header.clock + at, UTC)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _told(item: Input) -> str:
    if isinstance(item, Received):
        return f"from {item.sender} {short(item.message)}"
    return short(item)


def short(value: object) -> str:
    """A value on one line."""
    text = f"Send to {', '.join(value.to) or 'all'}: {value.message!r}" if isinstance(value, Send) else repr(value)
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 3]}..."
