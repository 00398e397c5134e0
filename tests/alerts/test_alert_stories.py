"""What happens to a real cluster, scraped at 1 s and at 15 s, with scrapes lost: who is told, and who is not paged."""

from pathlib import Path

import pytest

from tests.alerts import rules
from tests.alerts.story import Scraping, Story, check, crash, fired, heal, join, leave, split, start, stop

pytestmark = pytest.mark.skipif(rules.PROMTOOL is None, reason=rules.NO_PROMTOOL)

SCRAPINGS = (Scraping(1), Scraping(15), Scraping(15, lost=0.15))

QUIET = {
    "fail-over and return": Story(180).at(60.3, crash("www1")).at(80.1, start("www1")),
    "leave and join": Story(180).at(60.3, leave("www2")).at(90.7, join("www2")),
    "balance round": Story(150).at(20.2, stop("www3")).at(60.9, start("www3")),
    "rolling restart": Story(200)
    .at(20.4, stop("www1"))
    .at(25.4, start("www1"))
    .at(60.6, stop("www2"))
    .at(65.6, start("www2"))
    .at(101.7, stop("www3"))
    .at(106.7, start("www3")),
}


@pytest.mark.parametrize("scraping", SCRAPINGS, ids=str)
@pytest.mark.parametrize("name", QUIET)
def test_nobody_is_told_of(name: str, scraping: Scraping, tmp_path: Path) -> None:
    assert fired(QUIET[name], scraping, [], tmp_path) == ""


@pytest.mark.parametrize("scraping", SCRAPINGS, ids=str)
def test_a_node_that_stays_dead_is_told_and_pages_nobody(scraping: Scraping, tmp_path: Path) -> None:
    expected = [
        {"alertname": "MolehillAgentDown", "severity": "warning"},
        {"alertname": "MolehillMemberMissing", "severity": "warning"},
    ]
    assert fired(Story(300).at(60.3, crash("www1")), scraping, expected, tmp_path) == ""


def test_a_node_that_has_left_for_long_is_told_and_pages_nobody(tmp_path: Path) -> None:
    expected = [{"alertname": "MolehillMemberMissing", "severity": "warning"}]
    assert fired(Story(300).at(60.3, leave("www2")), Scraping(15), expected, tmp_path) == ""


@pytest.mark.parametrize(
    ("scraping", "by"), [(Scraping(1), 70), (Scraping(15), 90), (Scraping(15, lost=0.15), 110)], ids=str
)
def test_a_partition_pages_and_its_end_is_told(scraping: Scraping, by: int, tmp_path: Path) -> None:
    """`by`: second at which every VIP of the lost side is known to be held twice; the network is cut at 60.3."""
    story = Story(260).at(60.3, split("www1")).at(180.2, heal)
    paging = 'count(ALERTS{alertstate="firing",severity="critical",alertname="MolehillSplitBrain"})'
    others = 'count_over_time(ALERTS{alertstate="firing",severity="critical",alertname!="MolehillSplitBrain"}[260s])'
    test: dict[str, object] = {
        "interval": "1s",
        "input_series": story.series(scraping),
        "promql_expr_test": [
            {"expr": paging, "eval_time": "60s"},
            {"expr": paging, "eval_time": f"{by}s", "exp_samples": [{"labels": "{}", "value": 4}]},
            {"expr": paging, "eval_time": "180s", "exp_samples": [{"labels": "{}", "value": 4}]},
            {"expr": paging, "eval_time": "250s"},
            {"expr": others, "eval_time": "260s"},
        ],
    }
    assert check(test, tmp_path, 1 if scraping.interval == 1 else 5) == ""
