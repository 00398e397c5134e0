"""A running prober, and what it saw."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path
from types import TracebackType

from agent.lab import probe_record, processes
from agent.lab.lab import Lab, now
from agent.lab.plan import LabError
from agent.lab.probe_record import Outage, Recording
from agent.lab.prober import period_for

START_SECONDS = 10.0


class Probing:
    """Probes every VIP from the client, from `start` to `stop`; phases are bounded by times of `lab.now()`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._addresses = list(lab.plan.addresses())
        self._nodes = [node.name for node in lab.plan.nodes]
        # In memory, so that no disk makes the prober wait; it is gone with the last process that has it.
        self._memory = os.memfd_create("molehill lab probe")
        self._record = Path(f"/proc/self/fd/{self._memory}")
        log = lab.directory / "prober.log"
        line = [sys.executable, "-P", "-m", "agent.lab.prober", str(lab.directory)]
        self._process = processes.spawn(line, log, namespace=lab.plan.namespace("client"), third=self._memory)
        deadline = time.monotonic() + START_SECONDS
        while probe_record.last_round(self._record) is None:
            if not processes.alive(self._process) or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines()[-1:]
                self.stop()
                raise LabError(f"the prober did not start: {' '.join(said) or 'it said nothing'}")
            select.select([], [], [], 0.005)

    def __enter__(self) -> Probing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def period(self) -> float:
        """Seconds between two probes of one address."""
        return period_for(len(self._addresses))

    def stop(self) -> None:
        """Ends the prober; its record is gone."""
        processes.send_signal(self._process, signal.SIGTERM)
        if processes.wait_gone([self._process], 2.0):
            processes.send_signal(self._process, signal.SIGKILL)
            processes.wait_gone([self._process], 2.0)
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def recording(self, since: float, until: float) -> Recording:
        """Waits until the prober's record reaches `until`. Raises LabError when the prober has died."""
        while (probe_record.last_round(self._record) or 0.0) < until:
            if not processes.alive(self._process):
                raise LabError("the prober has ended before its time")
            select.select([], [], [], 0.002)
        return probe_record.read(self._record, since, until)

    def outages(self, since: float, until: float, recording: Recording | None = None) -> list[Outage]:
        """The longest outage of every VIP address in the phase, in the order of the configuration."""
        whole = recording or self.recording(since, until)
        return [
            probe_record.outage(whole, index, vip, address, self._nodes, since, until)
            for index, (vip, address) in enumerate(self._addresses)
        ]

    def first_answers(self, since: float, until: float) -> dict[str, float]:
        """When each address was answered first in the phase; those that were not are left out."""
        whole = self.recording(since, until)
        found = {}
        for index, (_, address) in enumerate(self._addresses):
            replies = whole.replies.get(index)
            times = [at for at in replies.times if since <= at <= until] if replies else []
            if times:
                found[address] = min(times)
        return found

    def wait_answered(self, timeout: float, *, window: float = 0.1) -> None:
        """Until every address has answered within the last `window` seconds. Raises LabError after `timeout`."""
        deadline = time.monotonic() + timeout
        while True:
            until = now()
            answered = self.first_answers(until - window, until)
            if len(answered) == len(self._addresses):
                return
            if time.monotonic() > deadline:
                silent = [address for _, address in self._addresses if address not in answered]
                raise LabError(f"not answered within {timeout:g} s: {', '.join(silent[:8])}")
            select.select([], [], [], 0.02)
