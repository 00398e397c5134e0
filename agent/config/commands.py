"""`molehill check`, `schema`, `convert`, and the options that every verb with a configuration takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.config.convert import to_yaml
from agent.config.features import notes, unsupported
from agent.config.live import check_live
from agent.config.load import Loaded, load, load_wackamole
from agent.config.problem import ConfigError, Problem
from agent.config.schema import json_schema

DEFAULT_CONFIG = Path("/etc/molehill/molehill.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name a configuration."""
    parser.add_argument(
        "-c", "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="configuration (default: %(default)s)"
    )
    parser.add_argument("--wackamole-conf", type=Path, metavar="FILE", help="read Wackamole's file instead, as it is")
    parser.add_argument("--spread-conf", type=Path, metavar="FILE", help="the Spread file that belongs to it")
    parser.add_argument("-n", "--node", metavar="NAME", help="this node's name among the members")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, as in engine.port=4804 (repeatable)",
    )


def load_from_args(args: argparse.Namespace) -> Loaded:
    """The configuration that the options name. Raises `ConfigError`."""
    given = {"--wackamole-conf": args.wackamole_conf, "--spread-conf": args.spread_conf}
    missing = [option for option, path in given.items() if path is None]
    if len(missing) == 2:
        return load(args.config, node=args.node, overrides=args.set)
    if missing:
        other = next(option for option, path in given.items() if path is not None)
        raise ConfigError([Problem(other, None, f"{missing[0]} is missing", "name both files: each has one half")])
    return load_wackamole(args.wackamole_conf, args.spread_conf, node=args.node, overrides=args.set)


Complaint = tuple[str, int | None, str, str]
"""File, line, what is wrong, what to do."""


def check(args: argparse.Namespace, web_config: Callable[[Path], Complaint | None]) -> int:
    """Prints every problem to stderr, and what `run` would do to stdout. 1 on errors.

    `web_config`: the reader of the file that `http.web_config` names.
    """
    try:
        loaded = load_from_args(args)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    configuration = loaded.configuration
    problems = [*loaded.warnings, *notes(configuration), *unsupported(configuration)]
    if configuration.http.web_config is not None:
        wrong = web_config(Path(configuration.http.web_config))
        problems += [Problem(*wrong)] if wrong is not None else []
    if getattr(args, "live", False):
        problems += check_live(configuration)
    _print(problems)
    if any(problem.severity == "error" for problem in problems):
        return 1
    members, vips = len(configuration.engine.members), len(configuration.pool)
    warned = f", {len(problems)} warning{'s' if len(problems) > 1 else ''}" if problems else ""
    print(f"OK cluster {configuration.cluster}, node {configuration.node}, {members} members, {vips} VIPs{warned}")
    return 0


def schema(args: argparse.Namespace) -> int:
    """Prints the JSON Schema."""
    print(json_schema())
    return 0


def convert(args: argparse.Namespace) -> int:
    """Prints the YAML of a Wackamole and a Spread file, with what changed in meaning as comments."""
    if args.wackamole_conf is None and args.spread_conf is None:
        print("convert: name the files: --wackamole-conf FILE --spread-conf FILE", file=sys.stderr)
        return 2
    try:
        loaded = load_from_args(args)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(converted(loaded), end="")
    return 0


def converted(loaded: Loaded) -> str:
    """The configuration as a file."""
    comments = "".join(f"# {' '.join(str(problem).split())}\n" for problem in loaded.warnings)
    return f"{comments}\n{to_yaml(loaded.configuration)}" if comments else to_yaml(loaded.configuration)


def _print(problems: Iterable[Problem]) -> None:
    for problem in problems:
        print(f"warning: {problem}" if problem.severity == "warning" else str(problem), file=sys.stderr)
