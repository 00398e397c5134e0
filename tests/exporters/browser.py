"""Chromium, driven by its own DevTools protocol: no further dependency."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

START_SECONDS = 120.0
ANSWER_SECONDS = 60.0
POLL = 0.02

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-domain-reliability",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)


def chromium() -> str | None:
    """The program; None: not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class ScriptFailed(Exception):
    """What was evaluated in the page threw."""


@dataclass
class Tab:
    """One page, and what it said and asked for since it was opened."""

    socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = field(default_factory=list)
    """Console errors and warnings, exceptions, and refusals by the page's own policy."""
    requests: list[str] = field(default_factory=list)
    """URLs."""
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _number: int = 0

    async def listen(self) -> None:
        async for message in self.socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            told = json.loads(message.data)
            if "id" in told:
                waiting = self._answers.pop(told["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(told)
                continue
            self._note(told["method"], told.get("params", {}))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"])[:800])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(params["args"])[:800])
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._number] = future
        await self.socket.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await future
        if "error" in answer:
            raise ScriptFailed(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def look(self, width: int, height: int, *, dark: bool, phone: bool = False, scale: float = 1.0) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                # No picture of a colour that is half way between two.
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )

    async def value(self, expression: str) -> Any:
        """Of a JavaScript expression; a promise is awaited."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise ScriptFailed(f"{expression}: {json.dumps(answer['exceptionDetails'])[:800]}")
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 60.0) -> Any:
        """Polls until the expression is true; returns its value."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if value := await self.value(expression):
                        return value
                    await asyncio.sleep(POLL)
        except TimeoutError:
            text = await self.value("document.body.innerText")
            raise AssertionError(f"never came true: {expression}\nthe page says:\n{text}") from None

    async def picture(self, path: Path, *, whole: bool = True) -> None:
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))

    async def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    """A fresh profile and one empty tab; both are gone afterwards."""
    program = chromium()
    assert program is not None, "no chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program,
            *FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with aiohttp.ClientSession() as client:
                endpoint = await _endpoint(client, Path(profile) / "DevToolsActivePort", process)
                async with client.ws_connect(endpoint, max_msg_size=0) as socket:
                    tab = Tab(socket)
                    listening = asyncio.ensure_future(tab.listen())
                    for domain in ("Page", "Runtime", "Log", "Network"):
                        await tab.call(f"{domain}.enable")
                    yield tab
                    listening.cancel()
                    await asyncio.gather(listening, return_exceptions=True)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _endpoint(client: aiohttp.ClientSession, told: Path, process: asyncio.subprocess.Process) -> str:
    """The tab's WebSocket; Chromium writes its port into a file of the profile when it listens."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert process.returncode is None, "chromium ended at once"
            with contextlib.suppress(OSError, ValueError, IndexError, aiohttp.ClientError):
                port = int((await asyncio.to_thread(told.read_text)).splitlines()[0])
                async with client.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    pages = [entry for entry in await answer.json() if entry["type"] == "page"]
                return str(pages[0]["webSocketDebuggerUrl"])
            await asyncio.sleep(POLL)
