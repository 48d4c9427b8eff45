"""A worker answers every frame once: the readable ones with a prediction, the others with a dead letter."""

import io
import signal
from pathlib import Path

import numpy as np
import pytest

from layercache.schemas import distillation
from layercache.schemas.dead_letter import DeadLetterHeaders, Reason
from layercache.schemas.settings import Settings
from testbed.worker_process import Picture, Reader, publish, reading, running_worker
from tests.support.pictures import COLOURS, coloured, encode
from tests.support.tiny_model import CLASSES

pytestmark = pytest.mark.one_broker

TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "NPY": "application/x-npy"}


def frames_of_all_kinds(count: int) -> list[Picture]:
    """Named after the colour that they show."""
    pictures = []
    for number in range(count):
        colour, kind = CLASSES[number % 3], tuple(TYPES)[number % 4]
        value = encode(coloured(colour, noise=number), kind)
        content_type = TYPES[kind] if number % 2 else None
        pictures.append(Picture(value, content_type, id=f"{colour}-{number}", key=f"camera-{number % 5}"))
    return pictures


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.full((4, 4), None), allow_pickle=True)
    return stream.getvalue()


def bad_frames() -> list[Picture]:
    """One for each way a frame can be bad, named after the reason that is expected."""
    good = coloured("red")
    return [
        Picture(None, id="empty"),
        Picture(b"", id="empty"),
        Picture(b"hello", "text/plain", id="unknown-format"),
        Picture(encode(good, "JPEG"), "image/png", id="wrong-content-type"),
        Picture(encode(good, "JPEG")[:-200], id="corrupt"),
        Picture(encode(good, "PNG")[:-30], id="corrupt"),
        Picture(encode(good, "WEBP")[:-30], id="corrupt"),
        Picture(encode(good, "NPY") + bytes(100_000), id="too-many-bytes"),
        Picture(encode(np.zeros((400, 400, 3), np.uint8), "PNG"), id="too-many-pixels"),
        Picture(pickled(), id="pickled"),
        Picture(encode(np.zeros((4, 4, 4), np.uint8), "NPY"), id="wrong-shape"),
        Picture(encode(np.zeros((4, 4)), "NPY"), id="wrong-dtype"),  # type: ignore[arg-type]
    ]


def test_frames_of_all_kinds_are_answered_and_teach_and_bad_ones_become_dead_letters(
    worker_settings: Settings, tmp_path: Path
) -> None:
    settings = worker_settings
    bad, good = bad_frames(), frames_of_all_kinds(60)
    publish(settings, [picture for pair in zip(bad, good[: len(bad)], strict=True) for picture in pair])
    publish(settings, good[len(bad) :])
    with running_worker(settings, tmp_path) as worker:
        with reading(settings, settings.topics.predictions) as reader:
            check_predictions(reader, len(good))
        with reading(settings, settings.topics.dead_letters) as letters:
            check_dead_letters(letters, bad, settings)
        with reading(settings, settings.topics.distillation) as records:
            check_teaching(records, good)
        assert worker.stop() == 0


def test_openvino_answers_as_pytorch_does(worker_settings: Settings, tmp_path: Path) -> None:
    settings = with_model(worker_settings, runtime="openvino")
    good = frames_of_all_kinds(60)
    publish(settings, good)
    with running_worker(settings, tmp_path) as worker:
        with reading(settings, settings.topics.predictions) as reader:
            check_predictions(reader, len(good))
        assert worker.stop() == 0
    assert worker.log.read_text().count("the full model runs by OpenVINO: in batches of 1 ") == 1


def test_a_worker_ends_where_openvino_is_wanted_and_cannot_be(worker_settings: Settings, tmp_path: Path) -> None:
    settings = with_model(worker_settings, runtime="openvino", dtype="bfloat16")
    with running_worker(settings, tmp_path) as worker:
        assert worker.process.wait(60) == 1
    assert "model.runtime is openvino, but model.dtype is bfloat16" in worker.log.read_text()


def with_model(settings: Settings, **values: str) -> Settings:
    return settings.model_copy(update={"model": settings.model.model_copy(update=values)})


def check_predictions(reader: Reader, count: int) -> None:
    """One for each good frame, and nothing else."""
    messages = reader.read_count(count)
    for message, prediction in zip(messages, reader.predictions(), strict=True):
        colour, number = prediction.id.split("-")
        assert (prediction.class_name, prediction.exit, prediction.audited) == (colour, "full", True)
        assert prediction.heads_version is None
        assert prediction.top_k[0].class_name == colour
        assert len(prediction.top_k) == 3
        assert prediction.times.predicted_ms >= prediction.times.frame_ms > 0
        assert message.key() == f"camera-{int(number) % 5}".encode()
        headers = dict(message.headers() or [])
        assert headers == {"content-type": b"application/json", "ce_id": prediction.id.encode()}
    assert len({prediction.id for prediction in reader.predictions()}) == count
    assert COLOURS.keys() == set(CLASSES)


def check_dead_letters(letters: Reader, bad: list[Picture], settings: Settings) -> None:
    """One for each bad frame, which says what is wrong with it."""
    for message in letters.read_count(len(bad)):
        headers = dict(message.headers() or [])
        told = DeadLetterHeaders.read(message.headers())  # type: ignore[arg-type]
        assert told.reason.value == (headers["ce_id"] or b"").decode()  # type: ignore[union-attr]
        assert told.topic == settings.topics.frames
        assert told.message
    assert {message.value() for message in letters.messages} == {picture.value for picture in bad}
    # In test_worker_references, in test_envelope, and in test_poison.
    elsewhere = {
        Reason.REFERENCE_REFUSED, Reason.REFERENCE_FAILED, Reason.TOO_LARGE_HEADERS,
        Reason.MODEL_FAILED, Reason.NOT_FINITE, Reason.CRASHED_WORKER,
    }  # fmt: skip
    assert {picture.id for picture in bad} == {reason.value for reason in Reason} - elsewhere


def check_teaching(reader: Reader, good: list[Picture]) -> None:
    """What was answered in full teaches, each frame once."""
    records: list[distillation.DistillationBatch] = []

    def enough() -> bool:
        records[:] = [distillation.decode(message.value() or b"") for message in reader.messages]
        return sum(map(len, records)) >= len(good)

    reader.read_until(enough, f"{len(good)} frames to learn from")
    names = [name for record in records for name in record.header.frame_ids]
    assert sorted(names) == sorted(picture.id or "" for picture in good)
    for record, message in zip(records, reader.messages, strict=True):
        assert message.key() == record.header.model.encode()
        assert record.inputs.shape[1:] == (3, 16, 16)
        assert record.audit.all()
        assert (record.live_exit == -1).all()
        assert [CLASSES[label] for label in record.logits.argmax(1)] == [
            name.split("-")[0] for name in record.header.frame_ids
        ]
        strongest = record.inputs.reshape(len(record), 3, -1).mean(2).argmax(1)
        assert (record.logits.argmax(1) == strongest).all()


@pytest.mark.parametrize(
    ("number", "code", "delivery"), [(signal.SIGTERM, 0, "at_least_once"), (signal.SIGINT, 130, "exactly_once")]
)
def test_a_worker_that_is_stopped_goes_on_where_it_was(
    worker_settings: Settings, tmp_path: Path, number: int, code: int, delivery: str
) -> None:
    """By either delivery: the first worker had committed what it answered, so that nothing is answered again."""
    worker_options = worker_settings.worker.model_copy(update={"delivery": delivery})
    settings = worker_settings.model_copy(update={"worker": worker_options})
    pictures = frames_of_all_kinds(400)
    publish(settings, pictures[:300])
    with reading(settings, settings.topics.predictions) as reader:
        with running_worker(settings, tmp_path) as worker:
            reader.read_until(lambda: len(reader.messages) > 0, "a first prediction")
            assert worker.stop(number) == code
        publish(settings, pictures[300:])  # a quick first worker may have answered all the others
        with running_worker(settings, tmp_path) as worker:
            reader.read_until(lambda: len(reader.messages) >= 400, "400 predictions")
            assert worker.stop() == 0
        reader.read(1.0)
        assert sorted(p.id for p in reader.predictions()) == sorted(picture.id or "" for picture in pictures)
