"""Faults after which two nodes may answer for one VIP: the whole system dies or hangs on a node whose kernel lives on,
or a node that was cut off comes back.

Every system is watched for the same time after the fault, `Bench.window`, and longer where the others have not yet
taken over. After SIGCONT, a new start and a heal it is watched until each VIP is on one node and the client reaches it,
but for `AFTERMATH_MAX` at most: what is not served by then is counted as such.
"""

from __future__ import annotations

from agent.lab.arp import Seen
from agent.lab.lab import now
from agent.lab.plan import LabError
from tests.bench import everything
from tests.bench.asker import Asker
from tests.bench.claims import WINDOW, answered_by_two, in_turns, silent_for, stretches
from tests.bench.scenarios import SETTLE, TAKE_OVER_SECONDS, Bench, Trial, back, seen_by_client, victim, watch_on
from tests.bench.system import wait_holders
from tests.bench.telling import tell

WOKEN = 3.0
"""Seconds watched after SIGCONT, at least."""
CUT = 8.0
"""Seconds that a node is cut off: longer than any of the systems needs to take over."""
AFTERMATH_MIN = 6.0
"""Seconds watched after a start or a heal: keepalived announces again after 5 s, and may lead the client astray."""
AFTERMATH_MAX = 90.0
AFTERMATH_POLL = 0.25
"""Seconds: looking costs a processor that the systems need."""
TO_THE_END = 5 * WINDOW
"""Two that still claimed so many seconds before the end of the watch would have gone on."""


def kill_all(bench: Bench, number: int) -> list[Trial]:
    """SIGKILL of every process of the system on one node; then the node's system is started again, as it was left."""
    node, others, hit = victim(bench, number)
    with Asker(bench.lab.plan, hit) as asker:
        since = now()
        everything.kill(bench.lab, node)
        _watch_taken_over(bench, others, since)
        until = now()
    trials = [_trial(bench, "all SIGKILL", node, since, until, hit, asker.frames)]
    if not bench.lab.wait_ended(node, 5.0):
        raise LabError(f"{node}: a killed process has not ended after 5 s")
    with Asker(bench.lab.plan, hit) as asker:
        since = now()
        bench.lab.start(node)
        _watch_aftermath(bench, since, AFTERMATH_MIN)
        until = now()
    trials.append(_trial(bench, "started again", node, since, until, hit, asker.frames))
    back(bench)
    return trials


def hang_all(bench: Bench, number: int) -> list[Trial]:
    """SIGSTOP of every process of the system on one node, and SIGCONT."""
    node, others, hit = victim(bench, number)
    with Asker(bench.lab.plan, hit) as asker:
        since = now()
        frozen = everything.freeze(bench.lab, node)
        try:
            _watch_taken_over(bench, others, since)
        finally:
            until = now()
            everything.thaw(frozen)
        _watch_aftermath(bench, until, WOKEN)
        end = now()
    trials = [
        _trial(bench, "all SIGSTOP", node, since, until, hit, asker.frames),
        _trial(bench, "all SIGCONT", node, until, end, hit, asker.frames),
    ]
    back(bench)
    return trials


def heal(bench: Bench, number: int) -> list[Trial]:
    """One node is cut off from the others and the client, its carrier stays; then the cut is healed."""
    node, others, hit = victim(bench, number)
    since = bench.lab.cut(node)
    wait_holders(bench.lab, hit, others, TAKE_OVER_SECONDS)
    watch_on(max(SETTLE, since + CUT - now()))
    addresses = [address for _, address in bench.lab.plan.addresses()]
    with Asker(bench.lab.plan, addresses) as asker:
        twice = [address for address, nodes in bench.lab.holders().items() if len(nodes) > 1]
        since = bench.lab.heal([node])
        _watch_aftermath(bench, since, AFTERMATH_MIN)
        until = now()
    concerned = [address for address in addresses if address in hit or address in twice]
    trials = [_trial(bench, "heal", node, since, until, concerned, asker.frames)]
    back(bench)
    return trials


def _watch_taken_over(bench: Bench, others: list[str], since: float) -> None:
    addresses = [address for _, address in bench.lab.plan.addresses()]
    wait_holders(bench.lab, addresses, others, TAKE_OVER_SECONDS)
    watch_on(max(SETTLE, since + bench.window - now()))


def _watch_aftermath(bench: Bench, since: float, least: float) -> None:
    """Only an answer after the VIPs were on one node each counts: one before it may have been the loser's last."""
    watch_on(least)
    once: float | None = None
    while now() < since + AFTERMATH_MAX:
        if not _on_one_each(bench):
            once = None
        elif once is None:
            once = now()
        elif now() - once > SETTLE and _answered(bench):
            break
        watch_on(AFTERMATH_POLL)
    watch_on(SETTLE)


def _on_one_each(bench: Bench) -> bool:
    return all(len(nodes) == 1 for nodes in bench.lab.holders().values())


def _answered(bench: Bench) -> bool:
    """Each VIP, within the last `SETTLE` seconds."""
    until = now()
    return len(bench.probing.first_answers(until - SETTLE, until)) == len(list(bench.lab.plan.addresses()))


def _trial(
    bench: Bench, title: str, node: str, since: float, until: float, hit: list[str], frames: list[Seen]
) -> Trial:
    """What the client saw, with the time of two claimants instead of that of two configured holders."""
    trial = seen_by_client(bench, title, node, since, hit, until)
    phase = [frame for frame in frames if since <= frame.at <= until]
    found = stretches(phase)
    trial.held_twice = in_turns(found)
    trial.to_the_end = any(one.until > until - TO_THE_END for one in found)
    _, claims = answered_by_two(phase)
    if claims and bench.system.promises_one(title, bench.profile):
        tell(bench.lab, phase, since)
    trial.details |= {
        "silent_before": silent_for(phase, node, since),
        "claims_between": claims,
        "watched": until - since,
    }
    return trial


TWO_HOLDERS = {"kill-both": kill_all, "hang-both": hang_all, "heal": heal}
