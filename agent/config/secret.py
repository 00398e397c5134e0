"""The keys of the embedded engine: `secret_file`, one key a line."""

from __future__ import annotations

import stat
from pathlib import Path

from agent.config.document import read_bytes
from agent.config.models import Configuration
from agent.config.problem import ConfigError, Problem

KEY_BYTES_MIN = 16
"""128 bits when the key is random bytes; of base64 text 96 bits, so the advice below makes 44 characters."""

SECRET_BYTES_MAX = 65_536

_LOCATION = ("engine", "secret_file")


def keys(configuration: Configuration) -> tuple[bytes, ...]:
    """The keys, the one that sends first; empty when `insecure` (and with engines that bring their own).

    Read again on every call, so that a reload takes rotated keys up. Raises `ConfigError`.
    """
    found, problems = _read(configuration)
    if problems:
        raise ConfigError(problems)
    return found


def secret_problems(configuration: Configuration) -> list[Problem]:
    """What keeps the keys from being used; nothing when they are."""
    return _read(configuration)[1]


def _read(configuration: Configuration) -> tuple[tuple[bytes, ...], list[Problem]]:
    engine, origins = configuration.engine, configuration.origins
    if engine.insecure or engine.kind != "embedded":
        return (), []
    if engine.secret_file is None:
        fix = (
            "make one (`openssl rand -base64 32 > /etc/molehill/secret`, mode 0640, the same on all nodes) and write "
            "`secret_file: /etc/molehill/secret`, or say `insecure: true`"
        )
        return (), [origins.problem(("engine",), "no secret_file: anybody on the network could move VIPs", fix)]
    name = engine.secret_file
    try:
        content = read_bytes(Path(name), SECRET_BYTES_MAX)
        mode = Path(name).stat().st_mode
    except ConfigError as error:
        missing = "make it with `openssl rand -base64 32`, the same on all nodes, or say `insecure: true`"
        return (), [
            origins.problem(_LOCATION, f"secret_file {name} {problem.what}", missing) for problem in error.problems
        ]
    except OSError as error:
        return (), [origins.problem(_LOCATION, f"secret_file {name} cannot be read: {error.strerror}", "look at it")]
    problems = []
    if mode & stat.S_IRWXO:
        what = f"secret_file {name} is open to everybody (mode {stat.S_IMODE(mode):04o})"
        problems.append(origins.problem(_LOCATION, what, f"chmod 0640 {name}, and make a new key"))
    lines = [line.strip() for line in content.split(b"\n")]
    found = tuple(line for line in lines if line and not line.startswith(b"#"))
    if not found:
        problems.append(origins.problem(_LOCATION, f"secret_file {name} is empty", "write one key a line"))
    for number, line in enumerate(lines, 1):
        if line and not line.startswith(b"#") and len(line) < KEY_BYTES_MIN:
            what = f"the key on line {number} of {name} has {len(line)} characters"
            fix = f"use at least {KEY_BYTES_MIN}; `openssl rand -base64 32` makes a good one"
            problems.append(origins.problem(_LOCATION, what, fix))
    return found, problems
