"""What a module costs: counted FLOPs and measured time."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import gammaln, xlog1py, xlogy
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.cutting.shapes import on_shapes


@dataclass(frozen=True)
class CutCost:
    """The cost of the model up to a cut, as shares of the whole model's.

    ``shape`` is the value's shape at the cut, without the batch; ``proposed``: the trainer tries heads here.
    """

    name: str
    shape: tuple[int, ...]
    flops_share: float
    time_share: float
    proposed: bool


@dataclass(frozen=True)
class CostTable:
    """The table of ``layercache cuts``: FLOPs and milliseconds of a frame, and every cut in the model's order."""

    model: str
    fingerprint: str
    flops: int
    frame_ms: float
    cuts: tuple[CutCost, ...]


def cost_table(traced: TracedModel, batch: int = 8, repeats: int = 5) -> CostTable:
    """Measures every piece of the model on batches of ``batch`` frames, as the worker runs it (channels last).

    Each time is the fastest of ``repeats``.

    >>> table = cost_table(traced, batch=2, repeats=1)
    >>> table.flops, [cut.name for cut in table.cuts if cut.proposed]
    (228128768, ['relu', 'layer1', 'layer2', 'layer3'])
    """
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

    >>> count_flops(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 16, 16)) == 2 * (3 * 3 * 3) * 8 * 16 * 16
    True
    """
    counted = 0

    def call(frames: Tensor) -> None:
        nonlocal counted
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(frames)
        counted = int(counter.get_total_flops())

    on_shapes(call, example)
    return counted


def fair_clock(device: torch.device) -> Callable[[], float]:
    """Seconds of this thread's processor time if this thread does all the work, else wall time.

    A worker and a trainer share a machine: wall time would charge the model for everything else that runs there.

    >>> clock = fair_clock(torch.device("cpu"))
    >>> began = clock()
    >>> sum(range(100_000)), clock() - began > 0
    (4999950000, True)
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def measure_ms(module: nn.Module, example: Tensor, repeats: int = 20) -> float:
    """Milliseconds of one call: the fastest of ``repeats``, since other processes can only make a call slower.

    >>> measure_ms(nn.Linear(256, 256), torch.zeros(64, 256), repeats=3) > 0
    True
    """
    return chain_ms([module], example, repeats)[0]


def chain_ms(modules: Sequence[Callable[[Tensor], Tensor]], example: Tensor, repeats: int = 20) -> list[float]:
    """Milliseconds of each of several modules that feed one another: the fastest of ``repeats``, after a warm-up.

    Measured by :func:`fair_clock`; ``example`` is the first module's input.

    >>> times = chain_ms([nn.Linear(256, 256), nn.Linear(256, 10)], torch.zeros(64, 256), repeats=3)
    >>> len(times), min(times) > 0
    (2, True)
    """
    clock = fair_clock(example.device)
    rounds: list[list[float]] = []
    with torch.inference_mode():
        for _ in range(max(1, repeats) + 1):
            value, times = example, []
            for module in modules:
                _synchronise(example.device)
                began = clock()
                value = module(value)
                _synchronise(example.device)
                times.append((clock() - began) * 1000)
            rounds.append(times)
    return [min(times) for times in zip(*rounds[1:], strict=True)]


class TimeTable:
    """Milliseconds of a model's pieces by the number of frames in a micro-batch.

    ``measured`` maps each piece to numbers of frames (at least 1), and these to milliseconds for all of them, as
    :func:`measure_times` and :meth:`Engine.segment_ms` return it. Between measured sizes time is linear, for no frames
    it is 0, beyond the largest batch it is proportional. More frames never take less time: if measurements say
    otherwise, the closest times that never fall replace them (isotonic regression; Barlow, Brunk 1972). Raises
    ``ValueError`` for a piece without times, or with impossible ones.

    >>> table = TimeTable({"to the end": {1: 10.0, 8: 24.0, 4: 16.0}})
    >>> table.ms("to the end", [0, 0.5, 1, 6, 16]).tolist()
    [0.0, 5.0, 10.0, 20.0, 48.0]
    """

    def __init__(self, measured: Mapping[str, Mapping[int, float]]) -> None:
        from scipy.optimize import isotonic_regression  # imported here, so that workers start without it

        self._points: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}
        for piece, times in measured.items():
            frames = np.array(sorted(times), np.float64)
            spent = np.array([times[size] for size in sorted(times)], np.float64)
            if not times or frames[0] < 1 or not np.isfinite(spent).all() or spent.min() < 0:
                raise ValueError(f"{piece}: times must be milliseconds for at least one number of frames, not {times}")
            self._points[piece] = (np.append(0.0, frames), np.append(0.0, isotonic_regression(spent).x))

    @property
    def pieces(self) -> tuple[str, ...]:
        """The pieces, in the order of ``measured``."""
        return tuple(self._points)

    def ms(self, piece: str, frames: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Milliseconds for each of several numbers of frames. Raises ``KeyError`` for an unknown piece."""
        sizes, spent = self._points[piece]
        wanted = np.asarray(frames, np.float64)
        within: npt.NDArray[np.float64] = np.interp(wanted, sizes, spent)
        spread: npt.NDArray[np.float64] = within * np.maximum(1.0, wanted / sizes[-1])
        return spread


def expected_ms(table: TimeTable, reached: Mapping[str, float], batch: int) -> float:
    """Expected milliseconds of a micro-batch of ``batch`` frames that shrinks on its way through the pieces.

    ``reached`` maps every piece to the share of frames that get there. Frames leave independently of each other, so the
    number that gets to a piece is binomial; a piece that no frame reaches is not run.

    >>> table = TimeTable({"to a": {1: 2.0, 8: 8.0}, "head a": {1: 0.5, 8: 1.0}, "to the end": {1: 4.0, 8: 18.0}})
    >>> expected_ms(table, {"to a": 1.0, "head a": 1.0, "to the end": 0.0}, batch=8)
    9.0
    >>> expected_ms(table, {"to a": 1.0, "head a": 1.0, "to the end": 0.25}, batch=1)
    3.5
    """
    sizes = np.arange(batch + 1)
    ways = gammaln(batch + 1) - gammaln(sizes + 1) - gammaln(batch - sizes + 1)
    total = 0.0
    for piece, share in reached.items():
        chances = np.exp(ways + xlogy(sizes, share) + xlog1py(batch - sizes, -share))
        total += float(chances @ table.ms(piece, sizes))
    return total


class _RunHeadOnPassing(nn.Module):
    """Runs a head on its input and returns the input, so that a chain of modules can be timed with heads."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        self.head(x)
        return x


def measure_times(
    segments: Mapping[str, Callable[[Tensor], Tensor]],
    heads: Mapping[str, nn.Module],
    example: Callable[[int], Tensor],
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    repeats: int = 7,
    after_batch: Callable[[], None] = lambda: None,
) -> dict[str, dict[int, float]]:
    """Measures what :class:`TimeTable` takes: the fastest of ``repeats``. Calls ``after_batch`` after each batch size.

    ``segments`` are in the model's order, by name. After the segment that leads to cut ``c``, named ``to c``, runs that
    cut's head, named ``head c``, if ``heads`` has one. ``example`` makes a batch of normalised frames.

    >>> first, last = traced.segments(["layer2"])
    >>> pieces = {"to layer2": first, "to the end": last}
    >>> head = {"layer2": heads.modules[0]}
    >>> times = measure_times(pieces, head, traced.classifier.example, batches=[1, 2], repeats=1)
    >>> {piece: list(by_batch) for piece, by_batch in times.items()}
    {'to layer2': [1, 2], 'head layer2': [1, 2], 'to the end': [1, 2]}
    """
    pieces: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, segment in segments.items():
        pieces[name] = segment
        cut = name.removeprefix("to ")
        if cut in heads:
            pieces[f"head {cut}"] = _RunHeadOnPassing(heads[cut])
    measured: dict[str, dict[int, float]] = {piece: {} for piece in pieces}
    for batch in batches:
        frames = example(batch).contiguous(memory_format=torch.channels_last)
        for piece, ms in zip(pieces, chain_ms(list(pieces.values()), frames, repeats), strict=True):
            measured[piece][batch] = ms
        after_batch()
    return measured


def _synchronise(device: torch.device) -> None:
    """Waits for an accelerator, whose calls return before the work is done."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)
