"""Every event as one sentence, for the log, the history and whoever reads either: what happened, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from agent.core import events as e
from agent.core.view import Move

NAMED_MAX = 8
"""VIPs or members named in one sentence."""


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Line:
    level: Level
    text: str


Membership = (
    e.Started
    | e.Stalled
    | e.MemberSuspected
    | e.MemberHeard
    | e.GatherStarted
    | e.JoinHeard
    | e.ViewInstalled
    | e.PlacementDiffers
    | e.Excluded
    | e.BecameMature
    | e.ConfigDiffers
    | e.StandingsChanged
    | e.StateChanged
    | e.LimitReached
    | e.HeartbeatReceived
    | e.HeartbeatSent
    | e.QuorumChanged
)

Vips = (
    e.Decided
    | e.AcquireStarted
    | e.VipAcquired
    | e.VipAcquireFailed
    | e.ReleaseStarted
    | e.VipReleased
    | e.VipLost
    | e.VipWaits
    | e.Announced
    | e.BalanceRound
    | e.BalanceRoundDone
    | e.OwnersChanged
    | e.OperatorAnswered
)

Leases = e.LeaseLost | e.LeaseTaken | e.LeaseRenewed | e.LeaseLayer

Edges = (
    e.ArpSent
    | e.DatagramRejected
    | e.NameClash
    | e.ArpCacheChanged
    | e.StrayRemoved
    | e.InterfaceChanged
    | e.LoopLag
    | e.Reloaded
    | e.ConflictSeen
)

ACQUIRE_ADVICE = {
    "interface_missing": "no such interface here: correct its name in the configuration or create it",
    "interface_down": "the interface is down: `ip link set <interface> up`",
    "no_carrier": "the interface has no carrier: look at cable and switch",
    "denied": "the kernel refused: the agent needs CAP_NET_ADMIN",
    "exists_here": "the address is there already and not ours: take it off the host's own configuration",
    "netlink": "the kernel refused it",
    "conflict": "another host answers for the address: find it (the switch knows its port) and take it away there",
}

LEASE_LOST = {
    "fast": "the fast lease ran out before it was renewed: the kernel answers for no VIP of this node until peers have "
    "acknowledged it again; give this host more CPU, look at the network, or raise failure_timeout",
    "address": "the lifetime of addresses ran out before it was renewed: the kernel removed them; give this host "
    "more CPU",
}

LEASE_ADVICE = {
    "fast": "only the lifetime of the addresses protects; install nftables' kernel module (nf_tables), or say "
    "`lease: {fast: off}`",
    "address": "addresses of a killed or hanging agent stay up",
    "guard": "addresses of a killed agent stay up until their lease is over; it is started again",
}

REJECT_STRANGER = "if it is no node of this cluster, close the port to it; if it is one, compare the configurations"

REJECT_ADVICE = {
    "version": "it runs another version of molehill: all nodes of a cluster need the same",
    "cluster": "another cluster uses this port on this segment: harmless; another engine.port for one of them ends it",
    "unsealed": "it runs without a key, this node with one: compare its secret_file with this node's",
    "sealed": "it has a key and this node runs insecure: give this node the cluster's secret_file",
    "key": "it has another key: compare its secret_file with this node's; if it is a stranger, close the port to it",
    "seal": "damaged, or forged by somebody without the key: look at the network, or close the port to it",
    "unknown_member": "its name is not in engine.members here: add it there, or stop that node",
    "address": "it uses a member's name at another address: give each node its own name, and all the same `members`",
    "name_clash": "it uses this node's own name: give each node its own",
    "misdirected": "it was meant for another member: compare the addresses in `members` on all nodes",
    "untrusted": "it has not shown yet that it lives now: one or two at each start are normal, more may be recordings",
    "stale_incarnation": "it is from a former life of that node: harmless once; if it goes on, its state_dir was put "
    "back: remove the file `incarnation` there and restart it",
    "replay": "it was seen before: the network doubles datagrams, or somebody plays recordings",
    "limit": "it is more than this node keeps: look at what that host sends",
}
"""What to do about a refused datagram, by reason; else `REJECT_STRANGER`."""


def describe(event: e.Event) -> Line:
    match event:
        case (
            e.Started()
            | e.Stalled()
            | e.MemberSuspected()
            | e.MemberHeard()
            | e.GatherStarted()
            | e.JoinHeard()
            | e.ViewInstalled()
            | e.PlacementDiffers()
            | e.Excluded()
            | e.BecameMature()
            | e.ConfigDiffers()
            | e.StandingsChanged()
            | e.StateChanged()
            | e.LimitReached()
            | e.HeartbeatReceived()
            | e.HeartbeatSent()
            | e.QuorumChanged()
        ):
            return _membership(event)
        case (
            e.Decided()
            | e.AcquireStarted()
            | e.VipAcquired()
            | e.VipAcquireFailed()
            | e.ReleaseStarted()
            | e.VipReleased()
            | e.VipLost()
            | e.VipWaits()
            | e.Announced()
            | e.BalanceRound()
            | e.BalanceRoundDone()
            | e.OwnersChanged()
            | e.OperatorAnswered()
        ):
            return _vips(event)
        case (
            e.ArpSent()
            | e.DatagramRejected()
            | e.NameClash()
            | e.ArpCacheChanged()
            | e.StrayRemoved()
            | e.InterfaceChanged()
            | e.LoopLag()
            | e.Reloaded()
            | e.ConflictSeen()
        ):
            return _edges(event)
        case e.LeaseLost() | e.LeaseTaken() | e.LeaseRenewed() | e.LeaseLayer():
            return _leases(event)
        case _:
            assert_never(event)


def _membership(event: Membership) -> Line:
    match event:
        case e.Started(member=member):
            return Line(Level.INFO, f"started as {member}")
        case e.Stalled(seconds=seconds, yielded=True):
            return Line(
                Level.ERROR,
                f"was not run for {seconds:.3f} s, longer than the failure timeout, and gave everything up: "
                "give this host more CPU, or raise failure_timeout",
            )
        case e.Stalled(seconds=seconds):
            return Line(Level.WARNING, f"was not run for {seconds:.3f} s: the host is short of CPU")
        case e.MemberSuspected(member=member, silence=silence, named_by=None):
            return Line(Level.WARNING, f"{member} has been silent for {silence:.3f} s and is suspected")
        case e.MemberSuspected(member=member, silence=silence, named_by=peer):
            return Line(Level.WARNING, f"{peer} suspects {member}, silent here for {silence:.3f} s: believed")
        case e.MemberHeard(member=member):
            return Line(Level.INFO, f"hears {member}")
        case e.GatherStarted(epoch=epoch, reason=reason):
            return Line(Level.INFO, f"gathers for a new view, epoch {epoch}, because of {reason}")
        case e.JoinHeard(member=member, epoch=epoch):
            return Line(Level.DEBUG, f"{member} has joined epoch {epoch}")
        case e.ViewInstalled(view=view, cause=cause, at=at, gather_started=begun):
            names = ", ".join(view.names())
            return Line(Level.INFO, f"view {view.id} installed ({cause}) after {1000 * (at - begun):.1f} ms: {names}")
        case e.PlacementDiffers(detail=detail):
            return Line(
                Level.ERROR,
                f"the coordinator placed VIPs differently than this node would ({detail}): run the same version of "
                "molehill on all nodes; if they do, please report this",
            )
        case e.Excluded(by=by, view=view):
            return Line(Level.WARNING, f"{by} has view {view} without this node: gives everything up and joins again")
        case e.BecameMature():
            return Line(Level.INFO, "is mature: VIPs may be served")
        case e.ConfigDiffers(members=()):
            return Line(Level.INFO, "all members are configured alike again")
        case e.ConfigDiffers(members=members, vips=vips):
            which = f"; VIPs that differ: {_names(vips)}" if vips else ""
            return Line(
                Level.WARNING,
                f"other settings than here on {_names(members)}{which}: compare `molehill check` on both, make the "
                "files alike, then `molehill reload`",
            )
        case e.StandingsChanged(unfit=unfit, draining=draining, leaving=leaving):
            return Line(
                Level.INFO,
                f"standing: unfit {_names(unfit)}; draining {_names(draining)}; leaving {_names(leaving)}",
            )
        case e.StateChanged(state=state):
            return Line(Level.INFO, f"state {state}")
        case e.LimitReached(limit=limit):
            return Line(Level.WARNING, f"limit reached: {limit}; what is beyond it is not done")
        case e.HeartbeatReceived(peer=peer, missed=missed):
            return Line(Level.DEBUG, f"heartbeat of {peer}, {missed} missed before it")
        case e.HeartbeatSent():
            return Line(Level.DEBUG, "heartbeat sent")
        case e.QuorumChanged(quorate=True, votes=votes, needed=needed):
            return Line(Level.INFO, f"quorate: {votes} of {needed} votes that are needed")
        case e.QuorumChanged(votes=votes, needed=needed):
            return Line(
                Level.WARNING,
                f"not quorate, so nothing is held here: {votes} of {needed} votes that are needed; bring the other "
                "nodes back, or mend the network between",
            )
        case _:
            assert_never(event)


def _vips(event: Vips) -> Line:
    match event:
        case e.Decided(seq=seq, decision=decision, flushed=flushed):
            late = ", recovered in the flush" if flushed else ""
            return Line(Level.DEBUG, f"decision {seq}: {type(decision).__name__}{late}")
        case e.AcquireStarted(vip=vip, cause=cause):
            return Line(Level.DEBUG, f"acquires {vip} ({cause})")
        case e.VipAcquired(vip=vip, cause=cause, at=at, started=started):
            return Line(Level.INFO, f"acquired {vip} ({cause}) in {1000 * (at - started):.1f} ms")
        case e.VipAcquireFailed(vip=vip, reason=reason, detail=detail, retry_in=retry_in):
            advice = ACQUIRE_ADVICE.get(reason, reason)
            until = f"for {retry_in:g} s" if retry_in else "while that is so"
            return Line(
                Level.ERROR,
                f"could not acquire {vip}: {advice} ({detail}); it goes to another node, and not to this one {until}",
            )
        case e.ReleaseStarted(vip=vip, cause=cause):
            return Line(Level.DEBUG, f"releases {vip} ({cause})")
        case e.VipReleased(vip=vip, cause=cause, at=at, started=started):
            return Line(Level.INFO, f"released {vip} ({cause}) in {1000 * (at - started):.1f} ms")
        case e.VipLost(vip=vip, detail=detail):
            return Line(
                Level.WARNING,
                f"somebody took an address of {vip} away ({detail}): find who (network manager, a person); to move a "
                "VIP use `molehill move`",
            )
        case e.VipWaits(vip=vip, reason=reason):
            return Line(Level.INFO, f"waits before it acquires {vip}: {reason}")
        case e.Announced(vips=vips, occasion=occasion):
            return Line(Level.DEBUG, f"announces {_names(vips)} ({occasion})")
        case e.BalanceRound(moves=moves, timed=timed):
            kind = "balance round" if timed else "moves"
            return Line(Level.INFO, f"{kind}: {_moves(moves)}")
        case e.BalanceRoundDone(seconds=seconds):
            return Line(Level.INFO, f"moves done in {1000 * seconds:.1f} ms")
        case e.OwnersChanged(uncovered=(), spread=spread):
            return Line(Level.DEBUG, f"every VIP has an owner; spread {spread:g}")
        case e.OwnersChanged(uncovered=uncovered):
            return Line(Level.WARNING, f"VIPs without an owner, {len(uncovered)} in all: {_names(uncovered)}")
        case e.OperatorAnswered(verb=verb, refused=""):
            return Line(Level.INFO, f"`{verb}` done")
        case e.OperatorAnswered(verb=verb, refused=refused):
            return Line(Level.WARNING, f"`{verb}` refused: {refused}")
        case _:
            assert_never(event)


def _leases(event: Leases) -> Line:
    match event:
        case e.LeaseLost(layer=layer):
            return Line(Level.ERROR, LEASE_LOST.get(layer, f"the {layer} lease ran out before it was renewed"))
        case e.LeaseTaken(until=until, at=at):
            return Line(
                Level.INFO, f"the fast lease is in force, at first for {1000 * (until - at):.0f} ms: VIPs are answered"
            )
        case e.LeaseRenewed(layer=layer, margin=margin):
            return Line(Level.DEBUG, f"the {layer} lease is renewed, {1000 * margin:.1f} ms before its end")
        case e.LeaseLayer(layer=layer, active=True, detail=""):
            return Line(Level.INFO, f"lease layer {layer} is in force")
        case e.LeaseLayer(layer="guard", active=True, detail=detail):
            return Line(Level.INFO, f"lease layer guard is in force: {detail}")
        case e.LeaseLayer(layer=layer, active=True, detail=detail):
            return Line(Level.WARNING, f"lease layer {layer} is in force, but: {detail}")
        case e.LeaseLayer(layer=layer, detail=detail):
            advice = LEASE_ADVICE.get(layer, "")
            return Line(Level.WARNING, f"lease layer {layer} is not in force ({detail}): {advice}")
        case _:
            assert_never(event)


def _edges(event: Edges) -> Line:
    match event:
        case e.ArpSent(vip=vip, interface=interface, kind=kind, target=target, error=""):
            return Line(Level.DEBUG, f"sent {kind} for {vip} to {target} on {interface}")
        case e.ArpSent(vip=vip, interface=interface, kind=kind, error=error):
            return Line(Level.ERROR, f"could not send {kind} for {vip} on {interface}: {error}; clients may go astray")
        case e.DatagramRejected(reason=reason, source=source):
            advice = REJECT_ADVICE.get(reason, REJECT_STRANGER)
            return Line(Level.WARNING, f"rejected a datagram of {source} ({reason}): {advice}")
        case e.NameClash(source=source):
            return Line(
                Level.ERROR,
                f"another host, {source}, runs with this node's name: give each node its own `node` in its "
                "configuration and restart that one",
            )
        case e.ArpCacheChanged(local=local, shared=shared):
            return Line(Level.DEBUG, f"ARP cache: {local} entries of this node, {shared} of the group")
        case e.StrayRemoved(interface=interface, address=address):
            return Line(Level.WARNING, f"removed {address} from {interface}: left by a killed agent")
        case e.InterfaceChanged(interface=interface, usable=True):
            return Line(Level.INFO, f"interface {interface} is usable")
        case e.InterfaceChanged(interface=interface, reason=reason):
            return Line(Level.WARNING, f"interface {interface} is not usable: {ACQUIRE_ADVICE.get(reason, reason)}")
        case e.LoopLag(seconds=seconds):
            slow = seconds >= 0.05
            return Line(Level.WARNING if slow else Level.DEBUG, f"the event loop was {1000 * seconds:.1f} ms late")
        case e.ConflictSeen(vip=vip, address=address, interface=interface, mac=mac, answer=answer):
            return Line(
                Level.WARNING,
                f"{mac} on {interface} claims {address} of VIP {vip} and is no member ({answer}): find that host (the "
                "switch knows its port) and take the address away there",
            )
        case e.Reloaded(error=""):
            return Line(Level.INFO, "the new configuration is in force")
        case e.Reloaded(error=error):
            return Line(Level.ERROR, f"the old configuration stays in force: {error}")
        case _:
            assert_never(event)


def _names(names: Iterable[object]) -> str:
    words = [str(name) for name in names]
    more = f" and {len(words) - NAMED_MAX} more" if len(words) > NAMED_MAX else ""
    return (", ".join(words[:NAMED_MAX]) or "none") + more


def _moves(moves: tuple[Move, ...]) -> str:
    return _names(f"{move.vip} {move.giver} -> {move.taker} ({move.cause})" for move in moves)
