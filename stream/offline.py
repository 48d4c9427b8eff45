"""The worker's path from bytes to predictions without Kafka: it decodes ahead of the engine, as a worker does."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import Worker
from layercache.stream.frames.decode_pool import DecodePool, PendingFrame, decoder
from layercache.stream.frames.decoding import DecodeError, Limits
from layercache.stream.frames.frame import Frame
from layercache.stream.worker.answering.micro_batch import MicroBatch
from layercache.stream.worker.answering.records import DistillationWriter, PredictionWriter

#: Micro-batches that are decoded ahead of the engine.
_AHEAD = 2


class OfflineWorker:
    """Answers pictures as a worker would, audits and distillation records included.

    >>> from zipfile import ZipFile
    >>> with ZipFile("examples/fashion-mnist-frames.zip") as pictures:
    ...     dress = pictures.read("00002-dress.webp")
    >>> with OfflineWorker(traced, Worker()) as worker:
    ...     [prediction] = worker.answer(Engine(traced), [(dress, "image/webp")])
    >>> b'"class_name":"dress"' in prediction
    True
    """

    def __init__(self, traced: TracedModel, settings: Worker, max_record_bytes: int = 5_000_000) -> None:
        classifier = traced.classifier
        self._max_batch = settings.max_batch
        self._pool = DecodePool(settings.decode_threads, decoder(classifier.preprocessing, Limits.of(settings)))
        self._predictions = PredictionWriter(classifier.classes, classifier.fingerprint, settings.top_k, "offline")
        self._distillation = DistillationWriter(classifier.fingerprint, "offline", max_record_bytes)

    def __enter__(self) -> "OfflineWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def answer(
        self,
        engine: Engine,
        pictures: Iterable[tuple[bytes, str | None]],
        topic: str = "frames",
        partition: int = 0,
        first_offset: int = 0,
    ) -> list[bytes]:
        """One encoded prediction for each picture (bytes, content type), in order, in batches of ``max_batch``.

        Positions decide about audits: picture i is taken to stand at ``first_offset`` + i. Raises
        :class:`layercache.stream.frames.decoding.DecodeError` for a picture that a worker would make a dead letter.
        """
        frames = (
            Frame(topic, partition, first_offset + index, 0, None, value, FrameHeaders(content_type=kind).as_kafka())
            for index, (value, kind) in enumerate(pictures)
        )
        return self.answer_frames(engine, frames)

    def answer_frames(self, engine: Engine, frames: Iterable[Frame]) -> list[bytes]:
        """The same for frames of one topic whose positions are known."""
        predictions: list[bytes] = []
        ahead: deque[list[PendingFrame]] = deque()
        for batch in self._batches(iter(frames)):
            ahead.append(self._pool.submit(batch))
            if len(ahead) > _AHEAD:
                predictions += self._answer(engine, ahead.popleft())
        while ahead:
            predictions += self._answer(engine, ahead.popleft())
        return predictions

    def _answer(self, engine: Engine, arrived: Sequence[PendingFrame]) -> list[bytes]:
        decoded = [one.decoded() for one in arrived]
        for one in decoded:
            if isinstance(one.picture, DecodeError):
                raise one.picture
        batch = MicroBatch.of_decoded([one.frame for one in arrived], decoded, engine.audit_rate)
        answered = batch.answer(engine)
        for _ in self._distillation.write(answered):
            pass  # a worker encodes them, too: without that this would measure too little
        return self._predictions.write(answered, time.time_ns() // 1_000_000)

    def _batches(self, frames: Iterator[Frame]) -> Iterator[list[Frame]]:
        while batch := list(islice(frames, self._max_batch)):
            yield batch
