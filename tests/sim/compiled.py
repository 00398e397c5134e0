"""`python -m tests.sim.compiled --seeds 20000`: the same core and simulator, three times as fast, for many seeds.

mypyc compiles the core and the busiest parts of the simulator into a directory that is gone at the end. It needs a C
compiler and Python's headers, and takes two minutes before the first seed. Schedules, steps and verdicts are those of
`python -m tests.sim`, which replays what it finds. Not for mutants: what is compiled cannot be changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUSY = ("world", "checkers", "network")


def copied(to: Path) -> list[str]:
    """The sources that are to be compiled, after all that is needed was copied."""
    for package in ("agent/core", "tests/sim"):
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    for package in ("agent", "tests"):
        (to / package / "__init__.py").touch()
    core = sorted(path.relative_to(to).as_posix() for path in (to / "agent/core").glob("*.py"))
    return core + [f"tests/sim/{name}.py" for name in BUSY]


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        there = Path(name)
        sources = copied(there)
        environment = {**os.environ, "MYPYPATH": name, "PYTHONPATH": name}
        # Not by mypyc's own script: it is not on everybody's PATH.
        line = [sys.executable, "-m", "mypyc", "--explicit-package-bases", *sources]
        made = subprocess.run(line, cwd=there, env=environment, capture_output=True, text=True, check=False)
        if made.returncode:
            print(made.stdout, made.stderr, sep="\n", file=sys.stderr)
            return 1
        line = [sys.executable, "-m", "tests.sim", *sys.argv[1:]]
        return subprocess.run(line, cwd=there, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
