"""Network namespaces by name, as iproute2 keeps them under /run/netns."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIRECTORY = Path("/run/netns")
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """The calling thread is in the namespace inside the block; sockets made there stay there.

    Raises FileNotFoundError where there is no such namespace, PermissionError without root.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(DIRECTORY / namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def socket_in(namespace: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that lives in the namespace, whatever the caller does afterwards."""
    with entered(namespace):
        return socket.socket(family, kind, protocol)


def with_prefix(prefix: str) -> list[str]:
    """Names of the namespaces that begin so, sorted."""
    if not DIRECTORY.is_dir():
        return []
    return sorted(entry.name for entry in DIRECTORY.iterdir() if entry.name.startswith(prefix))


def processes_in(namespaces: list[str]) -> list[int]:
    """Processes whose main thread is in one of the namespaces; not the caller."""
    wanted = set()
    for name in namespaces:
        try:
            status = os.stat(DIRECTORY / name)
        except FileNotFoundError:
            continue
        wanted.add((status.st_dev, status.st_ino))
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            status = os.stat(f"/proc/{entry}/ns/net")
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in wanted:
            found.append(int(entry))
    return found
