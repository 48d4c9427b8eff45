"""One prediction or one dead letter for each frame, whatever is in it; none for frames that others answer by now."""

import threading
from collections.abc import Iterable, Iterator, Sequence, Set
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Answers, Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.machine import MachineFailed
from layercache.early_exit.model.loading import ModelError
from layercache.schemas import distillation, prediction
from layercache.schemas.dead_letter import DeadLetterHeaders, Reason
from layercache.schemas.settings import Settings
from layercache.stream.frames.decode_pool import DecodePool
from layercache.stream.frames.decoding import DecodeError
from layercache.stream.frames.frame import Frame
from layercache.stream.kafka.record_limits import LetterLimit
from layercache.stream.worker.answering.answering import FAILED_BATCHES, ModelAnswering
from layercache.stream.worker.answering.heads_watch import Serving
from layercache.stream.worker.delivery.delivery import Aborted, Delivery
from layercache.stream.worker.metrics import Metrics
from tests.stream import builders
from tests.stream.builders import frame, picture

Headers = Sequence[tuple[str, bytes | None]]

#: What a frame's value makes of it: ``broken`` does not decode, the model raises at ``poison``, ``nan`` becomes NaN.
POISON, NAN = 250, 251


def decoded(one: Frame) -> Tensor:
    match (one.value or b"").rstrip():
        case b"broken":
            raise DecodeError(Reason.CORRUPT, "its end is missing")
        case b"no memory":
            raise MachineFailed("no memory to decode a frame of 9 bytes")
        case b"poison":
            return torch.full((3, 16, 16), POISON, dtype=torch.uint8)
        case b"nan":
            return torch.full((3, 16, 16), NAN, dtype=torch.uint8)
    return picture("green", one.offset)


class Fragile(Engine):
    """Of a model that fails at some pictures, or at all."""

    broken: Exception | None = None

    def run(self, frames: Tensor, audits: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Answers:
        if self.broken:
            raise self.broken
        if (frames == POISON).all((1, 2, 3)).any():
            raise ValueError("poison")
        return super().run(frames, audits)

    def _enter(self, frames: Tensor) -> Tensor:
        x: Tensor = super()._enter(frames)
        x[(frames == NAN).all((1, 2, 3))] = torch.nan
        return x


class Collected:
    """A delivery that keeps what it is given."""

    def __init__(self, too_large: int | None = None) -> None:
        self.records: list[tuple[str, bytes | None, Headers]] = []
        self.keys: list[bytes | None] = []
        self._too_large = too_large

    def produce(self, topic: str, value: bytes | None, key: bytes | None = None, headers: Headers = ()) -> None:
        self.records.append((topic, value, headers))
        self.keys.append(key)

    def produce_all(
        self, topic: str, values: Iterable[bytes], keys: Iterable[bytes | None], headers: Iterable[Headers]
    ) -> None:
        for value, key, raw in zip(values, keys, headers, strict=True):
            self.produce(topic, value, key, raw)

    def waited_s(self) -> float:
        return 0.0

    def too_large(self, topic: str) -> int | None:
        return self._too_large if topic == "frames.dlq" else None

    def predicted(self) -> list[int]:
        """Offsets, as they came."""
        return [
            prediction.decoder.decode(value or b"").offset for topic, value, _ in self.records if topic == "predictions"
        ]

    def workers(self) -> set[str | None]:
        """Who says that it answered."""
        return {
            prediction.decoder.decode(value or b"").worker for topic, value, _ in self.records if topic == "predictions"
        }

    def refused(self) -> list[tuple[int, str]]:
        """Offsets of the dead letters, and why."""
        told = [DeadLetterHeaders.read(headers) for topic, _, headers in self.records if topic == "frames.dlq"]
        return [(int(one.offset), one.reason.value) for one in told]

    def taught(self) -> list[int]:
        """Offsets that the trainer hears of."""
        records = [distillation.decode(value or b"") for topic, value, _ in self.records if topic == "distillation"]
        return [offset for record in records for offset in record.offset.tolist()]


@pytest.fixture
def engine(traced: TracedModel) -> Fragile:
    return Fragile(traced)


@pytest.fixture
def answering(traced: TracedModel, engine: Fragile) -> Iterator[ModelAnswering]:
    pool = DecodePool(1, decoded)
    heads = cast(Any, SimpleNamespace(serving=Serving(engine, engine, 0.01)))
    limit = LetterLimit(Settings(), ask=lambda: 50_000)
    answering = ModelAnswering(Settings(), "w-1", traced, heads, Metrics(max_batch=32), pool, limit)
    yield answering
    answering.stop()
    pool.close()


def answer(
    answering: ModelAnswering, frames: Sequence[Frame], lost: Set[int] = frozenset(), too_large: int | None = None
) -> Collected:
    delivery = Collected(too_large)
    answering.answer(answering.submit(frames), cast(Delivery, delivery), lambda: 60.0, False, lost)
    return delivery


def frames(*values: bytes, partition: int = 0) -> list[Frame]:
    return [frame(offset, partition, value) for offset, value in enumerate(values)]


def test_each_frame_is_answered_in_order_whatever_the_model_makes_of_it(answering: ModelAnswering) -> None:
    sent = answer(answering, frames(b"", b"poison", b"", b"broken", b"nan", b"", b"poison"))
    assert sent.predicted() == [0, 2, 5]
    assert sent.workers() == {"w-1"}
    assert sent.refused() == [(1, "model-failed"), (3, "corrupt"), (4, "not-finite"), (6, "model-failed")]
    assert sent.taught() == [0, 2, 5], "what has no answer teaches nothing"


def test_metrics_count_flops_and_time_by_what_the_manifest_says_of_each_exit(traced: TracedModel) -> None:
    """As a model in int8 has them: a frame takes a quarter of the time there, and no fewer FLOPs."""
    manifest, tensors = builders.heads(traced, audit_rate=0.3)
    (exit_,) = manifest.exits
    exits = (msgspec.structs.replace(exit_, flops_share=1.0, time_share=0.25),)
    manifest = msgspec.structs.replace(manifest, exits=exits, full_flops_share=2.0, full_time_share=1.25)
    engine = Engine(traced, load_heads(manifest, tensors, traced))
    pool, metrics = DecodePool(1, decoded), Metrics(max_batch=32)
    heads = cast(Any, SimpleNamespace(serving=Serving(engine, engine, 0.01)))
    answering = ModelAnswering(Settings(), "w-1", traced, heads, metrics, pool, LetterLimit(Settings(), lambda: 50_000))
    answer(answering, frames(*[b""] * 20))
    answering.stop()
    pool.close()
    audits = metrics.registry.get_sample_value("layercache_audits_total")
    assert audits is not None
    assert 0 < audits < 20
    assert metrics.registry.get_sample_value("layercache_flops_total") == pytest.approx(20 + audits)
    assert metrics.registry.get_sample_value("layercache_model_time_total") == pytest.approx(5 + audits)


def test_lessons_go_to_the_trainer_under_the_models_key_and_are_counted_apart(traced: TracedModel) -> None:
    engine = builders.engine(traced, audit_rate=0.3)
    engine.end = 0  # as if its one exit were the model itself, compiled
    pool, metrics = DecodePool(1, decoded), Metrics(max_batch=32)
    heads = cast(Any, SimpleNamespace(serving=Serving(engine, engine, 0.01)))
    answering = ModelAnswering(Settings(), "w-1", traced, heads, metrics, pool, LetterLimit(Settings(), lambda: 50_000))
    sent = answer(answering, frames(*[b""] * 300))
    answering.stop()
    pool.close()
    taught = [
        (distillation.decode(value or b""), key)
        for (topic, value, _), key in zip(sent.records, sent.keys, strict=True)
        if topic == "distillation"
    ]
    fingerprint = traced.classifier.fingerprint
    assert [(record.of_lessons, record.header.model, key) for record, key in taught] == [
        (False, fingerprint, fingerprint.encode()),
        (True, fingerprint, fingerprint.encode()),
    ]
    (audits, _), (lessons, _) = taught
    assert 5 < len(lessons) < 50
    value = metrics.registry.get_sample_value
    assert value("layercache_distillation_lessons_total") == len(lessons)
    assert value("layercache_audits_total") == len(audits)
    assert value("layercache_audit_disagreements_total") == (audits.live_label != audits.logits.argmax(1)).sum()
    assert value("layercache_frames_total", {"exit": "full"}) == len(audits)


def test_a_batch_without_a_single_answer_is_all_dead_letters(answering: ModelAnswering) -> None:
    sent = answer(answering, frames(b"poison", b"broken", b"nan"))
    assert (sent.predicted(), sent.taught()) == ([], [])
    assert [offset for offset, _ in sent.refused()] == [0, 1, 2]


def test_frames_of_partitions_that_went_are_left_to_others_and_the_rest_is_answered(answering: ModelAnswering) -> None:
    kept, gone = frames(b"", b"poison", b""), frames(b"", b"broken", b"nan", b"poison", partition=3)
    mixed = [one for pair in zip(kept, gone, strict=False) for one in pair] + gone[3:]
    sent = answer(answering, mixed, lost={3, 4})
    assert (sent.predicted(), sent.refused()) == ([0, 2], [(1, "model-failed")])
    assert not answer(answering, gone, lost={3}).records


def test_a_model_that_fails_at_everything_ends_after_a_few_batches_and_nothing_is_sent(
    answering: ModelAnswering, engine: Fragile
) -> None:
    assert answer(answering, frames(b"", b"")).predicted() == [0, 1]
    engine.broken = ValueError("the weights are gone")
    delivery = Collected()
    for attempt in range(FAILED_BATCHES):
        with pytest.raises(Aborted if attempt < FAILED_BATCHES - 1 else ModelError, match="weights are gone"):
            answering.answer(answering.submit(frames(b"", b"")), cast(Delivery, delivery), lambda: 60.0, False, set())
    assert not delivery.records


def test_a_model_that_comes_to_its_senses_goes_on(answering: ModelAnswering, engine: Fragile) -> None:
    for _ in range(3):
        engine.broken = ValueError("not today")
        for _ in range(FAILED_BATCHES - 1):
            with pytest.raises(Aborted):
                answer(answering, frames(b""))
        engine.broken = None
        assert answer(answering, frames(b"")).predicted() == [0]


def test_where_memory_or_a_device_fails_the_worker_ends_and_no_frame_is_blamed(
    answering: ModelAnswering, engine: Fragile
) -> None:
    engine.broken = MemoryError()
    with pytest.raises(MachineFailed, match="MemoryError; this worker cannot answer frames 2 at a time"):
        answer(answering, frames(b"", b""))
    engine.broken = None
    with pytest.raises(MachineFailed, match="no memory to decode"):
        answer(answering, frames(b"", b"no memory"))


def test_a_dead_letter_that_its_topic_does_not_take_goes_without_its_value(answering: ModelAnswering) -> None:
    def values(size: int, too_large: int | None = None) -> list[bytes | None]:
        broken = frame(7, value=b"broken".ljust(size))
        return [value for _, value, _ in answer(answering, [broken], too_large=too_large).records]

    assert values(49_000) == [b"broken".ljust(49_000)]
    assert values(50_000) == [None]
    assert values(49_000, too_large=49_000) == [None], "the broker refused as large a one, whatever it said before"
    assert values(20_000) == [b"broken".ljust(20_000)]


def test_duties_are_done_while_pictures_are_waited_for(answering: ModelAnswering) -> None:
    released = threading.Event()
    answering._pool = DecodePool(1, lambda one: picture("green") if released.wait(20) else picture("red"))
    delivery = Collected()

    def duties() -> float:
        released.set()
        return 60.0

    answering.answer(answering.submit(frames(b"")), cast(Delivery, delivery), duties, False, set())
    answering._pool.close()
    assert [prediction.decoder.decode(value or b"").class_name for _, value, _ in delivery.records[:1]] == ["green"]
