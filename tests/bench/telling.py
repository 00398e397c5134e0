"""What a promise that broke looked like, for people."""

from __future__ import annotations

import re
import sys
import time
from datetime import UTC, datetime

from agent.lab.arp import Seen
from agent.lab.lab import Lab, now


def tell(lab: Lab, frames: list[Seen], since: float) -> None:
    """Every change of the claimant, and the agents' last lines: what a promise that broke looked like."""
    for address in sorted({frame.address for frame in frames}):
        claims = sorted((f.at, f.node, f.kind) for f in frames if f.address == address)
        turns = [one for last, one in zip([(0.0, "", ""), *claims], claims, strict=False) if one[1] != last[1]]
        told = ", ".join(f"{(at - since) * 1e3:.1f} {node} {kind}" for at, node, kind in turns[:40])
        print(f"{address}: {told}", file=sys.stderr)
    began = datetime.fromtimestamp(time.time() - now() + since, UTC)
    for node in lab.plan.nodes:
        print(f"--- {node.name}; times are ms after the fault", file=sys.stderr)
        for line in lab.log(node.name).read_text(errors="replace").splitlines():
            found = re.match(r"time=(\S+) level=\w+ (.*)", line)
            if found and (at := datetime.fromisoformat(found[1])) >= began:
                print(f"{(at - began).total_seconds() * 1e3:8.1f} {found[2][:150]}", file=sys.stderr)
    sys.stderr.flush()
