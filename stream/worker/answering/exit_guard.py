"""The exits' own watch over their promise: a worker closes them by itself once its audits say that they broke it."""

import logging
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layercache.early_exit.blocks import ClosedBlock, OpenBlocks, most_counted, watched_blocks
from layercache.early_exit.drift import DriftDetector
from layercache.early_exit.engine import Engine
from layercache.early_exit.policy import Bools
from layercache.schemas.distillation import key_hash
from layercache.stream.worker.answering.heads_watch import Serving
from layercache.stream.worker.answering.micro_batch import AnsweredBatch, MicroBatch

log = logging.getLogger(__name__)

#: Versions whose alarm is remembered: far more than a store keeps to roll back to.
_MAX_ALARMED = 1000


@dataclass(frozen=True)
class Audited:
    """What A audits of a micro-batch found."""

    rows: npt.NDArray[np.int64]
    """``[A]``: their places in the micro-batch."""
    labels: npt.NDArray[np.int64]
    """``[A]``: the full model's."""
    disagreed: Bools
    """``[A]``: whether an exit would have answered otherwise."""
    overload_disagreed: Bools | None
    """``[A]``: the same under the thresholds for overload; None where the heads have none."""

    @classmethod
    def of(cls, answered: AnsweredBatch) -> "Audited":
        """The audits of a batch that was answered so."""
        answers = answered.answers
        kept = answered.batch.audits[answers.full_rows]
        rows = answers.full_rows[kept]
        labels = answers.labels[rows]
        overload = answers.overload_label
        return cls(
            rows,
            labels,
            answers.live_label[kept] != labels,
            None if overload is None else overload[kept] != labels,
        )


class ExitGuard:
    """Runs drift tests on the audits of the version in force, and closes exits whose errors exceed their budget.

    One test watches the normal thresholds: when it alarms, all exits close. The other watches those for overload, at
    their own budget, on the same audits, whether the worker is behind or not: when it alarms, the normal thresholds
    hold at any lag. Either alarm holds for its version until the worker is restarted, also where an operator rolls back
    to that version. In shadow mode the exits answer no frame, so an alarm is only logged. Near-copies count together as
    they did for the version's certificate, or as ``block_s`` and ``block_frames`` say where that is silent.
    """

    def __init__(self, confidence: float, block_s: float, block_frames: int) -> None:
        self._level = 1 - confidence
        self._own_blocks = block_s, block_frames
        self._block_ms, self._blocks = 1, OpenBlocks(1)
        self._serving: Serving | None = None
        self._detector: DriftDetector | None = None
        self._overload_detector: DriftDetector | None = None
        #: Versions whose alarm has been raised: taken up again, they stay as they were left.
        self._alarmed: deque[str | None] = deque(maxlen=_MAX_ALARMED)
        self._overload_alarmed: deque[str | None] = deque(maxlen=_MAX_ALARMED)
        self._last: dict[int, int] = {}

    def choose(self, serving: Serving, behind: bool = False) -> Engine:
        """The engine to run now: overload's while the worker is ``behind``, unless an alarm has closed it."""
        if serving is not self._serving:
            self._serving = serving
            self._detector = DriftDetector(serving.budget, self._level) if serving.engine.exits else None
            bolder = serving.overload.max_disagreement if serving.overload else None
            self._overload_detector = DriftDetector(bolder, self._level) if bolder is not None else None
            heads = serving.engine.heads
            self._block_ms, frames = watched_blocks(heads.manifest if heads else None, *self._own_blocks)
            self._blocks = OpenBlocks(most_counted(frames, serving.engine.audit_rate))
        if self.closed:
            return serving.closed
        if behind and serving.overload is not None and not self.overload_closed:
            return serving.overload
        return serving.engine

    @property
    def closed(self) -> bool:
        """True while an alarm keeps the exits closed."""
        return self._has_alarmed(self._detector, self._alarmed)

    @property
    def overload_closed(self) -> bool:
        """True while an alarm keeps overload's thresholds out of use."""
        return self._has_alarmed(self._overload_detector, self._overload_alarmed)

    def _has_alarmed(self, detector: DriftDetector | None, alarmed: Collection[str | None]) -> bool:
        return detector is not None and (
            detector.alarmed or (self._serving is not None and self._serving.version in alarmed)
        )

    def watch(self, answered: AnsweredBatch) -> Audited:
        """Takes in a batch that the engine of :meth:`choose` answered; returns what its audits found."""
        audited, batch = Audited.of(answered), answered.batch
        version = self._serving.version if self._serving else None
        if self._detector is not None and not (self._detector.alarmed and self.overload_closed):
            blocks = self._closed_blocks(batch, audited)
            if self._alarms(self._detector, blocks, 0, "exits closed"):
                _remember(self._alarmed, version)
            bolder = self._overload_detector if audited.overload_disagreed is not None else None
            if bolder is not None and self._alarms(bolder, blocks, 1, "exits open no wider at any lag"):
                _remember(self._overload_alarmed, version)
        for partition, offset in {frame.partition: frame.offset for frame in batch.frames}.items():
            self._last[partition] = max(offset, self._last.get(partition, -1))
        return audited

    def _closed_blocks(self, batch: MicroBatch, audited: Audited) -> list[ClosedBlock]:
        """The blocks of audits that are over now, with disagreements by everyday's thresholds and by overload's."""
        overload = audited.disagreed if audited.overload_disagreed is None else audited.overload_disagreed
        found: list[ClosedBlock] = []
        for row, *wrong in zip(audited.rows.tolist(), audited.disagreed.tolist(), overload.tolist(), strict=True):
            frame = batch.frames[row]
            if frame.offset > self._last.get(frame.partition, -1):  # else it is read again after an abort
                key = key_hash(frame.key)  # hashes are of one length, whatever publishers put into keys
                slot = frame.timestamp_ms // self._block_ms
                found += self._blocks.add(key, slot, batch.draws[row], tuple(wrong))
        return found

    def _alarms(self, detector: DriftDetector, blocks: Sequence[ClosedBlock], kind: int, consequence: str) -> bool:
        """Feeds a test that has not alarmed yet; True, with a line in the log, where it alarms now."""
        if detector.alarmed:
            return False
        for block in blocks:
            if detector.update_block(block.disagreements[kind], block.audits, self._blocks.most):
                log.warning(
                    "heads %s exceed their budget of %.4f: %d of %d audits disagreed; %s until another version "
                    "comes",
                    self._serving and self._serving.version, detector.budget,
                    detector.disagreements, detector.audits, consequence,
                )  # fmt: skip
                return True
        return False


def _remember(alarmed: deque[str | None], version: str | None) -> None:
    """Puts the version last; it stands there once, though it may alarm again after it was taken up again."""
    if version in alarmed:
        alarmed.remove(version)
    alarmed.append(version)
