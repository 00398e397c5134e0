"""`wackatrl`, as Wackamole's operators know it: list, fail, succeed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.control import client, tables


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 refused or failed, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="wackatrl",
        description="Wackamole's control program, for a running molehill: see `molehill --help` for more.",
    )
    parser.add_argument("-c", metavar="FILE", dest="file", help="wackamole.conf whose Control names the socket")
    verb = parser.add_argument_group("of several the last one counts")
    verb.add_argument("-l", dest="verb", action="store_const", const="status", help="list owners and VIPs")
    verb.add_argument("-f", dest="verb", action="store_const", const="leave", help="leave the group, as if failed")
    verb.add_argument("-s", dest="verb", action="store_const", const="join", help="join the group again")
    args = parser.parse_args(argv)
    if args.verb is None:
        parser.error("one of -l, -f and -s is needed")
    try:
        path = client.default_path() if args.file is None else _control_of(Path(args.file))
        if args.verb != "status":
            client.ask(path, args.verb)
        print(tables.wackamole(client.ask(path, "status")), end="")
    except client.Failed as failure:
        print(f"wackatrl: {failure}", file=sys.stderr)
        return 1
    return 0


def _control_of(file: Path) -> str:
    """The socket that a wackamole.conf names, else the default one. Raises `Failed`."""
    from agent.config.problem import ConfigError
    from agent.config.wackamole import parse_wackamole

    try:
        named = parse_wackamole(file.read_text(encoding="utf-8", errors="surrogateescape"), str(file)).control
    except OSError as error:
        raise client.Failed(f"{file} cannot be read: {error.strerror}") from None
    except ConfigError as error:
        raise client.Failed("; ".join(str(problem) for problem in error.problems)) from None
    return client.default_path() if named is None else named.value


if __name__ == "__main__":
    sys.exit(main())
