"""`molehill lab ...`: verbs as functions; every one finds the lab by its name alone."""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.lab import demo, formation, network, sources, status
from agent.lab.lab import HTTP_PORT, Lab, down, now
from agent.lab.plan import LabError, Plan, check_name, generate, with_arguments
from agent.lab.probe_record import Outage
from agent.lab.probing import Probing

SIGNALS = ("KILL", "STOP", "CONT", "TERM", "HUP", "INT")
Subparsers = Any
"""argparse does not name the type of what add_subparsers returns."""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Adds the verb `lab` to the program's command line and returns its parser; `run` carries it out."""
    lab: argparse.ArgumentParser = subparsers.add_parser(
        "lab",
        help="a cluster of network namespaces on this machine, to look at and to break",
        description="Makes a whole cluster on this machine: a network namespace per node, a bridge, and a client "
        "that probes every VIP. Needs root and iproute2. `lab down` removes everything.",
    )
    verbs = lab.add_subparsers(dest="lab_verb", metavar="VERB", required=True)

    def verb(name: str, help_text: str, function: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = verbs.add_parser(name, help=help_text, description=help_text)
        parser.add_argument("--name", default="lab", help="which lab, where there are several (default: lab)")
        parser.set_defaults(lab_function=function)
        return parser

    _add_making(verb)
    _add_faults(verb)
    _add_looking(verb)
    return lab


def _add_making(verb: Callable[..., argparse.ArgumentParser]) -> None:
    up = verb("up", "make the network and start the agents", _up)
    up.add_argument("--nodes", type=int, help="number of nodes (default: 3)")
    up.add_argument("--vips", type=int, help="number of VIPs (default: 6)")
    up.add_argument("--profile", choices=("lan", "fast", "wan"), help="timing of the group")
    up.add_argument("--ipv6", action="store_true", help="give every VIP an IPv6 address too")
    _add_files(up)
    up.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all agents")
    up.add_argument("--no-agents", action="store_true", help="the network only; `lab start` starts agents")
    up.add_argument("--no-wait", action="store_true", help="do not wait until the cluster is whole")
    up.add_argument("--json", action="store_true")
    verb("down", "end all processes and remove the network, also after a crash", _down)
    show = verb("demo", "the main job: a node is cut off, a client watches, the network heals", _demo)
    show.add_argument("--down", action="store_true", help="remove the lab at the end")
    show.add_argument("--profile", choices=("lan", "fast", "wan"), help="timing of the group")
    show.add_argument("--json", action="store_true", help="results as JSON after the progress, which goes to stderr")


def _add_files(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "--config-from",
        metavar="seed|DIR",
        help="nodes and VIPs from the seed's files, or a directory's molehill.yaml or wackamole.conf + spread.conf",
    )
    up.add_argument("--wackamole-conf", type=Path, metavar="FILE")
    up.add_argument("--spread-conf", type=Path, metavar="FILE")
    up.add_argument(
        "--add", action="append", default=[], metavar="NAME=ADDRESS", help="one more node than the files have"
    )


def _add_faults(verb: Callable[..., argparse.ArgumentParser]) -> None:
    kill = verb("kill", "send a signal to a node's agent", _kill)
    kill.add_argument("node")
    kill.add_argument("--signal", choices=SIGNALS, default="KILL")
    kill.add_argument("--all", action="store_true", help="also to the processes that the agent started")
    start = verb("start", "start a node's agent again", _start)
    start.add_argument("node")
    cut = verb("cut", "isolate a node (or `client`); only its management link stays", _cut)
    cut.add_argument("node")
    cut.add_argument("--link", action="store_true", help="take its carrier away too")
    split = verb("split", "separate some nodes from the rest", _split)
    split.add_argument("nodes", metavar="A,B")
    split.add_argument("--client", action="store_true", help="the client goes with them; else it stays with the rest")
    one_way = verb("one-way", "drop what A sends to B, not what B sends to A (needs nft)", _one_way)
    one_way.add_argument("source", metavar="A")
    one_way.add_argument("target", metavar="B")
    heal = verb("heal", "undo cuts, splits and one-way cuts", _heal)
    heal.add_argument("nodes", nargs="*", metavar="NODE", help="only these (default: all)")


def _add_looking(verb: Callable[..., argparse.ArgumentParser]) -> None:
    shown = verb("status", "who runs, who holds what, who answers", _status)
    shown.add_argument("--json", action="store_true")
    probe = verb("probe", "probe every VIP from the client and report outages", _probe)
    probe.add_argument("--seconds", type=float, default=10.0, help="how long (default: 10); Ctrl-C ends it earlier")
    probe.add_argument("--json", action="store_true")
    logs = verb("logs", "a node's log (or that of `echo`, `watch`)", _logs)
    logs.add_argument("node")


def run(args: argparse.Namespace) -> int:
    """Carries out a parsed `lab` command; 0 done, 1 failed with one line on stderr."""
    try:
        check_name(args.name)
        network.require_tools()
        function: Callable[[argparse.Namespace], int] = args.lab_function
        return function(args)
    except LabError as error:
        print(f"molehill lab {args.lab_verb}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _named(args: argparse.Namespace) -> str:
    return "" if args.name == "lab" else f" --name {args.name}"


def _plan(args: argparse.Namespace) -> Plan:
    management = network.free_management_network()
    added = sources.parse_added(args.add)
    settings = list(args.set)
    files = args.wackamole_conf is not None or args.spread_conf is not None
    if not files and args.config_from is None:
        if added:
            raise LabError("--add goes with --config-from or --wackamole-conf; without files say --nodes N")
        plan = generate(
            args.name,
            3 if args.nodes is None else args.nodes,
            6 if args.vips is None else args.vips,
            management,
            profile=args.profile,
            ipv6=args.ipv6,
        )
        return with_arguments(plan, *(part for text in settings for part in ("--set", text)))
    if args.nodes is not None or args.vips is not None or args.ipv6:
        raise LabError("--nodes, --vips and --ipv6 are for a lab without files: those say what there is (and --add)")
    if args.profile is not None:
        settings.insert(0, f"engine.profile={args.profile}")
    if files:
        if args.config_from is not None or args.wackamole_conf is None or args.spread_conf is None:
            raise LabError("give --wackamole-conf and --spread-conf together, without --config-from")
        return sources.from_wackamole(args.name, args.wackamole_conf, args.spread_conf, management, added, settings)
    directory = sources.seed_directory() if args.config_from == "seed" else Path(args.config_from)
    return sources.from_directory(args.name, directory, management, added, settings)


def _up(args: argparse.Namespace) -> int:
    lab = Lab.create(_plan(args), agents=not args.no_agents)
    waited = None
    if not args.no_agents and not args.no_wait:
        try:
            waited = formation.wait_formed(lab)
        except LabError as error:
            raise LabError(
                f"{error}; the lab stays up to be looked at (`molehill lab logs{_named(args)} "
                f"{lab.plan.nodes[0].name}`), `molehill lab down{_named(args)}` removes it"
            ) from None
    if args.json:
        print(
            json.dumps(
                {"name": args.name, "formed_seconds": waited, "nodes": [asdict(node) for node in lab.plan.nodes]}
            )
        )
        return 0
    for node in lab.plan.nodes:
        addresses = ", ".join(address for port in node.ports for address in port.addresses)
        _say(f"{node.name}: {addresses}; status http://{node.management}:{HTTP_PORT}/")
    if waited is not None:
        _say(f"the cluster is whole after {waited:.1f} s: one view, every VIP held exactly once")
    _say(f"look: molehill lab status{_named(args)}; break: molehill lab cut NODE{_named(args)}; "
         f"end: molehill lab down{_named(args)}")  # fmt: skip
    return 0


def _down(args: argparse.Namespace) -> int:
    for line in down(args.name) or [f"there is no lab {args.name!r}: nothing to remove"]:
        _say(line)
    return 0


def _demo(args: argparse.Namespace) -> int:
    return demo.show(args.name, profile=args.profile, remove=args.down, as_json=args.json)


def _kill(args: argparse.Namespace) -> int:
    number = signal.Signals[f"SIG{args.signal}"]
    Lab.open(args.name).kill(args.node, number, everything=args.all)
    _say(f"SIG{args.signal} sent to the agent of {args.node}")
    return 0


def _start(args: argparse.Namespace) -> int:
    process = Lab.open(args.name).start(args.node)
    _say(f"the agent of {args.node} is process {process.pid}")
    return 0


def _cut(args: argparse.Namespace) -> int:
    Lab.open(args.name).cut(args.node, link=args.link)
    _say(f"{args.node} is cut off{' and has no carrier' if args.link else ''}")
    return 0


def _split(args: argparse.Namespace) -> int:
    names = [name for name in args.nodes.split(",") if name] + (["client"] if args.client else [])
    lab = Lab.open(args.name)
    lab.split(names)
    rest = [host.name for host in (*lab.plan.nodes, lab.plan.client) if host.name not in names]
    _say(f"{' '.join(names)} | {' '.join(rest)}")
    return 0


def _one_way(args: argparse.Namespace) -> int:
    Lab.open(args.name).one_way(args.source, args.target)
    _say(f"what {args.source} sends does not reach {args.target}")
    return 0


def _heal(args: argparse.Namespace) -> int:
    Lab.open(args.name).heal(args.nodes)
    _say("healed" if not args.nodes else f"healed: {' '.join(args.nodes)}")
    return 0


def _status(args: argparse.Namespace) -> int:
    found = status.gather(Lab.open(args.name))
    print(json.dumps(found, indent=1) if args.json else status.render(found))
    return 0


def _logs(args: argparse.Namespace) -> int:
    lab = Lab.open(args.name)
    try:
        text = lab.log(args.node).read_text(errors="replace")
    except FileNotFoundError:
        raise LabError(f"{args.node} has no log yet: its agent was never started") from None
    sys.stdout.write(text)
    return 0


def _probe(args: argparse.Namespace) -> int:
    lab = Lab.open(args.name)
    if not 0 < args.seconds <= 120:
        raise LabError(f"--seconds {args.seconds:g}: more than 0 and at most 120, which the record holds")
    with Probing(lab) as probing:
        since = now()
        with contextlib.suppress(KeyboardInterrupt):
            select.select([], [], [], args.seconds)
        until = now()
        recording = probing.recording(since, until)
        outages = probing.outages(since, until, recording)
    stall = recording.worst_stall(since, until)
    twice = lab.held_twice(since, until)
    if args.json:
        print(
            json.dumps(
                {
                    "seconds": until - since,
                    "period": recording.period,
                    "worst_stall": stall,
                    "outages": [asdict(outage) for outage in outages],
                    "held_twice": [asdict(one) for one in twice],
                },
                indent=1,
            )
        )
        return 0
    _say(f"{until - since:.1f} s, a probe to each VIP every {recording.period * 1e3:g} ms; "
         f"the prober's own worst stall {stall * 1e3:.1f} ms")  # fmt: skip
    for outage in outages:
        _say(describe(outage))
    for one in twice:
        _say(f"{one.address} was on {one.nodes[0]} and {one.nodes[1]} for {one.seconds * 1e3:.1f} ms")
    return 0


def describe(outage: Outage) -> str:
    """One line for people."""
    who = " then ".join(f"{node} ({count})" for node, count in outage.runs[:6]) or "nobody"
    more = f", {outage.turns} changes in all" if outage.turns > 5 else ""
    end = "" if outage.served else ", not served at the end"
    return f"{outage.address}: longest outage {outage.seconds * 1e3:.1f} ms{end}; answered by {who}{more}"
