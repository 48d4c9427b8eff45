"""What the soak test found, as JSON, as text and as a plot."""

from pathlib import Path

import matplotlib
import msgspec

from benchmarks.soak.memory import Slope, slope

matplotlib.use("Agg")
from matplotlib import pyplot as plt


class Second(msgspec.Struct, frozen=True):
    """What was read at one moment."""

    at_s: float
    worker_rss_mb: float
    worker_pss_mb: float
    trainer_rss_mb: float
    trainer_pss_mb: float
    published: int
    answered: int
    lag: int
    dead_letters: int
    held_back: int
    miss_share: float


class Soak(msgspec.Struct, frozen=True):
    """A whole run."""

    machine: str
    broker: str
    seed: int
    settle_s: float
    """Until memory may be expected to be flat: libraries load, windows fill, malloc keeps what large frames took."""
    growth_per_s: float
    published_mb: float
    head_changes: int
    seconds: list[Second]


class Summary(msgspec.Struct, frozen=True):
    """The run in numbers; slopes are of resident memory once it has settled."""

    machine: str
    broker: str
    seed: int
    minutes: float
    """After the first ``settle_s`` seconds, as the slopes."""
    settle_s: float
    frames: int
    """Answered."""
    frames_per_s: float
    published_mb: float
    dead_letters: int
    misses_held_back: int
    head_changes: int
    lag_at_first: int
    lag_at_last: int
    worker_rss_mb: float
    """At the end; so are the trainer's."""
    worker_peak_rss_mb: float
    worker_slope: Slope
    trainer_rss_mb: float
    trainer_peak_rss_mb: float
    trainer_slope: Slope


def summary(soak: Soak) -> Summary:
    """In numbers."""
    first, last = soak.seconds[0], soak.seconds[-1]
    at = [one.at_s for one in soak.seconds]
    return Summary(
        machine=soak.machine,
        broker=soak.broker,
        seed=soak.seed,
        minutes=round((last.at_s - soak.settle_s) / 60, 2),
        settle_s=round(soak.settle_s),
        frames=last.answered,
        frames_per_s=round((last.answered - first.answered) / (last.at_s - first.at_s), 1),
        published_mb=round(soak.published_mb),
        dead_letters=last.dead_letters,
        misses_held_back=last.held_back,
        head_changes=soak.head_changes,
        lag_at_first=first.lag,
        lag_at_last=last.lag,
        worker_rss_mb=round(last.worker_rss_mb),
        worker_peak_rss_mb=round(max(one.worker_rss_mb for one in soak.seconds)),
        worker_slope=_rounded(slope(at, [one.worker_rss_mb for one in soak.seconds], soak.settle_s)),
        trainer_rss_mb=round(last.trainer_rss_mb),
        trainer_peak_rss_mb=round(max(one.trainer_rss_mb for one in soak.seconds)),
        trainer_slope=_rounded(slope(at, [one.trainer_rss_mb for one in soak.seconds], soak.settle_s)),
    )


def write(soak: Soak, folder: Path) -> Summary:
    """``soak.json``, ``soak.md`` and ``soak.png`` in ``folder``."""
    found = summary(soak)
    folder.mkdir(parents=True, exist_ok=True)
    seconds = [msgspec.structs.astuple(one) for one in soak.seconds]
    rows = [[round(value, 3) for value in one] for one in seconds]
    whole = {"summary": found, "columns": list(Second.__struct_fields__), "seconds": rows}
    (folder / "soak.json").write_bytes(msgspec.json.encode(whole) + b"\n")
    (folder / "soak.md").write_text(_text(found))
    _plot(soak, found, folder / "soak.png")
    return found


def _rounded(found: Slope) -> Slope:
    return Slope(round(found.mb_per_min, 3), round(found.low, 3), round(found.high, 3))


def _text(found: Summary) -> str:
    slopes = {"worker": found.worker_slope, "trainer": found.trainer_slope}
    ends = {"worker": found.worker_rss_mb, "trainer": found.trainer_rss_mb}
    peaks = {"worker": found.worker_peak_rss_mb, "trainer": found.trainer_peak_rss_mb}
    rows = "\n".join(
        f"| {name} | {ends[name]:.0f} MB | {peaks[name]:.0f} MB | {one.mb_per_min:+.2f} MB/min "
        f"({one.low:+.2f} to {one.high:+.2f}) |"
        for name, one in slopes.items()
    )
    return f"""# Memory at the machine's limit

`make soak` sends a worker and a trainer more frames than the worker can take: for {found.settle_s / 60:.0f} minutes in
which memory may settle, and for {found.minutes:.1f} in which it must be flat.
Broker: {found.broker}; {found.machine}; seed {found.seed}.

| process | resident at the end | most | growth after {found.settle_s:.0f} s (95 % interval) |
|---|---|---|---|
{rows}

![Resident memory and lag over time](soak.png)

- The worker answered {found.frames:,} frames, {found.frames_per_s:.0f} a second, {found.dead_letters:,} of them by dead
  letters. {found.published_mb:,.0f} MB were published: pictures of 28 x 28, JPEGs of 0.2 and of about 4 MB, strips of
  40,000 x 24, broken and empty ones; a quarter of them under a key that never came before.
- Lag grew from {found.lag_at_first:,} to {found.lag_at_last:,} frames, on the broker.
- The heads in force changed {found.head_changes} times: they were closed, opened, and pinned to an earlier version.
- The worker did not send {found.misses_held_back:,} misses to the trainer, because the trainer or the broker could not
  keep up.

The slope is the median over all pairs of readings (Sen 1968). A single step does not bend it, so look at the plot as
well. Memory settles late because malloc keeps up to 1 GiB of what was freed: a process grows, by steps of a large
frame's size, until every thread has had its largest frames. With a third as many large frames that took over ten
minutes.
"""


def _plot(soak: Soak, found: Summary, path: Path) -> None:
    minutes = [one.at_s / 60 for one in soak.seconds]
    figure, (memory, lag) = plt.subplots(2, sharex=True, figsize=(8, 5), height_ratios=(2, 1))
    for name, label in (("worker_rss_mb", "worker"), ("trainer_rss_mb", "trainer")):
        memory.plot(minutes, [getattr(one, name) for one in soak.seconds], label=label)
    memory.axvline(found.settle_s / 60, color="grey", linestyle=":", label="slopes from here on")
    memory.set_ylabel("resident memory, MB")
    memory.set_ylim(bottom=0)
    memory.legend()
    lag.plot(minutes, [one.lag for one in soak.seconds], color="black")
    lag.set_ylabel("lag, frames")
    lag.set_ylim(bottom=0)
    lag.set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
