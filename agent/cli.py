"""The command `molehill`. A verb that is not in `LOCAL`, and not lab, is a request on the control socket.

What a verb needs is imported when it is called: `molehill status` must not wait for pydantic, scapy and aiohttp.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent import __version__
from agent.control import client, tables

if TYPE_CHECKING:
    from agent.guarding import Guard

DONE, FAILED = 0, 1
"""Exit codes; 2, for usage, is argparse's own."""

WATCH_INTERVAL = 1.0

LOCAL = {
    "run": "run the agent in the foreground",
    "check": "check a configuration: every error with file, line and remedy",
    "schema": "print the JSON Schema of the configuration",
    "convert": "print the YAML that wackamole.conf and spread.conf mean",
    "replay": "run the core again from a journal, and say where it answers otherwise",
    "witness": "ask from outside who answers for each VIP, and tell Prometheus",
}

ORDERS = {
    "leave": "hand every VIP over and leave the group; the agent stays",
    "join": "undo `leave`",
    "balance": "balance the VIPs now",
    "reload": "read the configuration again",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 refused or failed, 2 usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser(words).parse_args(words)
    run: Callable[[argparse.Namespace], int] = args.call
    try:
        return run(args)
    except client.Failed as failure:
        print(f"molehill: {failure}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader (`| head`) has had enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Options of the verbs that live in heavy modules are there only when that verb is asked for."""
    parser = argparse.ArgumentParser(
        prog="molehill",
        description="Keeps every virtual IP address of a pool on exactly one live machine.",
        epilog="Exit codes: 0 done, 1 refused or failed, 2 usage.",
    )
    parser.add_argument(
        "--control",
        metavar="PATH",
        default=client.default_path(),
        help="socket of the agent to ask (default: $MOLEHILL_CONTROL, else %(default)s)",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    asked = next((word for word in words if word in {*LOCAL, "lab"}), "")
    for verb, text in LOCAL.items():
        verb_parser = verbs.add_parser(verb, help=text, description=text)
        verb_parser.set_defaults(call=_local, verb=verb)
        if verb == asked:
            _local_arguments(verb_parser, verb)
    _queries(verbs)
    _orders(verbs)
    if asked == "lab":
        from agent.lab import commands

        commands.add_parser(verbs).set_defaults(call=commands.run)
    else:
        verbs.add_parser("lab", help="a cluster of network namespaces on this machine, and faults for it")
    boards = verbs.add_parser("dashboards", help="write the Grafana dashboards (JSON) into a directory")
    boards.add_argument("directory", type=Path, metavar="DIR", help="is made if it is missing")
    boards.add_argument("--runbook-base", metavar="URL", help="where docs/runbook.md is to be read")
    boards.set_defaults(call=_dashboards)
    rules = verbs.add_parser("alerts", help="write Prometheus rules, their tests and examples into a directory")
    rules.add_argument("directory", metavar="DIR", type=Path)
    rules.add_argument("--runbook-base", metavar="URL", help="where docs/runbook.md is to be read")
    rules.add_argument("--dashboard-base", metavar="URL", help="Grafana's root")
    rules.set_defaults(call=_alerts)
    # For the service manager, not for people: without help it is not listed.
    sweep = verbs.add_parser("sweep", description="remove what an agent that is gone has left on this host")
    if "sweep" in words:
        from agent.drivers import sweep as sweeping

        sweeping.add_arguments(sweep)
        sweep.set_defaults(call=sweeping.run)
    version = verbs.add_parser("version", help="print the version")
    version.set_defaults(call=_version)
    return parser


def _local_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    if verb == "replay":
        from agent import replay

        replay.add_arguments(parser)
        return
    if verb == "witness":
        from exporters import witness_plan

        witness_plan.add_arguments(parser)
        return
    if verb != "schema":
        from agent.config import commands

        commands.add_arguments(parser)
    if verb == "check":
        parser.add_argument("--live", action="store_true", help="also look at this host: interfaces, addresses, kernel")
    if verb == "run":
        parser.add_argument(
            "--log", choices=("logfmt", "json"), default="logfmt", help="form of the log lines on stderr"
        )
        parser.add_argument("--debug", action="store_true", help="log every step, heartbeats too")


def _queries(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = verbs.add_parser("status", help="members, VIPs, who holds what and why")
    form = status.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, like /api/v1/status")
    form.add_argument("--watch", action="store_true", help="again every second until interrupted")
    status.set_defaults(call=_status)

    plan = verbs.add_parser("plan", help="what placement and balancing would do now, with reasons; nothing is done")
    plan.add_argument("--without", metavar="NODE", help="as if this node were gone")
    plan.add_argument("--json", action="store_true")
    plan.set_defaults(call=_plan)

    events = verbs.add_parser("events", help="what has happened, with causes")
    events.add_argument("--follow", "-f", action="store_true", help="and what happens from now on, until interrupted")
    events.add_argument("--json", action="store_true", help="one JSON object a line")
    events.add_argument("--lines", "-n", type=int, default=50, metavar="N", help="the last N (default 50)")
    events.set_defaults(call=_events)

    journal = verbs.add_parser("journal", help="write the flight recorder to a file, for `molehill replay`")
    journal.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="a copy goes here (default: print the path)"
    )
    journal.set_defaults(call=_journal)


def _orders(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for verb, text in ORDERS.items():
        verbs.add_parser(verb, help=text, description=text).set_defaults(call=_order, verb=verb)
    drain = verbs.add_parser("drain", help="hand every VIP over and take none, also after a restart; stay in the group")
    drain.add_argument("--undo", action="store_true", help="take VIPs again")
    drain.set_defaults(call=_drain)
    move = verbs.add_parser("move", help="hand one VIP to one node")
    move.add_argument("vip", metavar="VIP")
    move.add_argument("node", metavar="NODE")
    move.set_defaults(call=_move)


def _local(args: argparse.Namespace) -> int:
    if args.verb == "run":
        guard = _start_guard(as_json=args.log == "json")
        from agent import runtime

        return runtime.run(args, guard)
    if args.verb == "replay":
        from agent import replay

        return replay.run(args)
    if args.verb == "witness":
        from exporters import witness

        return witness.run(args)
    from agent.config import commands

    if args.verb == "check":
        from exporters import web_config

        return commands.check(args, web_config.complaint)
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "schema": commands.schema,
        "convert": commands.convert,
    }
    return verbs[args.verb](args)


def _start_guard(*, as_json: bool) -> Guard:
    """Before everything heavy: whatever fails from here on finds it there. One that cannot start is tried again."""
    from agent.guarding import Guard

    guard = Guard(as_json=as_json)
    with contextlib.suppress(OSError):
        guard.start()
    return guard


def _status(args: argparse.Namespace) -> int:
    while True:
        answer = client.ask(args.control, "status")
        if args.json:
            print(json.dumps(answer, indent=2))
            return DONE
        text = tables.status(answer, colour=_colour())
        if not args.watch:
            print(text, end="")
            return DONE
        clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
        print(f"{clear}{text}", flush=True)
        time.sleep(WATCH_INTERVAL)


def _plan(args: argparse.Namespace) -> int:
    answer = client.ask(args.control, "plan", without=args.without)
    print(json.dumps(answer, indent=2) if args.json else tables.plan(answer, colour=_colour()), end="\n" * args.json)
    return DONE


def _events(args: argparse.Namespace) -> int:
    if args.follow:
        records = client.follow(args.control, "events", follow=True, lines=args.lines)
    else:
        answer = client.ask(args.control, "events", follow=False, lines=args.lines)
        records = iter(answer if isinstance(answer, list) else [])
    for record in records:
        print(json.dumps(record) if args.json else tables.event(record, colour=_colour()), flush=args.follow)
    return DONE


def _journal(args: argparse.Namespace) -> int:
    answer = client.ask(args.control, "journal", timeout=client.PATIENCE)
    match answer:
        case {"path": str(path), "steps": int(steps), "seconds": float(seconds)}:
            pass
        case _:
            raise client.Failed("the agent's answer is not a journal's: are agent and command of one version?")
    if args.file is not None:
        try:
            args.file.write_bytes(Path(path).read_bytes())
        except OSError as error:
            raise client.Failed(f"the journal is in {path}, but not in {args.file}: {error}") from None
        path = args.file
    print(f"{path}: {steps} steps of the last {seconds:.0f} s")
    return DONE


def _order(args: argparse.Namespace) -> int:
    client.ask(args.control, args.verb)
    return DONE


def _drain(args: argparse.Namespace) -> int:
    client.ask(args.control, "undrain" if args.undo else "drain")
    return DONE


def _move(args: argparse.Namespace) -> int:
    client.ask(args.control, "move", vip=args.vip, node=args.node)
    return DONE


def _dashboards(args: argparse.Namespace) -> int:
    import dashboards

    try:
        written = dashboards.write(args.directory, runbook=args.runbook_base or dashboards.RUNBOOK)
    except OSError as error:
        raise client.Failed(f"cannot write the dashboards into {args.directory}: {error}") from None
    print(*written, sep="\n")
    return DONE


def _alerts(args: argparse.Namespace) -> int:
    import alerts

    bases = {"runbook": args.runbook_base, "dashboards": args.dashboard_base}
    try:
        written = alerts.write(args.directory, **{name: base for name, base in bases.items() if base is not None})
    except OSError as error:
        raise client.Failed(f"cannot write the alerts into {args.directory}: {error}") from None
    for path in written:
        print(path)
    return DONE


def _version(args: argparse.Namespace) -> int:
    print(f"molehill {__version__}")
    return DONE


def _colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
