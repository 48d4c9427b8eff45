"""Wall time of early-exit models beside the plain model's, on the same frames, in turns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.early_exit.cutting.costs import fair_clock
from layercache.early_exit.engine import Engine
from layercache.early_exit.model.loading import Classifier

Milliseconds = npt.NDArray[np.float64]
PLAIN = "plain"


class Latency(msgspec.Struct, frozen=True):
    """How long the frames of one setting took, in batches of ``batch``; a frame is answered when its batch is."""

    batch: int
    mean_ms: float
    p99_ms: float
    mean_saved: float
    """Share of the plain model's mean."""
    p99_saved: float
    throughput_ratio: float
    """Frames per second over the plain model's."""


@contextmanager
def one_thread() -> Iterator[None]:
    """As the worker runs, and what is compiled meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def plain(classifier: Classifier) -> Callable[[Tensor], object]:
    """The model as it is served without Layercache: uint8 frames to labels, channels last, in inference mode."""
    module = classifier.module.to(memory_format=torch.channels_last)

    def run(frames: Tensor) -> object:
        with torch.inference_mode():
            inputs = classifier.preprocessing.normalise(frames, classifier.dtype)
            score, label = module(inputs.contiguous(memory_format=torch.channels_last)).float().softmax(1).max(1)
            return score.numpy(), label.numpy()

    return run


def serving(engine: Engine) -> Callable[[Tensor], object]:
    """An early-exit model that audits nothing."""

    def run(frames: Tensor) -> object:
        return engine.run(frames, np.zeros(len(frames), np.bool_))

    return run


def race(
    runners: Mapping[str, Callable[[Tensor], object]],
    frames: Tensor,
    batch: int,
    repeats: int = 3,
    clock: Callable[[], float] | None = None,
) -> dict[str, Milliseconds]:
    """Milliseconds of every batch by runner: the fastest of ``repeats``.

    The runners take turns batch by batch, each time another one first, so that what else the machine does meets all
    alike; and whatever that is, it only ever makes a batch slower. By default time is the processor's where one thread
    does the work: on a busy machine a long batch is interrupted more surely than a short one.
    """
    clock = clock or fair_clock(frames.device)
    names, batches = list(runners), [part for part in frames.split(batch) if len(part) == batch]
    times = {name: np.full(len(batches), np.inf) for name in names}
    for name in names:
        for _ in range(3):
            runners[name](batches[0])
    for repeat in range(repeats):
        for index, part in enumerate(batches):
            turn = (repeat + index) % len(names)
            for name in names[turn:] + names[:turn]:
                began = clock()
                runners[name](part)
                times[name][index] = min(times[name][index], (clock() - began) * 1000)
    return times


def compare(times: Milliseconds, reference: Milliseconds, batch: int) -> Latency:
    """One runner's batches against the plain model's.

    >>> compare(np.array([5.0, 5.0]), np.array([10.0, 10.0]), batch=32).throughput_ratio
    2.0
    """
    p99, reference_p99 = (float(np.percentile(values, 99)) for values in (times, reference))
    return Latency(
        batch=batch,
        mean_ms=float(times.mean()),
        p99_ms=p99,
        mean_saved=1 - float(times.mean() / reference.mean()),
        p99_saved=1 - p99 / reference_p99,
        throughput_ratio=float(reference.mean() / times.mean()),
    )
