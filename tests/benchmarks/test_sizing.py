"""The plan follows its formulas, and the page shows what was measured."""

import json
from pathlib import Path

import msgspec
import pytest

from benchmarks.sizing import ASSUMED_PLUMBING_MS, COSTS, PAGE, Costs, Site, page, plan, plumbing_ms, render

MEASURED = Costs(
    machine="here", decode_ms={"s": 4.0}, model_ms={"m": 10.0}, frame_bytes={"s": 100_000}, plumbing_ms=0.0
)
SITE = Site(cameras=1_000, per_s=1.0, picture="s", model="m", load=0.5)


def changed(**changes: object) -> Site:
    return msgspec.structs.replace(SITE, **changes)


def test_the_model_bounds_a_worker_until_exits_make_decoding_the_bound() -> None:
    assert plan(SITE, MEASURED).worker_per_s == 100
    assert plan(changed(saved=0.5), MEASURED).worker_per_s == 200
    assert plan(changed(saved=0.9), MEASURED).worker_per_s == 500  # two threads of 4 ms
    assert plan(changed(saved=0.9, decode_threads=8), MEASURED).worker_per_s == pytest.approx(1_000)


def test_what_is_needed_grows_with_the_frames() -> None:
    one, five = plan(SITE, MEASURED), plan(changed(per_s=5.0), MEASURED)
    assert (one.workers, five.workers) == (20, 100)
    assert (one.cores, five.cores) == (28, 140)
    assert (one.in_mbit_s, one.replication_mbit_s, five.in_mbit_s) == (800, 1_600, 4_000)
    assert one.frames_gb == pytest.approx(1_000 * 100_000 * 6 * 3_600 * 3 / 1e9)
    assert all(found.partitions >= 2 * found.workers and found.partitions % 12 == 0 for found in (one, five))


def test_near_copies_of_one_camera_do_not_speed_up_a_certificate() -> None:
    assert plan(SITE, MEASURED).certificate_s == plan(changed(per_s=50.0), MEASURED).certificate_s == 10
    assert plan(changed(cameras=1), MEASURED).certificate_s == 10_000


def test_plumbing_is_the_pipeline_benchmarks_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.json"
    assert plumbing_ms(file) == ASSUMED_PLUMBING_MS
    own = {"system": "Layercache", "model": "nothing", "frame_bytes": 3_000, "cpu_ms_per_frame": 0.02}
    larger = own | {"frame_bytes": 100_000, "cpu_ms_per_frame": 0.07}
    other = larger | {"system": "another", "cpu_ms_per_frame": 3.0}
    file.write_text(json.dumps([own, larger, other]))
    assert plumbing_ms(file) == 0.07


def test_the_page_shows_what_was_measured() -> None:
    costs = msgspec.json.decode(COSTS.read_bytes(), type=Costs)
    text = PAGE.read_text()
    assert text == page(text, render(costs))
