"""All processes of a fail-over system on one node, whatever the system is: they run in the node's network namespace."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from agent.lab.lab import Lab
from agent.lab.namespaces import processes_in
from agent.lab.plan import LabError


def freeze(lab: Lab, node: str) -> list[int]:
    """SIGSTOP, until none is found that runs, so that none acts on another's end. Raises LabError: nothing runs."""
    frozen: list[int] = []
    while new := set(processes_in([lab.plan.namespace(node)])) - set(frozen):
        _send(sorted(new), signal.SIGSTOP)
        frozen += sorted(new)
    if not frozen:
        raise LabError(f"no process runs on {node}")
    return frozen


def thaw(frozen: list[int]) -> None:
    """SIGCONT. A frozen process keeps its id, so that no other can be meant."""
    _send(frozen, signal.SIGCONT)


def kill(lab: Lab, node: str) -> None:
    """SIGKILL of all, as if in one instant."""
    _send(freeze(lab, node), signal.SIGKILL)


def _send(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)
