"""What an error means: whether the producer goes on, and what to say where no worker can mend it."""

import pytest
from confluent_kafka import KafkaError

from layercache.schemas.settings import Kafka, Settings
from layercache.stream.worker.delivery.errors import Undelivered, judge, refusal
from layercache.stream.worker.delivery.states import Event, State

SETTINGS = Settings(kafka=Kafka(bootstrap_servers="kafka-1:9092"))
ERRONEOUS = KafkaError(KafkaError._STATE, "Local: Erroneous state")


@pytest.mark.parametrize(
    ("code", "topic", "parts"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, "predictions", ("max.message.bytes", "--entity-name predictions")),
        (KafkaError.INVALID_RECORD, "predictions", ("without a key", "cleanup.policy=delete")),
        (KafkaError.INVALID_TIMESTAMP, "predictions", ("clock", "message.timestamp.after.max.ms")),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "distillation", ("may not write", "--operation Write")),
        (KafkaError.UNSUPPORTED_COMPRESSION_TYPE, "predictions", ("compression.type",)),
        (KafkaError.POLICY_VIOLATION, "predictions", ("policy",)),
        (KafkaError._UNKNOWN_TOPIC, "predictions", ("layercache topics create",)),
    ],
)
def test_what_no_worker_can_mend_names_topic_setting_and_command(code: int, topic: str, parts: tuple[str, ...]) -> None:
    text = refusal(Undelivered(topic, KafkaError(code)), SETTINGS)
    assert text is not None
    assert topic in text
    for part in parts:
        assert part in text


def test_a_size_that_is_named_is_the_one_that_our_own_command_sets() -> None:
    text = refusal(Undelivered("distillation", KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)), SETTINGS)
    assert text is not None
    assert int(text.split("max.message.bytes=")[1].rstrip("`")) == SETTINGS.topics.max_record_bytes


def test_a_dead_letter_that_is_too_large_ends_no_worker() -> None:
    assert refusal(Undelivered("frames.dlq", KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)), SETTINGS) is None


def test_what_the_producer_itself_does_not_take_is_its_own_setting() -> None:
    text = refusal(Undelivered("predictions", KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), here=True), SETTINGS)
    assert text is not None
    assert "message.max.bytes" in text
    assert "kafka-configs" not in text


@pytest.mark.parametrize("code", [KafkaError._MSG_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS, KafkaError._TRANSPORT])
def test_what_may_pass_ends_no_worker(code: int) -> None:
    assert refusal(Undelivered("predictions", KafkaError(code)), SETTINGS) is None


def test_the_report_of_a_record_says_more_than_the_call_that_failed() -> None:
    event, failure = judge(
        "producing", ERRONEOUS, State.OPEN, Undelivered("predictions", KafkaError(KafkaError.INVALID_RECORD)), SETTINGS
    )
    assert event is Event.FAILED
    assert failure.ends_worker
    assert "topic predictions refuses a record" in failure.why


def test_a_cause_that_may_pass_is_kept_in_what_is_said() -> None:
    undelivered = Undelivered("predictions", KafkaError(KafkaError.NOT_ENOUGH_REPLICAS, "too few in-sync replicas"))
    _, failure = judge("producing", ERRONEOUS, State.OPEN, undelivered, SETTINGS)
    assert not failure.ends_worker
    assert not failure.is_passing, "ten of these in a row end the worker, an erroneous state alone never would"
    assert failure.why.endswith("a record for topic predictions was not delivered: too few in-sync replicas")


def test_a_record_that_went_with_others_is_no_cause() -> None:
    for code in (KafkaError._PURGE_QUEUE, KafkaError._INVALID_DIFFERENT_RECORD):
        assert not Undelivered("predictions", KafkaError(code)).is_cause


@pytest.mark.parametrize(
    ("state", "fatal", "event"),
    [
        (State.OPEN, False, Event.FAILED),
        (State.OPEN, True, Event.BROKEN),
        (State.COMMITTING, False, Event.FAILED),
        (State.READY, False, Event.BROKEN),
        (State.BEGINNING, False, Event.BROKEN),
        (State.PENDING, False, Event.BROKEN),
    ],
)
def test_a_producer_goes_on_after_an_error_of_its_transaction_alone(state: State, fatal: bool, event: Event) -> None:
    error = KafkaError(KafkaError._STATE, "Local: Erroneous state", fatal=fatal)
    assert judge("committing", error, state, None, SETTINGS)[0] is event


def test_a_registration_that_is_under_way_is_tried_again_with_the_same_producer() -> None:
    error = KafkaError(KafkaError._PREV_IN_PROGRESS)
    assert judge("registering", error, State.PENDING, None, SETTINGS)[0] is Event.FAILED


def test_a_fenced_producer_is_told_from_others() -> None:
    error = KafkaError(KafkaError._FENCED, "fenced by a newer instance", fatal=True)
    event, failure = judge("committing", error, State.COMMITTING, None, SETTINGS)
    assert (event, failure.is_fenced, failure.reason) == (Event.BROKEN, True, "fenced")
