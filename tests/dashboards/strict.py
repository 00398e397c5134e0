"""The project's own rules for a dashboard; `faults` lists what breaks them. Needs nothing but the document."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from dashboards import FILES
from dashboards.sdk import units
from tests.dashboards.promql import VALUES, parse

Json = dict[str, Any]

UNITS = {value for name, value in vars(units).items() if name[0].isupper() and isinstance(value, str)}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
UIDS = {name.removesuffix(".json") for name in FILES}


def panels(board: Json) -> list[Json]:
    """Those that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions(board: Json) -> list[tuple[str, str]]:
    """Every PromQL expression, with what it belongs to."""
    found = [(panel["title"], target["expr"]) for panel in panels(board) for target in panel.get("targets", [])]
    found += [(note["name"], note[key]["expr"] if key == "target" else note[key]) for note in notes(board)
              for key in ("expr", "target")]  # fmt: skip
    return found + [(variable["name"], selector(variable)) for variable in queries(board)]


def notes(board: Json) -> list[Json]:
    notes: list[Json] = board["annotations"]["list"]
    return notes


def queries(board: Json) -> list[Json]:
    return [variable for variable in board["templating"]["list"] if variable["type"] == "query"]


def selector(variable: Json) -> str:
    """The selector in `label_values(selector, label)`."""
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
    assert match, variable["query"]
    return match[1]


def faults(board: Json) -> list[str]:
    return [*_whole(board), *_numbers(board), *_layout(board), *_variables(board), *_links(board)] + [
        f"{panel['title']}: {fault}" for panel in panels(board) for fault in _panel(panel)
    ]


def _whole(board: Json) -> Iterator[str]:
    if board["uid"] not in UIDS:
        yield f"uid {board['uid']} is not the name of a file"
    if board["editable"]:
        yield "editable"
    if "id" in board:
        yield "has an id, which is a matter of one Grafana"
    if board["schemaVersion"] > 38:
        yield "a schema that Grafana 10 does not know"
    if not board.get("description"):
        yield "no description"
    for note in notes(board):
        if note["datasource"] != SOURCE:
            yield f"annotation {note['name']}: data source"


def _numbers(board: Json) -> Iterator[str]:
    ids = Counter(panel.get("id") for panel in board["panels"])
    yield from (f"id {number} {count} times" for number, count in ids.items() if count > 1 or not number)
    titles = Counter(panel["title"] for panel in board["panels"])
    yield from (f"title {title} twice" for title, count in titles.items() if count > 1)


def _layout(board: Json) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS or place["h"] < 1 or place["w"] < 1:
            yield f"{panel['title']}: outside of the grid"
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"])):  # fmt: skip
            if cell in taken:
                yield f"{panel['title']} overlaps {taken[cell]}"
                break
            taken[cell] = panel["title"]


def _variables(board: Json) -> Iterator[str]:
    names = [variable["name"] for variable in board["templating"]["list"]]
    if names != ["datasource", "cluster", "node", "vip"]:
        yield f"variables {names}"
    for variable in queries(board):
        if variable["refresh"] != 2:
            yield f"variable {variable['name']} is not asked for anew when the time range changes"
        if variable["datasource"] != SOURCE:
            yield f"variable {variable['name']}: data source"
        if not variable["query"].endswith(f", {variable['name']})"):
            yield f"variable {variable['name']} asks for another label"


def _links(board: Json) -> Iterator[str]:
    urls = [link["url"] for link in board["links"]] + re.findall(r"'url': '([^']+)'", str(board["panels"]))
    targets = {match[1] for url in urls if (match := re.match(r"/d/([\w-]+)", url))}
    yield from (f"link to {name}, which is not there" for name in targets - UIDS)
    yield from (f"no link to {name}" for name in UIDS - targets - {board["uid"]})
    for url in urls:
        yield from (f"{url} sets no variable" for name in re.findall(r"[?&]var-(\w+)=", url) if name not in
                    ("datasource", *VALUES))  # fmt: skip
    if not any("runbook" in url for url in urls):
        yield "no link to the runbook"


def _panel(panel: Json) -> Iterator[str]:
    if not panel["title"].endswith("?"):
        yield "the title is no question"
    if len(panel.get("description", "")) < 20:
        yield "no description"
    if panel.get("datasource") != SOURCE:
        yield "data source"
    if panel["type"] == "text":
        return
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults.get("unit", "")
    if unit not in UNITS and not re.fullmatch(r"suffix:[ /]\S+", unit):
        yield f"unit {unit!r}"
    steps = defaults.get("thresholds", {}).get("steps", [])
    if not steps or steps[0]["value"] is not None:
        yield "thresholds"
    if not defaults.get("noValue"):
        yield "does not say what no data means"
    if panel["type"] == "timeseries" and panel["options"]["legend"]["showLegend"] is not True:
        yield "no legend"
    if panel["type"] in ("stat", "bargauge") and not panel["options"]["reduceOptions"]["calcs"]:
        yield "no calculation"
    targets = panel.get("targets", [])
    if not targets or [target.get("refId") for target in targets] != list("ABCDEFGHIJKLMNOP"[: len(targets)]):
        yield "refIds"
    for target in targets:
        yield from _target(panel, target)


def _target(panel: Json, target: Json) -> Iterator[str]:
    if target.get("datasource") != SOURCE:
        yield f"query {target.get('refId')}: data source"
    if target["format"] == "time_series" and not target.get("legendFormat"):
        yield f"query {target.get('refId')}: no legend"
    if target["instant"] == target["range"]:
        yield f"query {target.get('refId')}: over a range or at an instant?"
    try:
        asked = parse(target["expr"])
    except ValueError as error:
        yield f"query {target.get('refId')}: {error}"
        return
    wanted = 3661 if target["instant"] else 61
    yield from (
        f"query {target.get('refId')}: {name} over {seconds:g} s instead of a variable"
        for name, seconds in asked.windows
        if seconds != wanted
    )
    for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
        if asked.grouped and label not in asked.grouped | asked.made:
            yield f"query {target.get('refId')}: the legend's {label} is aggregated away"
    if target["instant"] and panel["type"] in ("timeseries", "state-timeline"):
        yield f"query {target.get('refId')}: one instant over time"
