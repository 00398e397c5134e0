"""One node of the broadcast test, in its own namespace: talks until it has heard all, then prints what it heard."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict

from agent.core.events import NameClash
from agent.core.ids import NodeName
from tests.engines.wire_nodes import Node, leave

NAMED = 1000
DONE = 2000


async def talk(index: int, bind: str, broadcast: str | None, members: dict[str, str]) -> dict[str, object]:
    addresses = {NodeName(name): address for name, address in members.items()}
    node = Node(f"n{index}", port=4803, bind=bind, members=addresses, broadcast=broadcast)
    others = tuple(NodeName(f"n{other}") for other in (1, 2, 3) if other != index)
    await node.engine.open()
    sends: list[tuple[object, ...]] = []
    transmit = node.engine._transmit

    def counted(datagram: bytes, there: tuple[object, ...]) -> None:
        sends.append(there)
        transmit(datagram, there)

    heard: dict[str, dict[str, list[int]]] = {}
    for number in range(1, NAMED):
        node.engine._transmit = counted  # type: ignore[method-assign, assignment]
        node.engine.send(leave(number), ())
        node.engine._transmit = transmit  # type: ignore[method-assign]
        known = {peer.name for peer in node.engine.peers}
        node.engine.send(leave(NAMED + number), tuple(name for name in others if name in known))
        await asyncio.sleep(0.02)  # the pace of a heartbeat
        heard = {"everyone": defaultdict(list), "named": defaultdict(list), "done": defaultdict(list)}
        for sender, message in node.messages:
            epoch = message.view.epoch  # type: ignore[union-attr]
            kind = "everyone" if epoch < NAMED else "named" if epoch < DONE else "done"
            heard[kind][sender.name].append(epoch)
        complete = all(set(heard[kind]) == set(others) for kind in ("everyone", "named"))
        if complete:
            node.engine.send(leave(DONE + number), ())
            if set(heard["done"]) == set(others):
                break
    result: dict[str, object] = {
        **heard,
        "rejected": node.rejections(),
        "clashes": sum(isinstance(event, NameClash) for event in node.events),
        "sent_to": "segment" if len(sends) == number else "peers",
    }
    node.engine.close()
    return result


if __name__ == "__main__":
    print(json.dumps(asyncio.run(talk(**json.loads(sys.argv[1])))))
