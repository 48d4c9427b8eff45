"""The page's plots, as SVG that takes its colours and letters from the page: dark at night, and sharp on paper."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from layercache.report.numbers import Report

#: Stand-ins that matplotlib draws with, and what the page's style sheet puts in their place.
_INK, _FAINT, _GRID = "#010101", "#020202", "#030303"
_BLUE, _TEAL, _ORANGE, _RED = "#040404", "#050505", "#060606", "#070707"
_VARIABLES = {
    _INK: "ink", _FAINT: "faint", _GRID: "grid", _BLUE: "blue", _TEAL: "teal", _ORANGE: "orange", _RED: "red",
}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "lines.linewidth": 2,
}
_PERCENT = PercentFormatter(1.0, decimals=0)


def trade_off(report: Report) -> str:
    """What is saved against how often answers differ; empty where there were no exits to try."""
    return _svg("trade-off", (6.4, 3.7), lambda axes: _trade_off(axes, report)) if report.curve else ""


def stream(report: Report) -> str:
    """How hits and savings grew."""
    return _svg("stream", (6.4, 3.3), lambda axes: _stream(axes, report))


def disagreement(report: Report) -> str:
    """How often the stream's exits differed, frame after frame; empty where none was ever open."""
    if not any(version.exits for version in report.stream.versions):
        return ""
    return _svg("disagreement", (6.4, 2.4), lambda axes: _disagreement(axes, report))


def costs(report: Report) -> str:
    """How much of the model is spent by each of its cuts."""
    return _svg("costs", (6.4, 3.0), lambda axes: _costs(axes, report))


def _trade_off(axes: Axes, report: Report) -> None:
    widest = 1.6 * max(budget.max_disagreement for budget in report.budgets)
    points = [point for point in report.curve if point.disagreement <= widest] or list(report.curve[:1])
    x = [point.disagreement for point in points]
    axes.plot(x, [point.time_saved for point in points], color=_BLUE, label="time saved, expected")
    axes.plot(x, [point.flops_saved for point in points], color=_TEAL, label="FLOPs saved")
    axes.plot(x, [point.hit_rate for point in points], color=_FAINT, linewidth=1.3, label="leave at exits")
    names: dict[tuple[float, float], list[str]] = {}  # rows that come out alike share a place, and its label
    for budget in report.budgets:
        axes.axvline(budget.max_disagreement, color=_RED, linestyle=":", linewidth=1)
        if budget.exam is not None:
            certified = budget.state == "certified"
            axes.plot(
                budget.exam.disagreement, budget.exam.time_saved, "o", markersize=9, markeredgewidth=1.8, color=_BLUE,
                markerfacecolor=_BLUE if certified else "none", clip_on=False, zorder=3,
            )  # fmt: skip
            place = round(budget.exam.disagreement, 4), round(budget.exam.time_saved, 2)
            names.setdefault(place, []).append(f"{100 * budget.max_disagreement:g} %")
    for place, here in names.items():
        axes.annotate(", ".join(here), place, xytext=(9, -15), textcoords="offset points")
    axes.set_xlim(0, max(widest, *(b.exam.disagreement for b in report.budgets if b.exam), 1e-3))
    axes.set_ylim(_bottom([share for point in points for share in (point.time_saved, point.flops_saved)]), 1)
    axes.set_xlabel("answers that differ from the full model's, held-out frames")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    axes.yaxis.set_major_formatter(_PERCENT)


def _stream(axes: Axes, report: Report) -> None:
    found = report.stream
    axes.fill_between(found.at, found.hit_rate, color=_BLUE, alpha=0.12, linewidth=0)
    axes.plot(found.at, found.hit_rate, color=_BLUE, label="left at exits")
    axes.plot(found.at, found.time_saved, color=_TEAL, label="time saved")
    axes.plot(found.at, found.flops_saved, color=_TEAL, linewidth=1.3, linestyle="--", label="FLOPs saved")
    axes.plot(found.at, found.audited, color=_FAINT, linewidth=1.3, label="audited")
    _mark_versions(axes, report)
    axes.set_ylim(_bottom([-0.02, *found.flops_saved, *found.time_saved]), 1.02)
    axes.yaxis.set_major_formatter(_PERCENT)
    _frames_axis(axes, report)


def _bottom(shares: Sequence[float]) -> float:
    """Where an axis of savings begins: at 0, or lower where more was spent than the plain model spends."""
    return min(0.0, *shares)


def _disagreement(axes: Axes, report: Report) -> None:
    found = report.stream
    axes.plot(found.at, found.disagreement, color=_ORANGE, label="differed")
    axes.axhline(found.budget, color=_RED, linestyle="--", linewidth=1.4, label=f"budget, {found.budget:.1%}")
    _mark_versions(axes, report)
    axes.set_ylim(0, max(1.6 * found.budget, 1.15 * max(found.disagreement)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    _frames_axis(axes, report)


def _mark_versions(axes: Axes, report: Report) -> None:
    for version in report.stream.versions:
        axes.axvline(version.at_frame, color=_FAINT, linestyle=":", linewidth=1.2)


def _frames_axis(axes: Axes, report: Report) -> None:
    axes.set_xlim(0, report.frames.streamed)
    axes.set_xlabel(f"frames of the stream (means of the latest {report.stream.window:,}; dotted: new heads)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _costs(axes: Axes, report: Report) -> None:
    cuts = report.model.cuts
    places = range(1, len(cuts) + 2)
    axes.step(places, [*(cut.flops_share for cut in cuts), 1.0], where="mid", color=_TEAL, label="FLOPs")
    axes.step(places, [*(cut.time_share for cut in cuts), 1.0], where="mid", color=_BLUE, label="time, measured")
    proposed = [place for place, cut in zip(places, cuts, strict=False) if cut.proposed]
    heights = [cuts[place - 1].flops_share for place in proposed]
    axes.plot(proposed, heights, "o", color=_TEAL, markersize=7, label="heads are tried here")
    for place, height in zip(proposed, heights, strict=True):
        axes.annotate(cuts[place - 1].name, (place, height), xytext=(-4, 9), textcoords="offset points", ha="right")
    axes.set_ylim(0, 1.05)
    axes.set_xlim(0, len(cuts) + 1)
    axes.set_xlabel("places where the model can be cut, in order")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(_PERCENT)


def _svg(name: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """One plot, without anything that is not of the page."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name, "svg.id": name}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, handlelength=1.4, columnspacing=1.4)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return themed(out.getvalue(), name)


def themed(svg: str, name: str) -> str:
    """The ``<svg>`` of matplotlib's file, its colours those of the page's style sheet, scaling with the page.

    >>> themed('<?xml?><svg width="9pt" height="9pt"><path style="fill: #040404"/></svg>', "a")
    '<svg role="img" aria-label="a"><path style="fill: var(--blue)"/></svg>'
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg( id=\"[^\"]*\")?", f'<svg role="img" aria-label="{name}"', svg, count=1)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    # The page's own letters: theirs are not there on every machine.
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
