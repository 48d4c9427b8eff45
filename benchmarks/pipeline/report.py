"""The pipeline benchmark's page and plot, from its rows."""

import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import msgspec

from benchmarks.pipeline.numbers import Row, saving_kept
from benchmarks.pipeline.peers.job import NOTHING
from benchmarks.pipeline.systems import BATCH, COMMIT_INTERVAL_MS, DECODE_THREADS, MAX_WAIT_MS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_OURS, _OTHERS, _BARE = "#2e6f95", "#c1666b", "#8d99ae"
BARE = "decoding and engine alone"
LOOP = "bare confluent-kafka loop"


class Setting(msgspec.Struct, frozen=True):
    """What the rows were measured with."""

    versions: Mapping[str, str]
    partitions: int
    seconds: float
    command: str


def write(rows: Sequence[Row], setting: Setting, folder: Path) -> None:
    """``pipeline.json``, ``pipeline.md`` and ``pipeline.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.json").write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
    (folder / "pipeline.md").write_text(page(rows, setting))
    plot(rows, folder / "pipeline.png")


def page(rows: Sequence[Row], setting: Setting) -> str:
    """The whole page, in Markdown."""
    parts = [_preface(setting)]
    for model, size in dict.fromkeys((row.model, row.frame_bytes) for row in rows):
        own = [row for row in rows if (row.model, row.frame_bytes) == (model, size)]
        what = "a model that does nothing" if model == NOTHING else model
        parts.append(f"## {what}, {size:,} bytes a frame\n\n{table(own)}")
        facts = _real(own) if model != NOTHING else _plumbing(own)
        if facts:
            parts.append("\n".join(f"- {fact}" for fact in facts))
    return "\n\n".join(parts) + "\n"


def _preface(setting: Setting) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in setting.versions.items())
    return f"""\
# The same job on Layercache, Quix Streams, bytewax and Faust

Written by `{setting.command}` on {machine()}; broker, publisher, reader and system are all on this machine, one
process each. {versions} in the others' environment, one Apache Kafka node, {setting.partitions} partitions.

- The job: read a picture, decode it, classify it, write one JSON prediction with the three likeliest classes under
  the frame's key. All systems have the same frames, model, weights (channels last, one thread of torch) and
  micro-batches of {BATCH} at most, which wait for {MAX_WAIT_MS:.0f} ms; commits come every
  {COMMIT_INTERVAL_MS:.0f} ms, {DECODE_THREADS} threads decode. Layercache also writes
  distillation records for its trainer, and passes headers on.
- Without a model: each system reads key and headers, and writes one JSON prediction of 300 bytes under the key.
  Layercache is the worker's own loop with an engine that does nothing.
- frames/s: a backlog of about {setting.seconds:g} s of work is drained; the time is from the first prediction to the
  last, by the broker's clock. CPU: user and system time of the system's processes meanwhile, without the broker's.
  Memory: peak resident, torch included.
- Latency: from just before a frame is published until a reader of committed records has its prediction. *At* is the
  rate: half of the throughput, at most what publisher and reader can do at the same time.
- All numbers are medians of the repetitions, which take turns; in brackets the least and the most.
- At least once: Faust acknowledges events, bytewax has its recovery store (a snapshot every 10 s, its default), Quix
  Streams has checkpoints. Within a transaction Quix Streams has no micro-batches but windows of state: here a count
  window per key, kept in its state store as JSON, which waits until it is full, however long that takes. At least once,
  its batches are those of a sink that writes with its own producer. bytewax reads one partition at a time. Faust's
  exactly-once mode has open bugs and is left out."""


def made_by(target: str, arguments: Sequence[str] | None = None) -> str:
    """The command to repeat this process by ``make``; ``arguments`` are its own, where to write left out.

    >>> made_by("bench-pipeline", ["--repetitions", "2", "--out", "elsewhere", "--resume"])
    'make bench-pipeline BENCH_ARGS="--repetitions 2"'
    """
    given = iter(sys.argv[1:] if arguments is None else arguments)
    kept = []
    for argument in given:
        if argument == "--out":
            next(given, None)
        elif argument != "--resume" and not argument.startswith("--out="):
            kept.append(argument)
    return f"make {target}" + (f' BENCH_ARGS="{shlex.join(kept)}"' if kept else "")


def machine() -> str:
    """Its processor and what runs on it."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = found[0] if found else name
    return f"{os.cpu_count()} cores ({name}), Python {platform.python_version()}"


def table(rows: Sequence[Row]) -> str:
    """Markdown, in the order of the rows."""
    lines = [
        "| system | delivery | predicts | frames/s | CPU ms a frame | latency mean | p99 | at | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(row: Row) -> str:
    spread = ""
    if row.repetitions > 1:
        spread = f" [{_rate(row.least_frames_per_s)}, {_rate(row.most_frames_per_s)}]"
    cells = [
        f"**{row.system}**" if row.system.startswith("Layercache") else row.system,
        row.delivery,
        row.batch,
        _rate(row.frames_per_s) + spread,
        f"{row.cpu_ms_per_frame:.4f}" if row.cpu_ms_per_frame < 0.1 else f"{row.cpu_ms_per_frame:.2f}",
        _or_dash(row.mean_ms, "{:,.0f} ms"),
        _or_dash(row.p99_ms, "{:,.0f} ms"),
        _or_dash(row.latency_per_s, "{:,.0f}/s"),
        f"{row.memory_mb:,.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def _rate(per_s: float) -> str:
    """Three digits.

    >>> _rate(187_654.3), _rate(712.4)
    ('188,000', '712')
    """
    return f"{float(f'{per_s:.3g}'):,.0f}"


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _real(rows: Sequence[Row]) -> list[str]:
    """What the real model's rows say, as far as they are there."""
    best = _best(rows, "exactly once")
    closed, opened = best("Layercache, exits closed"), best("Layercache, exits open")
    bare = _best(rows, "none")
    bare_closed, bare_opened = bare(f"{BARE}, exits closed"), bare(f"{BARE}, exits open")
    others = [row for row in rows if row.delivery != "none" and not row.system.startswith("Layercache")]
    facts = []
    if closed and bare_closed:
        facts.append(
            f"Exits closed and exactly once, Layercache does {closed.frames_per_s / bare_closed.frames_per_s:.0%} of "
            "what decoding and the engine do alone."
        )
    if closed and opened and bare_closed and bare_opened:
        kept = saving_kept(closed.frames_per_s, opened.frames_per_s, bare_closed.frames_per_s, bare_opened.frames_per_s)
        facts.append(
            f"Open exits make it {opened.frames_per_s / closed.frames_per_s:.2f} times as fast, and the engine alone "
            f"{bare_opened.frames_per_s / bare_closed.frames_per_s:.2f} times: Layercache keeps {kept:.0%} of the gain."
        )
    if closed and opened and bare_closed and bare_opened:
        closed_cpu, opened_cpu = (
            one.cpu_ms_per_frame / alone.cpu_ms_per_frame
            for one, alone in ((closed, bare_closed), (opened, bare_opened))
        )
        facts.append(
            f"Its CPU a frame is {closed_cpu:.0%} (closed) and {opened_cpu:.0%} (open) of what decoding and the engine "
            "take when they have the machine to themselves. The rest is waiting for a core, or for the broker."
        )
    if closed and bare_closed and closed.p99_ms is not None:
        batch_ms = BATCH / bare_closed.frames_per_s * 1000
        bound = MAX_WAIT_MS + 2 * COMMIT_INTERVAL_MS + batch_ms
        facts.append(
            f"p99 at half load, exits closed and exactly once: {closed.p99_ms:,.0f} ms. The longest wait for a batch, "
            f"two commit intervals and a batch's time add up to {bound:,.0f} ms."
        )
    if opened and others:
        fastest = max(others, key=lambda row: row.frames_per_s)
        ratio = opened.frames_per_s / fastest.frames_per_s
        facts.append(
            f"With exits open, exactly once, it answers {ratio:.2f} times as many frames as the fastest other system "
            f"({fastest.system}, {fastest.delivery}, {fastest.batch})."
        )
    return facts


def _plumbing(rows: Sequence[Row]) -> list[str]:
    """How many times the others' best Layercache makes, where no model takes time."""
    best = _best(rows, "exactly once")
    ours = best("Layercache")
    if ours is None:
        return []
    any_delivery = _best(rows, None)
    against = {
        "Quix Streams exactly once": best("Quix Streams"),
        "bytewax": any_delivery("bytewax"),
        "Faust": any_delivery("Faust"),
        "the bare loop with transactions": best(LOOP),
    }
    named = [f"{ours.frames_per_s / row.frames_per_s:.2f} × {name}" for name, row in against.items() if row]
    return [f"Layercache, exactly once: {', '.join(named)}."] if named else []


def _best(rows: Sequence[Row], delivery: str | None) -> Callable[[str], Row | None]:
    """A function that finds a system's fastest row of this delivery, or of any."""

    def find(system: str) -> Row | None:
        own = [row for row in rows if row.system == system and delivery in (None, row.delivery)]
        return max(own, key=lambda row: row.frames_per_s, default=None)

    return find


def plot(rows: Sequence[Row], path: Path) -> None:
    """Frames a second, a panel for each load; logarithmic where no model takes time."""
    loads = list(dict.fromkeys((row.model, row.frame_bytes) for row in rows))
    figure, grid = plt.subplots(1, len(loads), figsize=(6.2 * len(loads), 4.4), squeeze=False, layout="constrained")
    for axes, (model, size) in zip(grid[0], loads, strict=True):
        own = [row for row in reversed(rows) if (row.model, row.frame_bytes) == (model, size)]
        rates = [row.frames_per_s for row in own]
        bars = axes.barh([_label(row) for row in own], rates, color=[_colour(row) for row in own])
        axes.bar_label(bars, labels=[_rate(rate) for rate in rates], padding=3, fontsize=8)
        axes.set_title(f"{'do-nothing model' if model == NOTHING else model}, {size:,} B a frame", fontsize=10)
        axes.set_xlabel("frames/s", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if model == NOTHING:
            axes.set_xscale("log")
        axes.margins(x=0.18)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _label(row: Row) -> str:
    how = "" if row.delivery == "none" else f", {row.delivery}, {row.batch}"
    return f"{row.system}{how}"


def _colour(row: Row) -> str:
    if row.system.startswith("Layercache"):
        return _OURS
    return _BARE if row.system.startswith((BARE, LOOP)) else _OTHERS
