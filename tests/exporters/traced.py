"""A node under observation, fed by hand: incidents and weaver as the bus would feed them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from agent.core import events as e
from agent.core.effects import Occasion
from agent.core.ids import Member, ViewId, VipName
from agent.core.view import Cause, Decision, View, ViewCause
from exporters.incidents import Incidents
from exporters.spans import Span
from exporters.weaver import Traced, Weaver
from tests.exporters.events_of_every_kind import W1, W2, W3

OLD, NEW = ViewId(6, W1), ViewId(7, W1)
TRACED = get_args(Traced)


class Watched:
    def __init__(self, node: Member = W1, *, share: float = 1.0) -> None:
        self.me = node
        self.waiting: list[e.ViewInstalled] = []
        self.incidents = Incidents("www", node.name, share, coming=lambda: self.waiting[0] if self.waiting else None)
        self.weaver = Weaver({VipName("a"): ("10.0.0.1", "fd00::1")})
        self.spans: list[Span] = []

    def see(self, *events: e.Event) -> Watched:
        for event in events:
            self.incidents(event)
            if isinstance(event, TRACED):
                self.spans += self.weaver.observe(event, self.incidents.now)
        return self

    def rest(self, now: float) -> Watched:
        self.spans += self.weaver.sweep(now)
        return self

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        (span,) = self.named(name)
        return span

    def frames(self) -> Iterator[tuple[float, object]]:
        """Time and target of every frame that any span tells of."""
        for span in self.spans:
            for point in span.points:
                if point.name.startswith("frame"):
                    yield point.at, point.attributes["arp.target"]


def change(at: float, view: ViewId, *members: Member, left: tuple[Member, ...] = ()) -> e.ViewInstalled:
    return e.ViewInstalled(
        at=at,
        view=View(view, members),
        previous=OLD if view == NEW else None,
        joined=(),
        left=left,
        cause=ViewCause.DISCONNECT if left else ViewCause.JOIN,
        together=(),
        mature=True,
        gather_started=at - 0.002,
        failed_since=at - 0.4 if left else None,
        owners=(),
    )


def decided(at: float, seq: int, decision: Decision, view: ViewId = NEW) -> e.Decided:
    return e.Decided(at, view, seq, decision, flushed=False)


def suspected(at: float, member: Member = W3) -> e.MemberSuspected:
    return e.MemberSuspected(at, member, silence=0.39, named_by=None)


def acquired(at: float, vip: str = "a", cause: Cause = Cause.FAILOVER) -> tuple[e.AcquireStarted, e.VipAcquired]:
    """Both events of an acquisition of one millisecond that ends at `at`."""
    name = VipName(vip)
    return e.AcquireStarted(at - 0.001, name, cause), e.VipAcquired(at, name, cause, at - 0.001, at - 0.4)


def released(at: float, vip: str = "a", cause: Cause = Cause.BALANCE) -> tuple[e.ReleaseStarted, e.VipReleased]:
    name = VipName(vip)
    return e.ReleaseStarted(at - 0.001, name, cause), e.VipReleased(at, name, cause, at - 0.001)


def announced(at: float, occasion: Occasion, *vips: str) -> e.Announced:
    return e.Announced(at, tuple(VipName(vip) for vip in vips or ("a",)), occasion)


def frame(
    at: float, occasion: Occasion = Occasion.ACQUIRE, vip: str = "a", target: str = "10.0.0.1", error: str = ""
) -> e.ArpSent:
    return e.ArpSent(at, VipName(vip), "eth4", "request", target, occasion, error)


def failover(at: float = 100.0) -> list[e.Event]:
    """www3 is lost, this node takes VIP a."""
    return [
        change(at - 60, OLD, W1, W2, W3),
        suspected(at - 0.003),
        e.GatherStarted(at - 0.002, 7, "suspect"),
        e.JoinHeard(at - 0.001, 7, W2),
        change(at, NEW, W1, W2, left=(W3,)),
        *acquired(at + 0.002),
        announced(at + 0.002, Occasion.ACQUIRE),
        frame(at + 0.003),
        frame(at + 0.003),
    ]
