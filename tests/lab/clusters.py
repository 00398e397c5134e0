"""Real clusters for tests of bad input: each node may have settings of its own, and is looked at from outside."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.lab import formation, network, processes
from agent.lab.lab import HTTP_PORT, Lab, down, molehill
from agent.lab.plan import Host, LabError, Plan, generate, with_arguments

QUICK = ("mature=200ms", "balance.interval=10m")
"""Soon mature, and no move that a test did not ask for."""

Own = Mapping[str, Sequence[str]]
"""By node: further arguments of its agent."""


def until(holds: Callable[[], object], seconds: float = 30.0, why: Callable[[], object] = lambda: "") -> None:
    """Fails after `seconds`, saying what `why` gives."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"never came true: {why()}"
        time.sleep(0.01)


def always(holds: Callable[[], object], seconds: float) -> None:
    """Fails as soon as it is not true any more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert holds()
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Commands:
    """How agents are started here: `own` arguments by node, `wrappers` before the command line by node."""

    own: Own
    wrappers: Own

    def __call__(self, plan: Plan, host: Host, directory: Path) -> list[str]:
        line = molehill(plan, host, directory)
        own = [argument.replace("{state}", str(directory)) for argument in self.own.get(host.name, ())]
        return [*self.wrappers.get(host.name, ()), *line, *own]


@contextmanager
def cluster(
    name: str,
    nodes: int = 3,
    vips: int = 3,
    *settings: str,
    own: Own | None = None,
    wrappers: Own | None = None,
    agents: bool = True,
    wait: bool = True,
    plan: Plan | None = None,
) -> Iterator[Lab]:
    """A lab that is gone at the end. `plan` is a plan of one's own instead of `nodes` and `vips`."""
    made = plan or generate(name, nodes, vips, network.free_management_network())
    told = [part for text in (*QUICK, *settings) for part in ("--set", text)]
    try:
        lab = Lab.create(with_arguments(made, *told), Commands(own or {}, wrappers or {}), agents=agents)
        if agents and wait:
            formation.wait_formed(lab, timeout=60)
            even(lab)
        yield lab
    finally:
        down(name)


def overrides(*settings: str) -> list[str]:
    """The arguments that set them."""
    return [part for text in settings for part in ("--set", text)]


def run_agent(lab: Lab, node: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """An agent that is to refuse its start, in the node's namespace; it has a state and a control socket of its own."""
    beside = lab.directory / "beside"
    own = (f"control={beside}/control.sock", f"state_dir={beside}/state", "http.listen=127.0.0.1:9749")
    base = [argument.replace("{state}", str(lab.directory)) for argument in lab.plan.agent_arguments]
    line = [sys.executable, "-P", "-m", "agent", "run", *base, *overrides(*own), *arguments]
    inside = ["ip", "netns", "exec", lab.plan.namespace(node), *line]
    return subprocess.run(inside, capture_output=True, text=True, timeout=60, check=False, cwd=processes.PACKAGE_ROOT)


def exit_code(lab: Lab, node: str, seconds: float = 30.0) -> int:
    """Of the node's agent, a child of this process, once it has ended: 0 or above, or minus a signal's number."""
    pid = lab.running().agents[node].pid
    codes: list[int] = []

    def ended() -> bool:
        found, code = os.waitpid(pid, os.WNOHANG)
        codes.append(os.waitstatus_to_exitcode(code) if found else 0)
        return found == pid

    until(ended, seconds, lambda: f"the agent of {node} runs: {log(lab, node)}")
    return codes[-1]


def granted(lab: Lab, node: str, verb: str, /, **arguments: str) -> bool:
    """Whether the request is not refused, as it is until the group has heard of what was done just before."""
    try:
        lab.ask(node, verb, arguments)
    except LabError:
        return False
    return True


def even(lab: Lab) -> None:
    """Who was up first took everything: from here on each node holds its share."""
    nodes = [node.name for node in lab.plan.nodes]

    def balanced() -> bool:
        loads = [sum(who == [node] for who in lab.holders().values()) for node in nodes]
        return sum(loads) == len(lab.holders()) and max(loads) - min(loads) <= 1

    until(lambda: granted(lab, nodes[0], "balance") and balanced(), why=lab.holders)


# What agents say.


def log(lab: Lab, node: str) -> str:
    return lab.log(node).read_text(errors="replace")


def logged(lab: Lab, node: str, *patterns: str) -> bool:
    """Whether one line of the node's log has all these regular expressions."""
    return any(all(re.search(pattern, line) for pattern in patterns) for line in log(lab, node).splitlines())


def wait_logged(lab: Lab, node: str, *patterns: str, seconds: float = 30.0) -> None:
    until(lambda: logged(lab, node, *patterns), seconds, lambda: f"{patterns} in the log of {node}:\n{log(lab, node)}")


def document(lab: Lab) -> dict[str, Any]:
    """The configuration that all agents read, to be changed and given to `rewrite`."""
    found: dict[str, Any] = json.loads((lab.directory / "molehill.yaml").read_text())
    return found


def rewrite(lab: Lab, changed: Mapping[str, Any], name: str = "molehill.yaml") -> Path:
    path = lab.directory / name
    path.write_text(json.dumps(changed, indent=1))
    return path


def get(lab: Lab, node: str, path: str, timeout: float = 15.0) -> bytes:
    host = lab.plan.node(node).management
    with urllib.request.urlopen(f"http://{host}:{HTTP_PORT}{path}", timeout=timeout) as answer:
        body: bytes = answer.read()
    return body


def raw_http(lab: Lab, node: str, data: bytes) -> bytes:
    """What the node's HTTP port answers to these bytes until it hangs up."""
    with socket.create_connection((lab.plan.node(node).management, HTTP_PORT), timeout=15) as sock:
        sock.sendall(data)
        answer = b""
        # Who hangs up with something unread resets the connection, after its answer.
        with suppress(ConnectionResetError):
            while part := sock.recv(65536):
                answer += part
        return answer


_SAMPLE = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def metric(lab: Lab, node: str, name: str, **labels: str) -> float:
    """The sum of the samples of that name that have these labels. Up to a second old, as scrapes are."""
    return total(get(lab, node, "/metrics"), name, **labels)


def total(scrape: bytes, name: str, **labels: str) -> float:
    """The sum of the samples of that name that have these labels."""
    found = 0.0
    for line in scrape.decode().splitlines():
        sample = _SAMPLE.match(line)
        if sample is None or sample["name"] != name:
            continue
        if labels.items() <= dict(_LABEL.findall(sample["labels"] or "")).items():
            found += float(sample["value"])
    return found


def label_of(lab: Lab, node: str, name: str, label: str) -> str:
    """A label of the only sample of that name."""
    (labels,) = [
        dict(_LABEL.findall(found["labels"]))
        for line in get(lab, node, "/metrics").decode().splitlines()
        if (found := _SAMPLE.match(line)) is not None and found["name"] == name
    ]
    return str(labels[label])


def late(lab: Lab, node: str) -> float:
    """Timers of the agent's loop that ran over 50 ms late, so far."""
    sent = metric(lab, node, "molehill_heartbeats_sent_total")
    # A scrape is served again for a second: this one is new. And of two, one may be older than the other.
    until(lambda: metric(lab, node, "molehill_heartbeats_sent_total") > sent)
    scrape = get(lab, node, "/metrics")
    lag = "molehill_event_loop_lag_seconds"
    return total(scrape, f"{lag}_count") - total(scrape, f"{lag}_bucket", le="0.05")


def waited_for_a_processor(lab: Lab, node: str) -> float:
    """Seconds that the agent's threads were ready and not run: what a loaded machine adds to everything."""
    agent = lab.agent(node)
    assert agent is not None
    return starved(agent.pid)


def starved(pid: int) -> float:
    """Seconds that the process's threads were ready and not run."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found += int((task / "schedstat").read_text().split()[1])
    return found / 1e9


@contextmanager
def punctual(lab: Lab, *nodes: str) -> Iterator[None]:
    """No timer of these agents runs over 50 ms late inside, but by the fault of a machine that does not run them."""
    before = {node: (late(lab, node), waited_for_a_processor(lab, node)) for node in nodes}
    yield
    for node, (count, waited) in before.items():
        more, without = late(lab, node) - count, waited_for_a_processor(lab, node) - waited
        assert not more or without > 0.05, (
            f"{node}: {more:g} timers over 50 ms late, {without:.3f} s without a processor"
        )


def status(lab: Lab, node: str) -> dict[str, Any]:
    answer = lab.ask(node, "status")
    assert isinstance(answer, dict)
    return answer


def view(lab: Lab, node: str) -> str:
    found = status(lab, node)["view"]
    return str(found["id"] if found else "")


def members(lab: Lab, node: str) -> list[str]:
    """None while its agent is starting: on a busy machine the others may be a cluster before that."""
    try:
        found = status(lab, node)["view"]
    except LabError:
        return []
    return list(found["members"]) if found else []


def events(lab: Lab, node: str) -> list[dict[str, Any]]:
    """The whole history that the node's agent has."""
    found: list[dict[str, Any]] = []
    while True:
        since = found[-1]["seq"] if found else 0
        page = json.loads(get(lab, node, f"/api/v1/events?since={since}"))
        found += page["events"]
        if not page["events"]:
            return found


def on(lab: Lab, node: str) -> list[str]:
    """VIP addresses that the node has, by the kernel."""
    vips = {address for _, address in lab.plan.addresses()}
    return [address for _, address, _ in network.kernel_addresses(lab.plan, node) if address in vips]


def held_once(lab: Lab, nodes: Sequence[str] = ()) -> bool:
    """Whether exactly one node (of `nodes`) has each VIP."""
    among = set(nodes) or {host.name for host in lab.plan.nodes}
    return all(len(set(who) & among) == 1 for who in lab.holders().values())
