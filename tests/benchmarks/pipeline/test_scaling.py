"""What is made of several workers' runs."""

from benchmarks.scaling import Lag, Scaled, medians, page


def scaled(frames_per_s: float, workers: int = 1, most_frames: int = 10) -> Scaled:
    lags = tuple(Lag(per_s=share, mean_ms=100.0, p99_ms=200.0, most_frames=most_frames) for share in (350.0, 840.0))
    return Scaled(
        workers=workers, partitions=4, repetitions=1, frames_per_s=frames_per_s, cpu_ms_per_frame=1.0, memory_mb=800.0,
        lags=lags,
    )  # fmt: skip


def test_repetitions_become_medians() -> None:
    found = medians([scaled(600.0, most_frames=10), scaled(900.0, most_frames=90), scaled(700.0, most_frames=20)])
    assert (found.repetitions, found.frames_per_s) == (3, 700.0)
    assert [lag.most_frames for lag in found.lags] == [20, 20]


def test_the_page_compares_with_the_first_row() -> None:
    lines = page([scaled(700.0), scaled(1_190.0, workers=2)], "make bench-scaling").splitlines()
    assert "| 2 | 4 | 1,190 | 1.70 × | 1.00 | 10 frames | 100, 200 ms | 10 frames | 100, 200 ms | 800 MB |" in lines
    header, rule = lines[-4], lines[-3]
    assert header.count("|") == rule.count("|") == lines[-1].count("|")
