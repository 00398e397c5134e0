"""PromQL that several panels share. Selectors are those of the dashboards' variables."""

from __future__ import annotations

C = 'cluster="$cluster"'
N = 'cluster="$cluster", node=~"$node"'
V = 'cluster="$cluster", vip=~"$vip"'
NV = 'cluster="$cluster", node=~"$node", vip=~"$vip"'
RATE = "[$__rate_interval]"
RANGE = "[$__range]"

HELD = f"molehill_vip_held{{{V}}}"
SINCE = f"molehill_vip_acquired_timestamp_seconds{{{V}}}"

TWICE = f"""
  count by (vip) (
    (timestamp({HELD}) and {HELD} == 1) > on (vip) group_left () (max by (vip) ({SINCE}) + 2)
  ) > 1
"""
"""VIPs that more than one node was seen to hold after the last time that anybody acquired them.

So a move between the scrapes of giver and taker is not taken for a split brain. 2: seconds by which clocks may differ
and an exposition may be old, as in the alert.
"""

TWICE_COUNT = f"(count({TWICE}) or max({HELD}) * 0)"
NOBODY_COUNT = f"sum(sum by (vip) ({HELD}) == bool 0)"

HOLDER = f"""
  max by (vip, who) (
    label_replace({TWICE}, "who", "two holders", "", "")
    or on (vip) label_replace(topk by (vip) (1, {SINCE}), "who", "$1", "node", "(.+)")
    or on (vip) label_replace(sum by (vip) ({HELD}) == 0, "who", "nobody", "", "")
  )
"""
"""One sample for each VIP, whose label `who` is its holder: of several the one that acquired it last."""


def state_of(selector: str) -> str:
    """The state of each node, as its label `state`."""
    return f"max by (node, state) (molehill_state{{{selector}}} == 1)"


def members_seen(selector: str) -> str:
    """How many members each node sees of how many are configured, as a label: '2 of 3'."""
    return f"""
      label_join(
        count_values by (node) ("now", molehill_view_members{{{selector}}})
          * on (node) group_left (configured)
        count_values by (node) ("configured", molehill_configured_members{{{selector}}}),
        "seen", " of ", "now", "configured")
    """


def events(metric: str, selector: str, by: str = "") -> str:
    """How many were counted in each step of the picture, exactly and each in one step.

    `increase()` would show an event in all steps of its window, and as 1.3. Like it, this copes with a restart: a
    counter that has fallen has counted what it shows.
    """
    counted = f"{metric}{{{selector}}}"
    grown = f"{counted} - {counted} offset $__interval"
    group = f"sum by ({by})" if by else "sum"
    return f"{group} ({grown} >= 0 or ({counted} and {grown} < 0))"


def faults(metric: str, selector: str, by: str, word: str) -> str:
    """As `events`, but only those that happened; where nothing did, one series says `none` in the label `word`."""
    counted = events(metric, selector, by)
    return f'{counted} > 0 or label_replace({events(metric, selector)} == 0, "{word}", "none", "", "")'


def each(metric: str, selector: str, by: str = "") -> str:
    """The mean of what a histogram observed in each step: of a single event its exact value."""
    return f"{events(f'{metric}_sum', selector, by)} / {events(f'{metric}_count', selector, by)} >= 0"


def longest(metric: str, selector: str) -> str:
    """The bucket of the largest value that a histogram observed in each step."""
    return f"histogram_quantile(1, {events(f'{metric}_bucket', selector, 'le')}) >= 0"


def quantile(share: float, metric: str, selector: str) -> str:
    """Of what a histogram observes all the time."""
    return f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{selector}}}{RATE}))) >= 0"


def mean(metric: str, selector: str, by: str) -> str:
    """Of what a histogram observes all the time."""
    above, below = (f"sum by ({by}) (rate({metric}_{part}{{{selector}}}{RATE}))" for part in ("sum", "count"))
    return f"{above} / {below} >= 0"


def over_range(metric: str, selector: str) -> str:
    """The mean of a histogram over the time range."""
    return f"sum(increase({metric}_sum{{{selector}}}{RANGE})) / sum(increase({metric}_count{{{selector}}}{RANGE}))"
