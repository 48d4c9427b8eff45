"""How large a dead letter may be, by what the topic says and by what the broker refuses."""

import logging

import pytest
from confluent_kafka import KafkaError, Message

from layercache.schemas.dead_letter import HEADROOM_BYTES
from layercache.schemas.settings import Kafka, Settings
from layercache.stream.kafka.record_limits import LetterLimit, with_fitting_batches
from tests.stream.worker.delivery.test_delivery import delivery_to_nowhere

WANTED = Settings().topics.max_record_bytes + HEADROOM_BYTES


def test_a_topic_that_says_nothing_takes_what_the_settings_ask_for() -> None:
    assert LetterLimit(Settings(), ask=lambda: None).bytes == WANTED
    assert LetterLimit(Settings(), ask=lambda: 10**8).bytes == WANTED, "more than the producer sends"
    small = Settings(kafka=Kafka(producer_options={"message.max.bytes": 300_000}))
    assert LetterLimit(small, ask=lambda: None).bytes == 300_000


def test_a_topic_that_takes_less_is_told_with_the_command_that_changes_it(caplog: pytest.LogCaptureFixture) -> None:
    assert LetterLimit(Settings(), ask=lambda: 1_048_588).bytes == 1_048_588
    (line,) = caplog.messages
    assert "the topic frames.dlq takes records of 1,048,588 bytes at most" in line
    assert f"--alter --topic frames.dlq --add-config max.message.bytes={WANTED}" in line
    assert caplog.records[0].levelno == logging.WARNING


def test_a_refusal_asks_again_and_counts_where_nothing_is_told() -> None:
    told: list[int | None] = [None, None, 1_000_000, 1_000_000]
    limit = LetterLimit(Settings(), ask=lambda: told.pop(0))
    limit.refused(4_000_000)
    assert limit.bytes == 2_000_000
    limit.refused(1_500_000)
    assert limit.bytes == 1_000_000, "told"
    limit.refused(1_500)
    assert limit.bytes == 750


def test_no_letter_is_refused_for_ever() -> None:
    limit, refusals = LetterLimit(Settings(), ask=lambda: None), 0
    while limit.bytes > 0:
        limit.refused(limit.bytes)
        refusals += 1
    assert refusals < 25


def test_a_delivery_tells_what_was_refused_once() -> None:
    delivery = delivery_to_nowhere()
    too_large, other = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), KafkaError(KafkaError._MSG_TIMED_OUT)
    for size, error in ((700, too_large), (900, too_large), (800, too_large), (5_000, other), (6_000, None)):
        delivery._watched.reports(error, Message("frames.dlq", 0, 1, None, b"v" * size))
    assert (delivery.too_large("predictions"), delivery.too_large("frames.dlq")) == (None, 900)
    assert delivery.too_large("frames.dlq") is None


def test_batches_fit_the_smallest_topic_unless_the_user_says_otherwise() -> None:
    limits = {"predictions": 200_000, "frames.dlq": 100_000}
    assert with_fitting_batches(Settings(), limits).kafka.producer_options == {"batch.size": 100_000}
    assert with_fitting_batches(Settings(), {}) == Settings()
    for kafka in (Kafka(options={"batch.size": 7_000}), Kafka(producer_options={"batch.size": 7_000})):
        fitted = with_fitting_batches(Settings(kafka=kafka), limits).kafka
        assert (fitted.options | fitted.producer_options)["batch.size"] == 7_000
