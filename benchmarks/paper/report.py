"""The benchmark's table and plots, from its rows and curves."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt

from benchmarks.paper.records import COMPILED, EVERY_FRAME, Record, Row
from benchmarks.paper.rows import savings_at, within_disagreement

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

_COLOURS = {"paper": "#c1666b", "layercache": "#2e6f95"}
_NAMES = {"paper": "the paper's method", "layercache": "Layercache"}
_TITLES = {
    "resnet18": "ResNet-18, CIFAR-10",
    "resnet56": "ResNet-56, CIFAR-10",
    "resnet20": "ResNet-20, CIFAR-10",
    "mobilefacenet": "MobileFaceNet, LFW",
}
_PREFACE = """\
# The paper's tasks

The method of "Improving the Performance of DNN-based Software Services using Automated Layer Caching" (Abedi et al.
2022, arXiv 2209.08625) and Layercache, on the same models, halves and frames; the heads' own cost is counted.
`make bench-paper` wrote this page. Heads learn from the unlabelled frames of one half of a stream; all numbers come
from the other half.

- **disagreement x%**: the threshold was swept over the evaluation half until x % of the answers differ from the full
  model's. It says what the heads are worth. **accuracy within 1 point** (of the full model's, against labels) is the
  paper's criterion, swept as well. Layercache may take one of up to four sets of exits, chosen on tuning frames; the
  paper's method has one set, and 400 thresholds instead of 60 for each.
- **certified x%**: what a user gets. Thresholds were certified on frames of the learning half, without a look at the
  evaluation half: one attempt with an error of 5 %.
- The paper's heads learn from nine tenths of the learning half; the last tenth stops their training. Layercache's heads
  learn from 62 % of it, in all rows: 8 % fit temperatures and choose exits, 30 % certify.
- The places and sizes of heads were chosen on seed 0: the paper's by `benchmarks.paper.search` (for MobileFaceNet only
  the first head), Layercache's by a few trials by hand. All seeds permute the same frames.
- Saved latency is a share of the plain model's latency, measured on one thread, in turns on the same frames. In
  brackets: the least and the most over the seeds.
- **Beside plain runtimes**: the whole model by PyTorch (eager, channels last) and by OpenVINO, with no certificate, and
  Layercache where the model may be compiled: with the model itself in int8 or bfloat16 as its last exit, heads on the
  way there, and PyTorch or OpenVINO in float32 behind them. *Bound*: the certified one on the disagreement, at 95 %
  confidence. These rows are timed in turns among themselves, and `--quick` leaves out none of their frames.
- There are few faces: their 243 frames for certification can certify 2 % and 5 %, and nothing below.

"""
#: The disagreements of the plot's axis, and the one at which learning is followed.
_AXIS = np.linspace(0, 0.06, 121)
FOLLOWED = 0.01


def table(rows: Sequence[Row]) -> str:
    """Markdown: one table per backbone; least and most over the seeds in brackets."""
    lines = [
        "| method, criterion | batch | FLOPs saved | mean latency saved | p99 latency saved | throughput "
        "| hit rate by exit | disagreement | accuracy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    compiled_lines = [
        "| method, criterion | batch | ms a frame | × PyTorch | × OpenVINO int8 | share by exit | disagreement | bound "
        "| accuracy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    parts = []
    for backbone, of_backbone in groupby(rows, key=lambda row: row.backbone):
        everything = list(of_backbone)
        own = [row for row in everything if not row.is_compiled]
        compiled = [row for row in everything if row.is_compiled]
        first = everything[0]
        seeds = f"seed {first.seeds[0]}" if len(first.seeds) == 1 else f"means over seeds {_listed(first.seeds)}"
        title = (
            f"## {_TITLES[backbone]}\n\nLearnt from {first.learning_frames:,} unlabelled frames, measured on "
            f"{first.evaluation_frames:,} others; {seeds}. Accuracy of the full model: {first.full_accuracy:.1%}.\n"
        )
        tables = ["\n".join([*lines, *map(_line, own)])] if own else []
        if compiled:
            beside = "\n".join([*compiled_lines, *map(_compiled_line, compiled)])
            tables.append(f"### {_TITLES[backbone]}, beside plain runtimes\n\n{beside}")
        parts.append("\n".join([title, "\n\n".join(tables)]))
    return _PREFACE + "\n\n".join(parts) + "\n"


def _line(row: Row) -> str:
    hits = ", ".join(f"{cut} {share:.0%}" for cut, share in row.hit_rates.items())
    cells = [
        f"{row.method}, {row.criterion}",
        str(row.batch),
        _share(row, "flops_saved", 1),
        _share(row, "mean_latency_saved", 1),
        _share(row, "p99_latency_saved", 1),
        f"{row.throughput_ratio:.2f}×{_spread(row, 'throughput_ratio', '{:.2f}')}",
        hits,
        _share(row, "disagreement", 2),
        _share(row, "accuracy", 1),
    ]
    return f"| {' | '.join(cells)} |"


def _compiled_line(row: Row) -> str:
    hits = ", ".join(f"{exit_} {share:.1%}" for exit_, share in row.hit_rates.items())
    cells = [
        row.method if row.criterion == EVERY_FRAME else f"{row.method}, {row.criterion.removesuffix(COMPILED)}",
        str(row.batch),
        f"{row.mean_ms / row.batch:.2f}",
        f"{row.throughput_ratio:.2f}×{_spread(row, 'throughput_ratio', '{:.2f}')}",
        "" if row.ratio_to_int8 is None else f"{row.ratio_to_int8:.2f}×",
        hits,
        _share(row, "disagreement", 2),
        "" if row.upper_bound is None else f"{row.upper_bound:.2%}",
        _share(row, "accuracy", 1),
    ]
    return f"| {' | '.join(cells)} |"


def _share(row: Row, column: str, digits: int) -> str:
    value: float = getattr(row, column)
    return f"{value:.{digits}%}{_spread(row, column, f'{{:.{digits}%}}')}"


def _spread(row: Row, column: str, form: str) -> str:
    least, most = (form.format(value) for value in row.spread[column])
    return f" [{least}, {most}]" if least != most else ""


def _listed(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def plot_savings(records: Sequence[Record], path: Path) -> None:
    """FLOPs saved against disagreement, a panel per backbone; the band is from the least to the most over seeds."""

    def draw(axes: Axes, own: Sequence[Record], method: str) -> None:
        curves = 100 * np.stack([savings_at(record.curve, _AXIS) for record in own])
        _band(axes, 100 * _AXIS, curves, method)
        axes.set_xlim(0, 100 * _AXIS[-1])

    _panels(records, path, draw, "disagreement with the full model, %", "FLOPs saved, %")


def plot_learning(records: Sequence[Record], path: Path) -> None:
    """FLOPs saved at 1 % disagreement against the frames that were learnt from, a panel per backbone."""

    def draw(axes: Axes, own: Sequence[Record], method: str) -> None:
        sizes = sorted({record.learning_frames for record in own})
        seeds = sorted({record.seed for record in own if record.learning_frames == sizes[0]})
        saved = {(r.seed, r.learning_frames): within_disagreement(r.curve, FOLLOWED).flops_saved for r in own}
        curves = 100 * np.array([[saved[seed, size] for size in sizes] for seed in seeds])
        _band(axes, np.array(sizes, np.float64), curves, method, marker="o")
        axes.set_xlim(left=0)

    _panels(records, path, draw, "unlabelled frames learnt from", "FLOPs saved at 1% disagreement, %")


def _panels(
    records: Sequence[Record],
    path: Path,
    draw: Callable[[Axes, Sequence[Record], str], None],
    x_label: str,
    y_label: str,
) -> None:
    backbones = list(dict.fromkeys(record.backbone for record in records))
    figure, grid = plt.subplots(
        1, len(backbones), figsize=(3.4 * len(backbones) + 0.6, 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, backbone in zip(grid[0], backbones, strict=True):
        for method in _NAMES:
            own = [record for record in records if (record.backbone, record.method) == (backbone, method)]
            if own:
                draw(axes, own, method)
        axes.set_title(_TITLES[backbone], fontsize=10)
        axes.set_xlabel(x_label, fontsize=9)
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel(y_label, fontsize=9)
    grid[0][0].legend(frameon=False, fontsize=9, loc="upper left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _band(axes: Axes, x: Floats, curves: Floats, method: str, marker: str = "") -> None:
    axes.plot(x, curves.mean(0), color=_COLOURS[method], label=_NAMES[method], linewidth=1.8, marker=marker)
    axes.fill_between(x, curves.min(0), curves.max(0), color=_COLOURS[method], alpha=0.2, linewidth=0)
