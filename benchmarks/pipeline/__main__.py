"""Layercache beside Faust, Quix Streams and bytewax: the same job, frames and model, in turns on one broker.

    KAFKA_HOME=... python -m benchmarks.pipeline            # or make bench-pipeline
    KAFKA_HOME=... python -m benchmarks.pipeline --quick --only Layercache

Writes pipeline.json, pipeline.md and pipeline.png into docs/benchmarks. Needs Linux, and Apache Kafka: a distribution
(KAFKA_HOME) or a running broker (KAFKA_BOOTSTRAP_SERVERS). The first run makes the others' environment in .peers and
has heads learn for a few minutes. Every measurement is kept as it is made: --resume goes on after an interruption.
"""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from confluent_kafka import KafkaException

from benchmarks.pipeline import bare, environment, heads, report
from benchmarks.pipeline.load import Load
from benchmarks.pipeline.measure import PARTITIONS, WHOLE, Session
from benchmarks.pipeline.numbers import Run, expected_per_s, frames_for, rows
from benchmarks.pipeline.peers.job import NOTHING
from benchmarks.pipeline.systems import BATCHED, ROOT, Exits, System, with_model, with_nothing
from testbed.apache_kafka import KafkaNode

_OUT = ROOT / "docs" / "benchmarks"
SIZES = (3_000, 100_000)
#: Publisher and reader share the machine with what is measured: beyond this many bytes or frames a second they are it.
_MOST_BYTES_PER_S, _MOST_FRAMES_PER_S = 50_000_000, 10_000
#: Of the labels that must be the full model's where every exit is closed; the rest is rounding in batches.
_LEAST_AGREEMENT = 0.995
_BARE_PER_S = 1_000


class Benchmark:
    """Runs systems in turns, and keeps what they did."""

    def __init__(self, options: argparse.Namespace, servers: str, folder: Path) -> None:
        self._options = options
        self._servers = servers
        self._folder = folder
        self._kept = options.out / ".pipeline"
        self.heads = self._kept / "heads"
        self._log = self._kept / "runs.jsonl"
        self._kept.mkdir(parents=True, exist_ok=True)
        if not options.resume:
            self._log.unlink(missing_ok=True)
        lines = self._log.read_bytes().splitlines() if self._log.exists() else []
        self.runs = [msgspec.json.decode(line, type=Run) for line in lines]
        self.failed: list[str] = []

    def run(self) -> None:
        """All repetitions of all systems."""
        python = environment.python()
        heads.prepare(self.heads)
        pictures = heads.served_pictures()
        real = Load(heads.MODEL, pictures, "image/webp")
        labels = heads.full_labels(real)
        nothing = [
            Load(NOTHING, tuple(random.Random(0).randbytes(size) for _ in range(16)), "image/jpeg") for size in SIZES
        ]
        for repetition in range(self._options.repetitions):
            for exits in ("closed", "open"):
                self._bare(real, exits, repetition)
            # each time another one first, so that what else the machine does meets all alike
            for system in _turned(with_model(python), repetition):
                self._measure(system, real, repetition, labels)
            for load in nothing:
                for system in _turned(with_nothing(python), repetition):
                    self._measure(system, load, repetition, None)

    def _bare(self, load: Load, exits: Exits, repetition: int) -> None:
        name = f"decoding and engine alone, exits {exits}"
        if not self._wanted(name, load, repetition):
            return
        known = self._known(name, load) or _BARE_PER_S
        measured = bare.measure(load, self.heads, exits, frames_for(self._options.seconds, known, WHOLE))
        self._keep(
            Run(
                system=name, delivery="none", batch=BATCHED, model=_name(load), frame_bytes=load.frame_bytes,
                repetition=repetition, **msgspec.structs.asdict(measured),
            )
        )  # fmt: skip

    def _measure(self, system: System, load: Load, repetition: int, labels: Sequence[int] | None) -> None:
        if not self._wanted(system.key, load, repetition):
            return
        try:
            self._keep(self._one(system, load, repetition, labels))
        except (
            KafkaException,
            RuntimeError,
            TimeoutError,
            ValueError,
        ) as error:  # the others go on; the exit code tells
            self.failed.append(f"{system.key}: {error}")
            print(f"FAILED {self.failed[-1]}", file=sys.stderr)

    def _one(self, system: System, load: Load, repetition: int, labels: Sequence[int] | None) -> Run:
        seconds = self._options.seconds
        known = self._known(system.key, load) or expected_per_s(system.expected_per_s, load.frame_bytes)
        frames = frames_for(seconds, known, WHOLE)
        label = None if labels is None else lambda number: labels[number % len(labels)]
        with Session(system, load, self._servers, self._folder, self.heads) as session:
            session.publish(frames)
            session.start()
            drained = session.drain(frames, seconds, label)
            kept = None
            if drained.finished:
                kept = session.keep_up(latency_rate(drained.frames_per_s, load.frame_bytes), self._options.latency_s)
        if drained.agreement is not None and "open" not in system.name and drained.agreement < _LEAST_AGREEMENT:
            raise RuntimeError(f"only {drained.agreement:.2%} of the labels are the full model's")
        return Run(
            system=system.name, delivery=system.delivery, batch=system.batch, model=_name(load),
            frame_bytes=load.frame_bytes, repetition=repetition, frames=drained.frames,
            frames_per_s=drained.frames_per_s, cpu_ms_per_frame=drained.cpu_ms_per_frame,
            memory_mb=drained.memory_mb, agreement=drained.agreement, latency_per_s=kept.per_s if kept else None,
            mean_ms=kept.mean_ms if kept else None, p99_ms=kept.p99_ms if kept else None,
        )  # fmt: skip

    def _wanted(self, key: str, load: Load, repetition: int) -> bool:
        if not re.search(self._options.only, f"{key} | {load.frame_bytes} bytes"):
            return False
        return not any(run.repetition == repetition for run in self._of(key, load))

    def _of(self, key: str, load: Load) -> Iterator[Run]:
        for run in self.runs:
            own = run.system if run.delivery == "none" else f"{run.system} | {run.delivery} | {run.batch}"
            if own == key and (run.model, run.frame_bytes) == (_name(load), load.frame_bytes):
                yield run

    def _known(self, key: str, load: Load) -> float | None:
        rates = [run.frames_per_s for run in self._of(key, load)]
        return rates[-1] if rates else None

    def _keep(self, run: Run) -> None:
        self.runs.append(run)
        with self._log.open("ab") as file:
            file.write(msgspec.json.encode(run) + b"\n")
        p99 = "" if run.p99_ms is None else f", p99 {run.p99_ms:,.0f} ms at {run.latency_per_s:,.0f}/s"
        print(
            f"{time.strftime('%H:%M:%S')} {run.repetition + 1}/{self._options.repetitions} {run.system}, {run.delivery}"
            f", {run.batch}, {run.model}, {run.frame_bytes:,} B: {run.frames_per_s:,.0f}/s, "
            f"{run.cpu_ms_per_frame:.3f} ms CPU{p99}",
            file=sys.stderr,
        )


def latency_rate(frames_per_s: float, frame_bytes: int) -> float:
    """Half of what a system can do, but no more than publisher and reader can beside it.

    >>> latency_rate(1_000, 600), latency_rate(200_000, 3_000), latency_rate(8_000, 100_000)
    (500.0, 10000, 500.0)
    """
    return min(frames_per_s / 2, _MOST_FRAMES_PER_S, _MOST_BYTES_PER_S / frame_bytes)


def _turned(systems: list[System], by: int) -> list[System]:
    by %= len(systems)
    return systems[by:] + systems[:by]


def _name(load: Load) -> str:
    return load.model if load.model == NOTHING else Path(load.model.partition(":")[0]).stem.replace("_", "-")


@contextmanager
def broker() -> Iterator[tuple[str, Path]]:
    """A broker's address and a folder for this run: a node of KAFKA_HOME's, or KAFKA_BOOTSTRAP_SERVERS."""
    # As Ctrl-C does: a broker that is not stopped would stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="layercache-pipeline-") as name:
        folder = Path(name)
        if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
            yield servers, folder
        elif home := os.environ.get("KAFKA_HOME"):
            (folder / "kafka").mkdir()
            # Topics are made and deleted for every run, and some are gigabytes.
            quick = {"log.segment.delete.delay.ms": 500}
            with KafkaNode(Path(home), folder / "kafka", properties=quick) as node:
                yield node.bootstrap_servers, folder
        else:
            sys.exit("set KAFKA_HOME to an unpacked distribution of Apache Kafka, or KAFKA_BOOTSTRAP_SERVERS")


def main() -> int:
    """Runs everything that was asked for; 1 where a system failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once, and shorter: to see that it runs")
    parser.add_argument("--repetitions", type=int, help="3")
    parser.add_argument("--seconds", type=float, help="that draining a backlog takes; 3")
    parser.add_argument("--latency-s", type=float, help="that latency is measured for; 2")
    parser.add_argument("--only", default="", help="a regular expression for systems, as in the runs' names")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run measured")
    parser.add_argument("--out", type=Path, default=_OUT)
    options = parser.parse_args()
    quick = (1, 1.5, 1.5) if options.quick else (3, 3.0, 2.0)
    options.repetitions = options.repetitions or quick[0]
    options.seconds, options.latency_s = options.seconds or quick[1], options.latency_s or quick[2]
    interrupted = False
    with broker() as (servers, folder):
        benchmark = Benchmark(options, servers, folder)
        try:
            benchmark.run()
        except KeyboardInterrupt:
            interrupted = True
    if benchmark.runs:
        setting = report.Setting(
            versions=environment.versions(), partitions=PARTITIONS, seconds=options.seconds,
            command=report.made_by("bench-pipeline"),
        )  # fmt: skip
        report.write(rows(benchmark.runs), setting, options.out)
    for line in benchmark.failed:
        print(f"FAILED {line}", file=sys.stderr)
    return 130 if interrupted else int(bool(benchmark.failed))


if __name__ == "__main__":
    sys.exit(main())
