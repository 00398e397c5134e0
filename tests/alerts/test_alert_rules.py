"""The rules, their tests, their sections in the runbook, and the verb that writes them out."""

import re
from pathlib import Path

import pytest
import yaml

import alerts
from agent import cli
from tests.alerts import mutate, rules

ROOT = rules.ALERTS.parent
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()

needs_promtool = pytest.mark.skipif(rules.PROMTOOL is None, reason=rules.NO_PROMTOOL)

SLICE = 30
"""Every so many mutants in this suite; `python -m tests.alerts.mutate` tries all."""


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", RUNBOOK, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@needs_promtool
@pytest.mark.parametrize("path", rules.RULE_FILES, ids=lambda path: path.name)
def test_promtool_accepts_the_rules(path: Path) -> None:
    done = rules.promtool("check", "rules", "--lint=all", "--lint-fatal", path.name, cwd=path.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("path", rules.TEST_FILES, ids=lambda path: path.name)
def test_the_rules_pass_their_tests(path: Path) -> None:
    done = rules.promtool("test", "rules", path.name, cwd=path.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_scrape_example() -> None:
    done = rules.promtool("check", "config", "--lint=all", "prometheus.example.yml", cwd=rules.ALERTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_and_is_silent_in_a_test() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for document in rules.test_documents().values():
        for test in document["tests"]:
            for one in test.get("alert_rule_test", []):
                (fires if one.get("exp_alerts") else silent).add(one["alertname"])
                assert one["alertname"] in rules.named(test), f"{test['name']} is not about {one['alertname']}"
    assert fires == silent == set(rules.alerts())


@pytest.mark.parametrize("name", rules.alerts())
def test_alerts_say_what_to_do(name: str) -> None:
    rule = rules.alerts()[name]
    words = rule["annotations"]
    assert re.fullmatch(r"Molehill[A-Z]\w+", name)
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert words.keys() == {"summary", "description", "runbook_url", "dashboard_url"}
    # One notification covers a group of alerts: its title must not name one of them.
    assert "{{" not in words["summary"]
    assert words["summary"].endswith(".")
    assert words["description"].endswith(".")
    assert words["runbook_url"] == f"{alerts.RUNBOOK}#{name.lower()}"
    assert words["dashboard_url"].startswith(f"{alerts.DASHBOARDS}/d/molehill-")


@pytest.mark.parametrize("path", rules.RULE_FILES, ids=lambda path: path.name)
def test_every_rule_is_explained(path: Path) -> None:
    """A comment above each rule; one with a `for` says why it is so long."""
    text = path.read_text()
    for found in re.finditer(
        r"((?:^      #.*\n)*)^      - (alert|record): (\S+)\n((?:^        .*\n)*)", text, re.MULTILINE
    ):
        comment, _, name, body = found.groups()
        assert comment, f"{name} has no comment"
        pause = re.search(r"^        for: (\w+)$", body, re.MULTILINE)
        assert pause is None or f"for {pause[1]}" in comment or f"and {pause[1]}" in comment, f"{name}: why {pause[1]}?"


def test_the_runbook_has_a_section_for_each_alert() -> None:
    assert list(sections()) == sorted(rules.alerts())


@pytest.mark.parametrize("name", rules.alerts())
def test_sections_of_the_runbook_are_complete(name: str) -> None:
    section = sections()[name]
    for word in ("**Means.**", "**Affected.**", "**See.**", "**Do.**", "**Resolves**"):
        assert word in section, f"{name} has no {word}"


def test_commands_of_the_runbook_exist() -> None:
    commands = {" ".join(words.split()) for words in re.findall(r"`molehill ([^`]+)`", RUNBOOK)}
    assert len(commands) > 5
    for command in sorted(commands):
        words = [{"VIP": "web", "NODE": "www1"}.get(word, word) for word in command.split()]
        parser = cli._parser(words)
        parser.parse_args(words)


def test_metrics_of_the_runbook_exist() -> None:
    from tests.test_contract import exported

    named = set(re.findall(r"\b(molehill_\w+)", RUNBOOK))
    assert named
    assert named <= {re.sub(r"_bucket$", "", name) for name in exported()} | exported().keys()


def test_the_verb_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bases = ["--runbook-base", "https://wiki.test/book", "--dashboard-base", "https://grafana.test/"]
    assert cli.main(["alerts", str(tmp_path / "new"), *bases]) == 0
    written = {path.relative_to(tmp_path / "new") for path in (tmp_path / "new").rglob("*.yml")}
    ours = {path.relative_to(rules.ALERTS) for path in rules.ALERTS.rglob("*.yml")}
    assert written == ours - {Path("unused.yml")}
    lines = capsys.readouterr().out.splitlines()
    assert {Path(line) for line in lines} == {tmp_path / "new" / path for path in written}
    text = (tmp_path / "new" / "split_brain.rules.yml").read_text()
    assert "https://wiki.test/book#molehillsplitbrain" in text
    assert "https://grafana.test/d/molehill-cluster?" in text
    assert "molehill.example" not in text


def test_the_verb_says_why_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["alerts", str(tmp_path / "file")]) == 1
    assert "cannot write the alerts into" in capsys.readouterr().err


@needs_promtool
def test_a_changed_rule_breaks_a_test() -> None:
    """A slice of the mutants."""
    chosen = list(mutate.mutants())[::SLICE]
    assert len(chosen) > 10
    survivors = mutate.run(chosen)
    assert survivors == [], mutate.table(chosen, survivors)


def test_records_are_named_after_their_labels() -> None:
    for name, expression in rules.records().items():
        level, metric, operation = name.split(":")
        used = list(rules.uses(expression))
        assert all(set(level.split("_")) <= use.labels for use in used), name
        bare = {re.sub(r"(_timestamp)?(_seconds|_total)?(_bucket)?$", "", use.metric) for use in used}
        assert any(word in metric for word in bare), name
        assert operation


def test_no_rule_needs_a_label_of_the_target_but_its_instance() -> None:
    documents = [yaml.safe_load(path.read_text()) for path in rules.RULE_FILES]
    assert {"instance"} >= {
        label
        for document in documents
        for group in document["groups"]
        for rule in group["rules"]
        for use in rules.uses(rule["expr"])
        if use.metric.startswith("molehill_")
        for label in use.labels & {"instance", "job"}
    }
