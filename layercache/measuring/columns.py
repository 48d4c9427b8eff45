"""The stream's answers as columns, one row a frame in the order of the stream: report and chart are made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from layercache.measuring.tally import Answer

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Part = TypeVar("Part", bound="DataclassInstance")


@dataclass(frozen=True)
class Columns:
    """N answered frames; every array ``[N]``."""

    labels: Integers
    """What was answered."""
    full: Integers
    """What the full model says."""
    truth: Integers
    """What the picture shows."""
    hits: Bools
    audited: Bools
    flops_share: Floats
    time_share: Floats
    predicted_ms: Integers
    inference_ms: Floats
    """The frame's part of its micro-batch's time."""
    audit_drawn: Bools
    """Whether the frame is an audit of open exits."""
    audit_disagrees: Bools

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def differs(self) -> Bools:
        """Where the answer is not the full model's."""
        return np.not_equal(self.labels, self.full)


def collect(
    answers: Sequence[Answer], audits: Mapping[tuple[int, int], bool], full: Integers, truth: Integers
) -> Columns:
    """``answers`` in the order of the stream; ``full`` and ``truth`` hold the labels of all its frames."""
    frames = np.array([answer.frame for answer in answers], np.int64)
    positions = [(answer.partition, answer.offset) for answer in answers]
    predicted_ms = np.array([answer.predicted_ms for answer in answers], np.int64)
    batch_ms = np.array([answer.inference_ms for answer in answers], np.float64)
    # one micro-batch's frames have its times in common, and nothing else does
    _, batch, sizes = np.unique(np.stack((predicted_ms, batch_ms)), axis=1, return_inverse=True, return_counts=True)
    return Columns(
        labels=np.array([answer.label for answer in answers], np.int64),
        full=full[frames],
        truth=truth[frames],
        hits=np.array([answer.hit for answer in answers], np.bool_),
        audited=np.array([answer.audited for answer in answers], np.bool_),
        flops_share=np.array([answer.flops_share for answer in answers], np.float64),
        time_share=np.array([answer.time_share for answer in answers], np.float64),
        predicted_ms=predicted_ms,
        inference_ms=batch_ms / sizes[batch.reshape(-1)],
        audit_drawn=np.array([position in audits for position in positions], np.bool_),
        audit_disagrees=np.array([audits.get(position, False) for position in positions], np.bool_),
    )


def joined(parts: Sequence[Part]) -> Part:
    """Several dataclasses of arrays as one: each array is the parts' own, one after the other.

    Raises ``ValueError`` where there are no parts.
    """
    if not parts:
        raise ValueError("there are no frames to put together")
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def moving(values: Floats | Bools | Integers, window: int) -> Floats:
    """Mean over the last ``window`` values, fewer at the start; ``[N]`` to ``[N]``.

    >>> moving(np.array([2.0, 4.0, 6.0]), 2).tolist()
    [2.0, 3.0, 5.0]
    """
    sums = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - window, 0)
    result: Floats = (sums[stop] - sums[start]) / (stop - start)
    return result


def answered_per_s(predicted_ms: Integers, window: int) -> Floats:
    """Frames answered in a second, measured over the last ``window`` answers; NaN where no time has passed."""
    times = np.sort(predicted_ms)
    stop = np.arange(len(times))
    start = np.maximum(stop - window, 0)
    spent_s = (times[stop] - times[start]) / 1000
    result: Floats = np.divide(stop - start, spent_s, out=np.full(len(times), np.nan), where=spent_s > 0)
    return result


def last_quarter(frames: int) -> slice:
    """The rows of a stream's last quarter, one frame at least."""
    return slice(frames - max(1, frames // 4), frames)
