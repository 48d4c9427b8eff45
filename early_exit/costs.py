"""What a module costs: operations, counted, and time, measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from early_exit.cuts import TracedModel
from early_exit.shapes import on_shapes


@dataclass(frozen=True)
class CutCost:
    """What was spent before a cut, as shares of the whole model's; ``shape`` is the value's there, per frame."""

    name: str
    shape: tuple[int, ...]
    flops_share: float
    time_share: float
    proposed: bool


@dataclass(frozen=True)
class CostTable:
    """What ``layercache cuts`` shows: FLOPs and milliseconds of a frame, and every cut in the model's order."""

    model: str
    fingerprint: str
    flops: int
    frame_ms: float
    cuts: tuple[CutCost, ...]


def cost_table(traced: TracedModel, batch: int = 8, repeats: int = 5) -> CostTable:
    """Measures every piece of the model on batches of ``batch`` frames, as the worker runs it (channels last)."""
    names = [cut.name for cut in traced.cuts]
    segments = traced.segments(names)
    for segment in segments:
        segment.to(memory_format=torch.channels_last)
    frames = traced.classifier.example(batch).contiguous(memory_format=torch.channels_last)
    *spent, total = accumulate(chain_ms(segments, frames, repeats))
    proposed = {cut.name for cut in traced.proposed}
    return CostTable(
        model=traced.classifier.name,
        fingerprint=traced.classifier.fingerprint,
        flops=traced.flops,
        frame_ms=total / batch,
        cuts=tuple(
            CutCost(cut.name, cut.shape, cut.flops_share, ms / total, cut.name in proposed)
            for cut, ms in zip(traced.cuts, spent, strict=True)
        ),
    )


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


def measure_ms(module: nn.Module, example: Tensor, repeats: int = 20) -> float:
    """Milliseconds of one call: the fastest of ``repeats``, since whatever else runs here only ever makes it slower."""
    return chain_ms([module], example, repeats)[0]


def chain_ms(modules: Sequence[nn.Module], example: Tensor, repeats: int = 20) -> list[float]:
    """Milliseconds of each of several modules that feed one another: the fastest of ``repeats``, after a warm-up."""
    rounds: list[list[float]] = []
    with torch.inference_mode():
        for _ in range(max(1, repeats) + 1):
            value, times = example, []
            for module in modules:
                _synchronise(example.device)
                began = time.perf_counter()
                value = module(value)
                _synchronise(example.device)
                times.append((time.perf_counter() - began) * 1000)
            rounds.append(times)
    return [min(times) for times in zip(*rounds[1:], strict=True)]


def _synchronise(device: torch.device) -> None:
    """Waits for an accelerator, whose calls return before the work is done."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)
