"""The programs as an operator runs them: separate processes against a real control socket."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent import __version__
from agent.control import tables
from agent.control.protocol import Refused
from agent.control.server import Server
from exporters.history import History
from exporters.status import Status
from exporters.wall import Wall
from tests.exporters.events_of_every_kind import EVERY, W1, W2, installed, settings

WALL = Wall(clock=lambda: 100.0, wall=lambda: 1_800_000_000.0)


class Agent:
    """Answers from the real exporters."""

    def __init__(self) -> None:
        addresses = {W1.name: "10.0.0.101", W2.name: "10.0.0.102"}
        self.status = Status(settings(), WALL, engine="embedded", addresses=addresses)
        self.history = History(WALL)
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.followed = asyncio.Event()
        for event in (*EVERY, installed()):
            self.status(event)
            self.history(event)

    async def handle(self, verb: str, args: dict[str, object]) -> object:
        self.asked.append((verb, args))
        match verb, args:
            case "status", _:
                return self.status.snapshot().model_dump(mode="json")
            case "plan", _:
                row = {"vip": "10.0.0.1", "owner": "www1", "node": "www2", "reason": "www2 is preferred"}
                return {"rows": [row], "moves": 1, "spread": 1.0}
            case "events", {"follow": False, "lines": int(lines)}:
                return self.history.latest(lines)
            case "events", {"follow": True, "lines": int(lines)}:
                self.followed.set()
                return self.history.follow(self.history.last - lines)
            case "move", _:
                raise Refused("no VIP is called x: see `molehill status`")
            case _:
                return None


class Programs:
    def __init__(self, agent: Agent, socket: Path) -> None:
        self.agent = agent
        self.socket = socket

    async def run(self, *words: str, module: str = "agent", env: dict[str, str] | None = None) -> tuple[int, str, str]:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"MOLEHILL_CONTROL": str(self.socket)} | (env or {}),
        )
        async with asyncio.timeout(60):
            out, err = await program.communicate()
        assert program.returncode is not None
        return program.returncode, out.decode(), err.decode()


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[Programs]:
    agent = Agent()
    server = Server(tmp_path / "control.sock", agent)
    await server.start()
    yield Programs(agent, tmp_path / "control.sock")
    await server.close()


async def test_status_is_a_table_without_colour_in_a_pipe(programs: Programs) -> None:
    code, out, err = await programs.run("status")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    headline, view, leases, _, members, *_ = out.splitlines()
    assert headline.startswith("www1 in www: ")
    assert view.startswith("view 7-www1-3 for ")
    assert leases == "leases fast not in force, address not in force, guard not in force, word in force (word)"
    assert members.split() == ["MEMBER", "ADDRESS", "IN", "VIEW", "HEARD", "RTT", "VIPS", "NOTES"]
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["www2"][:3] == ["www2", "10.0.0.102", "yes"]
    assert rows["10.0.0.2"][:3] == ["10.0.0.2", "www2", "elsewhere"]


async def test_status_as_json_is_the_status(programs: Programs) -> None:
    code, out, _ = await programs.run("status", "--json")
    assert code == 0
    assert json.loads(out) == programs.agent.status.snapshot().model_dump(mode="json")


async def test_plan_gives_a_reason_per_row(programs: Programs) -> None:
    code, out, _ = await programs.run("plan", "--without", "www3")
    assert code == 0
    assert re.search(r"^10\.0\.0\.1 +www1 +www2 +www2 is preferred$", out, flags=re.M)
    assert programs.agent.asked == [("plan", {"without": "www3"})]


async def test_events_are_lines_with_time_and_words(programs: Programs) -> None:
    code, out, _ = await programs.run("events", "-n", "2")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert re.match(
        r"2027-01-15T07:5\d:\d\d\.\d{3}Z  view 7-www1-3 installed \(join\) after 20\.0 ms", out.splitlines()[1]
    )
    _, out, _ = await programs.run("events", "-n", "3", "--json")
    assert [json.loads(line) for line in out.splitlines()] == programs.agent.history.latest(3)


async def test_events_followed_until_the_agent_ends(programs: Programs) -> None:
    following = asyncio.create_task(programs.run("events", "--follow", "-n", "1", "--json"))
    async with asyncio.timeout(60):
        await programs.agent.followed.wait()
    programs.agent.history(installed(at=50.0))
    programs.agent.history.close()
    code, out, _ = await following
    assert code == 0
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["view_installed", "view_installed"]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("leave",), ("leave", {})),
        (("join",), ("join", {})),
        (("balance",), ("balance", {})),
        (("reload",), ("reload", {})),
        (("drain",), ("drain", {})),
        (("drain", "--undo"), ("undrain", {})),
    ],
)
async def test_orders_are_quiet_requests(programs: Programs, words: tuple[str, ...], asked: tuple[str, object]) -> None:
    assert await programs.run(*words) == (0, "", "")
    assert programs.agent.asked == [asked]


async def test_a_refusal_is_one_line_and_exit_code_1(programs: Programs) -> None:
    code, out, err = await programs.run("move", "x", "www2")
    assert (code, out, err) == (1, "", "molehill: no VIP is called x: see `molehill status`\n")
    assert programs.agent.asked == [("move", {"vip": "x", "node": "www2"})]


async def test_no_agent_is_one_line_and_exit_code_1(programs: Programs, tmp_path: Path) -> None:
    missing = tmp_path / "none.sock"
    code, out, err = await programs.run("--control", str(missing), "status")
    assert (code, out) == (1, "")
    assert err.startswith(f"molehill: no agent listens on {missing}: is molehill running?")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [(), ("explode",), ("status", "--json", "--watch"), ("move", "x"), ("plan", "--without")]
)
async def test_wrong_usage_is_exit_code_2(programs: Programs, words: tuple[str, ...]) -> None:
    code, out, err = await programs.run(*words)
    assert (code, out) == (2, "")
    assert "usage: molehill" in err


async def test_version(programs: Programs) -> None:
    assert await programs.run("version") == (0, f"molehill {__version__}\n", "")


def test_asking_imports_nothing_heavy() -> None:
    program = "import sys, agent.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "pydantic", "aiohttp", "scapy", "pyroute2", "prometheus_client", "yaml", "msgspec"}
    assert heavy & set(done.stdout.split()) == set()


async def test_wackatrl_lists_owners_by_address(programs: Programs) -> None:
    code, out, err = await programs.run("-l", module="agent.control.wackatrl")
    assert (code, err) == (0, "")
    assert out == (
        "Owner: 10.0.0.101\n\t*   eth4:10.0.0.1/16\n"
        "Owner: 10.0.0.102\n\t*   eth4:10.0.0.2/16\n"
        "Owner: www3\n\t*   eth4:10.0.0.3/16\n"
    )


def test_wackatrl_shows_dependents_and_what_nobody_has() -> None:
    vip = {"name": "web", "owner": None, "addresses": ["eth4:10.0.0.1/16", "eth5:10.1.0.1/16"]}
    assert tables.wackamole({"members": [], "vips": [vip]}) == (
        "Owner: not acquired\n\t*   eth4:10.0.0.1/16\n\t -> eth5:10.1.0.1/16\n"
    )


async def test_wackatrl_fails_and_succeeds_and_the_last_flag_wins(programs: Programs) -> None:
    code, out, _ = await programs.run("-f", module="agent.control.wackatrl")
    assert (code, out.count("Owner:")) == (0, 3)
    await programs.run("-f", "-s", module="agent.control.wackatrl")
    assert [verb for verb, _ in programs.agent.asked] == ["leave", "status", "join", "status"]
    code, _, err = await programs.run(module="agent.control.wackatrl")
    assert (code, "usage: wackatrl" in err) == (2, True)


async def test_wackatrl_finds_the_socket_in_wackamole_conf(programs: Programs, tmp_path: Path) -> None:
    file = tmp_path / "wackamole.conf"
    nowhere = {"MOLEHILL_CONTROL": str(tmp_path / "none.sock")}
    file.write_text(f"Spread = 4803\nControl = {programs.socket}\nVirtualInterfaces {{ {{ eth4:10.0.0.1/24 }} }}\n")
    code, out, err = await programs.run("-c", str(file), "-l", module="agent.control.wackatrl", env=nowhere)
    assert (code, err) == (0, "")
    assert out.startswith("Owner: 10.0.0.101\n")
    code, _, err = await programs.run("-c", str(tmp_path / "no.conf"), "-l", module="agent.control.wackatrl")
    assert (code, err) == (1, f"wackatrl: {tmp_path / 'no.conf'} cannot be read: No such file or directory\n")
