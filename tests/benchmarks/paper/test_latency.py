"""Timing models in turns."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.paper.latency import compare, race


def test_every_runner_meets_every_whole_batch_equally_often() -> None:
    met: dict[str, list[int]] = {"a": [], "b": []}

    def runner(name: str) -> Callable[[Tensor], object]:
        def run(frames: Tensor) -> None:
            met[name].append(int(frames[0]))

        return run

    times = race({name: runner(name) for name in met}, torch.arange(10), batch=4, repeats=2)
    assert met["a"] == met["b"] == [0, 0, 0, 0, 4, 0, 4]  # three to warm up, then two whole batches twice
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_a_batch_counts_as_long_as_its_fastest_run_took() -> None:
    now = 0.0
    runs = iter([9.0, 9.0, 9.0, 0.030, 0.005])

    def run(frames: Tensor) -> None:
        nonlocal now
        now += next(runs)

    assert race({"a": run}, torch.zeros(4), batch=4, repeats=2, clock=lambda: now)["a"] == pytest.approx([5.0])


def test_savings_are_shares_of_the_plain_models_mean_and_tail() -> None:
    times = np.array([1.0] * 50 + [12.0] * 50)
    latency = compare(times, np.full(100, 10.0), batch=1)
    assert latency.mean_saved == pytest.approx(0.35)
    assert latency.p99_saved == pytest.approx(-0.2)
    assert latency.throughput_ratio == pytest.approx(10 / 6.5)
