"""From one run's record to the published rows, the table, and the run that goes on where it was stopped."""

from pathlib import Path

import pytest

from benchmarks.paper import __main__ as paper
from benchmarks.paper.latency import Latency
from benchmarks.paper.records import Chosen, Record, publish, read, write
from benchmarks.paper.report import table
from benchmarks.paper.rows import Point

CLOSED = Point(0.0, 0.0, 0.889, {}, (None, None))


def record(seed: int, saved: float, method: str = "paper", backbone: str = "resnet18") -> Record:
    point = Point(saved, 0.01, 0.88, {"layer1": saved / 2}, (0.9, None))
    latency = tuple(Latency(batch, 5.0, 6.0, saved / 2, 0.1, 1.5) for batch in (1, 32))
    plain = tuple(Latency(batch, 10.0, 11.0, 0.0, 0.0, 1.0) for batch in (1, 32))
    rows = (Chosen("disagreement 1%", point, latency),)
    return Record("cifar10", backbone, method, seed, 4000, 4000, 0.889, plain, rows, (CLOSED, point), 1.0)


def test_rows_are_means_over_seeds_with_least_and_most() -> None:
    rows = publish([record(1, 0.2), record(2, 0.4)])
    mine = [row for row in rows if row.method == "paper"]
    assert [row.batch for row in mine] == [1, 32]
    assert mine[0].flops_saved == pytest.approx(0.3)
    assert mine[0].mean_latency_saved == pytest.approx(0.15)
    assert mine[0].spread["flops_saved"] == (0.2, 0.4)
    assert mine[0].hit_rates["layer1"] == pytest.approx(0.15)
    assert mine[0].seeds == (1, 2)


def test_the_full_model_comes_first_once_per_batch_size_and_counts_each_seed_once() -> None:
    rows = publish([record(1, 0.2), record(2, 0.4), record(1, 0.5, "layercache"), record(2, 0.7, "layercache")])
    assert [row.method for row in rows] == ["full"] * 2 + ["paper"] * 2 + ["layercache"] * 2
    assert rows[0].seeds == (1, 2)
    assert (rows[0].flops_saved, rows[0].throughput_ratio, rows[0].accuracy) == (0.0, 1.0, 0.889)


def compiled(seed: int, certified: bool = True) -> Record:
    """What the plain runtimes and ours took; PyTorch 10 ms a batch."""

    def timed(ms: float) -> tuple[Latency, ...]:
        return tuple(Latency(batch, ms, ms, 1 - ms / 10, 1 - ms / 10, 10 / ms) for batch in (1, 32))

    same, other = (Point(0.0, differs, 0.889, {}, ()) for differs in (0.0, 0.006))
    served = Point(0.3, 0.004, 0.888, {"relu": 0.4, "int8": 0.58}, (0.9, 0.5))
    rows = (Chosen("certified 1%, compiled", served, timed(2.0), 0.0098),) if certified else ()
    runtimes = (Chosen("torch", same, timed(10.0)), Chosen("openvino int8", other, timed(2.5)))
    return Record("cifar10", "resnet18", "compiled", seed, 4000, 4000, 0.889, timed(10.0), rows, (), 1.0, runtimes)


def test_plain_runtimes_are_methods_of_their_own_and_ours_stands_beside_them() -> None:
    rows = publish([record(1, 0.2), compiled(1), compiled(2, certified=False)])
    assert [row.method for row in rows if row.batch == 32] == ["full", "paper", "torch", "openvino int8", "layercache"]
    assert [row.is_compiled for row in rows if row.batch == 32] == [False, False, True, True, True]
    torch, int8, layercache = (row for row in rows if row.batch == 32 and row.is_compiled)
    assert (torch.throughput_ratio, torch.ratio_to_int8) == (1.0, 0.25)
    assert (int8.criterion, int8.throughput_ratio, int8.disagreement) == ("every frame", 4.0, 0.006)
    assert (int8.ratio_to_int8, int8.upper_bound) == (1.0, None)
    assert (layercache.criterion, layercache.throughput_ratio, layercache.ratio_to_int8) == (
        "certified 1%, compiled", 5.0, 1.25,
    )  # fmt: skip
    assert (layercache.upper_bound, layercache.seeds, torch.seeds) == (0.0098, (1,), (1, 2))


def test_compiled_rows_have_a_table_of_their_own() -> None:
    text = table(publish([record(1, 0.2), compiled(1)]))
    assert "### ResNet-18, CIFAR-10, beside plain runtimes" in text
    assert "| torch | 32 | 0.31 | 1.00× | 0.25× |  | 0.00% |  | 88.9% |" in text
    line = "| layercache, certified 1% | 32 | 0.06 | 5.00× | 1.25× | relu 40.0%, int8 58.0% | 0.40% | 0.98% | 88.8% |"
    assert line in text
    assert "FLOPs saved" not in table(publish([compiled(1)])).partition("## ResNet-18")[2]


def test_a_row_without_spread_shows_none() -> None:
    text = table(publish([record(3, 0.25)]))
    assert "| paper, disagreement 1% | 32 | 25.0% | 12.5% | 10.0% | 1.50× | layer1 12% | 1.00% | 88.0% |" in text
    assert "25.0% [" not in text
    assert "20.0% [10.0%, 30.0%]" in table(publish([record(1, 0.1), record(2, 0.3)]))


def test_a_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "work" / "record.json"
    assert read(path) is None
    write(path, record(1, 0.2))
    assert read(path) == record(1, 0.2)
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = paper.RunPlan(("resnet18",), ("paper",), (1, 2), parts=True, quick=False, data=None, work=tmp_path)
    write(plan.path("resnet18", "paper", 1), record(1, 0.2))
    ran: list[tuple[int, int | None]] = []

    def run(bench: paper.Bench, name: str, seed: int, frames: int | None) -> Record:
        ran.append((seed, frames))
        return record(seed, 0.3)

    monkeypatch.setattr(paper.Bench, "run", run)
    assert [(r.seed, r.rows[0].point.flops_saved) for r in paper.run(plan)] == [(1, 0.2), *[(1, 0.3)] * 3, (2, 0.3)]
    assert ran == [(1, 500), (1, 1000), (1, 2000), (2, None)]
    assert len(paper.run(plan)) == 5
    assert len(ran) == 4


def test_a_report_holds_table_rows_and_plots(tmp_path: Path) -> None:
    whole = [record(seed, saved, method) for method, saved in (("paper", 0.2), ("layercache", 0.5)) for seed in (1, 2)]
    paper.report(whole, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["paper-savings.png", "paper.json", "paper.md"]


def test_a_report_of_compiled_rows_alone_has_no_plot(tmp_path: Path) -> None:
    paper.report([compiled(1)], tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["paper.json", "paper.md"]


def test_compiled_rows_follow_no_smaller_parts(tmp_path: Path) -> None:
    plan = paper.RunPlan(("resnet18",), ("compiled",), (1, 2), parts=True, quick=False, data=None, work=tmp_path)
    assert [(method, seed, frames) for method, seed, frames, _ in plan.runs("resnet18")] == [
        ("compiled", 1, None),
        ("compiled", 2, None),
    ]
