"""A host on the lab's segment that is no member and says that it has a VIP."""

from __future__ import annotations

import socket
from types import TracebackType

from agent.drivers import frames
from agent.lab import namespaces, network
from agent.lab.plan import Plan
from tests.lab.clusters import until


class RivalHost:
    """Has a namespace of its own, named as the lab's are, so that `down` removes it with them. A context manager."""

    def __init__(self, plan: Plan, interface: str | None = None, mac: str = "02:6d:68:ff:00:01") -> None:
        """`interface`: whose segment it is on; the plan's first if not said."""
        self.mac = mac
        self.namespace = plan.namespace("rival")
        self._middle = plan.namespace("net")
        self._segment = plan.interfaces.index(interface or plan.interfaces[0])

    def __enter__(self) -> RivalHost:
        port, bridge = f"s{self._segment}r", f"s{self._segment}"
        network.batch([f"netns add {self.namespace}"])
        network.batch(
            [
                f"link add name {port} type veth peer name eth0 address {self.mac} netns {self.namespace}",
                f"link set dev {port} master {bridge} up",
            ],
            self._middle,
        )
        network.batch(["link set lo up", "link set dev eth0 up"], self.namespace)
        until(lambda: _forwards(port, self._middle), why=lambda: f"{port} does not forward")
        self._socket = namespaces.socket_in(self.namespace, socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind(("eth0", 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        network.batch([f"netns delete {self.namespace}"])

    def take(self, address: str, prefix: int) -> None:
        """Its kernel has the address from now on, and answers for it. IPv6: without asking whether anybody has it."""
        network.batch([f"addr add {address}/{prefix} dev eth0{' nodad' if ':' in address else ''}"], self.namespace)

    def give_up(self, address: str, prefix: int) -> None:
        network.batch([f"addr del {address}/{prefix} dev eth0"], self.namespace)

    def claim(self, address: str) -> None:
        """Tells everybody once that it has the address: a gratuitous ARP request, or an unsolicited advertisement."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        if ":" in address:
            frame = frames.advertisement(mac, socket.inet_pton(socket.AF_INET6, address), router=False)
        else:
            frame = frames.gratuitous_request(mac, socket.inet_aton(address))
        self._socket.send(frame)


def _forwards(port: str, namespace: str) -> bool:
    """A bridge forwards for a new port when it was told of its carrier, which takes a while."""
    (link,) = network.query(["-d", "link", "show", "dev", port], namespace)
    return "'state': 'forwarding'" in str(link)
