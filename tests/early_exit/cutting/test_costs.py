"""Costs are counted and measured."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.costs import (
    TimeTable,
    chain_ms,
    cost_table,
    count_flops,
    expected_ms,
    fair_clock,
    measure_ms,
    measure_times,
)
from layercache.early_exit.model import loading
from tests.support.tiny_model import TinyModel


class Slow(nn.Module):
    """Takes at least as long as it says, of the processor's time."""

    def __init__(self, ms: float) -> None:
        super().__init__()
        self.ms = ms

    def forward(self, x: Tensor) -> Tensor:
        until = time.thread_time() + self.ms / 1000
        while time.thread_time() < until:
            pass
        return x


class Deciding(nn.Module):
    """Asks for a value, which a stand-in does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y if y.sum() > 1e9 else self.fc(x)


@pytest.mark.parametrize(
    ("module", "shape", "flops"),
    [
        (nn.Linear(10, 4), (3, 10), 2 * 3 * 10 * 4),
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 16, 16), 2 * 2 * 8 * 16 * 16 * 3 * 9),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 4, 4), 2 * 8 * 16 * 9),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3).eval()), (1, 3, 8, 8), 0),
        (nn.MultiheadAttention(8, 2, batch_first=True).eval(), (1, 5, 8), 0),
        (Deciding(), (3, 10), 2 * 2 * 3 * 10 * 4),
    ],
)
def test_flops_are_two_for_each_multiplication_and_addition(
    module: nn.Module, shape: tuple[int, ...], flops: int
) -> None:
    if isinstance(module, nn.MultiheadAttention):
        flops = 2 * (4 * 5 * 8 * 8) + 2 * (2 * 5 * 5 * 8)  # four projections, two products of 2 heads
        attention = module

        class Self(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                result: Tensor = attention(x, x, x, need_weights=False)[0]
                return result

        module = Self()
    assert count_flops(module, torch.zeros(shape)) == flops


def test_counting_leaves_the_attention_kernel_as_it_was() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError):
        count_flops(nn.Linear(3, 2), torch.zeros(1, 5))
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_times_are_milliseconds() -> None:
    assert 4.0 <= measure_ms(Slow(4.0), torch.zeros(1), repeats=3) < 400
    first, second = chain_ms([Slow(1.0), Slow(8.0)], torch.zeros(1), repeats=3)
    assert first >= 1.0
    assert second >= 8.0
    assert second > first


def test_time_that_a_thread_spends_waiting_is_not_the_model_s() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        clock = fair_clock(torch.device("cpu"))
        began, wall = clock(), time.perf_counter()
        threading.Event().wait(0.2)
        assert clock() - began < 0.1 < time.perf_counter() - wall
        torch.set_num_threads(2)
        assert fair_clock(torch.device("cpu")) is time.perf_counter
    finally:
        torch.set_num_threads(threads)


def test_the_table_has_every_cut_with_its_shares(tiny_model: TinyModel) -> None:
    traced = cuts.trace(loading.load(tiny_model.settings))
    table = cost_table(traced, batch=2, repeats=3)
    assert table.flops == traced.flops
    assert table.fingerprint == traced.classifier.fingerprint
    assert [(cut.name, cut.shape, cut.flops_share) for cut in table.cuts] == [
        (cut.name, cut.shape, cut.flops_share) for cut in traced.cuts
    ]
    assert {cut.name for cut in table.cuts if cut.proposed} == {cut.name for cut in traced.proposed}
    times = [cut.time_share for cut in table.cuts]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 1
    assert table.frame_ms > 0


def test_a_time_table_is_linear_between_what_was_measured_and_proportional_beyond() -> None:
    table = TimeTable({"to a": {8: 20.0, 2: 8.0}, "to the end": {4: 4.0}})
    assert table.pieces == ("to a", "to the end")
    np.testing.assert_allclose(table.ms("to a", [0, 1, 2, 5, 8, 12]), [0, 4, 8, 14, 20, 30])
    np.testing.assert_allclose(table.ms("to the end", [0.5, 16]), [0.5, 16])


def test_more_frames_never_take_less_time() -> None:
    table = TimeTable({"to the end": {1: 3.0, 2: 9.0, 3: 5.0, 4: 7.0, 8: 12.0}})
    times = table.ms("to the end", range(20)).tolist()
    assert all(later >= earlier for earlier, later in pairwise(times))
    assert times[1:5] == [3.0, 7.0, 7.0, 7.0]  # 9, 5 and 7 are pooled: nothing is nearer to all three


@pytest.mark.parametrize("times", [{}, {0: 1.0}, {1: float("nan")}, {1: -1.0}])
def test_a_time_table_refuses_senseless_times(times: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="to the end"):
        TimeTable({"to the end": times})


def test_the_expected_time_is_that_of_batches_that_shrink_at_random() -> None:
    table = TimeTable({"to a": {1: 2.0, 16: 20.0}, "to the end": {1: 5.0, 4: 8.0, 16: 30.0}})
    left = np.random.default_rng(0).binomial(16, 0.1, 200_000)  # how many get to the end
    simulated = 20.0 + table.ms("to the end", left).mean()
    assert expected_ms(table, {"to a": 1.0, "to the end": 0.1}, batch=16) == pytest.approx(simulated, rel=2e-3)
    assert expected_ms(table, {"to a": 1.0, "to the end": 1.0}, batch=16) == pytest.approx(50.0)
    assert expected_ms(table, {"to a": 1.0, "to the end": 0.0}, batch=16) == pytest.approx(20.0)


def test_pieces_are_measured_in_their_place_with_what_really_reaches_them() -> None:
    seen: list[tuple[int, ...]] = []

    class Head(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape))
            return x.flatten(1)

    segments = {"to a": nn.Conv2d(3, 8, 3, stride=2), "to b": Slow(2.0), "to the end": nn.Flatten()}
    asked: list[int] = []
    measured = measure_times(
        segments,
        {"a": Head()},
        lambda n: torch.zeros(n, 3, 9, 9),
        (1, 4),
        repeats=2,
        after_batch=lambda: asked.append(1),
    )
    assert list(measured) == ["to a", "head a", "to b", "to the end"]
    assert [list(times) for times in measured.values()] == [[1, 4]] * 4
    assert min(measured["to b"].values()) >= 2.0
    assert set(seen) == {(1, 8, 4, 4), (4, 8, 4, 4)}
    assert len(asked) == 2
