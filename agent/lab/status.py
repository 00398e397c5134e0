"""What a person wants to know of a lab at one glance."""

from __future__ import annotations

from typing import Any

from agent.lab import arp, network, processes
from agent.lab.lab import HTTP_PORT, SERVICES, Lab
from agent.lab.plan import LabError


def gather(lab: Lab) -> dict[str, Any]:
    """Nodes and VIPs as the kernel, the agents and the client have them; what does not answer says why."""
    plan, running = lab.plan, lab.running()
    vips = {address for _, address in plan.addresses()}
    kernel: dict[str, list[str]] = {}
    nodes = []
    for host in plan.nodes:
        addresses = network.kernel_addresses(plan, host.name)
        kernel[host.name] = [address for _, address, _ in addresses if address in vips]
        process = running.agents.get(host.name)
        runs = process is not None and processes.alive(process)
        nodes.append(
            {
                "name": host.name,
                "address": host.ports[0].addresses[0].partition("/")[0] if host.ports[0].addresses else "",
                "process": _process_state(lab, host.name),
                "pid": process.pid if process is not None and runs else None,
                "network": running.apart.get(host.name, "connected"),
                "kernel": kernel[host.name],
                "http": f"http://{host.management}:{HTTP_PORT}/",
                **_agent(lab, host.name, runs),
            }
        )
    answers = arp.who_answers(plan)
    return {
        "name": plan.name,
        "nodes": nodes,
        "vips": [
            {
                "vip": vip,
                "address": address,
                "kernel": [name for name, held in kernel.items() if address in held],
                "answers": answers[address],
            }
            for vip, address in plan.addresses()
        ],
        "client": running.apart.get("client", "connected"),
        "one_way": [list(pair) for pair in running.one_way],
        "services": {name: name in running.services and processes.alive(running.services[name]) for name in SERVICES},
    }


def _process_state(lab: Lab, node: str) -> str:
    process = lab.running().agents.get(node)
    if process is None:
        return "not started"
    if not processes.alive(process):
        return "ended"
    return "stopped" if processes.stopped(process) else "running"


def _agent(lab: Lab, node: str, runs: bool) -> dict[str, Any]:
    """The agent's own word."""
    if not runs:
        return {"state": None, "view": None, "members": [], "says": [], "error": ""}
    try:
        status = lab.ask(node, "status", timeout=0.5)
    except LabError as error:
        return {"state": None, "view": None, "members": [], "says": [], "error": str(error)}
    view = status.get("view") or {}
    vips = status.get("vips") or []
    return {
        "state": status.get("state"),
        "view": view.get("id"),
        "members": view.get("members") or [],
        "says": [vip.get("name") for vip in vips if vip.get("held")],
        "error": "",
    }


def render(status: dict[str, Any]) -> str:
    """For a terminal."""
    lines = [f"lab {status['name']}"]
    rows: list[tuple[str, ...]] = [("NODE", "ADDRESS", "AGENT", "NETWORK", "STATE", "VIEW", "HOLDS", "PAGE")]
    for node in status["nodes"]:
        agent = node["process"] + (f" {node['pid']}" if node["pid"] else "")
        state = str(node["state"] or "-")
        rows.append(
            (
                node["name"],
                node["address"],
                agent,
                node["network"],
                state,
                str(node["view"] or "-"),
                str(len(node["kernel"])),
                node["http"],
            )
        )
    lines += _table(rows)
    rows = [("VIP", "ADDRESS", "ON (kernel)", "ANSWERS the client's ARP")]
    rows += [
        (vip["vip"], vip["address"], " ".join(vip["kernel"]) or "nobody", " ".join(vip["answers"]) or "nobody")
        for vip in status["vips"]
    ]
    lines += ["", *_table(rows)]
    lines += [f"{node['name']}: {node['error']}" for node in status["nodes"] if node["error"]]
    lines += [
        f"{node['name']}: the agent says {node['says']}, the kernel has {node['kernel']}" for node in _lies(status)
    ]
    if status["client"] != "connected":
        lines.append(f"client: {status['client']}")
    lines += [f"one way: what {source} sends does not reach {target}" for source, target in status["one_way"]]
    lines += [f"the lab's {name} is not running" for name, runs in status["services"].items() if not runs]
    return "\n".join(lines)


def _lies(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Nodes whose agent and kernel do not agree about what is held."""
    found = []
    for node in status["nodes"]:
        held = {vip["vip"] for vip in status["vips"] if node["name"] in vip["kernel"]}
        if node["state"] is not None and held != set(node["says"]):
            found.append(node)
    return found


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
