"""The stream over time: shares, pace, latency, and audits that differ. The browser writes times, in its own zone."""

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import msgspec
from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement
from nicegui.events import ValueChangeEventArguments

from layercache.dashboard import state
from layercache.dashboard.cards import parts
from layercache.dashboard.cards.parts import box, text

#: Per cent between two lines of an axis, twice as many where it reaches below 0, and how far that is at most: there
#: every frame runs the model twice.
_STEP, _LOWEST = 25, -100

Values = Callable[[state.Series], list[float | None]]


class Line(msgspec.Struct, frozen=True):
    """One line of a chart."""

    name: str
    colour: str
    values: Values


class Chart(msgspec.Struct, frozen=True):
    """What a chart shows; ``limit`` draws the budget into it."""

    name: str
    unit: str
    digits: int
    lines: tuple[Line, ...]
    limit: bool = False
    top: float | None = None
    """Where the vertical axis ends; None lets the values decide."""
    below: str = ""
    """What values below 0 mean; without it none are expected."""


def of(value: Callable[[state.Point], float | None], factor: float = 1.0) -> Values:
    """Values of a line: one for each slice of time."""

    def values(series: state.Series) -> list[float | None]:
        found = (value(point) for point in series.points)
        return [None if one is None else round(factor * one, 3) for one in found]

    return values


def differ(series: state.Series) -> list[float | None]:
    """Per cent of the audits that differ, up to each slice from the first: single slices hold few audits.

    >>> empty = dict(frames=0, frames_per_s=0.0, hit_rate=None, flops_saved=None, time_saved=None,
    ...     latency_p50_ms=None, latency_p99_ms=None)
    >>> counts = ((0, 0), (20, 1), (30, 0))
    >>> differ(state.Series(width_s=5.0, points=tuple(
    ...     state.Point(at_ms=0, audits=audits, disagreements=found, **empty) for audits, found in counts)))
    [None, 5.0, 2.0]
    """
    audits = accumulate(point.audits for point in series.points)
    found = accumulate(point.disagreements for point in series.points)
    return [round(100 * some / all_, 3) if all_ else None for some, all_ in zip(found, audits, strict=True)]


_RANGES = {"recent": "15 min", "day": "24 h"}
CHARTS = (
    Chart("Saved", "%", 1, (
        Line("Hit rate", "var(--line-1)", of(lambda point: point.hit_rate, 100)),
        Line("Time saved", "var(--line-3)", of(lambda point: point.time_saved, 100)),
        Line("FLOPs saved", "var(--line-2)", of(lambda point: point.flops_saved, 100)),
    ), top=100, below="Below 0: more were spent than the plain model spends. In int8 a FLOP takes less time."),
    Chart("Audits that differ, so far", "%", 2, (Line("Differ", "var(--line-1)", differ),), limit=True),
    Chart("Frames", "/s", 1, (Line("Frames", "var(--line-1)", of(lambda point: point.frames_per_s)),)),
    Chart("Latency, publishing to answer", "ms", 0, (
        Line("Median", "var(--line-1)", of(lambda point: point.latency_p50_ms)),
        Line("99th percentile", "var(--line-3)", of(lambda point: point.latency_p99_ms)),
    )),
)  # fmt: skip


class Series:
    """Four small charts of the same time."""

    def __init__(self) -> None:
        self._range = "recent"
        self._drawn: object = None
        content, controls = parts.card("Over time", "lc-wide")
        with controls:
            toggle = ui.toggle(_RANGES, value=self._range, on_change=self._switch)
            toggle.props('dense no-caps unelevated toggle-color=primary aria-label="Range of the charts"')
        with content, box("div", "lc-charts"):
            self._charts = [_draw(chart) for chart in CHARTS]
        self._snapshot: state.Snapshot | None = None

    def update(self, snapshot: state.Snapshot) -> None:
        """Draws the chosen range, if it has changed."""
        self._snapshot = snapshot
        series = snapshot.day if self._range == "day" else snapshot.recent
        if series is self._drawn or series == self._drawn:
            return
        self._drawn = series
        for chart, (drawn, note) in zip(CHARTS, self._charts, strict=True):
            fill(drawn.options, chart, series, snapshot.disagreement.budget)
            drawn.update()
            note.set_visibility(bool(drawn.options["yAxis"]["min"]))

    def _switch(self, event: ValueChangeEventArguments[str]) -> None:
        self._range = event.value
        if self._snapshot is not None:
            self.update(self._snapshot)


def options(chart: Chart) -> dict[str, Any]:
    """A chart without its points. Colours are the page's variables: they follow light and dark mode by themselves."""
    unit = chart.unit if chart.unit == "%" else f" {chart.unit}"
    with_unit = f"value => value == null ? '–' : value.toFixed({chart.digits}) + '{unit}'"
    has_legend = len(chart.lines) > 1
    words = {"color": "var(--muted)", "fontFamily": "inherit"}
    edge = {"lineStyle": {"color": "var(--edge)"}}
    return {
        "animation": False,
        "grid": {"left": 6, "right": 12, "top": 34 if has_legend else 16, "bottom": 4, "containLabel": True},
        "legend": {"show": has_legend, "left": 0, "top": 0, "itemWidth": 14, "itemHeight": 3, "itemGap": 16,
                   "icon": "roundRect", "textStyle": words},
        "tooltip": {"trigger": "axis", "confine": True, "backgroundColor": "var(--surface)",
                    "borderColor": "var(--edge)", "textStyle": words | {"color": "var(--ink)"},
                    ":valueFormatter": with_unit, "axisPointer": {"lineStyle": {"color": "var(--muted)"}}},
        "xAxis": {"type": "time", "axisLine": edge, "axisTick": {"show": False}, "minInterval": 0,
                  "axisLabel": words | {"hideOverlap": True, "margin": 13}},
        "yAxis": {"type": "value", "min": 0, **_up_to(chart.top), "splitNumber": 3, "splitLine": edge,
                  "axisLabel": words | {":formatter": f"value => value + '{unit}'"}},
        "series": [
            {"type": "line", "name": line.name, "showSymbol": False, "silent": True, "emphasis": {"disabled": True},
             "color": line.colour, "lineStyle": {"width": 2}, "data": []}
            for line in chart.lines
        ],
    }  # fmt: skip


def _up_to(top: float | None) -> dict[str, float]:
    return {} if top is None else {"max": top, "interval": _STEP}


def fill(drawn: dict[str, Any], chart: Chart, series: state.Series, budget: float) -> None:
    """Puts the points of ``series`` into a chart's options, and the budget where it belongs."""
    times = [point.at_ms for point in series.points]
    if times:  # about four labels, which also a phone has room for
        drawn["xAxis"]["minInterval"] = (times[-1] - times[0]) // 4
    for one, line in zip(drawn["series"], chart.lines, strict=True):
        one["data"] = list(map(list, zip(times, line.values(series), strict=True)))
    if chart.below:
        values = (value for one in drawn["series"] for _, value in one["data"] if value is not None)
        lowest = min(0.0, *values, 0.0)
        drawn["yAxis"]["min"] = max(_LOWEST, 2 * _STEP * math.floor(lowest / (2 * _STEP)))
        drawn["yAxis"]["interval"] = 2 * _STEP if lowest < 0 else _STEP
    if chart.limit:
        seen = [value for _, value in drawn["series"][0]["data"] if value is not None]
        drawn["yAxis"]["max"] = round(max(150 * budget, 1.2 * max(seen, default=0.0)), 2)
        drawn["series"][0]["markLine"] = _limit(budget)


def _limit(budget: float) -> dict[str, Any]:
    line = {"color": "var(--bad)", "type": "dashed", "width": 1.5}
    label = {"formatter": "budget", "position": "insideStartTop", "color": "var(--bad)", "fontFamily": "inherit"}
    at = [{"yAxis": 100 * budget}]
    return {"silent": True, "symbol": "none", "animation": False, "lineStyle": line, "label": label, "data": at}


def _draw(chart: Chart) -> tuple[ui.echart, TextElement]:
    """The chart, and the note on values below 0."""
    with box("figure", "lc-chart", aria_label=f"{chart.name} over time"):
        text(f"{chart.name} ({chart.unit})", "figcaption")
        drawn = ui.echart(options(chart), renderer="svg")
        note = text(chart.below, "p", "lc-hint")
        note.set_visibility(False)
        return drawn, note
