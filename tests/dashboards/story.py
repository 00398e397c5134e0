"""Pictures of the dashboards from a real cluster: a lab, a Prometheus, a story of faults. By hand, as root.

    .venv/bin/python tests/dashboards/story.py record /tmp/story        # about four minutes
    .venv/bin/python tests/dashboards/story.py draw /tmp/story docs/pictures

Needs Debian's prometheus and chromium, and the renderer in ../shared/tools/grafana-render with its npm packages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from agent.lab import formation, network  # noqa: E402
from agent.lab.lab import HTTP_PORT, Lab, down  # noqa: E402
from agent.lab.plan import generate, prefix_of, with_arguments  # noqa: E402
from dashboards import FILES  # noqa: E402
from tests.lab.rival_host import RivalHost  # noqa: E402

NAME = "story"
RENDER = ROOT.parent / "shared/tools/grafana-render/render.py"
SCRAPE = 1
WITNESS_PORT = 9749


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record", help="tell the story and keep Prometheus' data in DIR")
    recording.add_argument("directory", type=Path, metavar="DIR")
    drawing = verbs.add_parser("draw", help="draw the dashboards from the data in DIR")
    drawing.add_argument("directory", type=Path, metavar="DIR")
    drawing.add_argument("pictures", type=Path, metavar="PICTURES")
    drawing.add_argument("--only", choices=[name.removesuffix(".json") for name in FILES])
    args = parser.parse_args()
    if args.verb == "record":
        record(args.directory)
        return 0
    return draw(args.directory, args.pictures, args.only)


def record(directory: Path) -> None:
    directory.mkdir(parents=True)
    plan = generate(NAME, 3, 6, network.free_management_network())
    # Nobody listens there; without an address of a collector there would be no exemplars.
    settings = ("tracing.endpoint=http://127.0.0.1:4318", "partition=quorum")
    lab = Lab.create(with_arguments(plan, *(part for text in settings for part in ("--set", text))))
    try:
        formation.wait_formed(lab)
        (directory / "prometheus.yml").write_text(json.dumps(scrape_configuration(lab)))  # JSON is YAML.
        with witness(lab, directory), prometheus(directory):
            marks = tell(lab)
        (directory / "story.json").write_text(json.dumps(marks, indent=1))
    finally:
        print(*down(NAME), sep="\n")


def scrape_configuration(lab: Lab) -> dict[str, Any]:
    cluster = lab.ask(lab.plan.nodes[0].name, "status")["cluster"]
    agents = [
        {"targets": [f"{node.management}:{HTTP_PORT}"], "labels": {"cluster": cluster, "node": node.name}}
        for node in lab.plan.nodes
    ]
    witnesses = [{"targets": [f"127.0.0.1:{WITNESS_PORT}"], "labels": {"cluster": cluster}}]
    return {
        "global": {"scrape_interval": f"{SCRAPE}s", "scrape_timeout": f"{SCRAPE}s"},
        "scrape_configs": [
            {"job_name": "molehill", "honor_labels": True, "static_configs": agents},
            {"job_name": "molehill-witness", "honor_labels": True, "static_configs": witnesses},
        ],
    }


def tell(lab: Lab) -> dict[str, Any]:
    """The story; each step lasts so many seconds because the pictures show time. Returns when what began."""
    first, second, third = (node.name for node in lab.plan.nodes)
    steps: list[tuple[str, int, Callable[[], object]]] = [
        ("steady", 40, lambda: None),
        ("kill", 30, lambda: lab.kill(third, signal.SIGKILL, everything=True)),
        ("start", 30, lambda: lab.start(third)),
        ("cut", 25, lambda: lab.cut(first)),
        ("heal", 30, lab.heal),
        ("leave", 25, lambda: lab.ask(second, "leave")),
        ("join", 35, lambda: lab.ask(second, "join")),
        ("freeze", 30, lambda: freeze(lab, second)),
        ("rival", 20, lambda: claim(lab)),
    ]
    marks: dict[str, Any] = {"nodes": [first, second, third]}
    marks["cluster"] = lab.ask(first, "status")["cluster"]
    for name, seconds, act in steps:
        marks[name] = time.time()
        print(f"{name}: {seconds} s", flush=True)
        act()
        pause(seconds)
    marks["end"] = time.time()
    return marks


def freeze(lab: Lab, node: str) -> None:
    """Its kernel falls silent, its guard takes the addresses away, and it comes back."""
    lab.kill(node, signal.SIGSTOP)
    pause(3)
    lab.kill(node, signal.SIGCONT)


def claim(lab: Lab) -> None:
    """A strange host says that it has a VIP."""
    _, address = next(iter(lab.plan.addresses()))
    with RivalHost(lab.plan) as rival:
        rival.claim(address)
        pause(2)


def pause(seconds: float) -> None:
    select.select([], [], [], seconds)


@contextlib.contextmanager
def witness(lab: Lab, directory: Path) -> Iterator[None]:
    """`molehill witness` on this host, which gets a port on the cluster's segment: a monitoring host beside it."""
    link = f"{prefix_of(NAME)}mon"
    network.batch(
        [
            f"link add name {link} type veth peer name mon netns {lab.plan.namespace('net')}",
            f"addr add 10.72.255.250/16 dev {link}",
            f"link set dev {link} up",
        ]
    )
    network.batch(["link set dev mon master s0 up"], lab.plan.namespace("net"))
    line = [sys.executable, "-m", "agent", "witness", "--config", str(lab.directory / "molehill.yaml")]
    line += ["--interface", link, "--listen", f"127.0.0.1:{WITNESS_PORT}"]
    line += ["--agents", ",".join(f"http://{node.management}:{HTTP_PORT}" for node in lab.plan.nodes)]
    with (directory / "witness.log").open("w") as log, subprocess.Popen(line, stderr=log, cwd=ROOT) as process:
        try:
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def prometheus(directory: Path) -> Iterator[str]:
    """A Prometheus on the directory's configuration and data, which it keeps."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    url = f"http://{address}"
    line = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        "--storage.tsdb.retention.time=10y",
        "--query.lookback-delta=5s",
        f"--web.listen-address={address}",
        f"--web.external-url={url}",
        "--enable-feature=exemplar-storage",
    ]
    with (directory / "prometheus.log").open("a") as log, subprocess.Popen(line, stderr=log) as process:
        try:
            wait_ready(url, process)
            yield url
            if process.poll() is not None:
                raise SystemExit("Prometheus ended in between: see prometheus.log")
        finally:
            process.terminate()


def wait_ready(url: str, process: subprocess.Popen[bytes], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"{url}/-/ready", timeout=1):
            return
        pause(0.1)
    raise SystemExit("Prometheus did not start: see prometheus.log")


def draw(directory: Path, pictures: Path, only: str | None) -> int:
    """Each dashboard over the part of the story that it is for; 1 if a panel is empty or fails."""
    marks = json.loads((directory / "story.json").read_text())
    _, second, _ = marks["nodes"]
    whole = (marks["steady"] + 10, marks["end"], 2)
    ranges = {
        "molehill-cluster": (*whole, []),
        "molehill-node": (*whole, [f"node={second}"]),
        "molehill-failover": (marks["kill"] - 10, marks["kill"] + 20, 1, []),
    }
    (directory / "prometheus.yml").write_text("{}")  # The story is over: nothing more is scraped.
    pictures.mkdir(parents=True, exist_ok=True)
    worst = 0
    with prometheus(directory) as url:
        for board, (start, end, step, variables) in ranges.items():
            if only in (None, board):
                chosen = [f"cluster={marks['cluster']}", *variables]
                worst = max(worst, render(board, url, int(start), int(end), step, chosen, pictures))
    return worst


def render(board: str, url: str, start: int, end: int, step: int, variables: list[str], pictures: Path) -> int:
    out = pictures / f"dashboard-{board.removeprefix('molehill-')}.png"
    line = [sys.executable, "-B", str(RENDER), str(ROOT / "dashboards" / f"{board}.json"), "--prometheus", url]
    line += ["--from", str(start), "--to", str(end), "--step", str(step), "--scrape-interval", "2", "--full-page"]
    line += ["--out", str(out), *(part for pair in variables for part in ("--var", pair))]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout or "{}")
    for panel in report.get("panels", []):
        if panel["status"] != "ok":
            print(f"{board}: {panel['status']}: {panel['title']} {panel.get('error', '')}")
    for error in report.get("errors", []):
        print(f"{board}: {error}")
    shrink(out)
    print(f"{out}: {out.stat().st_size // 1000} kB, {'ok' if done.returncode == 0 else 'not ok'}")
    return done.returncode


def shrink(picture: Path) -> None:
    """256 colours are enough for a dashboard and a third of the size; without Pillow it stays as it is."""
    with contextlib.suppress(ImportError):
        from PIL import Image

        with Image.open(picture) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
