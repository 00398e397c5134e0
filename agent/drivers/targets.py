"""Whom the announcer tells of a moved address, apart from everybody on the link by broadcast."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network


@dataclass(frozen=True, slots=True)
class NotifyTarget:
    """Hosts that get an announcement of their own: every host of ``network`` reached through ``interface``.

    ``throttle`` bounds the frames sent to these targets, in targets a second; None: no bound.
    """

    interface: str
    network: IPv4Network | IPv6Network
    throttle: int | None
