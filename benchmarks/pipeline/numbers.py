"""The arithmetic of the pipeline benchmark: from samples to runs, from runs to rows. No clocks, no Kafka."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, groupby
from statistics import fmean, median

import msgspec
import numpy as np

from benchmarks.pipeline.process import Usage


class Sample(msgspec.Struct, frozen=True):
    """How many records a system had written when it had used so much."""

    written: int
    usage: Usage


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One system, once. None is what was not measured."""

    system: str
    delivery: str
    batch: str
    model: str
    frame_bytes: int
    repetition: int
    frames: int
    frames_per_s: float
    cpu_ms_per_frame: float
    memory_mb: float
    agreement: float | None = None
    """Share of the labels that are the full model's."""
    latency_per_s: float | None = None
    """The rate at which latency was measured."""
    mean_ms: float | None = None
    p99_ms: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of a system's runs; ``least`` and ``most`` frames per second among them."""

    system: str
    delivery: str
    batch: str
    model: str
    frame_bytes: int
    repetitions: int
    frames_per_s: float
    least_frames_per_s: float
    most_frames_per_s: float
    latency_per_s: float | None
    mean_ms: float | None
    p99_ms: float | None
    cpu_ms_per_frame: float
    memory_mb: float
    agreement: float | None


def rows(runs: Sequence[Run]) -> list[Row]:
    """One row for every system and load, in the order in which they first ran."""
    order = {_what(run): place for place, run in reversed(list(enumerate(runs)))}
    ordered = sorted(runs, key=lambda run: order[_what(run)])
    return [_row(list(group)) for _, group in groupby(ordered, key=_what)]


def _what(run: Run) -> tuple[str, int, str, str, str]:
    return run.model, run.frame_bytes, run.system, run.delivery, run.batch


def _row(runs: Sequence[Run]) -> Row:
    first = runs[0]
    rates = [run.frames_per_s for run in runs]
    return Row(
        system=first.system,
        delivery=first.delivery,
        batch=first.batch,
        model=first.model,
        frame_bytes=first.frame_bytes,
        repetitions=len(runs),
        frames_per_s=median(rates),
        least_frames_per_s=min(rates),
        most_frames_per_s=max(rates),
        latency_per_s=_median([run.latency_per_s for run in runs]),
        mean_ms=_median([run.mean_ms for run in runs]),
        p99_ms=_median([run.p99_ms for run in runs]),
        cpu_ms_per_frame=median(run.cpu_ms_per_frame for run in runs),
        memory_mb=median(run.memory_mb for run in runs),
        agreement=_median([run.agreement for run in runs]),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def rate_per_s(times_ms: Sequence[int]) -> float:
    """Records a second from the first time to the last; those of the first instant were made before it.

    >>> rate_per_s([1000, 1000, 1500, 2000])
    2.0
    """
    first, last = min(times_ms), max(times_ms)
    if first == last:
        raise ValueError(f"all {len(times_ms)} predictions came within a millisecond: give it more frames")
    return sum(time > first for time in times_ms) / (last - first) * 1000


def cpu_ms_per_frame(samples: Sequence[Sample]) -> float:
    """Processor time a record while records came: what starting and waiting cost is left out."""
    grew = [at for at in range(1, len(samples)) if samples[at].written > samples[at - 1].written]
    if len(grew) < 2:
        raise ValueError("it was over between two samples: give it more frames")
    first, last = samples[grew[0]], samples[grew[-1]]
    return (last.usage.cpu_s - first.usage.cpu_s) * 1000 / (last.written - first.written)


def latencies(spent_ms: Sequence[float]) -> tuple[float, float]:
    """Mean and 99th percentile."""
    return fmean(spent_ms), float(np.percentile(spent_ms, 99))


def most_waiting(times: Iterable[tuple[int, int]]) -> int:
    """The most frames at once that were published and not yet answered; (published, answered) of each.

    >>> most_waiting([(0, 10), (1, 5), (6, 9), (20, 21)])
    2
    """
    changes = sorted(change for published, answered in times for change in ((published, 1), (answered, -1)))
    return max(accumulate(change for _, change in changes), default=0)


def is_settled(assigned: Sequence[int], workers: int, partitions: int) -> bool:
    """Whether all ``workers`` are there and their numbers of partitions are even.

    >>> is_settled([2, 2], 2, 4), is_settled([3, 1], 2, 4), is_settled([4], 2, 4)
    (True, False, False)
    """
    return len(assigned) == workers and sum(assigned) == partitions and max(assigned) - min(assigned) <= 1


def frames_for(seconds: float, per_s: float, multiple: int) -> int:
    """How many frames take about so long: a multiple of ``multiple``, once at least.

    >>> frames_for(4, 700, 512), frames_for(0.1, 700, 512)
    (2560, 512)
    """
    return max(1, round(seconds * per_s / multiple)) * multiple


def expected_per_s(by_size: Mapping[int, float], frame_bytes: int) -> float:
    """What is known of the size nearest to ``frame_bytes``.

    >>> expected_per_s({3_000: 50_000, 100_000: 5_000}, 3_000)
    50000
    """
    return by_size[min(by_size, key=lambda size: abs(size - frame_bytes))]


def saving_kept(closed: float, opened: float, bare_closed: float, bare_opened: float) -> float:
    """Which share of the throughput that open exits add to a bare loop they add to the worker.

    >>> saving_kept(closed=90, opened=180, bare_closed=100, bare_opened=200)
    1.0
    """
    return (opened / closed - 1) / (bare_opened / bare_closed - 1)
