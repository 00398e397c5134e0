"""Stands in for the agent where the lab itself is tested: `standin.py NODE DIRECTORY VIP/PREFIX,.. INTERFACE`.

Puts its addresses up, answers `status` on its control socket, forks a helper as the agent forks its guard, and takes
the addresses down again on SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def addresses(verb: str, texts: list[str], interface: str) -> None:
    lines = "".join(f"addr {verb} {text} dev {interface}\n" for text in texts)
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=False)


def main(node: str, directory: str, vips: str, interface: str) -> None:
    texts = [text for text in vips.split(",") if text]
    helper = os.fork()
    if helper == 0:
        signal.pause()
    (Path(directory) / "helper").write_text(str(helper))
    addresses("add", texts, interface)
    path = Path(directory) / "control.sock"
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen()

    def stop(*_: Any) -> None:
        addresses("del", texts, interface)
        os.kill(helper, signal.SIGKILL)
        print("stood in to the end", flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    members = (Path(directory).parent / "members").read_text().split(",")
    held = [{"name": text.partition("/")[0], "held": True} for text in texts]
    status = {"state": "RUN", "view": {"id": "7-n-1", "members": members}, "vips": held}
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as lines:
            for line in lines:
                verb = json.loads(line)["verb"]
                answer = {"ok": True, "result": status} if verb == "status" else {"ok": False, "error": "standing in"}
                lines.write(json.dumps(answer).encode() + b"\n")
                lines.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
