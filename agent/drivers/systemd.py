"""What the agent tells the service manager: sd_notify(3), by a datagram to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Says nothing where there is no service manager; a manager that does not read costs a lost datagram, no wait."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if self._address:
            if self._address.startswith("@"):
                self._address = "\0" + self._address[1:]  # Linux' abstract addresses
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self, status: str = "") -> bool:
        """The service is up, or has taken over its new configuration."""
        return self._send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(*_status(text))

    def reloading(self) -> bool:
        """Type=notify-reload: to be followed by `ready`. The time is the manager's own clock, so it is read here."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", *_status(status))

    def watchdog(self) -> bool:
        """A sign of life; due every half of `watchdog_interval`."""
        return self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> bool:
        """Whether the manager has got it."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()


def watchdog_interval(environment: Mapping[str, str] = os.environ) -> float | None:
    """Seconds after which the manager takes a silent service for dead; None: it does not watch this process."""
    try:
        interval = int(environment.get("WATCHDOG_USEC", "0")) / 1e6
        watched = int(environment.get("WATCHDOG_PID", str(os.getpid())))
    except ValueError:
        return None
    return interval if interval > 0 and watched == os.getpid() else None
