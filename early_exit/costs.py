"""What a module costs: operations, counted, and time, measured."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils.flop_counter import FlopCounterMode


def count_flops(module: nn.Module, example: Tensor) -> int:
    """FLOPs of one call, by ``torch.utils.flop_counter``: a multiplication and an addition count as two.

    Matrix products, convolutions and attention count, element-wise operations do not.
    """
    counted = 0

    def call(frames: Tensor) -> None:
        nonlocal counted
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(frames)
        counted = int(counter.get_total_flops())

    on_shapes(call, example)
    return counted


def on_shapes(call: Callable[[Tensor], Any], example: Tensor) -> None:
    """Calls ``call`` with a stand-in for ``example`` that has a shape but no values, which costs next to nothing.

    Where the values are asked for, calls again with ``example`` itself.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is one that the FLOP counter does not know
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            call(fake.from_tensor(example))
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException):
        call(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def measure_ms(module: nn.Module, example: Tensor, repeats: int = 20) -> float:
    """Milliseconds of one call: the median of ``repeats``, after one call to warm up."""
    times = []
    with torch.inference_mode():
        module(example)
        for _ in range(max(1, repeats)):
            _synchronise(example.device)
            start = time.perf_counter()
            module(example)
            _synchronise(example.device)
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def _synchronise(device: torch.device) -> None:
    """Waits for an accelerator, whose calls return before the work is done."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)
