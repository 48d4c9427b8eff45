"""The pipeline benchmark's page."""

from pathlib import Path

import msgspec

from benchmarks.pipeline.numbers import Row
from benchmarks.pipeline.report import Setting, page, write

SETTING = Setting(versions={"bytewax": "0.21.1"}, partitions=4, seconds=4.0, command="make bench-pipeline")


def row(system: str, frames_per_s: float, **changed: object) -> Row:
    values: dict[str, object] = {
        "system": system, "delivery": "exactly once", "batch": "batches of 32", "model": "fashion-mnist",
        "frame_bytes": 600, "repetitions": 3, "frames_per_s": frames_per_s, "least_frames_per_s": frames_per_s,
        "most_frames_per_s": frames_per_s, "latency_per_s": 100.0, "mean_ms": 100.0, "p99_ms": 200.0,
        "cpu_ms_per_frame": 1.0, "memory_mb": 500.0, "agreement": 1.0,
    }  # fmt: skip
    return Row(**(values | changed))  # type: ignore[arg-type]


REAL = [
    row("decoding and engine alone, exits closed", 1_000.0, delivery="none", p99_ms=None),
    row("decoding and engine alone, exits open", 2_000.0, delivery="none", p99_ms=None),
    row("Layercache, exits closed", 960.0),
    row("Layercache, exits open", 1_872.0),
    row("Layercache, exits open", 5_000.0, delivery="at least once"),
    row("Faust", 624.0, delivery="at least once"),
]
NOTHING = [
    row("bare confluent-kafka loop", 200_000.0, model="nothing", frame_bytes=3_000),
    row("Layercache", 180_000.0, model="nothing", frame_bytes=3_000),
    row("Quix Streams", 60_000.0, model="nothing", frame_bytes=3_000),
    row("Quix Streams", 90_000.0, model="nothing", frame_bytes=3_000, delivery="at least once"),
    row("Faust", 3_000.0, model="nothing", frame_bytes=3_000, delivery="at least once"),
]


def test_the_page_compares_the_exactly_once_worker_with_the_bare_loop() -> None:
    text = page(REAL, SETTING)
    assert "Layercache does 96% of what decoding and the engine do alone" in text
    assert (
        "Open exits make it 1.95 times as fast, and the engine alone 2.00 times: Layercache keeps 95% of the gain"
        in text
    )
    assert "200 ms. The longest wait for a batch, two commit intervals and a batch's time add up to 452 ms" in text
    assert "3.00 times as many frames as the fastest other system (Faust" in text


def test_the_page_compares_plumbing_at_the_same_guarantee_where_there_is_one() -> None:
    text = page(NOTHING, SETTING)
    assert "3.00 × Quix Streams exactly once" in text
    assert "60.00 × Faust" in text
    assert "0.90 × the bare loop" in text
    assert "bytewax," not in text.partition("Layercache, exactly once:")[2]


def test_what_was_not_measured_is_a_dash() -> None:
    [line] = [line for line in page(REAL[:1], SETTING).splitlines() if line.startswith("| decoding")]
    assert line.split(" | ")[6] == "–"


def test_all_three_files_are_written(tmp_path: Path) -> None:
    write([*REAL, *NOTHING], SETTING, tmp_path)
    found = msgspec.json.decode((tmp_path / "pipeline.json").read_bytes(), type=list[Row])
    assert found == [*REAL, *NOTHING]
    assert {"system", "model", "frame_bytes", "frames_per_s", "p99_ms", "cpu_ms_per_frame"} <= set(
        Row.__struct_fields__
    )
    assert (tmp_path / "pipeline.md").read_text() == page([*REAL, *NOTHING], SETTING)
    assert (tmp_path / "pipeline.png").stat().st_size > 1_000
