"""`molehill sweep`: what the service manager runs when the agent is gone, in whatever way (ExecStopPost=).

Where agent and guard were killed together, addresses would stay up to the end of their lifetime, and the filter tables,
which keep them silent, up to the next start. The addresses go first. After an orderly end there is nothing to do.
Tables that silence what somebody else has put here (`lease_table`: strange addresses) stay, as at an orderly end.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from pathlib import Path

from agent.drivers import lease_table, nftables, removal

STATE_DIR = "/var/lib/molehill"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("STATE_DIRECTORY", STATE_DIR)),
        help="of the agent that is gone (default: $STATE_DIRECTORY, else %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """0: nothing of ours is left; 1: something is, or an agent runs."""
    try:
        lock = os.open(args.state_dir / removal.LOCK, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        pass  # it never came so far
    except BlockingIOError:
        print(f"molehill: an agent runs with {args.state_dir}: nothing was touched", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"molehill: {error}", file=sys.stderr)
        return 1
    try:
        return _sweep()
    except OSError as error:
        print(f"molehill: {error}; sweeping needs CAP_NET_ADMIN", file=sys.stderr)
        return 1


def _sweep() -> int:
    kernel = removal.Kernel()
    keys = kernel.ours()
    left = kernel.remove(keys)
    if left:
        code = next(iter(left.values()))
        print(f"molehill: {len(left)} addresses cannot be removed: {os.strerror(code)}", file=sys.stderr)
        return 1
    removed = remove_tables()
    if keys or removed:
        print(f"molehill: {len(keys)} addresses and {removed} filter tables were left and are removed", file=sys.stderr)
    return 0


def remove_tables() -> int:
    """Removes all filter tables of molehill that may go, and how many there were. Raises OSError."""
    tables = lease_table.tables()
    if not tables:
        return 0
    channel = nftables.FilterSocket()
    try:
        needed = {name for _, name in tables if _silences(channel, name)}
        requests = [nftables.delete_table(family, name) for family, name in tables if name not in needed]
        failure = channel.commit(requests) if requests else None
    finally:
        channel.close()
    if failure:
        raise OSError(failure.answer.code, f"filter tables cannot be removed: {failure.answer.text}")
    for name in sorted(needed):
        print(f"molehill: the nft tables {name} stay: they silence VIPs that were put here by hand", file=sys.stderr)
    return len(requests)


def _silences(channel: nftables.FilterSocket, name: str) -> bool:
    """Whether these tables have strange addresses."""
    return any(channel.elements(nftables.INET, name, each) for each in lease_table.STRANGE.values())
