"""Takes in audits: counts each once and deals it to one use."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.cache_training.certifying.dealing import AuditUse, blocks, deal
from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames, capacity_for
from layercache.early_exit.policy import position_hashes
from layercache.schemas.distillation import DistillationBatch

#: How many positions (or blocks) are remembered, so that a record that is read twice counts once.
_REMEMBERED = 400_000
#: How many new ones are gathered before they are sorted into the array.
_LATEST = 4_096
_IDENTITY_SALT = b"layercache-identity-1"


class LeakError(RuntimeError):
    """A frame was about to certify heads that had learnt from it."""


class SeenNumbers:
    """The numbers (positions, blocks) that have been taken in; with too many of them the earlier half is forgotten.

    Each takes eight bytes, except the latest few: a Python set of the same numbers takes ten times as much.
    """

    def __init__(self) -> None:
        self._latest: set[int] = set()
        self._recent = np.empty(0, np.uint64)  # sorted, as the next
        self._earlier = np.empty(0, np.uint64)

    def new(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """bool ``[N]``: which numbers have not been seen before; then remembers them all."""
        fresh = ~(_among(self._recent, numbers) | _among(self._earlier, numbers))
        for row, number in enumerate(numbers.tolist()):
            fresh[row] &= number not in self._latest
            self._latest.add(number)
        if len(self._latest) > _LATEST:
            self._recent = np.union1d(self._recent, np.fromiter(self._latest, np.uint64))
            self._latest = set()
        if len(self._recent) > _REMEMBERED // 2:
            self._earlier, self._recent = self._recent, np.empty(0, np.uint64)
        return fresh

    def known(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """bool ``[N]``: which numbers have been seen; remembers none."""
        found = np.fromiter((number in self._latest for number in numbers.tolist()), np.bool_, len(numbers))
        return found | _among(self._recent, numbers) | _among(self._earlier, numbers)

    def array(self) -> npt.NDArray[np.uint64]:
        """For a checkpoint."""
        latest = np.fromiter(self._latest, np.uint64, len(self._latest))
        return np.unique(np.concatenate((latest, self._recent, self._earlier)))

    def restore(self, numbers: npt.NDArray[np.uint64]) -> None:
        """What :meth:`array` gave."""
        self._recent = np.unique(numbers)


def _among(ordered: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """bool ``[N]``: which numbers are in ``ordered``, which is sorted."""
    if not len(ordered):
        return np.zeros(len(numbers), np.bool_)
    places = np.minimum(np.searchsorted(ordered, numbers), len(ordered) - 1)
    found: npt.NDArray[np.bool_] = ordered[places] == numbers
    return found


class Windows:
    """The windows in which frames wait for their use, each bounded in frames and in bytes."""

    def __init__(self, replay_mb: float, window_frames: int, tuning_frames: int, seed: int) -> None:
        self._megabytes = replay_mb
        self.learning = FrameBuffer(window_frames, "random", seed)
        self.misses = FrameBuffer(window_frames, "random", seed + 1)
        self.certification = FrameBuffer(window_frames, "oldest")
        self.tuning = FrameBuffer(min(window_frames, tuning_frames), "oldest")
        self._bounded = False

    def all(self) -> dict[str, FrameBuffer]:
        """The windows by name."""
        return {
            "learning": self.learning,
            "misses": self.misses,
            "certification": self.certification,
            "tuning": self.tuning,
        }

    def bound(self, like: Frames) -> None:
        """Bounds each window to a quarter of the memory, once the size of a frame is known."""
        if not self._bounded and len(like):
            for window in self.all().values():
                window.capacity = min(window.capacity, capacity_for(self._megabytes / 4, like))
            self._bounded = True

    def check_apart(self) -> None:
        """Raises :class:`LeakError` where a frame that waits to certify shares its block with a frame of another use.

        That never happens, since every frame is in one block and dealing keeps blocks together. If it did, the
        certificate would mean nothing.
        """
        certifying = self.certification.frames()
        for name, window in self.all().items():
            frames = window.frames()
            if window is not self.certification and certifying is not None and frames is not None:
                shared = np.isin(certifying.block, frames.block) | np.isin(certifying.position, frames.position)
                if shared.any():
                    raise LeakError(
                        f"{shared.sum()} of {len(shared)} frames that were to certify are near-copies of frames in the "
                        f"{name} window: nothing can be certified on them. This is a bug in Layercache: report it, and "
                        "remove trainer.state_dir to go on with new frames"
                    )

    def clear(self) -> None:
        """Forgets all frames of the old stream."""
        for window in self.all().values():
            window.clear()


@dataclass(frozen=True)
class DealtRecord:
    """What became of a record's N frames."""

    audit: npt.NDArray[np.bool_]
    """``[N]``: audits, counted now for the first time."""
    block: npt.NDArray[np.uint64]
    """``[N]``, see :func:`layercache.cache_training.certifying.dealing.blocks`"""
    labels: npt.NDArray[np.int64]
    """``[N]``: the full model's labels."""


class AuditIntake:
    """Takes in distillation records: each frame once, for one use."""

    def __init__(self, windows: Windows, block_s: float) -> None:
        self.windows = windows
        self.seen = SeenNumbers()
        #: Blocks that have certified. A block may outlast an attempt; its later frames are near-copies of used ones.
        self.used_blocks = SeenNumbers()
        self.audits = 0
        self.repeated = 0
        self._block_s = block_s

    def take(self, batch: DistillationBatch) -> DealtRecord:
        """Deals a record's frames."""
        position = position_hashes(batch.header.origin, batch.partition, batch.offset, _IDENTITY_SALT)
        fresh = self.seen.new(position)
        self.repeated += int((~fresh).sum())
        block = blocks(batch, self._block_s)
        frames = Frames(batch.inputs, batch.logits, block, position)
        self.windows.bound(frames)
        audit = batch.audit.astype(np.bool_) & fresh
        self.audits += int(audit.sum())
        use = deal(block)
        # A miss that shares its block with audits has their use: heads must not learn near-copies of what certifies.
        learnable = (batch.key_hash == 0) | (use == AuditUse.LEARNING)
        self.windows.misses.add(frames.rows(~batch.audit.astype(np.bool_) & fresh & learnable))
        self.windows.learning.add(frames.rows(audit & (use == AuditUse.LEARNING)))
        self.windows.tuning.add(frames.rows(audit & (use == AuditUse.TUNING)))
        certifying = audit & (use == AuditUse.CERTIFICATION) & ~self.used_blocks.known(block)
        self.windows.certification.add(frames.rows(certifying))
        return DealtRecord(audit, block, frames.labels)

    def use_up(self) -> Frames:
        """All frames that wait to certify. Neither they nor their blocks certify again; heads may learn from them.

        Raises :class:`LeakError` where heads have learnt from one of them, or were tuned on it: it must not certify.
        """
        frames = self.windows.certification.frames()
        if frames is None:
            raise ValueError("no frame waits to certify")
        self.windows.check_apart()
        self.windows.certification.clear()
        self.used_blocks.new(np.unique(frames.block))
        self.windows.learning.add(frames)
        return frames

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        tensors = {
            "seen": torch.from_numpy(self.seen.array().view(np.int64)),
            "used_blocks": torch.from_numpy(self.used_blocks.array().view(np.int64)),
        }
        for name, window in self.windows.all().items():
            frames = window.frames()
            if frames is not None:
                tensors |= frames.tensors(f"window.{name}")
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """What :meth:`tensors` gave."""
        self.seen.restore(tensors["seen"].numpy().view(np.uint64))
        self.used_blocks.restore(tensors["used_blocks"].numpy().view(np.uint64))
        for name, window in self.windows.all().items():
            if f"window.{name}.inputs" in tensors:
                frames = Frames.from_tensors(f"window.{name}", tensors)
                self.windows.bound(frames)
                window.add(frames)
