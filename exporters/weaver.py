"""From events to finished spans: pure folding of what happened, in the node's own clock, without OpenTelemetry.

One tree for each incident, its root shared by all nodes:

    change view | balance vips | hand over vips | begin serving | assign vips | repair vips | reload vips | refresh ...
      detect failure          last sign of the lost member to the suspicion
      gather state            begin of gathering to the last vote
      place vips              last vote to the installed view
      acquire vip             order to the last frame of the first announcement
        probe vip             if it is asked first whether somebody has the address
        add address
        announce vip          one event per frame; further spans past 128 frames or after a pause
      release vip
        remove address
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from agent.core import events as e
from agent.core.effects import Occasion
from agent.core.ids import ViewId, VipName
from exporters.announcements import LONGEST, Announcements, Told
from exporters.incidents import Incident
from exporters.spans import Attributes, Point, Span, new_id

QUIET = 0.5
"""Seconds without anything new after which an incident's root is closed."""

UNFINISHED = 60.0
"""Seconds after which something that was begun and never answered is told as it is."""

ROOTS_MAX = 4_096
"""Traces that are remembered as told, so that what comes late does not make a second root."""

UNROOTED_MAX = 256
"""Incidents of one view that are remembered in case that its first member is lost."""

EARLY_MAX = 2_048
"""Events before a view whose trace is not known yet."""

Traced = (
    e.MemberSuspected
    | e.GatherStarted
    | e.JoinHeard
    | e.ViewInstalled
    | e.Decided
    | e.BalanceRoundDone
    | e.AcquireStarted
    | e.VipAcquired
    | e.VipAcquireFailed
    | e.ReleaseStarted
    | e.VipReleased
    | e.VipLost
    | e.ConflictSeen
    | e.Announced
    | e.ArpSent
)


@dataclass(slots=True)
class _Story:
    """An incident under way here."""

    incident: Incident
    start: float
    end: float
    attributes: Attributes
    points: list[Point] = field(default_factory=list)


@dataclass(slots=True)
class _Taking:
    """An acquisition, until its first announcement is out."""

    incident: Incident
    span: int
    started: float
    cause: str
    added: float | None = None


class Weaver:
    """`observe` each event with its incident, in order; `sweep` now and then. Both give finished spans."""

    def __init__(self, addresses: Mapping[VipName, tuple[str, ...]]) -> None:
        self.configure(addresses)
        self._announcements = Announcements()
        self._early: list[e.MemberSuspected | e.GatherStarted | e.JoinHeard | e.ReleaseStarted | e.VipReleased] = []
        self._stories: dict[int, _Story] = {}
        self._rooted: dict[int, None] = {}
        self._unrooted: dict[int, _Story] = {}
        """Incidents of this view that came to rest and whose root another node has to tell."""
        self._taking: dict[VipName, _Taking] = {}
        self._giving: dict[VipName, tuple[Incident | None, e.ReleaseStarted]] = {}
        self._parents: dict[VipName, tuple[int, int]] = {}
        """Trace and span of the last acquisition of each VIP: later frames hang on it."""

    def configure(self, addresses: Mapping[VipName, tuple[str, ...]]) -> None:
        self._addresses = dict(addresses)

    @property
    def busy(self) -> bool:
        """Whether something is under way that a `sweep` will finish."""
        return bool(self._stories or self._taking or self._giving or self._announcements.open)

    def observe(self, event: Traced, incident: Incident | None) -> Iterator[Span]:
        match event:
            case e.MemberSuspected() | e.GatherStarted() | e.JoinHeard():
                self._keep(event)
                return
            case e.ViewInstalled(failed_since=lost):
                if incident is not None:
                    if incident.heir_of is not None and lost is not None:
                        yield from self._inherit(incident.heir_of, lost)
                    self._unrooted.clear()
                    yield from self._view(event, incident)
                return
            case e.ReleaseStarted() | e.VipReleased() if incident is None:
                self._keep(event)
                return
        if incident is None or not incident.sampled:
            return
        match event:
            case e.Decided():
                self._touch(incident, event.at)
            case e.BalanceRoundDone(at=at):
                self._touch(incident, at)
            case e.AcquireStarted(vip=vip, at=at, cause=cause):
                if vip in self._taking:
                    yield from self._close_taking(vip, self._answered(vip))
                self._touch(incident, at)
                self._taking[vip] = _Taking(incident, new_id(), at, cause.value)
            case e.VipAcquired():
                yield from self._added(event, incident)
            case e.VipAcquireFailed():
                yield from self._failed(event, incident)
            case e.ReleaseStarted(vip=vip, at=at):
                self._touch(incident, at)
                self._giving[vip] = (incident, event)
            case e.VipReleased():
                yield from self._released(event, incident)
            case e.VipLost(at=at, vip=vip, detail=detail):
                story = self._touch(incident, at)
                story.points.append(Point(at, "address lost", {"vip.name": vip, "detail": detail}))
            case e.ConflictSeen(at=at, vip=vip, address=address, interface=interface, mac=mac):
                story = self._touch(incident, at)
                rival: Attributes = {
                    "vip.name": vip,
                    "vip.address": address,
                    "network.interface.name": interface,
                    "network.peer.mac": mac,
                }
                story.points.append(Point(at, "address claimed by another host", rival))
            case e.Announced(at=at, vips=vips, occasion=occasion):
                self._announcements.begun(at, vips, occasion)
                if occasion is not Occasion.REPEAT:
                    self._touch(incident, at)
            case e.ArpSent():
                yield from self._frame(event, incident)
            case _:
                assert_never(event)

    def sweep(self, now: float, *, everything: bool = False) -> Iterator[Span]:
        """Closes what has come to rest; `everything`: what has not, too."""
        for told in self._announcements.sweep(now, everything=everything):
            yield from self._told(told)
        for vip, taking in list(self._taking.items()):
            if everything or (taking.added is not None and now - taking.added >= QUIET):
                yield from self._close_taking(vip, self._answered(vip))
            elif now - taking.started >= UNFINISHED:
                yield from self._close_taking(vip, None)
        for vip, (incident, event) in list(self._giving.items()):
            if incident is not None and (everything or now - event.at >= UNFINISHED):
                del self._giving[vip]
                yield self._release_span(event, incident, max(now, event.at), "unfinished")
        open_ = {taking.incident.identity.trace for taking in self._taking.values()}
        open_ |= {incident.identity.trace for incident, _ in self._giving.values() if incident is not None}
        for trace, story in list(self._stories.items()):
            if everything or (trace not in open_ and now - story.end >= QUIET):
                del self._stories[trace]
                self._rooted[trace] = None
                if len(self._rooted) > ROOTS_MAX:
                    del self._rooted[next(iter(self._rooted))]
                if story.incident.rooted_here:
                    yield self._root(story)
                elif len(self._unrooted) < UNROOTED_MAX:
                    self._unrooted[trace] = story

    # Parts.

    def _keep(
        self, event: e.MemberSuspected | e.GatherStarted | e.JoinHeard | e.ReleaseStarted | e.VipReleased
    ) -> None:
        if len(self._early) < EARLY_MAX:
            self._early.append(event)

    def _touch(self, incident: Incident, at: float) -> _Story:
        """The root lasts at least until now; what comes after it was told is no part of its time."""
        trace = incident.identity.trace
        story = self._stories.get(trace)
        if story is None:
            attributes: Attributes = {"view.id": str(incident.view)}
            if incident.seq:
                attributes["decision.seq"] = incident.seq
            story = _Story(incident, incident.begun, at, attributes)
            if trace not in self._rooted:
                self._stories[trace] = story
        story.end = max(story.end, at)
        return story

    def _span(
        self,
        name: str,
        incident: Incident,
        start: float,
        end: float,
        attributes: Attributes,
        *,
        span: int | None = None,
        parent: int | None = None,
        error: str = "",
    ) -> Span:
        attributes |= {"view.id": str(incident.view)}
        return Span(
            name,
            incident,
            span or new_id(),
            incident.identity.root if parent is None else parent,
            start,
            max(start, end),
            attributes,
            error=error,
        )

    def _root(self, story: _Story) -> Span:
        incident = story.incident
        span = Span(incident.name, incident, incident.identity.root, None, story.start, story.end, story.attributes)
        span.points = story.points
        if incident.previous is not None:
            span.links = ((incident.previous.trace, incident.previous.root),)
        return span

    def _inherit(self, view: ViewId, lost: float) -> Iterator[Span]:
        """Roots of a view whose first member gave its last sign at `lost`, before it would have told them."""
        for story in self._unrooted.values():
            if story.incident.view == view and lost < story.end + QUIET:
                yield self._root(story)
        for story in self._stories.values():
            if story.incident.view == view and lost < story.end + QUIET:
                story.incident = replace(story.incident, rooted_here=True)

    def _view(self, event: e.ViewInstalled, incident: Incident) -> Iterator[Span]:
        early, self._early = self._early, []
        if not incident.sampled:
            return
        suspected = [each for each in early if isinstance(each, e.MemberSuspected)]
        epoch = event.view.id.epoch
        votes = [each for each in early if isinstance(each, e.JoinHeard) and each.epoch == epoch]
        begun = event.gather_started
        gathered = max([begun, *(each.at for each in votes)]) if votes else event.at
        story = self._touch(incident, event.at)
        if suspected:
            first = min(each.at for each in suspected)
            silent = min(each.at - each.silence for each in suspected)
            since = silent if event.failed_since is None else min(silent, event.failed_since)
            names = tuple(dict.fromkeys(str(each.member.name) for each in suspected))
            story.start = min(story.start, since)
            detect = self._span("detect failure", incident, since, first, {"member.names": names})
            detect.points = [_suspicion(each) for each in suspected]
            yield detect
        gather = self._span("gather state", incident, begun, gathered, {"view.cause": event.cause.value})
        gather.points = [
            Point(each.at, "gather started", {"view.epoch": each.epoch, "reason": each.reason})
            if isinstance(each, e.GatherStarted)
            else Point(each.at, "vote heard", {"member.name": each.member.name})
            for each in early
            if isinstance(each, e.GatherStarted | e.JoinHeard)
        ]
        if incident.previous is not None:
            gather.links = ((incident.previous.trace, incident.previous.root),)
        yield gather
        yield self._span(
            "place vips", incident, gathered, event.at, {"vips.count": len(event.owners), "mature": event.mature}
        )
        story.attributes |= {
            "view.cause": event.cause.value,
            "view.members": tuple(str(name) for name in event.view.names()),
            "members.left": tuple(str(member.name) for member in event.left),
            "members.joined": tuple(str(member.name) for member in event.joined),
        }
        for each in early:
            if isinstance(each, e.ReleaseStarted | e.VipReleased):
                yield from self.observe(each, incident)

    def _vip(self, vip: VipName, cause: str) -> Attributes:
        return {"vip.name": vip, "vip.address": self._addresses.get(vip, ()), "vip.cause": cause}

    def _added(self, event: e.VipAcquired, incident: Incident) -> Iterator[Span]:
        vip, at = event.vip, event.at
        taking = self._taking.get(vip)
        if taking is None:
            taking = self._taking[vip] = _Taking(incident, new_id(), event.started, event.cause.value)
        taking.added = at
        self._parents[vip] = (incident.identity.trace, taking.span)
        self._touch(incident, at)
        attributes = self._vip(vip, event.cause.value)
        yield self._span("add address", incident, event.started, at, attributes, parent=taking.span)

    def _failed(self, event: e.VipAcquireFailed, incident: Incident) -> Iterator[Span]:
        vip, at = event.vip, event.at
        taking = self._taking.pop(vip, None) or _Taking(incident, new_id(), at, "")
        self._touch(incident, at)
        for name, span, parent in (("add address", None, taking.span), ("acquire vip", taking.span, None)):
            attributes = self._vip(vip, taking.cause) | {"error.type": event.reason}
            yield self._span(
                name, incident, taking.started, at, attributes, span=span, parent=parent, error=event.detail
            )

    def _released(self, event: e.VipReleased, incident: Incident) -> Iterator[Span]:
        _, begun = self._giving.pop(event.vip, (incident, None))
        started = e.ReleaseStarted(event.started, event.vip, event.cause) if begun is None else begun
        self._touch(incident, event.at)
        release = self._release_span(started, incident, event.at, "")
        yield release
        attributes = self._vip(event.vip, event.cause.value)
        yield self._span("remove address", incident, event.started, event.at, attributes, parent=release.span)

    def _release_span(self, event: e.ReleaseStarted, incident: Incident, end: float, error: str) -> Span:
        attributes = self._vip(event.vip, event.cause.value)
        if error:
            attributes["error.type"] = error
        return self._span("release vip", incident, event.at, end, attributes, error=error)

    def _frame(self, event: e.ArpSent, incident: Incident) -> Iterator[Span]:
        trace, parent = self._parents.get(event.vip, (0, 0))
        if event.kind == "probe" and event.vip in self._taking:
            trace, parent = incident.identity.trace, self._taking[event.vip].span
        if trace != incident.identity.trace or event.occasion is Occasion.MERGE:
            parent = incident.identity.root
        if event.occasion is not Occasion.REPEAT and event.at - incident.begun < LONGEST:
            self._touch(incident, event.at)
        full = self._announcements.frame(event, incident, parent)
        if full is not None:
            yield from self._told(full)

    def _told(self, told: Told) -> Iterator[Span]:
        attributes: Attributes = {"vip.name": told.vip, "vip.address": self._addresses.get(told.vip, ())}
        last = told.points[-1].at
        span = self._span(
            told.name,
            told.incident,
            told.start,
            last,
            attributes | told.attributes(),
            parent=told.parent,
            error=told.failed,
        )
        span.points = told.points
        yield span
        taking = self._taking.get(told.vip)
        if taking is not None and taking.span == told.parent and told.name == "announce vip":
            yield from self._close_taking(told.vip, last)

    def _answered(self, vip: VipName) -> float | None:
        """When an acquisition was over so far: its last frame, or the address; None: neither."""
        taking = self._taking[vip]
        last = self._announcements.last(taking.incident, vip)
        return taking.added if last is None else last

    def _close_taking(self, vip: VipName, end: float | None) -> Iterator[Span]:
        """`end` None: never answered."""
        taking = self._taking.pop(vip)
        attributes = self._vip(vip, taking.cause)
        error = "" if end is not None else "unfinished"
        if error:
            attributes["error.type"] = error
        yield self._span(
            "acquire vip",
            taking.incident,
            taking.started,
            end or taking.started,
            attributes,
            span=taking.span,
            error=error,
        )


def _suspicion(event: e.MemberSuspected) -> Point:
    attributes: Attributes = {"member.name": event.member.name, "silence": event.silence}
    if event.named_by is not None:
        attributes["named_by"] = event.named_by
    return Point(event.at, "member suspected", attributes)
