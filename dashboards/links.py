"""Data source, variables, annotations, and the links between the dashboards and to the runbook."""

from __future__ import annotations

from dashboards import RUNBOOK
from dashboards.queries import C, events
from dashboards.sdk import Builder, build, choice, model, prometheus

TAG = "molehill"
PROMETHEUS = choice.DataSourceRef(type_val="prometheus", uid="${datasource}")


def empty(uid: str, title: str, description: str, *, since: str) -> build.Dashboard:
    """An empty dashboard with everything that the three have in common."""
    made = (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time(since, "now")
        .refresh("10s")
        .version(1)
        .annotations(_annotations())
    )
    for name in ("cluster", "node", "failover"):
        if uid != f"molehill-{name}":
            made.link(_to_dashboard(name))
    return made.link(
        build.DashboardLink("Runbook")
        .type(model.DashboardLinkType.LINK)
        .url(RUNBOOK)
        .icon("doc")
        .tooltip("What each alert means and what to do")
        .target_blank(True)
    )


def _to_dashboard(name: str) -> build.DashboardLink:
    return (
        build.DashboardLink({"cluster": "Cluster", "node": "Node", "failover": "Fail-over"}[name])
        .type(model.DashboardLinkType.LINK)
        .url(f"/d/molehill-{name}")
        .icon("dashboard")
        .tooltip("With the same cluster, node, VIP and time range")
        .include_vars(True)
        .keep_time(True)
    )


def node_link(label: str) -> build.DashboardLink:
    """From a series or table row to its node; `label` is the expression that gives the node's name."""
    return build.DashboardLink("Node").url(_address("node") + f"&var-node={label}")


def failover_link() -> build.DashboardLink:
    """From a panel to the dashboard that takes this time range apart."""
    return build.DashboardLink("Take this time range apart").url(_address("failover"))


def _address(name: str) -> str:
    return f"/d/molehill-{name}?var-datasource=${{datasource}}&var-cluster=${{cluster}}&${{__url_time_range}}"


def datasource() -> build.DatasourceVariable:
    return build.DatasourceVariable("datasource").label("Data source").type("prometheus")


def variable(name: str, label: str, metric: str, *, several: bool) -> build.QueryVariable:
    """One that asks Prometheus for the values of the label `name`; `several`: many at a time, all by default."""
    text = f"label_values({metric}, {name})"
    made = (
        build.QueryVariable(name)
        .label(label)
        .datasource(PROMETHEUS)
        .query(text)
        .definition(text)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.NATURAL_ASC)
        .multi(several)
        .include_all(several)
    )
    if several:
        made.all_value(".*").current(model.VariableOption(text="All", value="$__all"))
    return made


def _annotations() -> list[Builder[model.AnnotationQuery]]:
    each_node = events("molehill_view_changes_total", C, "node, cause")
    changes = f"max by (cause) ({each_node}) > 0"
    moves = f"max({events('molehill_balance_moves_total', C, 'node')}) > 0"
    alerts = 'ALERTS{alertname=~"Molehill.*", alertstate="firing", cluster="$cluster"}'
    return [
        _annotation("View changes", changes, "purple", "View change", "{{cause}}", "cause", shown=True),
        _annotation("Balance rounds", moves, "blue", "Balance round", "VIPs are handed over", "", shown=False),
        _annotation("Alerts", alerts, "red", "{{alertname}}", "{{severity}}", "alertname,severity", shown=False),
    ]


def _annotation(
    name: str, expr: str, colour: str, title: str, text: str, tags: str, *, shown: bool
) -> build.AnnotationQuery:
    return (
        build.AnnotationQuery()
        .name(name)
        .datasource(PROMETHEUS)
        .enable(shown)
        .icon_color(colour)
        .expr(expr)
        .title_format(title)
        .text_format(text)
        .tag_keys(tags)
        .target(prometheus.Dataquery().expr(expr).range().ref_id("Anno"))
    )
