"""Until when this node's kernel may answer for its VIPs: the fast lease (docs/safety.md).

| lease   | input                                                        | next    | output             |
|---------|--------------------------------------------------------------|---------|--------------------|
| none    | a heartbeat sent in this view is acknowledged; nothing to let go | held    | HoldLease fresh    |
| held    | a later heartbeat is acknowledged                            | held    | HoldLease          |
| held    | `until` has come, or the kernel says so (LeaseLapsed)        | none    | LeaseLost          |

A lease counts from the *send* time of a heartbeat that a fellow member acknowledged while it was in our view and not
changing it: whoever did so declares, on joining a later view, that it heard us no earlier than then, and that view
leaves our VIPs alone until `bound` seconds after (R9).

- `partition: component`: one fellow's word is enough. While none of them has been heard for a heartbeat and a half
  there is nobody to acknowledge: the last heartbeat sent counts. (Whoever still hears us counts from it, too.)
  A lapsed one is begun so only when the node has listened for as long as anybody's lease may run: another that had
  slept may have woken meanwhile and taken everything.
- `partition: quorum`: members with more than half of the votes, this node's among them, have to have acknowledged it.

A lease that has lapsed is begun anew only on a heartbeat sent since (a second line: counted from its sending it could
not outlive its bound anyway), and when nothing is left to be taken off an interface: one lease speaks for all VIPs.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.effects import Effect, HoldLease
from agent.core.events import Event, LeaseLost, LeaseTaken
from agent.core.ids import Member, NodeName
from agent.core.view import View

NEVER = float("-inf")

STEP = 0.25
"""Heartbeats by which a renewal has to prolong the lease: two acknowledgements at once need one system call."""


class Lease:
    """`bound` in seconds; 0: nothing is leased and everything counts as in force."""

    __slots__ = ("_acknowledged", "_fresh_after", "_longer", "_told", "_until", "bound", "step")

    def __init__(self, bound: float, heartbeat: float) -> None:
        self.bound = bound
        self.configure(bound, heartbeat)
        self._until = NEVER
        self._told = NEVER
        """Until when the kernel may answer at the most: what it was told it cannot be made to forget."""
        self._fresh_after = NEVER
        """A new lease needs a heartbeat sent after this time."""
        self._acknowledged: dict[Member, float] = {}
        """When the newest heartbeat was sent that each fellow member acknowledged."""

    def configure(self, bound: float, heartbeat: float) -> None:
        """A shorter bound is in force at once; a longer one from the next view on, whose members know of it."""
        self._longer = bound
        self.bound, self.step = min(bound, self.bound), STEP * heartbeat

    def in_force(self, now: float) -> bool:
        return self.bound <= 0.0 or now < self._until

    def silent(self, now: float) -> bool:
        """The kernel surely answers for nothing: the lease is over, and so is any longer one from before a reload."""
        return self.bound > 0.0 and now >= self._told

    def remaining(self, now: float) -> float:
        """Seconds for which the kernel may go on answering, even if the lease has been given up; 0: it is silent."""
        return max(0.0, self._told - now)

    def deadline(self) -> float:
        """When it lapses; infinite when there is none."""
        return self._until if self._until > NEVER else float("inf")

    def listened(self, at: float, seconds: float) -> bool:
        """Whether the former lease had lapsed for so long at that time."""
        return at > self._fresh_after + seconds

    def new_view(self, view: View) -> None:
        """Who is no member any more has no word in it. What a member acknowledged in former views still counts."""
        if self._longer > self.bound:
            self.bound = self._longer
            self._acknowledged.clear()  # by members who reckoned with the shorter one
        self._acknowledged = {member: sent for member, sent in self._acknowledged.items() if member in view}

    def acknowledged(self, member: Member, sent: float) -> None:
        """A fellow member, in our view and not gathering, has heard the heartbeat sent at `sent`."""
        self._acknowledged[member] = max(sent, self._acknowledged.get(member, NEVER))

    def any_of(self, alone: bool, last_sent: float) -> float:
        """`partition: component`: the send time that counts. `alone`: no fellow member can be heard at present."""
        return max([*self._acknowledged.values(), last_sent if alone else NEVER], default=NEVER)

    def quorum_of(self, votes: Mapping[NodeName, int], me: NodeName, needed: int, last_sent: float) -> float:
        """`partition: quorum`: the latest send time that members with `needed` votes have acknowledged."""
        gathered = votes.get(me, 0)
        if gathered >= needed:
            return last_sent
        for member, sent in sorted(self._acknowledged.items(), key=lambda item: -item[1]):
            gathered += votes.get(member.name, 0)
            if gathered >= needed:
                return sent
        return NEVER

    def lapse(self, now: float) -> list[Effect | Event]:
        """Takes note that the time is over. To be called before the lease is asked for anything."""
        if self._until == NEVER or now < self._until:
            return []
        return self.lost(now)

    def lost(self, now: float) -> list[Effect | Event]:
        """It is not in force any more, by the clock or by the kernel's word."""
        if self._until == NEVER:
            return []
        if self._told <= self._until:
            self._told = NEVER
        self._until, self._fresh_after = NEVER, now
        return [LeaseLost(now, "fast")]

    def drop(self, now: float) -> None:
        """The node holds nothing and wants nothing: what runs may run out."""
        self._until, self._fresh_after = NEVER, now
        self._acknowledged.clear()

    def extend(self, now: float, base: float, *, clear: bool) -> list[Effect | Event]:
        """Renews or begins it, counted from `base`. `clear`: nothing that was given up is still on an interface."""
        until = base + self.bound
        if self.bound <= 0.0 or until <= now:
            return []
        if self._until > NEVER:
            if until < self._until + self.step:
                return []
            self._until, self._told = until, max(until, self._told)
            return [HoldLease(until, fresh=False)]
        if base <= self._fresh_after or not clear:
            return []
        self._until, self._told = until, max(until, self._told)
        return [HoldLease(until, fresh=True), LeaseTaken(now, until)]
