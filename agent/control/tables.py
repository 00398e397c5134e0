"""What the command line prints for people, from the answers of the agent. Answers are JSON: plain dicts and lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

RED, GREEN, YELLOW, DIM, BOLD, PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[1m", "\x1b[0m"

Cell = tuple[str, str]
"""Text and colour; no colour: the empty string."""


def status(answer: Any, *, colour: bool, now: datetime | None = None) -> str:
    """Node, its leases, members and VIPs. `now` for the ages; None: now."""
    moment = now or datetime.now(UTC)
    parts = [_headline(answer, colour=colour, now=moment) + _leases(answer, colour=colour)]
    rows = [_member(member, answer["node"], moment) for member in answer["members"]]
    parts.append(table(("MEMBER", "ADDRESS", "IN VIEW", "HEARD", "RTT", "VIPS", "NOTES"), rows, colour=colour))
    vips = [_vip(vip, answer["node"], moment) for vip in answer["vips"]]
    parts.append(
        table(("VIP", "OWNER", "HERE", "FOR", "CAUSE", "CLAIMED BY"), vips, colour=colour) if vips else "No VIPs.\n"
    )
    return "\n".join(parts)


def _headline(answer: Any, *, colour: bool, now: datetime) -> str:
    traits = ["mature" if answer["mature"] else "not mature"]
    traits += [] if answer["fit"] else ["unfit"]
    traits += ["draining"] if answer["draining"] else []
    traits += [] if answer["quorate"] else ["not quorate"]
    good = answer["state"] in ("RUN", "BALANCE") and traits == ["mature"]
    state = _paint(f"{answer['state']}, {', '.join(traits)}", GREEN if good else YELLOW, colour)
    view = answer["view"]
    about = f"{view['id']} for {age(view['since'], now)} ({view['cause']})" if view else "none"
    return f"{answer['node']} in {answer['cluster']}: {state}\nview {about}\n"


def _leases(answer: Any, *, colour: bool) -> str:
    """What silences the node in time, and whether its messages are sealed."""
    words = []
    for lease in answer["leases"]:
        over = lease["active"] and lease["layer"] == "fast" and lease["until"] is None
        text = "none runs" if over else "in force" if lease["active"] else "not in force"
        detail = f" ({lease['detail']})" if lease["detail"] else ""
        words.append(_paint(f"{lease['layer']} {text}{detail}", "" if text == "in force" else YELLOW, colour))
    unsealed = answer["engine"]["sealed"] is False
    return f"leases {', '.join(words)}\n" + (
        _paint("messages are not sealed", YELLOW, colour) + "\n" if unsealed else ""
    )


def _member(member: Any, own: str, now: datetime) -> Sequence[Cell]:
    notes = [word for word in ("draining", "leaving") if member[word]]
    notes += [] if member["fit"] else ["unfit"]
    notes += [] if member["config_matches"] else ["other configuration"]
    heard = "this node" if member["name"] == own else f"{age(member['heard'], now)} ago" if member["heard"] else "never"
    rtt = f"{1000 * member['rtt']:.1f} ms" if member["rtt"] is not None else "-"
    return (
        (member["name"], ""),
        (member["address"] or "-", ""),
        ("yes", GREEN) if member["in_view"] else ("no", RED),
        (heard, ""),
        (rtt, ""),
        (str(member["vips"]), ""),
        (", ".join(notes), YELLOW),
    )


def _vip(vip: Any, own: str, now: datetime) -> Sequence[Cell]:
    return (
        (vip["name"], ""),
        (vip["owner"], BOLD if vip["owner"] == own else "") if vip["owner"] else ("nobody", RED),
        (vip["state"], {"held": GREEN, "elsewhere": DIM}.get(vip["state"], YELLOW)),
        (age(vip["since"], now) if vip["since"] else "-", ""),
        (vip["cause"] or "-", ""),
        (", ".join(rival["mac"] for rival in vip["rivals"]), RED),
    )


def plan(answer: Any, *, colour: bool) -> str:
    """What the placement would do now, with a reason per VIP."""
    rows = [
        (
            (row["vip"], ""),
            (row["owner"] or "nobody", "" if row["owner"] else RED),
            (row["node"] or "nobody", YELLOW if row["node"] != row["owner"] else ""),
            (row["reason"], ""),
        )
        for row in answer["rows"]
    ]
    text = table(("VIP", "NOW", "PLANNED", "REASON"), rows, colour=colour) if rows else "No VIPs.\n"
    return f"{text}\n{answer['moves']} moves; spread afterwards {answer['spread']:g}\n"


def event(record: Any, *, colour: bool) -> str:
    """One line without its end."""
    shade = {"error": RED, "warning": YELLOW, "debug": DIM}.get(record["level"], "")
    return f"{record['time']}  {_paint(record['message'], shade, colour)}"


def wackamole(answer: Any) -> str:
    """What `wackatrl -l` of the ancestor prints: owner's address, head of the VIP, dependents."""
    addresses = {member["name"]: member["address"] or member["name"] for member in answer["members"]}
    lines = []
    for vip in answer["vips"]:
        lines.append(f"Owner: {addresses.get(vip['owner'], vip['owner'])}" if vip["owner"] else "Owner: not acquired")
        head, *dependents = vip["addresses"] or [vip["name"]]
        lines.append(f"\t*   {head}")
        lines += [f"\t -> {dependent}" for dependent in dependents]
    return "".join(f"{line}\n" for line in lines)


def table(titles: Sequence[str], rows: Iterable[Sequence[Cell]], *, colour: bool) -> str:
    """Columns as wide as they need to be; no column is cut, so that what is printed can be copied."""
    body = list(rows)
    widths = [
        max(len(title), *(len(row[i][0]) for row in body)) if body else len(title) for i, title in enumerate(titles)
    ]
    lines = [_line([(title, DIM) for title in titles], widths, colour)]
    lines += [_line(row, widths, colour) for row in body]
    return "".join(lines)


def _line(cells: Sequence[Cell], widths: Sequence[int], colour: bool) -> str:
    padded = [
        _paint(text, shade, colour) + " " * (width - len(text))
        for (text, shade), width in zip(cells, widths, strict=True)
    ]
    return "  ".join(padded).rstrip() + "\n"


def _paint(text: str, shade: str, colour: bool) -> str:
    return f"{shade}{text}{PLAIN}" if colour and shade and text else text


def age(since: str, now: datetime) -> str:
    """How long ago an RFC 3339 time was, in one or two units."""
    seconds = max(0.0, (now - datetime.fromisoformat(since.replace("Z", "+00:00"))).total_seconds())
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, unit, smaller, part in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {part}"
    return f"{whole} s"
