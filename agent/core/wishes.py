"""What a person wants of the whole group, as a request to the one that decides, or why it is refused at once."""

from __future__ import annotations

from agent.core.coordinator import why_not
from agent.core.ids import NodeName
from agent.core.inputs import BalanceRequested, MoveRequested
from agent.core.serving import Serving
from agent.core.settings import REQUESTS_MAX
from agent.core.view import OperatorRequest


def wish(number: int, item: BalanceRequested | MoveRequested, serving: Serving) -> tuple[OperatorRequest, str]:
    """The request, and what speaks against it; empty: nothing."""
    match item:
        case BalanceRequested():
            request = OperatorRequest(number, "balance", None, None)
            refused = "" if serving.mature else "the cluster is not mature yet"
        case MoveRequested(vip=vip, taker=taker):
            request = OperatorRequest(number, "move", vip, NodeName(taker))
            refused = why_not(serving.record, vip, NodeName(taker))
    if not refused and len(serving.operator) >= REQUESTS_MAX:
        refused = f"{REQUESTS_MAX} earlier requests are still waiting for a decision"
    return request, refused
