"""Costs are counted and measured."""

import time

import pytest
import torch
from torch import Tensor, nn

from early_exit import cuts, models
from early_exit.costs import chain_ms, cost_table, count_flops, measure_ms
from tests.support.tiny_model import TinyModel


class Slow(nn.Module):
    """Takes at least as long as it says."""

    def __init__(self, ms: float) -> None:
        super().__init__()
        self.ms = ms

    def forward(self, x: Tensor) -> Tensor:
        until = time.perf_counter() + self.ms / 1000
        while time.perf_counter() < until:
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


def test_times_are_medians_in_milliseconds() -> None:
    assert 4.0 <= measure_ms(Slow(4.0), torch.zeros(1), repeats=3) < 400
    first, second = chain_ms([Slow(1.0), Slow(8.0)], torch.zeros(1), repeats=3)
    assert first >= 1.0
    assert second >= 8.0
    assert second > first


def test_the_table_has_every_cut_with_its_shares(tiny_model: TinyModel) -> None:
    traced = cuts.trace(models.load(tiny_model.settings))
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
