"""The pipeline benchmark's arithmetic, and what it reads from the process table."""

import os
import subprocess
import sys
from subprocess import PIPE

import pytest

from benchmarks.pipeline.numbers import Run, Sample, cpu_ms_per_frame, latencies, rate_per_s, rows
from benchmarks.pipeline.peers.job import frame_id
from benchmarks.pipeline.process import Usage, usage


def run(system: str = "ours", repetition: int = 0, **changed: object) -> Run:
    values: dict[str, object] = {
        "system": system, "delivery": "exactly once", "batch": "per frame", "model": "nothing", "frame_bytes": 3_000,
        "repetition": repetition, "frames": 100, "frames_per_s": 100.0, "cpu_ms_per_frame": 1.0, "memory_mb": 50.0,
    }  # fmt: skip
    return Run(**(values | changed))  # type: ignore[arg-type]


def sample(written: int, cpu_s: float) -> Sample:
    return Sample(written, Usage(at=0.0, cpu_s=cpu_s, memory_mb=1.0))


def test_rows_are_medians_in_the_order_of_first_runs() -> None:
    runs = [
        run("slow", 0, frames_per_s=10.0, p99_ms=5.0),
        run("fast", 0, frames_per_s=90.0, p99_ms=1.0),
        run("fast", 1, frames_per_s=70.0, p99_ms=3.0),
        run("slow", 1, frames_per_s=30.0, p99_ms=None),
        run("fast", 2, frames_per_s=110.0, p99_ms=2.0),
    ]
    slow, fast = rows(runs)
    assert (slow.system, slow.repetitions, slow.frames_per_s, slow.p99_ms) == ("slow", 2, 20.0, 5.0)
    assert (fast.system, fast.repetitions, fast.frames_per_s, fast.p99_ms) == ("fast", 3, 90.0, 2.0)
    assert (fast.least_frames_per_s, fast.most_frames_per_s) == (70.0, 110.0)
    assert fast.agreement is None


def test_a_system_has_a_row_for_each_load_delivery_and_batch() -> None:
    runs = [run(), run(frame_bytes=100_000), run(delivery="at least once"), run(batch="batches of 32"), run()]
    found = rows(runs)
    assert [row.repetitions for row in found] == [2, 1, 1, 1]


def test_a_rate_does_not_count_what_was_made_before_its_first_instant() -> None:
    assert rate_per_s([*[1_000] * 500, *[2_000] * 250, *[3_000] * 250]) == 250.0
    with pytest.raises(ValueError, match="within a millisecond"):
        rate_per_s([1_000, 1_000])


def test_processor_time_counts_only_while_records_come() -> None:
    samples = [sample(0, 5.0), sample(100, 6.0), sample(300, 6.5), sample(500, 7.0), sample(500, 9.0)]
    assert cpu_ms_per_frame(samples) == 2.5
    with pytest.raises(ValueError, match="between two samples"):
        cpu_ms_per_frame([sample(0, 0.0), sample(100, 1.0), sample(100, 2.0)])


def test_latencies_are_mean_and_99th_percentile() -> None:
    mean_ms, p99_ms = latencies([1.0] * 99 + [101.0])
    assert mean_ms == 2.0
    assert 1.0 < p99_ms < 101.0


def test_a_process_and_its_children_are_counted_together() -> None:
    alone = usage(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=PIPE, stdout=PIPE)
    try:
        assert child.stdout and child.stdout.readline()
        of_child, together = usage(child.pid), usage(os.getpid())
        assert of_child.memory_mb > 1
        assert together.memory_mb >= alone.memory_mb + of_child.memory_mb
        assert together.cpu_s >= alone.cpu_s
    finally:
        child.communicate(b"\n")


def test_a_frame_without_an_id_has_an_empty_one() -> None:
    assert frame_id([("content-type", b"image/jpeg"), ("ce_id", b"17-5")]) == "17-5"
    assert frame_id(None) == ""
    assert frame_id([("ce_id", None)]) == ""
