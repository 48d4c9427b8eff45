"""Records and frames for tests, all from seeds."""

from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor

from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames
from layercache.schemas.distillation import DistillationBatch, DistillationHeader


def frames(n: int, start: int = 0, classes: int = 3) -> Frames:
    """n different frames, numbered from ``start`` in ``block`` and ``position``."""
    numbers = np.arange(start, start + n, dtype=np.uint64)
    inputs = np.repeat(numbers % 256, 4).astype(np.uint8).reshape(n, 1, 2, 2)
    logits = np.eye(classes, dtype=np.float32)[numbers.astype(np.int64) % classes]
    return Frames.apart(inputs, logits, numbers)


def numbered(n: int, start: int = 0) -> npt.NDArray[np.uint8]:
    """n different pictures, uint8 ``[n, 1, 2, 2]``."""
    return np.arange(start, start + n, dtype="<u4").view(np.uint8).reshape(n, 1, 2, 2)


def record(
    inputs: npt.NDArray[np.uint8],
    logits: npt.NDArray[np.float32],
    *,
    model: str = "m",
    first_offset: int = 0,
    audit: bool = True,
    live_label: npt.NDArray[np.int32] | None = None,
    version: str | None = None,
    exits: tuple[str, ...] = (),
    keys: npt.NDArray[np.int64] | None = None,
    timestamp_ms: npt.NDArray[np.int64] | None = None,
    overload_label: npt.NDArray[np.int32] | None = None,
    topic_id: str = "",
) -> DistillationBatch:
    """A distillation record of partition 0."""
    n = len(inputs)
    header = DistillationHeader(
        model=model, topic="frames", worker="w", heads_version=version, audit_rate=1.0,
        frame_ids=tuple(str(first_offset + i) for i in range(n)), exits=exits, topic_id=topic_id,
    )  # fmt: skip
    labels = logits.argmax(1).astype(np.int32)
    return DistillationBatch(
        header, inputs, logits, np.full(n, audit, np.uint8), np.full(n, -1, np.int32),
        labels if live_label is None else live_label, np.zeros(n, np.int32),
        np.arange(first_offset, first_offset + n), np.zeros(n, np.int64) if timestamp_ms is None else timestamp_ms,
        np.zeros(n, np.int64) if keys is None else keys, overload_label,
    )  # fmt: skip


def as_lessons(batch: DistillationBatch) -> DistillationBatch:
    """The same frames, sent as lessons."""
    nothing = np.full(len(batch), -1, np.int32)
    return replace(
        batch, header=msgspec.structs.replace(batch.header, exits=()), logits=np.empty((len(batch), 0), np.float32),
        audit=np.zeros(len(batch), np.uint8), live_exit=nothing, live_label=nothing, overload_label=None,
    )  # fmt: skip


def buffer_of(inputs: Tensor, logits: Tensor) -> FrameBuffer:
    """A buffer with these frames, uint8 ``[N, C, H, W]``, and what the model answered."""
    numbers = np.arange(len(inputs), dtype=np.uint64)
    buffer = FrameBuffer(max(1, len(inputs)), "oldest")
    buffer.add(Frames.apart(inputs.numpy(), logits.numpy(), numbers))
    return buffer
