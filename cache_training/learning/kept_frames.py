"""Frames that the trainer keeps: their inputs, the full model's logits, and what tells them and their copies apart."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SALT = b"layercache-content"
#: Arrays of :class:`Frames` that a checkpoint holds as int64.
_HASHES = ("block", "position", "content")
_DTYPES = dict.fromkeys(_HASHES, np.uint64) | {
    "timestamp_ms": np.int64, "repeated": np.bool_, "draw": np.float64, "rate": np.float32,
}  # fmt: skip


@dataclass(frozen=True)
class Frames:
    """N frames as parallel arrays."""

    inputs: npt.NDArray[np.uint8]
    """``[N, C, H, W]``"""
    logits: npt.NDArray[np.float32]
    """``[N, classes]``, as the worker sent them"""
    block: npt.NDArray[np.uint64]
    """``[N]``, see :func:`layercache.cache_training.certifying.dealing.blocks`"""
    position: npt.NDArray[np.uint64]
    """``[N]``, a hash of topic, partition and offset: the frame's identity"""
    content: npt.NDArray[np.uint64]
    """``[N]``, a hash of the picture, see :func:`content_hashes`"""
    timestamp_ms: npt.NDArray[np.int64]
    """``[N]``, the record's, in milliseconds since the epoch; negative where nobody knows"""
    repeated: npt.NDArray[np.bool_]
    """``[N]``: whether heads may have learnt this picture, or one of its block, before it came as an audit"""
    draw: npt.NDArray[np.float64]
    """``[N]``, see :func:`layercache.early_exit.policy.audit_draws`"""
    rate: npt.NDArray[np.float32]
    """``[N]``: the audit rate at which the frame was drawn"""

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """``[N]``: what the full model answered."""
        labels: npt.NDArray[np.int64] = self.logits.argmax(1)
        return labels

    def rows(self, rows: npt.NDArray[np.generic] | slice) -> "Frames":
        """Some of the frames."""
        return Frames(*(getattr(self, field.name)[rows] for field in fields(self)))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """For a checkpoint: names to tensors; hashes as int64, which safetensors has everywhere."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            f"{prefix}.{name}": torch.from_numpy(np.ascontiguousarray(a.view(np.int64) if a.dtype == np.uint64 else a))
            for name, a in arrays.items()
        }

    @classmethod
    def apart(
        cls, inputs: npt.NDArray[np.uint8], logits: npt.NDArray[np.float32], identity: npt.NDArray[np.uint64]
    ) -> Self:
        """Frames that are no copies of each other, each told by its ``identity``, ``[N]``; nobody knows their time."""
        unknown, new = np.full(len(inputs), -1, np.int64), np.zeros(len(inputs), np.bool_)
        draw, rate = uniform(identity), np.ones(len(inputs), np.float32)
        return cls(inputs, logits, identity, identity, identity, unknown, new, draw, rate)

    @classmethod
    def from_tensors(cls, prefix: str, tensors: dict[str, Tensor]) -> Self:
        """What :meth:`tensors` gave, or an earlier trainer's: frames then had no content and no time."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        if f"{prefix}.content" not in tensors:
            tensors = tensors | _missing_before_contents(prefix, tensors)
        if f"{prefix}.draw" not in tensors:
            tensors = tensors | _missing_before_draws(prefix, tensors)
        for field in fields(cls):
            array = tensors[f"{prefix}.{field.name}"].numpy()
            arrays[field.name] = array.view(np.uint64) if field.name in _HASHES else array
        return cls(**arrays)


def uniform(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """``[N]``: hashes as numbers from 0 to 1."""
    return hashes.astype(np.float64) / 2.0**64


def content_hashes(inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """uint64 ``[N]``: the same for the same picture as the model sees it, uint8 ``[N, C, H, W]`` (BLAKE2b, RFC 7693).

    >>> pictures = np.array([[1, 2], [3, 4], [1, 2]], np.uint8).reshape(3, 1, 1, 2)
    >>> first, second, again = content_hashes(pictures)
    >>> bool(first == again), bool(first == second)
    (True, False)
    """
    digests = (blake2b(row.tobytes(), digest_size=8, key=_SALT).digest() for row in inputs)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def _missing_before_contents(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    inputs = tensors[f"{prefix}.inputs"]
    return {
        f"{prefix}.content": torch.from_numpy(content_hashes(inputs.numpy()).view(np.int64)),
        f"{prefix}.timestamp_ms": torch.full((len(inputs),), -1, dtype=torch.int64),
        f"{prefix}.repeated": torch.zeros(len(inputs), dtype=torch.bool),
    }


def _missing_before_draws(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    position = tensors[f"{prefix}.position"].numpy().view(np.uint64)
    return {
        f"{prefix}.draw": torch.from_numpy(uniform(position)),
        f"{prefix}.rate": torch.ones(len(position), dtype=torch.float32),
    }


class FrameBuffer:
    """Up to ``capacity`` frames; once full, a new frame replaces the ``oldest`` frame or a ``random`` one.

    Random replacement keeps an exponentially fading sample of the whole past, so that heads do not forget at once what
    the stream no longer shows. Replacing the oldest keeps a window of the latest frames.
    """

    def __init__(self, capacity: int, replace: Literal["oldest", "random"], seed: int = 0) -> None:
        self.capacity = capacity
        self.added = 0
        self._replace = replace
        self._random = np.random.default_rng(seed)
        self._frames: Frames | None = None
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def add(self, frames: Frames) -> None:
        """Takes in frames, in order."""
        skipped = max(0, len(frames) - self.capacity)
        frames = frames.rows(slice(skipped, None))
        if len(frames):
            if self._frames is None or self._used + len(frames) > len(self._frames):
                self._grow(frames)
            assert self._frames is not None
            slots = self._slots(skipped, len(frames))
            for field in fields(Frames):
                getattr(self._frames, field.name)[slots] = getattr(frames, field.name)
            self._used = min(self.capacity, self._used + len(frames))
        self.added += skipped + len(frames)

    def frames(self) -> Frames | None:
        """All frames, oldest first where the oldest are replaced; None while empty. A view: do not write to it."""
        if self._frames is None or not self._used:
            return None
        if self._replace == "oldest" and self._used == self.capacity:
            return self._frames.rows(np.roll(np.arange(self.capacity), -(self.added % self.capacity)))
        return self._frames.rows(slice(0, self._used))

    def since(self, added: int) -> Frames | None:
        """The frames that were added after the first ``added`` ones; for ``oldest`` only."""
        everything = self.frames()
        new = self.added - added
        return everything.rows(slice(max(0, self._used - new), None)) if everything is not None and new > 0 else None

    def column(self, name: str) -> npt.NDArray[Any]:
        """One of the frames' arrays of numbers, ``[N]``, in no order; copies no picture. A view: do not write to it."""
        kept = self._frames
        return np.empty(0, _DTYPES[name]) if kept is None else getattr(kept, name)[: self._used]

    def mark_repeated(self, blocks: npt.NDArray[np.uint64]) -> None:
        """Sets :attr:`Frames.repeated` for all frames of these blocks."""
        if self._used and len(blocks):
            self.column("repeated")[np.isin(self.column("block"), blocks)] = True

    def sample(self, n: int) -> Frames | None:
        """n frames drawn with replacement; None while empty."""
        if self._frames is None or not self._used:
            return None
        return self._frames.rows(self._random.integers(0, self._used, n))

    def limit(self, capacity: int) -> None:
        """Lowers the capacity; of more frames than that, a random choice stays. For ``random`` only."""
        if self._frames is not None and self._used > capacity:
            kept = np.sort(self._random.choice(self._used, capacity, replace=False))
            self._frames, self._used = self._frames.rows(kept), capacity
        self.capacity = capacity

    def clear(self) -> None:
        """Forgets all frames."""
        self._frames, self._used, self.added = None, 0, 0

    def _slots(self, skipped: int, n: int) -> npt.NDArray[np.intp]:
        """Where the next n frames go."""
        if self._replace == "oldest":
            return (self.added + skipped + np.arange(n)) % self.capacity
        fresh = min(n, self.capacity - self._used)
        replaced = self._random.choice(self.capacity, n - fresh, replace=False)
        return np.concatenate((np.arange(self._used, self._used + fresh), replaced))

    def _grow(self, like: Frames) -> None:
        """Doubles the memory taken, so that a small stream never pays for the whole capacity."""
        room = min(self.capacity, max(1024, 2 * (self._used + len(like))))
        if self._frames is not None and len(self._frames) == room:
            return
        grown = {}
        for field in fields(Frames):
            sample = getattr(like, field.name)
            grown[field.name] = np.empty((room, *sample.shape[1:]), sample.dtype)
            if self._frames is not None:
                grown[field.name][: self._used] = getattr(self._frames, field.name)[: self._used]
        self._frames = Frames(**grown)


def capacity_for(megabytes: float, frames: Frames) -> int:
    """How many frames like these fit into ``megabytes``."""
    each = sum(getattr(frames, field.name)[:1].nbytes for field in fields(Frames)) / max(1, len(frames.rows(slice(1))))
    return max(1, int(megabytes * 1e6 / each))


def concatenate(parts: Iterable[Frames | None]) -> Frames | None:
    """All frames of the parts; None where the parts have none."""
    present = [part for part in parts if part is not None and len(part)]
    if not present:
        return None
    return Frames(*(np.concatenate([getattr(part, field.name) for part in present]) for field in fields(Frames)))
