"""A short run of the decoder's fuzz; the long one is run by hand or nightly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_twenty_thousand_hostile_datagrams() -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.engines.fuzz_decoder", "--inputs", "20000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for reason in (
        "malformed",
        "seal",
        "replay",
        "limit",
        "address",
        "truncated",
        "unsealed",
        "sealed",
        "misdirected",
        "delivered",
    ):
        assert f"{reason} " in done.stdout, done.stdout
