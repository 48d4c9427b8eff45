"""From an engine's answers to what is sent: predictions, and records that teach the trainer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.early_exit.engine import Answers, Engine
from layercache.early_exit.policy import draw_audits
from layercache.schemas.distillation import DistillationBatch, DistillationHeader, key_hash
from layercache.schemas.frame import CE_ID, CE_SOURCE, CE_TIME, CONTENT_TYPE
from layercache.schemas.prediction import CONTENT_TYPE_VALUE, Prediction, Ranked, Times, encoder
from layercache.stream.frames.decode_pool import Decoded
from layercache.stream.frames.frame import Frame

#: The headers that a prediction takes over from its frame.
_PASSED_ON = (CE_ID, CE_SOURCE, CE_TIME)
_JSON = (CONTENT_TYPE, CONTENT_TYPE_VALUE)


@dataclass(frozen=True)
class MicroBatch:
    """Frames that were decoded, ready for the engine: ``pictures`` uint8 ``[N, C, h, w]``, ``audits`` bool ``[N]``."""

    frames: Sequence[Frame]
    pictures: Tensor
    decode_ms: Sequence[float]
    audits: npt.NDArray[np.bool_]
    audit_rate: float

    @classmethod
    def of(cls, frames: Sequence[Frame], decoded: Sequence[Decoded], audit_rate: float) -> "MicroBatch":
        """Of frames of one topic that all have a picture; draws the audits by their positions."""
        pictures = torch.stack([one.picture for one in decoded if isinstance(one.picture, Tensor)])
        partitions = np.array([frame.partition for frame in frames], np.int32)
        offsets = np.array([frame.offset for frame in frames], np.int64)
        audits = draw_audits(frames[0].topic, partitions, offsets, audit_rate)
        return cls(frames, pictures, [one.decode_ms for one in decoded], audits, audit_rate)

    def only(self, kept: npt.NDArray[np.bool_]) -> "MicroBatch":
        """Some of its frames, ``kept`` bool ``[N]``."""
        rows = np.flatnonzero(kept).tolist()
        return MicroBatch(
            [self.frames[row] for row in rows],
            self.pictures[torch.from_numpy(kept)],
            [self.decode_ms[row] for row in rows],
            self.audits[kept],
            self.audit_rate,
        )

    def misses(self, answers: Answers) -> npt.NDArray[np.bool_]:
        """bool ``[M]``: which of the M frames that ran the full path did so because no exit was sure of them."""
        # Shadow mode runs all frames to the end, and teaches from those alone that it would have run in earnest.
        return ~self.audits[answers.full_rows] & (answers.live_exit < 0)


class PredictionWriter:
    """Writes one model's predictions as JSON."""

    def __init__(self, classes: Sequence[str], fingerprint: str, top_k: int, worker: str) -> None:
        self._classes = tuple(classes)
        self.model = fingerprint
        self._worker = worker
        self._top_k = min(top_k, len(classes))

    def write(
        self, batch: MicroBatch, answers: Answers, engine: Engine, inference_ms: float, predicted_ms: int
    ) -> list[bytes]:
        """One prediction for each frame of the batch, in order.

        By columns: one call of a type for a whole batch makes its objects several times faster than a call for each.
        """
        frames = batch.frames
        labels = answers.labels.tolist()
        times = map(
            Times, (frame.timestamp_ms for frame in frames), repeat(predicted_ms), batch.decode_ms, repeat(inference_ms)
        )
        predictions = map(
            Prediction,
            (frame.id for frame in frames),
            (frame.topic for frame in frames),
            (frame.partition for frame in frames),
            (frame.offset for frame in frames),
            labels,
            map(self._classes.__getitem__, labels),
            np.take_along_axis(answers.probabilities, answers.labels[:, None], 1)[:, 0].tolist(),
            self._ranked(answers),
            map(engine.exit_names.__getitem__, answers.exits.tolist()),
            batch.audits.tolist(),
            repeat(engine.version),
            repeat(self.model),
            times,
            repeat(engine.budget),
            repeat(engine.max_disagreement),
            repeat(self._worker),
        )
        return list(map(encoder.encode, predictions))

    def _ranked(self, answers: Answers) -> Iterator[tuple[Ranked, ...]]:
        """For each frame the most probable classes, by descending probability."""
        chances = answers.probabilities
        if self._top_k < chances.shape[1]:
            best = np.argpartition(chances, -self._top_k, axis=1)[:, -self._top_k :]
        else:
            best = np.broadcast_to(np.arange(chances.shape[1]), chances.shape)
        values = np.take_along_axis(chances, best, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        labels = np.take_along_axis(best, order, 1).ravel().tolist()
        confidences = np.take_along_axis(values, order, 1).ravel().tolist()
        ranked = map(Ranked, labels, map(self._classes.__getitem__, labels), confidences)
        return zip(*[ranked] * self._top_k, strict=True)  # one iterator: each tuple takes the next ``top_k``


def prediction_headers(frame: Frame) -> list[tuple[str, bytes | None]]:
    """The headers of a frame's prediction: what it is, and the frame's own CloudEvents attributes."""
    return [_JSON, *[header for header in frame.raw_headers if header[0] in _PASSED_ON]]


class DistillationWriter:
    """Writes what a micro-batch's full-path frames teach: audits, and frames that no exit would have answered."""

    def __init__(self, fingerprint: str, worker: str, max_bytes: int) -> None:
        self._model = fingerprint
        self._worker = worker
        self._max_bytes = max_bytes

    def write(
        self,
        batch: MicroBatch,
        answers: Answers,
        engine: Engine,
        kept: npt.NDArray[np.bool_] | None = None,
        miss_share: float = 1.0,
    ) -> Iterator[bytes]:
        """Records of at most ``max_bytes``; none where every frame left early.

        ``kept``, bool ``[M]``: which of the M full-path frames are in a sample of ``miss_share``, where the misses are
        sampled. Audits are written all the same.
        """
        record = self.record(batch, answers, engine, kept, miss_share)
        if record is not None:
            yield from record.encode_within(self._max_bytes)

    def record(
        self,
        batch: MicroBatch,
        answers: Answers,
        engine: Engine,
        kept: npt.NDArray[np.bool_] | None = None,
        miss_share: float = 1.0,
    ) -> DistillationBatch | None:
        """The same as one record, for a trainer in this process; None where every frame left early."""
        misses = batch.misses(answers)
        taught = batch.audits[answers.full_rows] | (misses if kept is None else misses & kept)
        taught &= np.isfinite(answers.logits).all(1)  # the trainer refuses a record with others as a whole
        rows = answers.full_rows[taught]
        if not len(rows):
            return None
        frames = [batch.frames[row] for row in rows]
        header = DistillationHeader(
            model=self._model,
            topic=frames[0].topic,
            topic_id=frames[0].topic_id,
            worker=self._worker,
            heads_version=engine.version,
            audit_rate=batch.audit_rate,
            miss_share=miss_share,
            frame_ids=tuple(frame.id for frame in frames),
            exits=engine.exits,
            segment_ms=engine.segment_ms(),
        )
        return DistillationBatch(
            header=header,
            inputs=batch.pictures.numpy()[rows],
            logits=answers.logits[taught],
            audit=batch.audits[rows].astype(np.uint8),
            live_exit=answers.live_exit[taught],
            live_label=answers.live_label[taught],
            overload_label=None if answers.overload_label is None else answers.overload_label[taught],
            partition=np.array([frame.partition for frame in frames], np.int32),
            offset=np.array([frame.offset for frame in frames], np.int64),
            timestamp_ms=np.array([frame.timestamp_ms for frame in frames], np.int64),
            key_hash=np.array([key_hash(frame.key) for frame in frames], np.int64),
        )
