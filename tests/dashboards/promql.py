"""What a PromQL expression asks for: metrics, the labels that it matches and groups by, and its time windows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import promql_parser

VALUES = {"__rate_interval": "61s", "__range": "3661s", "__interval": "31s", "cluster": "x", "node": "x", "vip": "x"}
"""Of Grafana's variables, so that an expression with them can be parsed; the windows can be told apart afterwards."""

RATES = ("rate", "increase", "irate", "delta")


@dataclass
class Asked:
    """Of one expression."""

    metrics: dict[str, set[str]] = field(default_factory=dict)
    """By name, with the labels that its selectors match."""
    grouped: set[str] = field(default_factory=set)
    """Labels by which anything is aggregated or joined."""
    made: set[str] = field(default_factory=set)
    """Labels that functions of the expression write."""
    windows: list[tuple[str, float]] = field(default_factory=list)
    """Functions that count per time, and the seconds of their windows."""


def parse(expr: str) -> Asked:
    """Raises ValueError, also for a variable that is not known here."""
    asked = Asked()
    plain = re.sub(r"\$\{?(\w+)\}?", lambda match: _value(match[1]), re.sub(r"\$(?=\d)", "", expr))
    _walk(promql_parser.parse(plain), asked)
    return asked


def _value(name: str) -> str:
    if name not in VALUES:
        raise ValueError(f"unknown variable {name}")
    return VALUES[name]


def _walk(node: Any, asked: Asked) -> None:
    match node:
        case promql_parser.VectorSelector():
            labels = {matcher.name for matcher in node.matchers.matchers}
            asked.metrics.setdefault(node.name or "", set()).update(labels)
        case promql_parser.AggregateExpr():
            asked.grouped.update(node.modifier.labels if node.modifier is not None else ())
            if isinstance(node.param, promql_parser.StringLiteral):
                asked.made.add(node.param.val)
        case promql_parser.Call():
            if node.func.name in RATES:
                asked.windows.append((node.func.name, node.args[0].range.total_seconds()))
            if node.func.name in ("label_replace", "label_join"):
                asked.made.add(node.args[1].val)
        case _:
            pass
    for child in _children(node):
        _walk(child, asked)


def _children(node: Any) -> Iterator[Any]:
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield child
    yield from getattr(node, "args", ())
