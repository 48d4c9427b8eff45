"""Keys and headers are bounded, so that everything made of a frame fits into a record."""

import hashlib

import msgspec
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from confluent_kafka import Producer

from layercache.schemas.dead_letter import HEADROOM_BYTES, DeadLetterHeaders, Reason
from layercache.schemas.prediction import Prediction, Ranked, Times, encoder
from layercache.stream.frames.decode_pool import DecodePool
from layercache.stream.frames.decoding import DecodeError
from layercache.stream.frames.envelope import (
    MAX_ENVELOPE_BYTES,
    check_envelope,
    dead_letter_of,
    envelope_limit,
    shown,
)
from layercache.stream.frames.frame import Frame

RECORD = 200_000


def frame(key: bytes | None = None, value: bytes = b"picture", **headers: bytes) -> Frame:
    return Frame(
        topic="frames", partition=1, offset=2, timestamp_ms=3, key=key, value=value, raw_headers=list(headers.items())
    )


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (b"k" * (MAX_ENVELOPE_BYTES + 1), {}),
        (None, {"ce_id": b"i" * MAX_ENVELOPE_BYTES}),
        (b"k" * 9_000, {"other": b"o" * 9_000}),
        (None, {f"h{number}": b"" for number in range(9_000)}),
    ],
)
def test_a_frame_with_too_much_around_it_is_not_decoded(key: bytes | None, headers: dict[str, bytes]) -> None:
    decoded: list[Frame] = []
    pool = DecodePool(1, decoded.append)  # type: ignore[arg-type]
    (arrived,) = pool.submit([frame(key, **headers)])
    error = arrived.decoded().picture
    pool.close()
    assert isinstance(error, DecodeError)
    assert error.reason is Reason.TOO_LARGE_HEADERS
    assert not decoded


def test_as_much_as_is_allowed_is_allowed() -> None:
    check_envelope(b"k" * 100, [("ce_id", b"i" * (MAX_ENVELOPE_BYTES - 105))], MAX_ENVELOPE_BYTES)
    check_envelope(None, [("empty", None)], 5)


def test_the_prediction_of_the_largest_envelope_fits_into_a_record() -> None:
    for max_record_bytes in (10_000, RECORD, 5_000_000):
        limit = envelope_limit(max_record_bytes)
        name = "\x00" * (limit - len("ce_id"))  # JSON writes six bytes for each
        prediction = Prediction(
            id=name, topic="frames", partition=1, offset=2, label=0, class_name="a", confidence=1.0,
            top_k=(Ranked(0, "a", 1.0),), exit="full", audited=False, heads_version=None, model="f" * 64,
            times=Times(frame_ms=1, predicted_ms=2, decode_ms=0.1, inference_ms=0.1),
        )  # fmt: skip
        assert len(encoder.encode(prediction)) + 2 * limit < max_record_bytes


def test_the_dead_letter_of_any_frame_fits_into_a_record() -> None:
    error = DecodeError(Reason.TOO_LARGE_HEADERS, "too much")
    for one in (
        frame(b"k" * 10**7),
        frame(b"key", ce_id=b"i" * 10**7),
        frame(b"key", b"v" * 10**7, **{f"h{number}": b"x" for number in range(100_000)}),
    ):
        value, key, headers = dead_letter_of(one, error, RECORD, RECORD + HEADROOM_BYTES)
        size = len(value or b"") + len(key or b"") + sum(len(name) + len(text or b"") for name, text in headers)
        assert size < RECORD + HEADROOM_BYTES - 1_000
        Producer(
            {"bootstrap.servers": "localhost:1", "message.max.bytes": RECORD + HEADROOM_BYTES, "log_level": 0}
        ).produce("dlq", value, key, headers=list(headers))
        assert DeadLetterHeaders.read(headers).reason is Reason.TOO_LARGE_HEADERS


def test_a_dead_letter_that_fits_is_the_frame_untouched() -> None:
    small = frame(b"key", ce_id=b"7")
    letter = dead_letter_of(small, DecodeError(Reason.CORRUPT, "broken"), RECORD, RECORD + HEADROOM_BYTES)
    assert (letter.value, letter.key, letter.headers[0]) == (b"picture", b"key", ("ce_id", b"7"))
    told = DeadLetterHeaders.read(letter.headers)
    assert (told.reason, told.size, told.sha256) == (Reason.CORRUPT, None, None)


def test_a_dead_letter_that_does_not_fit_its_topic_tells_size_and_hash_of_what_it_leaves_out() -> None:
    large = frame(b"key", b"v" * 2_000_000, ce_id=b"7")
    letter = dead_letter_of(large, DecodeError(Reason.CORRUPT, "broken"), 5_000_000, 1_048_588)
    assert (letter.value, letter.key, letter.headers[0]) == (None, b"key", ("ce_id", b"7"))
    told = DeadLetterHeaders.read(letter.headers)
    assert (told.reason, told.topic, told.partition, told.offset) == (Reason.CORRUPT, "frames", "1", "2")
    assert (told.size, told.sha256) == ("2000000", hashlib.sha256(b"v" * 2_000_000).hexdigest())


@pytest.mark.parametrize("topic_bytes", [800, 5_000, 50_000, 10**7])
def test_the_size_of_a_dead_letter_is_no_less_than_what_it_takes(topic_bytes: int) -> None:
    error = DecodeError(Reason.CORRUPT, "ü" * 100)
    for one in (
        frame(b"k" * 600, b"v" * 49_000, ce_id=b"7" * 2_000, **{f"größe{number}": b"x" for number in range(50)}),
        frame(None, b"v" * (topic_bytes - 600)),
        frame(b"k" * topic_bytes, b""),
    ):
        letter = dead_letter_of(one, error, RECORD, topic_bytes)
        builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, 0, 10**8)
        builder.append(0, 1_700_000_000_000, letter.key, letter.value, list(letter.headers))
        assert len(builder.build()) <= letter.size <= topic_bytes
        if letter.value is None:
            assert DeadLetterHeaders.read(letter.headers).size == str(len(one.value or b""))


def test_a_dead_letter_that_is_published_again_tells_of_no_value_that_it_has() -> None:
    error = DecodeError(Reason.CORRUPT, "broken")
    first = dead_letter_of(frame(None, b"v" * 2_000), error, RECORD, 1_000)
    assert first.value is None
    again = frame(None, b"v")
    again = msgspec.structs.replace(again, raw_headers=first.headers)
    assert DeadLetterHeaders.read(dead_letter_of(again, error, RECORD, 10_000).headers).size is None


def test_a_publishers_text_neither_steers_a_terminal_nor_fills_a_log() -> None:
    assert shown("Kamera 7 – Tür") == "Kamera 7 – Tür"
    assert shown("a\nb\x1b[2J\u202e") == "a\\nb\\x1b[2J\\u202e"
    assert len(shown("x" * 10**6)) == 201
