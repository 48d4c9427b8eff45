"""Several workers in one group: throughput and lag with 1, 2 and 4 workers on 1, 2 and 4 partitions.

    KAFKA_HOME=... python -m benchmarks.scaling            # or make bench-scaling

Writes scaling.json and scaling.md into docs/benchmarks. The demo's model with exits closed, one thread of torch each;
broker, publisher and workers share the machine, so its cores bound what more workers bring.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.pipeline import heads
from benchmarks.pipeline.__main__ import broker
from benchmarks.pipeline.load import Load
from benchmarks.pipeline.measure import WHOLE, Session
from benchmarks.pipeline.numbers import expected_per_s, frames_for
from benchmarks.pipeline.report import machine, made_by
from benchmarks.pipeline.systems import BATCHED, EXACTLY_ONCE, ROOT, Ours

COUNTS = (1, 2, 4)
#: The loads under which lag is watched, in shares of what one worker alone can do.
LOAD_SHARES = (0.5, 1.2)
SYSTEM = Ours("Layercache, exits closed", EXACTLY_ONCE, BATCHED, {0: 700.0}, "closed")


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """Under a steady load of ``per_s`` frames a second; latency from publishing to a committed prediction."""

    per_s: float
    mean_ms: float
    p99_ms: float
    most_frames: int
    """The most frames that were published and not yet answered."""


class Scaled(msgspec.Struct, frozen=True, kw_only=True):
    """What so many workers did together; medians of ``repetitions``."""

    workers: int
    partitions: int
    repetitions: int
    frames_per_s: float
    cpu_ms_per_frame: float
    memory_mb: float
    lags: tuple[Lag, ...]


def measure(
    load: Load, servers: str, folder: Path, workers: int, partitions: int, one_per_s: float, seconds: float
) -> Scaled:
    """One repetition. ``one_per_s`` is what a single worker can do, as far as is known before it is measured."""
    # Twice the backlog for twice the workers, so that the time it takes stays about the same.
    frames = frames_for(seconds, one_per_s * min(workers, os.cpu_count() or 1), WHOLE)
    with Session(SYSTEM, load, servers, folder, folder / "none", workers, partitions) as session:
        session.start()
        session.wait_for_group()
        session.publish(frames)
        drained = session.drain(frames, 2 * seconds)
        if not drained.finished:
            raise TimeoutError(
                f"{workers} workers answered {drained.frames:,} of {frames:,} frames in {12 * seconds:.0f} s"
            )
        if (workers, partitions) == (1, 1):
            one_per_s = drained.frames_per_s
        kept = [session.keep_up(share * one_per_s, seconds) for share in LOAD_SHARES]
    return Scaled(
        workers=workers,
        partitions=partitions,
        repetitions=1,
        frames_per_s=drained.frames_per_s,
        cpu_ms_per_frame=drained.cpu_ms_per_frame,
        memory_mb=drained.memory_mb,
        lags=tuple(Lag(per_s=k.per_s, mean_ms=k.mean_ms, p99_ms=k.p99_ms, most_frames=k.most_waiting) for k in kept),
    )


def medians(runs: Sequence[Scaled]) -> Scaled:
    """Of the repetitions of one number of workers and partitions."""
    first = runs[0]
    return Scaled(
        workers=first.workers,
        partitions=first.partitions,
        repetitions=len(runs),
        frames_per_s=median(run.frames_per_s for run in runs),
        cpu_ms_per_frame=median(run.cpu_ms_per_frame for run in runs),
        memory_mb=median(run.memory_mb for run in runs),
        lags=tuple(
            Lag(
                per_s=median(lag.per_s for lag in lags),
                mean_ms=median(lag.mean_ms for lag in lags),
                p99_ms=median(lag.p99_ms for lag in lags),
                most_frames=round(median(lag.most_frames for lag in lags)),
            )
            for lags in zip(*(run.lags for run in runs), strict=True)
        ),
    )


def page(rows: Sequence[Scaled], command: str) -> str:
    """The whole page, in Markdown."""
    one = rows[0].frames_per_s
    loads = "".join(f" lag at {share:g} × one worker | mean, p99 |" for share in LOAD_SHARES)
    lines = [f"| workers | partitions | frames/s | of one worker | CPU ms a frame |{loads} memory |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    for row in rows:
        lags = "".join(f" {lag.most_frames:,} frames | {lag.mean_ms:,.0f}, {lag.p99_ms:,.0f} ms |" for lag in row.lags)
        lines.append(
            f"| {row.workers} | {row.partitions} | {row.frames_per_s:,.0f} | {row.frames_per_s / one:.2f} × "
            f"| {row.cpu_ms_per_frame:.2f} |{lags} {row.memory_mb:,.0f} MB |"
        )
    return _PREFACE.format(command=command, machine=machine()) + "\n".join(lines) + "\n"


_PREFACE = """\
# Several workers in one group

Written by `{command}` on {machine}. The workers run the demo's model with exits closed, exactly once, each with one
thread of torch and two for decoding; broker, publisher and reader are on the same machine. More workers than cores only
share the cores. So the table does not show how far Layercache scales; it shows that partitions and a group cost
nothing, and that workers do not wait for each other. A partition has one worker at most, so there are no rows with more
workers than partitions.

- frames/s: a backlog is published at once to workers that have their partitions already; the time is from the first
  prediction to the last. CPU and peak memory are those of all workers together.
- lag: the most frames that were published and not yet answered, under a steady load. The load is given as a multiple of
  what one worker on one partition does. *mean, p99*: latency from publishing to a committed prediction. Above 1 × a
  single worker must fall behind, for as long as the measurement lasts.

"""


def run(options: argparse.Namespace, servers: str, folder: Path) -> list[Scaled]:
    """All numbers of workers, in turns; the first says what one worker can do."""
    load = Load(heads.MODEL, heads.served_pictures(), "image/webp")
    runs: dict[tuple[int, int], list[Scaled]] = {}
    one_per_s = expected_per_s(SYSTEM.expected_per_s, load.frame_bytes)
    for repetition in range(options.repetitions):
        for partitions in COUNTS:
            for workers in (count for count in COUNTS if count <= partitions):
                found = measure(load, servers, folder, workers, partitions, one_per_s, options.seconds)
                runs.setdefault((workers, partitions), []).append(found)
                if (workers, partitions) == (1, 1):
                    one_per_s = found.frames_per_s
                done = f"{time.strftime('%H:%M:%S')} {repetition + 1}/{options.repetitions}"
                what = f"{workers} workers, {partitions} partitions"
                print(f"{done} {what}: {found.frames_per_s:,.0f}/s, {found.lags}", file=sys.stderr)
    return [medians(repeated) for repeated in runs.values()]


def main() -> int:
    """Runs everything, writes both files; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once, and shorter: to see that it runs")
    parser.add_argument("--repetitions", type=int, help="3")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args()
    repetitions, options.seconds = (1, 1.5) if options.quick else (3, 4.0)
    options.repetitions = options.repetitions or repetitions
    try:
        with broker() as (servers, folder):
            rows = run(options, servers, folder)
    except KeyboardInterrupt:
        return 130
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scaling.json").write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
    (options.out / "scaling.md").write_text(page(rows, made_by("bench-scaling")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
