"""The interfaces of this machine as the kernel last told."""

from __future__ import annotations

from agent.drivers.records import LinkRecord


class LinkTable:
    """Interfaces by index and by name. An interface that is made anew under its name has another index."""

    def __init__(self) -> None:
        self._by_index: dict[int, LinkRecord] = {}
        self._by_name: dict[str, LinkRecord] = {}
        self._gone = ""
        self._gone_index = 0

    def named(self, name: str) -> LinkRecord | None:
        return self._by_name.get(name)

    def at(self, ifindex: int) -> LinkRecord | None:
        return self._by_index.get(ifindex)

    def name(self, ifindex: int) -> str:
        """For people: the name, also of the interface that went last, or the number of one that is gone."""
        link = self._by_index.get(ifindex)
        if link is None and ifindex == self._gone_index:
            return self._gone
        return link.name if link else f"#{ifindex}"

    def obstacle(self, name: str) -> str:
        """Why no address may go on the interface; empty: it may."""
        link = self._by_name.get(name)
        return link.obstacle if link else "interface_missing"

    def update(self, link: LinkRecord) -> None:
        former = self._by_index.get(link.ifindex)
        if former is not None and former.name != link.name and self._by_name.get(former.name) == former:
            del self._by_name[former.name]
        self._by_index[link.ifindex] = link
        self._by_name[link.name] = link

    def remove(self, ifindex: int) -> None:
        former = self._by_index.pop(ifindex, None)
        if former is not None:
            self._gone, self._gone_index = former.name, ifindex
        if former is not None and self._by_name.get(former.name) == former:
            del self._by_name[former.name]

    def replace(self, links: list[LinkRecord]) -> None:
        """Takes over a whole dump."""
        self._by_index.clear()
        self._by_name.clear()
        for link in links:
            self.update(link)
