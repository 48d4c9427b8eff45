"""Audits as they come in: counted once, dealt to one use each, and watched for drift."""

import numpy as np
import numpy.typing as npt

from cache_training.dealing import Use, blocks, deal
from cache_training.frames import FrameBuffer, Frames, capacity_for
from early_exit.drift import DriftDetector
from early_exit.policy import position_hashes
from schemas.distillation import DistillationBatch

#: How many positions are remembered, so that a record read twice counts once.
_REMEMBERED = 400_000
_IDENTITY_SALT = b"layercache-identity-1"


class Seen:
    """The positions that have been taken in; the earlier half is forgotten when there are too many."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._earlier: set[int] = set()

    def new(self, positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """bool ``[N]``: which positions have not been seen; all have been after that."""
        fresh = np.empty(len(positions), np.bool_)
        for row, position in enumerate(positions.tolist()):
            fresh[row] = position not in self._recent and position not in self._earlier
            self._recent.add(position)
        if len(self._recent) > _REMEMBERED // 2:
            self._earlier, self._recent = self._recent, set()
        return fresh

    def array(self) -> npt.NDArray[np.uint64]:
        """For a checkpoint."""
        return np.fromiter(self._earlier | self._recent, np.uint64)

    def restore(self, positions: npt.NDArray[np.uint64]) -> None:
        """What :meth:`array` gave."""
        self._recent = set(positions.tolist())


class Windows:
    """Where frames wait for their use, each bounded in frames and in bytes."""

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
        """Once the size of a frame is known: a quarter of the memory for each window."""
        if not self._bounded and len(like):
            for window in self.all().values():
                window.capacity = min(window.capacity, capacity_for(self._megabytes / 4, like))
            self._bounded = True

    def clear(self) -> None:
        """Forgets the stream as it was."""
        for window in self.all().values():
            window.clear()


class Intake:
    """Takes in distillation records: every frame once, to its one use; live audits to the drift test."""

    def __init__(self, windows: Windows, block_s: float) -> None:
        self.windows = windows
        self.seen = Seen()
        self.audits = 0
        self.repeated = 0
        self._block_s = block_s
        self._tested_blocks: set[int] = set()
        #: Blocks of the last attempt's window. One may go on after it: its later frames are near-copies of used ones.
        self.used_blocks: set[int] = set()

    def take(self, batch: DistillationBatch, live_version: str | None, drift: DriftDetector | None) -> None:
        """Deals a record's frames; ``drift`` tests those of its audits that ``live_version`` would have answered."""
        position = position_hashes(batch.header.topic, batch.partition, batch.offset, _IDENTITY_SALT)
        fresh = self.seen.new(position)
        self.repeated += int((~fresh).sum())
        block = blocks(batch, self._block_s)
        frames = Frames(batch.inputs, batch.logits, block, position)
        self.windows.bound(frames)
        audit = batch.audit.astype(np.bool_) & fresh
        self.audits += int(audit.sum())
        use = deal(block)
        # A miss that shares its block with audits is used as they are: near-copies of what certifies are not learnt.
        learnable = (batch.key_hash == 0) | (use == Use.LEARNING)
        self.windows.misses.add(frames.rows(~batch.audit.astype(np.bool_) & fresh & learnable))
        self.windows.learning.add(frames.rows(audit & (use == Use.LEARNING)))
        self.windows.tuning.add(frames.rows(audit & (use == Use.TUNING)))
        unused = np.array([number not in self.used_blocks for number in block.tolist()], np.bool_)
        self.windows.certification.add(frames.rows(audit & (use == Use.CERTIFICATION) & unused))
        if drift is not None and batch.header.heads_version == live_version:
            self._test(drift, batch, audit, block, frames.labels)

    def forget_tested(self) -> None:
        """A new version is tested from its first audit on."""
        self._tested_blocks.clear()

    def _test(
        self,
        drift: DriftDetector,
        batch: DistillationBatch,
        audit: npt.NDArray[np.bool_],
        block: npt.NDArray[np.uint64],
        labels: npt.NDArray[np.int64],
    ) -> None:
        for row in np.flatnonzero(audit):
            if batch.key_hash[row]:
                if int(block[row]) in self._tested_blocks:
                    continue  # near-copies counted singly would raise false alarms
                if len(self._tested_blocks) > _REMEMBERED:
                    self._tested_blocks.clear()
                self._tested_blocks.add(int(block[row]))
            drift.update(bool(batch.live_label[row] != labels[row]))
