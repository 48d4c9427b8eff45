"""What the clients are configured with, and which errors end them."""

import pytest
from confluent_kafka import Consumer, KafkaError
from pydantic import ValidationError

from layercache.schemas.settings import Kafka, Settings, Worker
from layercache.stream.kafka.clients import (
    consumer_config,
    describe_error,
    is_hopeless,
    is_replaced,
    long_running,
    poll_budget_s,
    worker_config,
)
from layercache.stream.worker.consuming.membership import MemberOptions


@pytest.mark.parametrize(("session_ms", "heartbeat_ms"), [(2_000, 500), (45_000, 3_000)])
def test_a_session_is_never_shorter_than_its_heartbeats(session_ms: int, heartbeat_ms: int) -> None:
    settings = Settings(kafka=Kafka(options={"session.timeout.ms": session_ms}))
    assert consumer_config(settings, "group")["heartbeat.interval.ms"] == heartbeat_ms


def test_a_heartbeat_that_the_user_chose_stays() -> None:
    chosen = Kafka(consumer_options={"session.timeout.ms": 10_000, "heartbeat.interval.ms": 900})
    assert consumer_config(Settings(kafka=chosen), "group")["heartbeat.interval.ms"] == 900


def test_with_kip_848_the_broker_says_what_a_classic_member_would(caplog: pytest.LogCaptureFixture) -> None:
    kafka = Kafka(consumer_options={"session.timeout.ms": 10_000, "max.poll.interval.ms": 20_000})
    config = worker_config(Settings(kafka=kafka, worker=Worker(group_protocol="consumer")))
    assert config["group.protocol"] == "consumer"
    refused = {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"}
    assert not refused & config.keys()
    assert "session.timeout.ms" in caplog.text
    Consumer(config).close()  # librdkafka takes it


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_short_poll_interval_shortens_the_session_that_nobody_chose(protocol: str) -> None:
    """librdkafka takes no session that is longer; with KIP-848 that concerns the worker's clients that never join."""
    kafka = Kafka(consumer_options={"max.poll.interval.ms": 20_000, "bootstrap.servers": "localhost:1"})
    settings = Settings(kafka=kafka, worker=Worker.model_validate({"group_protocol": protocol}))
    for config in (worker_config(settings), consumer_config(settings, "beside")):
        Consumer(long_running(config)).close()
    config = consumer_config(settings, "beside")
    assert (config["session.timeout.ms"], config["heartbeat.interval.ms"]) == (20_000, 3_000)
    assert "session.timeout.ms" not in consumer_config(Settings(), "group")


def test_a_static_member_has_the_workers_name() -> None:
    config = worker_config(Settings(worker=Worker(worker_id="worker-3", static_membership=True)))
    assert config["group.instance.id"] == "worker-3"
    assert "group.instance.id" not in worker_config(Settings(worker=Worker(worker_id="worker-3")))
    with pytest.raises(ValidationError, match=r"needs a worker\.worker_id"):
        Worker(static_membership=True)


def test_a_transaction_must_outlive_the_time_between_two_commits() -> None:
    with pytest.raises(ValidationError, match="must be longer than"):
        Worker(transaction_timeout_ms=1_000, commit_interval_ms=1_000)
    Worker(transaction_timeout_ms=1_000, commit_interval_ms=1_000, delivery="at_least_once")


def test_calls_take_half_of_the_groups_patience_at_most() -> None:
    assert poll_budget_s({}) == 150.0
    assert poll_budget_s({"max.poll.interval.ms": 6_000}) == 3.0


def test_a_replaced_static_member_has_nothing_to_wait_for() -> None:
    """As librdkafka reports it: code ``_FATAL``, whose own ``fatal()`` says no."""
    fenced = KafkaError(KafkaError._FATAL, "Static consumer fenced by other consumer with same group.instance.id")
    assert not fenced.fatal()
    assert is_hopeless(fenced)
    assert is_replaced(fenced)
    assert not is_replaced(KafkaError(KafkaError._FATAL, "something else"))
    assert not is_hopeless(KafkaError(KafkaError._MAX_POLL_EXCEEDED))


def test_only_a_static_member_must_be_forgotten() -> None:
    own: Worker = Worker(worker_id="w-0", static_membership=True)
    short = Kafka(consumer_options={"session.timeout.ms": 6_000})
    found = [
        MemberOptions.of(worker_config(settings)).static_session_s
        for settings in (Settings(), Settings(worker=own), Settings(worker=own, kafka=short))
    ]
    assert found == [0.0, 45.0, 6.0]


@pytest.mark.parametrize("note", ["", ", 1 identical error(s) suppressed", ", 30 identical error(s) suppressed"])
def test_two_clients_describe_the_same_refused_connection_alike(note: str) -> None:
    said = "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused"
    error = KafkaError(KafkaError._TRANSPORT, f"{said} (after {len(note)}ms in state CONNECT{note})")
    assert describe_error(error) == said
