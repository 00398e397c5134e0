"""The rules of alerts/, what their expressions name, and promtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ALERTS = Path(__file__).parent.parent.parent / "alerts"
RULE_FILES = sorted(ALERTS.glob("*.rules.yml"))
TEST_FILES = sorted((ALERTS / "tests").glob("*.test.yml"))

PROMTOOL = shutil.which("promtool")
NO_PROMTOOL = "promtool is missing: apt-get install --no-install-recommends prometheus"

Rule = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Use:
    """A metric that an expression asks for, with the labels that it needs the metric to have."""

    metric: str
    labels: frozenset[str]


@cache
def rules() -> list[tuple[Path, Rule]]:
    return [
        (path, rule)
        for path in RULE_FILES
        for group in yaml.load(path.read_text(), yaml.CSafeLoader)["groups"]
        for rule in group["rules"]
    ]


def alerts() -> dict[str, Rule]:
    return {rule["alert"]: rule for _, rule in rules() if "alert" in rule}


def records() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for _, rule in rules() if "record" in rule}


@cache
def test_documents() -> dict[Path, dict[str, Any]]:
    return {path: yaml.load(path.read_text(), yaml.CSafeLoader) for path in TEST_FILES}


def dump(document: object) -> str:
    return yaml.dump(document, Dumper=yaml.CSafeDumper)


def uses(expression: str) -> Iterator[Use]:
    """Every selector with the labels of its matchers and of the groupings and matchings around it."""
    yield from _uses(promql_parser.parse(expression), frozenset())


def _uses(node: Any, needed: frozenset[str]) -> Iterator[Use]:
    match node:
        case promql_parser.VectorSelector():
            yield from _selector(node, needed)
        case promql_parser.MatrixSelector():
            yield from _selector(node.vector_selector, needed)
        case promql_parser.AggregateExpr():
            kept = frozenset(_labels(node.modifier))
            if str(node).startswith(("topk", "bottomk")):
                kept |= needed  # these choose series and leave them as they are
            if not needed <= kept:
                raise ValueError(f"{sorted(needed - kept)} are asked of {node}, which drops them")
            yield from _uses(node.expr, kept)
        case promql_parser.BinaryExpr():
            matched = frozenset(_labels(node.modifier.matching if node.modifier else None))
            yield from _uses(node.lhs, needed | matched)
            yield from _uses(node.rhs, matched or needed)
        case promql_parser.Call() if node.func.name == "label_replace":
            made, source = node.args[1].val, node.args[3].val
            yield from _uses(node.args[0], (needed - {made}) | ({source} - {""}))
        case promql_parser.Call():
            for argument in node.args:
                yield from _uses(argument, needed | ({"le"} if node.func.name == "histogram_quantile" else set()))
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _uses(node.expr, needed)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return
        case _:
            raise TypeError(f"an expression has a {type(node).__name__}: say here what it needs")


def _labels(modifier: Any) -> list[str]:
    """Of `by` and `on`; `without` and `ignoring` would need the labels of all series."""
    if modifier is None:
        return []
    if modifier.type not in (promql_parser.AggModifierType.By, promql_parser.LabelModifierType.Include):
        raise ValueError(f"{modifier}: write `by` or `on`, so that labels of the target change nothing")
    return list(modifier.labels)


def _selector(node: Any, needed: frozenset[str]) -> Iterator[Use]:
    matchers = {matcher.name for matcher in node.matchers.matchers}
    yield Use(node.name, frozenset(matchers | needed) - {"__name__"})


def promtool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None, NO_PROMTOOL
    return subprocess.run([PROMTOOL, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def named(test: dict[str, Any]) -> frozenset[str]:
    """The alerts that a test is about: the words before the colon of its name."""
    return frozenset(re.findall(r"Molehill\w+", test["name"].partition(":")[0]))
