"""Each threshold, `for`, window, comparison, label and severity of the rules, changed once, must break a test.

    python -m tests.alerts.mutate [--every N] [--only ALERT]

prints a table; exit code 1 when a change broke nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.alerts import rules

Rule = dict[str, Any]

WORKERS = 2
BATCH = 16

ONE_SERIES = "the labels name one series, so every aggregation of it is the same"
ALWAYS_ONE = "an info metric is always 1"
COUNTER = "the last value of a counter is its largest, but for a restart within 45 s"
PRESENCE = "only whether the series is there counts"
WHOLE = "a whole number is compared with a half"

EQUIVALENT = {
    **{
        (name, f"{word} by -> {other} by"): ONE_SERIES
        for word, other in (("max", "min"), ("min", "max"), ("sum", "max"))
        for name in (
            "cluster_node_vip:molehill_vip_held_timestamp_seconds:max45s",
            "cluster_node:molehill_lease_renewal_margin:p01_by_p50_5m",
            "cluster_node:molehill_event_loop_lag_seconds:p99_5m",
            "MolehillAgentDown",
            "MolehillAgentRestarts",
            "MolehillNotQuorate",
            "MolehillHeartbeatsLost",
            "MolehillDatagramsRejected",
            "MolehillLeaseExpired",
            "MolehillCheckDown",
            "MolehillLeaseLayerDown",
            "MolehillGuardMissing",
            "MolehillUnsealed",
            "MolehillHookFailures",
            "MolehillReloadFailed",
            "MolehillDrainForgotten",
            "MolehillSpansDropped",
            "MolehillExporterFailed",
            "MolehillEventsDropped",
            "MolehillWitnessDown",
            "MolehillWitnessBlind",
            "MolehillVipConflict",
            "MolehillAcquireFailures",
        )
    },
    ("MolehillVipConflictPersists", "sum by -> max by"): "the largest of counts is above 0 if their sum is",
    ("MolehillVipUncovered", "max by -> min by"): ALWAYS_ONE,
    ("MolehillVipUncovered", "last_over_time -> max_over_time"): PRESENCE,
    ("MolehillConfigMismatch", "last_over_time -> max_over_time"): ALWAYS_ONE,
    ("MolehillViewDisagreement", "last_over_time -> max_over_time"): ALWAYS_ONE,
    ("MolehillAcquireFailures", "last_over_time -> max_over_time"): COUNTER,
    ("MolehillFailoverSlow", "0.5 -> 0.25"): WHOLE,
    ("MolehillFailoverSlow", "> -> >="): WHOLE,
}
"""Changes that mean the same, by rule and change, and why."""

SEVERITIES = {"critical": "warning", "warning": "info", "info": "warning"}

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

STRING = r'"[^"]*"'

OTHER_WORDS = {
    "max_over_time": "min_over_time",
    "min_over_time": "max_over_time",
    "last_over_time": "max_over_time",
    "max by": "min by",
    "min by": "max by",
    "sum by": "max by",
    "and on": "unless on",
    "unless on": "and on",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    path: Path
    rule: str
    kind: str
    change: str
    mutated: Rule


def mutants() -> list[Mutant]:
    return [mutant for mutant in _every() if (mutant.rule, mutant.change) not in EQUIVALENT]


def left_out() -> list[Mutant]:
    """Mutants that nobody could tell from the rule: judged by hand, see `EQUIVALENT`."""
    return [mutant for mutant in _every() if (mutant.rule, mutant.change) in EQUIVALENT]


def _every() -> Iterator[Mutant]:
    for path, rule in rules.rules():
        name = rule.get("alert") or rule["record"]
        for kind, change, mutated in _changes(rule):
            yield Mutant(path, name, kind, change, mutated)


def _changes(rule: Rule) -> Iterator[tuple[str, str, Rule]]:
    for kind, change, expression in _expressions(rule["expr"]):
        yield kind, change, rule | {"expr": expression}
    if "alert" not in rule:
        return
    severity = rule["labels"]["severity"]
    mutated = deepcopy(rule)
    mutated["labels"]["severity"] = SEVERITIES[severity]
    yield "severity", f"{severity} -> {SEVERITIES[severity]}", mutated
    pause = _seconds(rule.get("for", "0s"))
    for other in (pause // 3, pause * 5 // 3) if pause else (15,):
        yield "for", f"{pause}s -> {other}s", rule | {"for": f"{other}s"}


def _expressions(expression: str) -> Iterator[tuple[str, str, str]]:
    """Kind, what was changed, and the changed expression."""
    strings = [match.span() for match in re.finditer(STRING, expression)]

    def each(pattern: str, kind: str, change: Callable[[re.Match[str]], list[str]]) -> Iterator[tuple[str, str, str]]:
        for match in re.finditer(pattern, expression):
            if any(start < match.start() < end for start, end in strings):
                continue
            for text in change(match):
                yield kind, f"{match[0]} -> {text}", expression[: match.start()] + text + expression[match.end() :]

    yield from each(r"(?<![\w.$\[\"])\d+(\.\d+)?(?![\w.])", "threshold", lambda match: _numbers(match[0]))
    yield from each(r"\[\d+[smhd]|offset \d+[smhd]", "window", lambda match: _windows(match[0]))
    yield from each(r"(?<= )(>|<|==)(?= )", "comparison", lambda match: [{">": ">=", "<": "<=", "==": "!="}[match[0]]])
    yield from each(r'(\w+)="([^"]*)"', "matcher", lambda match: [f'{match[1]}="other"', f'{match[1]}=~".*"'])
    yield from each(r'(\w+)!="([^"]*)"', "matcher", lambda match: [f'{match[1]}!="other"', f'{match[1]}="{match[2]}"'])
    yield from each(r"\b(by|on) \([^)]*\)", "labels", lambda match: _fewer(match[0]))
    words = "|".join(sorted(OTHER_WORDS, key=len, reverse=True))
    yield from each(rf"\b({words})\b", "operator", lambda match: [OTHER_WORDS[match[0]]])


def _numbers(text: str) -> list[str]:
    if "." in text:
        return [f"{float(text) / 2:g}", f"{min(2 * float(text), 1.0):g}"]
    return [str(int(text) + 1), str(int(text) - 1)]


def _windows(text: str) -> list[str]:
    match = re.fullmatch(r"(\D*)(\d+\w)", text)
    assert match is not None
    seconds = _seconds(match[2])
    return [f"{match[1]}{seconds // 3}s", f"{match[1]}{seconds * 2}s"]


def _fewer(text: str) -> list[str]:
    head, _, rest = text.partition("(")
    labels = [label.strip() for label in rest.rstrip(")").split(",")]
    return [f"{head}({', '.join(labels[:i] + labels[i + 1 :])})" for i in range(len(labels))]


def _seconds(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


def _write(mutant: Mutant, number: int, folder: Path) -> list[str]:
    """The mutant's rule among those that it needs, and the tests of that rule alone; names of the test files."""
    every = [rule for path, rule in rules.rules() if path == mutant.path]
    about = {mutant.rule} if "alert" in mutant.mutated else _that_use(mutant.rule, every)
    kept = [
        mutant.mutated if (rule.get("alert") or rule["record"]) == mutant.rule else rule
        for rule in every
        if "record" in rule or rule["alert"] in about
    ]
    rule_file = folder / f"{number}.rules.yml"
    rule_file.write_text(rules.dump({"groups": [{"name": "mutant", "rules": kept}]}))
    names = []
    for path, document in rules.test_documents().items():
        chosen = [_only(test, about, mutant.rule) for test in document["tests"] if rules.named(test) & about]
        if chosen and f"../{mutant.path.name}" in document["rule_files"]:
            names.append(f"{number}.{path.name}")
            text = rules.dump(document | {"rule_files": [rule_file.name], "tests": chosen})
            (folder / names[-1]).write_text(text)
    return names


def _survivors(batch: list[Mutant]) -> list[Mutant]:
    """One promtool for many: it says SUCCESS after the name of each file that passed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [_write(mutant, number, folder) for number, mutant in enumerate(batch)]
        done = rules.promtool("test", "rules", *(file for each in files for file in each), cwd=folder)
    passed = set(re.findall(r"Unit Testing:\s+(\S+)\n\s+SUCCESS", done.stdout))
    assert all(file in done.stdout for each in files for file in each), done.stdout + done.stderr
    return [mutant for mutant, each in zip(batch, files, strict=True) if passed.issuperset(each)]


def _that_use(record: str, every: list[Rule]) -> set[str]:
    return {rule["alert"] for rule in every if "alert" in rule and record in rule["expr"]}


def _only(test: dict[str, Any], about: set[str], rule: str) -> dict[str, Any]:
    """Without assertions about rules that are not there."""
    return test | {
        "alert_rule_test": [one for one in test.get("alert_rule_test", []) if one["alertname"] in about],
        "promql_expr_test": [
            one
            for one in test.get("promql_expr_test", [])
            if rule in one["expr"] or any(alert in one["expr"] for alert in about)
        ],
    }


def run(chosen: list[Mutant]) -> list[Mutant]:
    """The survivors."""
    batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
    with ThreadPoolExecutor(WORKERS) as pool:
        return [mutant for alive in pool.map(_survivors, batches) for mutant in alive]


def table(chosen: list[Mutant], survivors: list[Mutant]) -> str:
    lines = [f"{'changed':<12} {'mutants':>8} {'broke a test':>13} {'survived':>9}"]
    alive = Counter(mutant.kind for mutant in survivors)
    count = Counter(mutant.kind for mutant in chosen)
    for kind, total in sorted(count.items()):
        lines.append(f"{kind:<12} {total:>8} {total - alive[kind]:>13} {alive[kind]:>9}")
    lines.append(f"{'all':<12} {len(chosen):>8} {len(chosen) - len(survivors):>13} {len(survivors):>9}")
    reasons = Counter(EQUIVALENT[mutant.rule, mutant.change] for mutant in left_out())
    lines += [f"left out by hand: {number}: {reason}" for reason, number in reasons.most_common()]
    lines += [f"survived: {mutant.rule}: {mutant.kind}: {mutant.change}" for mutant in survivors]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th mutant")
    parser.add_argument("--only", default="", metavar="ALERT", help="only rules whose name has this")
    args = parser.parse_args()
    if rules.PROMTOOL is None:
        print(rules.NO_PROMTOOL, file=sys.stderr)
        return 1
    chosen = [mutant for mutant in mutants() if args.only in mutant.rule][:: args.every]
    survivors = run(chosen)
    print(table(chosen, survivors))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
