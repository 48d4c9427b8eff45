"""What is sent says what the engine answered."""

import dataclasses

import msgspec
import numpy as np
import pytest

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.schemas import distillation, prediction
from layercache.schemas.distillation import key_hash
from layercache.schemas.prediction import Prediction
from layercache.schemas.settings import Worker
from layercache.stream.frames.decode_pool import Decoded
from layercache.stream.frames.decoding import DecodeError
from layercache.stream.offline import OfflineWorker
from layercache.stream.worker.answering.micro_batch import MicroBatch
from layercache.stream.worker.answering.records import DistillationWriter, PredictionWriter
from tests.stream.builders import engine, frame, micro_batch, picture
from tests.support.pictures import COLOURS, coloured, encode
from tests.support.tiny_model import CLASSES


def predictions(batch: MicroBatch, by: Engine, top_k: int = 2) -> list[Prediction]:
    writer = PredictionWriter(CLASSES, "f00d", top_k, "worker-1")
    answered = dataclasses.replace(batch.answer(by), inference_ms=4.5)
    return [prediction.decoder.decode(value) for value in writer.write(answered, 1_234)]


def test_a_prediction_on_the_full_path(traced: TracedModel) -> None:
    first, second, *_ = predictions(micro_batch(4, 1.0, first=70), Engine(traced))
    assert (first.id, first.topic, first.partition, first.offset) == ("frames-0-70", "frames", 0, 70)
    assert (first.label, first.class_name, second.class_name) == (0, "red", "green")
    assert (first.exit, first.audited, first.heads_version, first.model) == ("full", True, None, "f00d")
    assert first.worker == second.worker == "worker-1"
    assert first.top_k[0].label == first.label
    assert first.confidence == first.top_k[0].confidence > first.top_k[1].confidence
    assert (second.times.frame_ms, second.times.predicted_ms) == (1_071, 1_234)
    assert (second.times.decode_ms, second.times.inference_ms) == (0.1, 4.5)


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_top_k_is_as_long_as_asked_and_as_there_are_classes(traced: TracedModel, top_k: int) -> None:
    for one in predictions(micro_batch(6, 1.0), Engine(traced), top_k):
        assert len(one.top_k) == min(top_k, 3)
        confidences = [ranked.confidence for ranked in one.top_k]
        assert confidences == sorted(confidences, reverse=True)
        assert all(ranked.class_name == CLASSES[ranked.label] for ranked in one.top_k)
        assert one.top_k[0].label == one.label


def test_hits_and_audits_are_told_apart(traced: TracedModel) -> None:
    batch = micro_batch(200, audit_rate=0.3)
    exits = engine(traced, audit_rate=0.3)
    found = predictions(batch, exits)
    assert 30 < sum(one.audited for one in found) < 90
    for row, one in enumerate(found):
        assert one.heads_version == "v1"
        if one.audited:
            assert (one.exit, one.class_name) == ("full", CLASSES[row % 3])
        else:
            assert (one.exit, one.class_name) == (exits.exits[0], "blue")


def test_the_publishers_id_goes_before_the_position(traced: TracedModel) -> None:
    frames = [frame(0, ce_id="my-id"), frame(1)]
    batch = MicroBatch.of_decoded(frames, [Decoded(picture("red"), 0.0)] * 2, 1.0)
    assert [one.id for one in predictions(batch, Engine(traced))] == ["my-id", "frames-0-1"]


def records(batch: MicroBatch, by: Engine, max_bytes: int = 10**7) -> list[distillation.DistillationBatch]:
    written = list(DistillationWriter("f00d", "me", max_bytes).write(batch.answer(by)))
    assert all(len(record) <= max_bytes for record in written)
    return [distillation.decode(record) for record in written]


def test_a_record_of_audits(traced: TracedModel) -> None:
    batch = micro_batch(100, audit_rate=0.4)
    (record,) = records(batch, engine(traced, audit_rate=0.4))
    audited = np.flatnonzero(batch.audits)
    assert (record.header.model, record.header.topic, record.header.worker) == ("f00d", "frames", "me")
    assert (record.header.heads_version, record.header.audit_rate) == ("v1", 0.4)
    assert record.header.frame_ids == tuple(f"frames-0-{row}" for row in audited)
    assert record.offset.tolist() == audited.tolist()
    assert record.timestamp_ms.tolist() == [1_000 + row for row in audited]
    assert set(record.key_hash.tolist()) == {key_hash(b"camera-1")}
    assert record.audit.all()
    assert (record.live_exit == 0).all()
    assert (record.live_label == CLASSES.index("blue")).all()
    assert record.logits.argmax(1).tolist() == [row % 3 for row in audited]
    assert np.array_equal(record.inputs, batch.pictures.numpy()[audited])


def test_a_record_of_misses(traced: TracedModel) -> None:
    (record,) = records(micro_batch(9, audit_rate=0.0), engine(traced, threshold=1.1))
    assert not record.audit.any()
    assert (record.live_exit == -1).all()
    assert record.live_label.tolist() == record.logits.argmax(1).tolist()


def test_no_record_where_all_frames_left(traced: TracedModel) -> None:
    assert records(micro_batch(9, audit_rate=0.0), engine(traced)) == []


def test_shadow_mode_teaches_the_same_as_serving(traced: TracedModel) -> None:
    batch = micro_batch(100, audit_rate=0.4)
    (served,) = records(batch, engine(traced, audit_rate=0.4))
    (shadowed,) = records(batch, engine(traced, "shadow", audit_rate=0.4))
    assert shadowed.header.frame_ids == served.header.frame_ids
    assert np.array_equal(shadowed.live_label, served.live_label)


def test_records_are_split_where_the_topic_would_refuse_them(traced: TracedModel) -> None:
    split = records(micro_batch(40, audit_rate=1.0), Engine(traced), max_bytes=10_000)
    assert len(split) > 3
    assert [name for record in split for name in record.header.frame_ids] == [f"frames-0-{n}" for n in range(40)]


def test_the_whole_path_without_kafka(traced: TracedModel) -> None:
    colours = [tuple(COLOURS)[n % 3] for n in range(50)]
    pictures = [(encode(coloured(colour, noise=n), "JPEG"), "image/jpeg") for n, colour in enumerate(colours)]
    with OfflineWorker(traced, Worker(max_batch=8)) as worker:
        found = [prediction.decoder.decode(one) for one in worker.answer(Engine(traced), pictures, first_offset=5)]
        assert [one.class_name for one in found] == colours
        assert [one.offset for one in found] == list(range(5, 55))
        exits = engine(traced, audit_rate=0.3)
        audited = [prediction.decoder.decode(one).audited for one in worker.answer(exits, pictures)]
        assert audited == micro_batch(50, 0.3).audits.tolist()
        with pytest.raises(DecodeError):
            worker.answer(exits, [(b"no picture", None)])


def test_a_record_says_of_which_topic_its_positions_are(traced: TracedModel) -> None:
    frames = [msgspec.structs.replace(frame(0), topic_id="a-cluster/new")]
    (record,) = records(MicroBatch.of_decoded(frames, [Decoded(picture("red"), 0.0)], 1.0), Engine(traced))
    assert record.header.topic_id == "a-cluster/new"


def test_what_the_trainer_would_refuse_teaches_nothing(traced: TracedModel) -> None:
    """Minus infinity gives a probability, zero, and so an answer; but there is nothing to learn from it."""
    answered = micro_batch(3, audit_rate=1.0).answer(Engine(traced))
    logits = answered.answers.logits.copy()
    logits[1, 0] = -np.inf
    answered = dataclasses.replace(answered, answers=dataclasses.replace(answered.answers, logits=logits))
    found = DistillationWriter("f00d", "me", 10**7).record(answered)
    assert found is not None
    assert found.offset.tolist() == [0, 2]
