"""Colours by meaning, the same on all dashboards, and mappings from values to words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboards.sdk import model

GOOD, WARN, BAD, NEUTRAL, INFO = "green", "orange", "red", "#8e8e8e", "blue"

_NODES = ("#DEB6F2", "#5794F2", "#B877D9", "#37B6B0", "#F2CC0C", "#A16F3C", "#FFA6B0", "#8AB8FF", "#A3B04B", "#9FA7B3")

CAUSES: Mapping[str, str] = {
    "failover": "#E02F44",
    "unfit": "#FA6400",
    "lease": "#C4162A",
    "conflict": "#FF7383",
    "quorum": "#AD0317",
    "repair": "#FF9830",
    "merge": "#F2CC0C",
    "leave": "#5794F2",
    "drain": "#8AB8FF",
    "move": "#B877D9",
    "prefer": "#CA95E5",
    "balance": "#37B6B0",
    "start": "#73BF69",
    "reload": "#9FA7B3",
    "join": "#73BF69",
    "disconnect": "#E02F44",
    "network": "#FF9830",
}
"""Causes of moves and of view changes: faults warm, orders blue and violet, the cluster's own doing green."""


KINDS: Mapping[str, str] = {
    "request": "#5794F2",
    "reply": "#B877D9",
    "directed": "#37B6B0",
    "na": "#F2CC0C",
    "probe": NEUTRAL,
}
"""Kinds of ARP frames; `na`: neighbour advertisements of IPv6."""


def node_patterns() -> list[tuple[str, str]]:
    """Regular expressions that give every node name a colour: by its last digit, without a digit by its last letter.

    www1 and www2, and node1.example.com too, get different ones; a node has the same colour in every panel.
    """
    letters = ["".join(chr(ord("a") + n) for n in range(26) if n % 10 == digit) for digit in range(10)]
    return [(rf"/^(?:.*{digit}\D*|\D*[{letters[digit]}])$/i", colour) for digit, colour in enumerate(_NODES)]


def words(mapping: Mapping[str, tuple[str, str]]) -> model.ValueMap:
    """From values to a text and a colour."""
    return model.ValueMap(
        {
            value: model.ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(mapping.items())
        }
    )


def pattern(regex: str, colour: str, text: str | None = None, index: int = 0) -> model.RegexMap:
    """`regex` between slashes; without `text` the value is shown as it is."""
    result = model.ValueMappingResult(text=text, color=colour, index=index)
    return model.RegexMap(model.DashboardRegexMapOptions(pattern=regex, result=result))


def yes_no(*, good: bool = True) -> list[Any]:
    """1 and 0 in words; `good`: whether yes is the good answer."""
    return [words({"1": ("yes", GOOD if good else WARN), "0": ("no", BAD if good else GOOD)})]


def node_names() -> list[Any]:
    """A state that is the name of a node, or one of the two that must not be."""
    special = words({"two holders": ("two holders", BAD), "nobody": ("nobody", "dark-red")})
    return [special, *(pattern(regex, colour, index=n + 2) for n, (regex, colour) in enumerate(node_patterns()))]


Override = tuple[model.MatcherConfig, list[model.DynamicConfigValue]]


def fixed(colour: str) -> model.DynamicConfigValue:
    return model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})


def named(colours: Mapping[str, str]) -> list[Override]:
    """Overrides that colour series by their exact names."""
    return [(model.MatcherConfig("byName", name), [fixed(colour)]) for name, colour in colours.items()]


def matching(regex: str, *properties: model.DynamicConfigValue) -> Override:
    """An override of the series or columns whose names match; `regex` between slashes."""
    return model.MatcherConfig("byRegexp", regex), list(properties)


def by_node(prefix: str = "") -> list[Override]:
    """Overrides that colour series named like a node, after `prefix`."""
    return [matching(regex.replace("/^", f"/^{prefix}"), fixed(colour)) for regex, colour in node_patterns()]


def ending(colours: Mapping[str, str], before: str) -> list[Override]:
    """Overrides that colour series by what their names end with, after `before`."""
    return [matching(f"/{before}{name}$/", fixed(colour)) for name, colour in colours.items()]


def right(name: str, unit: str, colour: str, *, points: bool = False) -> Override:
    """A series on the right axis with a unit of its own."""
    properties: dict[str, object] = {
        "unit": unit,
        "custom.axisPlacement": "right",
        "custom.axisSoftMax": 0.001,
        "color": {"mode": "fixed", "fixedColor": colour},
    }
    if points:
        properties |= {"custom.drawStyle": "points", "custom.pointSize": 6}
    return model.MatcherConfig("byName", name), [
        model.DynamicConfigValue(key, value) for key, value in properties.items()
    ]


def steps(*levels: tuple[float | None, str]) -> list[model.Threshold]:
    """Thresholds; the first begins at None, which is minus infinity."""
    return [model.Threshold(value, colour) for value, colour in levels]
