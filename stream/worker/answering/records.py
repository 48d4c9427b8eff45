"""From an engine's answers to what is sent: predictions, and records that teach the trainer."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import msgspec
import numpy as np

from layercache.early_exit.engine import Answers
from layercache.early_exit.policy import Bools
from layercache.schemas.distillation import DistillationBatch, DistillationHeader, key_hash
from layercache.schemas.frame import CE_ID, CE_SOURCE, CE_TIME, CONTENT_TYPE
from layercache.schemas.prediction import CONTENT_TYPE_VALUE, Prediction, Ranked, Times, encoder
from layercache.stream.frames.frame import Frame
from layercache.stream.worker.answering.lessons import LESSON_SHARE, lesson_rows
from layercache.stream.worker.answering.micro_batch import AnsweredBatch

#: The headers that a prediction takes over from its frame.
_PASSED_ON = (CE_ID, CE_SOURCE, CE_TIME)
_JSON = (CONTENT_TYPE, CONTENT_TYPE_VALUE)


class PredictionWriter:
    """Writes one model's predictions as JSON."""

    def __init__(self, classes: Sequence[str], fingerprint: str, top_k: int, worker: str) -> None:
        self._classes = tuple(classes)
        self.model = fingerprint
        self._worker = worker
        self._top_k = min(top_k, len(classes))

    def write(self, answered: AnsweredBatch, predicted_ms: int) -> list[bytes]:
        """One prediction for each frame that was answered, in order.

        By columns: one call of a type for a whole batch makes its objects several times faster than a call for each.
        """
        batch, answers, engine = answered.batch, answered.answers, answered.engine
        frames, labels = batch.frames, answers.labels.tolist()
        times = map(
            Times,
            (frame.timestamp_ms for frame in frames),
            repeat(predicted_ms),
            batch.decode_ms,
            repeat(answered.inference_ms),
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
            answered.exits,
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
    """Writes what a micro-batch teaches: audits, frames that no exit would have answered, and lessons."""

    def __init__(self, fingerprint: str, worker: str, max_bytes: int) -> None:
        self._model = fingerprint
        self._worker = worker
        self._max_bytes = max_bytes

    def write(self, answered: AnsweredBatch, kept: Bools | None = None, miss_share: float = 1.0) -> Iterator[bytes]:
        """Records of at most ``max_bytes``; none where every frame left at a head.

        ``kept``, bool ``[M]``: which of the M full-path frames are in a sample of ``miss_share``, where the misses are
        sampled. Audits are written all the same; of lessons ``miss_share`` of the usual number.
        """
        for record in self.records(answered, kept, miss_share):
            yield from self.encoded(record)

    def encoded(self, record: DistillationBatch) -> Iterator[bytes]:
        """A record as records of at most ``max_bytes``."""
        return record.encode_within(self._max_bytes)

    def records(
        self, answered: AnsweredBatch, kept: Bools | None = None, miss_share: float = 1.0
    ) -> Iterator[DistillationBatch]:
        """What :meth:`write` encodes, for a trainer in this process."""
        for record in (self.record(answered, kept, miss_share), self.lessons(answered, miss_share)):
            if record is not None:
                yield record

    def record(
        self, answered: AnsweredBatch, kept: Bools | None = None, miss_share: float = 1.0
    ) -> DistillationBatch | None:
        """What frames on the full path teach, as one record; None where every frame left early."""
        batch, answers, engine, misses = answered.batch, answered.answers, answered.engine, answered.misses
        taught = batch.audits[answers.full_rows] | (misses if kept is None else misses & kept)
        taught &= np.isfinite(answers.logits).all(1)  # the trainer refuses a record with others as a whole
        rows = answers.full_rows[taught]
        if not len(rows):
            return None
        frames = [batch.frames[row] for row in rows]
        header = self._header(answered, frames, miss_share)
        return DistillationBatch(
            header=msgspec.structs.replace(header, exits=engine.exits, segment_ms=engine.segment_ms()),
            inputs=batch.pictures.numpy()[rows],
            logits=answers.logits[taught],
            audit=batch.audits[rows].astype(np.uint8),
            live_exit=answers.live_exit[taught],
            live_label=answers.live_label[taught],
            overload_label=None if answers.overload_label is None else answers.overload_label[taught],
            **_positions(frames),
        )

    def lessons(self, answered: AnsweredBatch, share: float = 1.0) -> DistillationBatch | None:
        """The frames of :func:`lesson_rows`, as one record; None where there are none.

        Without logits, an audit or an exit: nothing in it can be taken for the full model's answer, or be counted.
        """
        rows = lesson_rows(answered, share)
        if not len(rows):
            return None
        frames = [answered.batch.frames[row] for row in rows.tolist()]
        nothing = np.full(len(rows), -1, np.int32)
        return DistillationBatch(
            header=self._header(answered, frames, LESSON_SHARE * share),
            inputs=answered.batch.pictures.numpy()[rows],
            logits=np.empty((len(rows), 0), np.float32),
            audit=np.zeros(len(rows), np.uint8),
            live_exit=nothing,
            live_label=nothing,
            **_positions(frames),
        )

    def _header(self, answered: AnsweredBatch, frames: Sequence[Frame], share: float) -> DistillationHeader:
        return DistillationHeader(
            model=self._model,
            topic=frames[0].topic,
            topic_id=frames[0].topic_id,
            worker=self._worker,
            heads_version=answered.engine.version,
            audit_rate=answered.batch.audit_rate,
            miss_share=share,
            frame_ids=tuple(frame.id for frame in frames),
        )


def _positions(frames: Sequence[Frame]) -> dict[str, Any]:
    """The columns of a record that say which frames these are."""
    return {
        "partition": np.array([frame.partition for frame in frames], np.int32),
        "offset": np.array([frame.offset for frame in frames], np.int64),
        "timestamp_ms": np.array([frame.timestamp_ms for frame in frames], np.int64),
        "key_hash": np.array([key_hash(frame.key) for frame in frames], np.int64),
    }
