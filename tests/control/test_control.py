"""Server and client over a real Unix socket."""

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.control import client
from agent.control.protocol import LINE_MAX, Refused
from agent.control.server import CLIENTS_MAX, ControlError, Server


class Agent:
    """Answers as an agent would, and tells when its streams end."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.stream_ended = asyncio.Event()
        self.proceed = asyncio.Event()
        self.arrived = asyncio.Event()

    async def handle(self, verb: str, args: dict[str, object]) -> object:
        self.asked.append((verb, args))
        self.arrived.set()
        match verb:
            case "status":
                return {"node": "www1", "ä": "é\n"}
            case "move":
                raise Refused("no VIP of that name")
            case "reload":
                raise ZeroDivisionError("oops")
            case "events":
                return self.stream()
            case "leave":
                await self.proceed.wait()
                return None
            case _:
                return args

    async def stream(self) -> AsyncIterator[object]:
        try:
            for number in range(3):
                yield {"seq": number}
            await self.proceed.wait()
        finally:
            self.stream_ended.set()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Path, Agent]]:
    path, agent = tmp_path / "run" / "control.sock", Agent()
    server = Server(path, agent)
    await server.start()
    yield path, agent
    await server.close()


async def raw(path: Path, *lines: bytes) -> list[bytes]:
    """Sends all lines at once, says end of input, and gives all that came back."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"".join(lines))
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.splitlines()


async def test_a_result_comes_back(served: tuple[Path, Agent]) -> None:
    path, _ = served
    assert await asyncio.to_thread(client.ask, str(path), "status") == {"node": "www1", "ä": "é\n"}
    assert await asyncio.to_thread(client.ask, str(path), "plan", without="www2") == {"without": "www2"}


async def test_a_refusal_is_the_error_and_the_agents_own_error_too(
    served: tuple[Path, Agent], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = served
    with pytest.raises(client.Failed, match=r"^no VIP of that name$"):
        await asyncio.to_thread(client.ask, str(path), "move", vip="x", node="y")
    with pytest.raises(client.Failed, match="error inside the agent: ZeroDivisionError"):
        await asyncio.to_thread(client.ask, str(path), "reload")
    assert "Traceback" in capsys.readouterr().err
    assert await asyncio.to_thread(client.ask, str(path), "status")


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"hello\n",
        b"{}\n",
        b"[1]\n",
        b'"status"\n',
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"verb": 1}\n',
        b'{"verb": "status", "args": []}\n',
        b'{"verb": "status", "args": {}, "more": 1}\n',
        b'{"verb": "explode"}\n',
    ],
)
async def test_a_malformed_line_is_answered_and_the_connection_kept(served: tuple[Path, Agent], line: bytes) -> None:
    path, agent = served
    first, second = await raw(path, line, b'{"verb": "status"}\n')
    assert json.loads(first)["ok"] is False
    assert json.loads(first)["error"]
    assert json.loads(second)["ok"] is True
    assert agent.asked == [("status", {})]


async def test_a_line_that_is_too_long_ends_the_connection_only(served: tuple[Path, Agent]) -> None:
    path, _ = served
    long = b'{"verb": "status", "args": {"x": "' + b"x" * LINE_MAX + b'"}}\n'
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(long)
    assert "longer than" in json.loads(await reader.readline())["error"]
    writer.close()
    assert await asyncio.to_thread(client.ask, str(path), "status")


async def test_a_slow_request_does_not_hold_up_others(served: tuple[Path, Agent]) -> None:
    path, agent = served
    leaving = asyncio.create_task(asyncio.to_thread(client.ask, str(path), "leave"))
    await agent.arrived.wait()
    assert agent.asked == [("leave", {})]
    assert await asyncio.to_thread(client.ask, str(path), "status")
    assert not leaving.done()
    agent.proceed.set()
    assert await leaving is None


async def test_an_agent_that_does_not_answer_is_given_up(served: tuple[Path, Agent]) -> None:
    path, agent = served
    with pytest.raises(client.Failed, match=r"did not answer within 0\.05 s"):
        await asyncio.to_thread(client.ask, str(path), "leave", 0.05)
    agent.proceed.set()


async def test_a_stream_lasts_until_the_agent_ends_it(served: tuple[Path, Agent]) -> None:
    path, agent = served

    def read() -> list[object]:
        return list(client.follow(str(path), "events", follow=True))

    reading = asyncio.create_task(asyncio.to_thread(read))
    await agent.arrived.wait()
    agent.proceed.set()
    assert await reading == [{"seq": 0}, {"seq": 1}, {"seq": 2}]


async def test_a_stream_ends_when_its_client_goes(served: tuple[Path, Agent]) -> None:
    path, agent = served
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b'{"verb": "events"}\n')
    assert json.loads(await reader.readline())["result"] == {"seq": 0}
    assert not agent.stream_ended.is_set()
    writer.close()
    async with asyncio.timeout(30):
        await agent.stream_ended.wait()


async def test_clients_are_bounded_and_their_places_are_freed(served: tuple[Path, Agent]) -> None:
    path, _ = served
    held = [await asyncio.open_unix_connection(path) for _ in range(CLIENTS_MAX)]
    for reader, writer in held:
        writer.write(b'{"verb": "status"}\n')
        assert json.loads(await reader.readline())["ok"]
    reader, writer = await asyncio.open_unix_connection(path)
    assert "already" in json.loads(await reader.readline())["error"]
    for _, other in [*held, (reader, writer)]:
        other.close()
        await other.wait_closed()

    async def served_again() -> bool:
        # Who is turned away may have the connection reset before the reason is read.
        with contextlib.suppress(ConnectionError):
            return (await raw(path, b'{"verb": "status"}\n'))[0].startswith(b'{"ok":true')
        return False

    async with asyncio.timeout(30):
        while not await served_again():
            pass


async def test_only_root_and_the_group_may_connect(served: tuple[Path, Agent]) -> None:
    path, _ = served
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_the_socket_goes_with_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    server = Server(path, Agent())
    await server.start()
    assert path.is_socket()
    await server.close()
    assert not path.exists()
    with pytest.raises(client.Failed, match=r"no agent listens on .*: is molehill running"):
        client.ask(str(path), "status")


async def test_a_socket_that_somebody_serves_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first = Server(path, Agent())
    await first.start()
    with pytest.raises(ControlError, match="already running"):
        await Server(path, Agent()).start()
    assert await asyncio.to_thread(client.ask, str(path), "status")
    await first.close()


async def test_a_socket_that_a_dead_agent_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    with pytest.raises(client.Failed, match="is molehill running"):
        client.ask(str(path), "status")
    server = Server(path, Agent())
    await server.start()
    assert await asyncio.to_thread(client.ask, str(path), "status")
    await server.close()


async def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(ControlError, match="is no socket"):
        await Server(path, Agent()).start()
    assert path.read_text() == "precious"


async def test_a_successors_socket_survives_the_predecessors_end(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    old, new = Server(path, Agent()), Server(path, Agent())
    await old.start()
    path.unlink()
    await new.start()
    await old.close()
    assert await asyncio.to_thread(client.ask, str(path), "status")
    await new.close()


async def test_what_is_not_molehill_is_told(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 mail ready\n")
        writer.close()

    other = await asyncio.start_unix_server(shout, path)
    with pytest.raises(client.Failed, match="is not molehill"):
        await asyncio.to_thread(client.ask, str(path), "status")
    other.close()
    await other.wait_closed()
