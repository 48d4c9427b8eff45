"""The report's picture: savings, disagreement and throughput over the stream."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from layercache.measuring.columns import Columns, Integers, answered_per_s, last_quarter, moving
from layercache.measuring.plain_runtimes import PYTORCH
from layercache.measuring.summary import Quarter, Summary, Version

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a919e",
    "axes.grid": True,
    "grid.color": "#e6e9ef",
    "xtick.color": "#4b5261",
    "ytick.color": "#4b5261",
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.linewidth": 2.2,
}
_BLUE, _TEAL, _ORANGE, _RED, _GREY = "#2563eb", "#0d9488", "#ea7317", "#c81e3a", "#8a919e"
_DPI = 100
_PERCENT = PercentFormatter(1.0, decimals=0)


@dataclass(frozen=True)
class _Stream:
    """What all panels share."""

    columns: Columns
    versions: tuple[Version, ...]
    budget: float
    window: int
    quarter: Quarter

    @property
    def frames(self) -> Integers:
        return np.arange(1, len(self.columns) + 1)


def draw(columns: Columns, summary: Summary, path: Path) -> None:
    """Writes the chart, a PNG of 1400 x 1000 pixels."""
    stream = _Stream(columns, summary.versions, summary.budget, max(20, len(columns) // 20), summary.last_quarter)
    with mpl.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(h_pad=0.14, w_pad=0.08)
        figure = Figure(figsize=(14, 10), dpi=_DPI, facecolor="white", layout=layout)
        savings, disagreement, throughput = figure.subplots(3, 1, sharex=True, height_ratios=(1.25, 1, 1))
        _savings(savings, stream)
        _disagreement(disagreement, stream)
        _throughput(throughput, stream)
        for axes in (savings, disagreement, throughput):
            _mark(axes, stream)
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), labelspacing=0.7)
        throughput.set_xlabel(f"frames of the stream (curves: mean of the last {stream.window:,})")
        throughput.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        throughput.set_xlim(0, len(columns))
        figure.savefig(path)


def _savings(axes: Axes, stream: _Stream) -> None:
    columns, window = stream.columns, stream.window
    hits = moving(columns.hits, window)
    axes.fill_between(stream.frames, hits, color=_BLUE, alpha=0.08, linewidth=0)
    axes.plot(stream.frames, hits, color=_BLUE, label="left at an exit (hits)")
    axes.plot(stream.frames, 1 - moving(columns.time_share, window), color=_TEAL, label="time saved")
    flops = 1 - moving(columns.flops_share, window)
    axes.plot(
        stream.frames,
        flops,
        color=_TEAL,
        linewidth=1.4,
        linestyle=(0, (4, 2)),
        label="FLOPs saved (below 0: more spent)" if flops.min() < -0.02 else "FLOPs saved",
    )
    axes.plot(stream.frames, moving(columns.audited, window), color=_GREY, linewidth=1.4, label="audited")
    quarter = stream.quarter
    found = f"{quarter.hit_rate:.1%} left at an exit, {quarter.time_saved:.1%} of time saved"
    _headline(axes, "How much of the work is skipped", found)
    axes.set_ylim(min(-0.02, float(flops.min()) - 0.02), 1.02)
    axes.yaxis.set_major_formatter(_PERCENT)


def _disagreement(axes: Axes, stream: _Stream) -> None:
    columns = stream.columns
    true = moving(columns.differs, 2 * stream.window)
    drawn = np.cumsum(columns.audit_drawn)
    audited = np.divide(
        np.cumsum(columns.audit_drawn & columns.audit_disagrees),
        drawn,
        out=np.full(len(columns), np.nan),
        where=drawn >= 200,  # before, one disagreement would throw the curve about
    )
    axes.plot(stream.frames, true, color=_ORANGE, label=f"true, last {2 * stream.window:,} frames")
    axes.plot(stream.frames, moving(columns.differs, len(columns)), color=_BLUE, label="true, all frames so far")
    axes.plot(stream.frames, audited, color=_GREY, linewidth=1.6, label="audits of open exits so far")
    axes.axhline(stream.budget, color=_RED, linestyle=(0, (6, 3)), linewidth=1.8, label=f"budget, {stream.budget:.1%}")
    top = max(stream.budget * 1.6, float(np.nanmax(true[stream.window :], initial=0.0)) * 1.15)
    axes.set_ylim(-0.02 * top, top)
    _headline(axes, "Answers that differ from the full model's", f"{stream.quarter.disagreement:.2%}")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))


def _throughput(axes: Axes, stream: _Stream) -> None:
    columns, window = stream.columns, stream.window
    spent = moving(columns.inference_ms, window)
    # its own first tenth of a window is one or two micro-batches, slow or fast by chance
    reach = np.where(stream.frames > window // 4, 1000 / np.maximum(spent, 1e-6), np.nan)
    answered = np.where(stream.frames > window // 4, answered_per_s(columns.predicted_ms, window), np.nan)
    axes.plot(stream.frames, reach, color=_TEAL, label="engine, beside the trainer")
    axes.plot(stream.frames, answered, color=_BLUE, label="answered, at the set pace")
    axes.set_ylim(0, float(np.nanmax(np.concatenate((reach, answered)), initial=1.0)) * 1.12)
    quarter = stream.quarter
    against = "" if quarter.plain_runtime == PYTORCH else f", {quarter.speedup_plain:.2f} × {quarter.plain_runtime}"
    _headline(axes, "Frames per second", f"{quarter.speedup:.2f} × as fast as PyTorch{against}")


def _mark(axes: Axes, stream: _Stream) -> None:
    """The versions of heads as vertical lines, the last quarter as a shade."""
    label: str | None = "new version"
    for version in stream.versions:
        if version.at_frame is not None:
            axes.axvline(version.at_frame, color="#a3abba", linestyle=":", linewidth=1.5, label=label, zorder=0)
            label = None
    rows = last_quarter(len(stream.columns))
    axes.axvspan(rows.start, rows.stop, color="#f1f3f8", zorder=-1, linewidth=0, label="last quarter")


def _headline(axes: Axes, title: str, found: str) -> None:
    axes.set_title(title)
    axes.set_title(f"last quarter: {found}", loc="right", fontsize=12, fontweight="normal", color="#4b5261")
