"""Runs a program of ours with a wall clock that is wrong: `wall_clock.py OFFSET_FILE PYTHON -P -m agent ARGUMENTS`.

The file holds seconds to be added to what `time.time` says; who writes another number makes the clock jump. The real
wall clock belongs to the whole machine, so it stays as it is.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from agent import cli

FILE = Path(sys.argv[1])
_true = time.time


def wrong() -> float:
    return _true() + float(FILE.read_text() or 0)


if __name__ == "__main__":
    time.time = wrong
    import exporters.wall

    exporters.wall.Wall.__init__.__defaults__ = (wrong,)
    sys.exit(cli.main(sys.argv[sys.argv.index("agent") + 1 :]))
