"""The kinds of panel that the dashboards are made of. Everything that the SDK leaves to Grafana's default is set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from dashboards.links import PROMETHEUS
from dashboards.palette import BAD, GOOD, NEUTRAL, Override, steps
from dashboards.sdk import (
    PromQueryFormat,
    QueryEditorMode,
    TextMode,
    bargauge,
    build,
    common,
    model,
    prometheus,
    stat,
    statetimeline,
    table,
    text,
    timeseries,
)
from dashboards.sdk import choice as c

Panel = bargauge.Panel | stat.Panel | statetimeline.Panel | table.Panel | text.Panel | timeseries.Panel
LETTERS = "ABCDEFGHIJKLMNOP"
"""What queries are told apart by."""

BARS_MAX = 120
"""More would be thinner than a line."""

COLUMNS = 24
"""Of the grid."""

Any_ = TypeVar("Any_", bargauge.Panel, stat.Panel, statetimeline.Panel, table.Panel, timeseries.Panel)
Query = prometheus.Dataquery
Link = build.DashboardLink
Thresholds = Sequence[model.Threshold]

OK = steps((None, GOOD))
NONE_ALLOWED = steps((None, GOOD), (1, BAD))


def query(expr: str, legend: str, *, exemplars: bool = False) -> Query:
    """Over the whole time range."""
    return _query(expr).range().legend_format(legend).exemplar(exemplars).format(PromQueryFormat.TIME_SERIES)


def now(expr: str, legend: str) -> Query:
    """At the end of the time range only: a series that has ended has no value, not its last one."""
    return _query(expr).instant().legend_format(legend).exemplar(False).format(PromQueryFormat.TIME_SERIES)


def rows(expr: str) -> Query:
    """At the end of the time range, as rows of a table with a column for each label."""
    return _query(expr).instant().legend_format("").exemplar(False).format(PromQueryFormat.TABLE)


def _query(expr: str) -> Query:
    return Query().datasource(PROMETHEUS).expr(" ".join(expr.split())).editor_mode(QueryEditorMode.CODE)


def figure(
    number: int,
    title: str,
    description: str,
    query: Query,
    *,
    width: int = 6,
    height: int = 3,
    unit: str = "short",
    thresholds: Thresholds = NONE_ALLOWED,
    mappings: Iterable[Any] = (),
    decimals: int | None = None,
    none: str = "no data",
    text_of: str = "",
    alerts: Iterable[str] = (),
    link: Link | None = None,
) -> Panel:
    """One large value. `text_of`: show this field of a table instead of a number."""
    panel = (
        stat.Panel()
        .graph_mode(c.BigValueGraphMode.NONE)
        .color_mode(c.BigValueColorMode.BACKGROUND)
        .justify_mode(c.BigValueJustifyMode.AUTO)
        .orientation(c.VizOrientation.AUTO)
        .text_mode(c.BigValueTextMode.VALUE)
        .reduce_options(
            common.ReduceDataOptions()
            .calcs(["lastNotNull"])
            .values(bool(text_of))
            .fields(f"/^{text_of}$/" * bool(text_of))
        )
    )
    if decimals is not None:
        panel.decimals(decimals)
    _common(panel, number, title, description, (query,), width, height, unit, thresholds, mappings, alerts, link)
    return panel.no_value(none)


def series(
    number: int,
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 12,
    height: int = 8,
    style: str = "line",
    thresholds: Thresholds = OK,
    overrides: Iterable[Override] = (),
    none: str = "no data",
    low: float | None = 0,
    high: float | None = None,
    log: bool = False,
    decimals: int | None = None,
    alerts: Iterable[str] = (),
    link: Link | None = None,
) -> Panel:
    """Values over time. `style`: line; steps, for what changes at once; bars, stacked; points, for single events."""
    drawn = {"bars": c.GraphDrawStyle.BARS, "points": c.GraphDrawStyle.POINTS}.get(style, c.GraphDrawStyle.LINE)
    panel = (
        timeseries.Panel()
        .draw_style(drawn)
        .line_interpolation(c.LineInterpolation.STEP_AFTER if style == "steps" else c.LineInterpolation.LINEAR)
        .line_width(1 if style in ("line", "bars") else 2)
        .fill_opacity({"bars": 80, "line": 8}.get(style, 0))
        .show_points(c.VisibilityMode.ALWAYS if style == "points" else c.VisibilityMode.AUTO)
        .point_size(8 if style == "points" else 4)
        .span_nulls(False)
        .stacking(
            common.StackingConfig().mode(c.StackingMode.NORMAL if style == "bars" else c.StackingMode.NONE).group("A")
        )
        .thresholds_style(
            common.GraphThresholdsStyleConfig().mode(
                c.GraphThresholdsStyleMode.DASHED if len(thresholds) > 1 else c.GraphThresholdsStyleMode.OFF
            )
        )
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(c.LegendDisplayMode.LIST)
            .placement(c.LegendPlacement.BOTTOM)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
    )
    if style == "bars":
        panel.max_data_points(BARS_MAX)
    if log:
        panel.scale_distribution(common.ScaleDistributionConfig().type(c.ScaleDistribution.LOG).log(10))
    elif low is not None:
        panel.min(low)
    if high is not None:
        panel.axis_soft_max(high)
    if decimals is not None:
        panel.decimals(decimals)
    for matcher, properties in overrides:
        panel.with_override(matcher, properties)
    _common(panel, number, title, description, queries, width, height, unit, thresholds, (), alerts, link)
    return panel.no_value(none)


def timeline(
    number: int,
    title: str,
    description: str,
    *queries: Query,
    mappings: Iterable[Any],
    width: int = 12,
    height: int = 6,
    unit: str = "short",
    alerts: Iterable[str] = (),
    link: Link | None = None,
) -> Panel:
    """States over time, a row for each series; the values are mapped to words and colours."""
    panel = (
        statetimeline.Panel()
        .merge_values(True)
        .show_value(c.VisibilityMode.AUTO)
        .align_value(c.TimelineValueAlignment.LEFT)
        .row_height(0.85)
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color(NEUTRAL))
        .fill_opacity(80)
        .line_width(0)
        .legend(
            common.VizLegendOptions()
            .show_legend(False)
            .display_mode(c.LegendDisplayMode.LIST)
            .placement(c.LegendPlacement.BOTTOM)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.SINGLE).sort(c.SortOrder.NONE))
    )
    _common(panel, number, title, description, queries, width, height, unit, OK, mappings, alerts, link)
    return panel.no_value("no data")


def names(
    number: int,
    title: str,
    description: str,
    expr: str,
    *,
    row: str,
    state: str,
    mappings: Iterable[Any],
    width: int = 12,
    height: int = 6,
    alerts: Iterable[str] = (),
    link: Link | None = None,
) -> Panel:
    """A timeline whose states are the values of a label: a row for each value of the label `row`.

    The answer comes as one long table and is turned into a column for each row: numbers cannot carry names.
    `expr` gives at most one sample for each row at a time. Prometheus sorts by label, so `row` must sort before
    `state` for the rows to be in order.
    """
    time = f"Time\\{row}"
    long = _query(expr).range().legend_format("").exemplar(False).format(PromQueryFormat.TABLE)
    panel = timeline(
        number, title, description, long, mappings=mappings, width=width, height=height, alerts=alerts, link=link
    )
    assert isinstance(panel, statetimeline.Panel)
    return panel.transformations(
        [
            _transformation("groupingToMatrix", columnField=row, rowField="Time", valueField=state, emptyValue="null"),
            _transformation(
                "convertFieldType", fields={}, conversions=[{"targetField": time, "destinationType": "time"}]
            ),
            _transformation("sortBy", fields={}, sort=[{"field": time}]),
        ]
    )


def sheet(
    number: int,
    title: str,
    description: str,
    *queries: Query,
    columns: dict[str, str],
    width: int = 24,
    height: int = 7,
    sort: str,
    overrides: Iterable[Override] = (),
    alerts: Iterable[str] = (),
) -> Panel:
    """A table of several queries, joined by the labels that they share. `columns`: fields in order and their titles."""
    values = (f"Value #{LETTERS[index]}" for index in range(len(queries)))
    unshown = [name for name in values if name not in columns]
    panel = (
        table.Panel()
        .show_header(True)
        .cell_height(c.TableCellHeight.SM)
        .align(c.FieldTextAlignment.LEFT)
        .sort_by([common.TableSortByFieldState().display_name(sort).desc(False)])
        .filterable(False)
        .transformations(
            [
                _transformation("merge"),
                _transformation(
                    "organize",
                    excludeByName=dict.fromkeys(("Time", *unshown), True),
                    indexByName={name: index for index, name in enumerate(columns)},
                    renameByName=columns,
                ),
            ]
        )
    )
    for matcher, properties in overrides:
        panel.with_override(matcher, properties)
    _common(panel, number, title, description, queries, width, height, "short", OK, (), alerts, None)
    return panel.no_value("–")


def bars(
    number: int,
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    thresholds: Thresholds = OK,
    width: int = 12,
    height: int = 8,
    overrides: Iterable[Override] = (),
    none: str = "no data",
    alerts: Iterable[str] = (),
) -> Panel:
    """One horizontal bar for each query or series."""
    panel = (
        bargauge.Panel()
        .display_mode(c.BarGaugeDisplayMode.BASIC)
        .orientation(c.VizOrientation.HORIZONTAL)
        .value_mode(c.BarGaugeValueMode.COLOR)
        .name_placement(c.BarGaugeNamePlacement.LEFT)
        .show_unfilled(True)
        .min_viz_height(16)
        .max_viz_height(60)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .min(0)
    )
    for matcher, properties in overrides:
        panel.with_override(matcher, properties)
    _common(panel, number, title, description, queries, width, height, unit, thresholds, (), alerts, None)
    return panel.no_value(none)


def prose(number: int, title: str, description: str, content: str, *, width: int = 24, height: int = 4) -> Panel:
    return (
        text.Panel()
        .id(number)
        .title(title)
        .description(description)
        .mode(TextMode.MARKDOWN)
        .content(content)
        .datasource(PROMETHEUS)
        .grid_pos(model.GridPos(h=height, w=width))
    )


def place(dashboard: build.Dashboard, sections: dict[str, Sequence[Panel]]) -> build.Dashboard:
    """Adds the panels, each as far up and then as far left as it fits, each section below a row with its title."""
    top = 0
    for index, (title, panels) in enumerate(sections.items()):
        dashboard.with_row(
            build.Row(title).id(900 + index).collapsed(False).grid_pos(model.GridPos(h=1, w=COLUMNS, x=0, y=top))
        )
        filled = [top + 1] * COLUMNS
        for panel in panels:
            place = panel.build().grid_pos
            assert place is not None
            place.y, place.x = min((max(filled[x : x + place.w]), x) for x in range(COLUMNS - place.w + 1))
            filled[place.x : place.x + place.w] = [place.y + place.h] * place.w
            dashboard.with_panel(panel)
        top = max(filled)
    return dashboard


def _transformation(name: str, **options: object) -> model.DataTransformerConfig:
    return model.DataTransformerConfig(id_val=name, options=options)


def _common(
    panel: Any_,
    number: int,
    title: str,
    description: str,
    queries: Iterable[Query],
    width: int,
    height: int,
    unit: str,
    thresholds: Thresholds,
    mappings: Iterable[Any],
    alerts: Iterable[str],
    link: Link | None,
) -> None:
    """What every panel with data has. `alerts` that watch what it shows are named in its description."""
    watched = f" Watched by {', '.join(alerts)}." if alerts else ""
    panel.id(number).title(title).description(" ".join(description.split()) + watched)
    panel.datasource(PROMETHEUS).grid_pos(model.GridPos(h=height, w=width))
    panel.unit(unit).mappings(list(mappings))
    panel.thresholds(build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(list(thresholds)))
    panel.targets(list(queries))
    if link is not None:
        panel.data_links([link])
