"""Questions about committed offsets: who is asked with whom, and what comes of silence."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition, Uuid
from confluent_kafka.admin import AdminClient

from layercache.schemas.settings import Kafka, Settings
from layercache.stream.kafka.clients import ClientFactory
from layercache.stream.worker.consuming.committed import Answer, CommittedOffsetsClient, stamp

TIMED_OUT, REFUSED = KafkaError._TIMED_OUT, KafkaError.GROUP_AUTHORIZATION_FAILED


class Client:
    """A consumer and an admin client at once; partitions that are ``unstable`` are not told, with whoever is asked."""

    def __init__(self, config: object = None) -> None:
        self.unstable: set[int] = set()
        self.committed_there = {0: (5, ""), 1: (-1001, ""), 2: (7, stamp("a-cluster/another"))}
        self.questions: list[list[int]] = []
        self.error: KafkaError | None = None
        self.has_ids = True
        self.unknown: set[int] = set()

    def poll(self, timeout: float) -> Message | None:
        return None

    def close(self) -> None: ...

    def committed(self, partitions: Sequence[TopicPartition], timeout: float) -> Iterator[TopicPartition]:
        numbers = [one.partition for one in partitions]
        self.questions.append(numbers)
        if self.error is not None:
            raise KafkaException(self.error)
        if self.unstable & set(numbers):
            raise KafkaException(KafkaError(TIMED_OUT))
        return (TopicPartition("frames", number, *self.committed_there[number]) for number in numbers)

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        if partition.partition in self.unknown:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
        return 3, 9

    def describe_topics(self, *_: object, request_timeout: float) -> dict[str, Future[Any]]:
        described: Future[Any] = Future()
        described.set_result(self)
        return {"frames": described}

    @property
    def topic_id(self) -> Uuid:
        return Uuid(1, 2) if self.has_ids else Uuid(0, 0)

    def list_topics(self, topic: str, timeout: float) -> "Client":
        self.unknown.clear()
        return self

    cluster_id = "a-cluster"


class Clock:
    """Calls that are started come back at once."""

    def start_call(self, call: Callable[[], None]) -> Future[None]:
        outcome: Future[None] = Future()
        try:
            call()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)
        return outcome


def asking(client: Client) -> CommittedOffsetsClient:
    factory = ClientFactory(consumer=lambda _: cast(Consumer, client), admin=lambda _: cast(AdminClient, client))
    return CommittedOffsetsClient(Settings(), cast(Any, Clock()), factory)


def reported(answers: Sequence[Answer]) -> dict[int, tuple[int | None, str | None]]:
    """By partition, the committed offset, and for which topic it is."""
    return {partition: (one.committed, one.stamp) for answer in answers for partition, one in answer.reports.items()}


def test_partitions_are_asked_for_together() -> None:
    client = Client()
    asked = asking(client)
    asked.ask(1, [0, 1, 2])
    assert reported(list(asked.answers())) == {0: (5, None), 1: (None, None), 2: (7, "a-cluster/another")}
    assert client.questions == [[0, 1, 2]]


def test_the_note_that_was_committed_with_an_offset_is_reported() -> None:
    client = Client()
    client.committed_there[0] = (5, stamp("a-cluster/here", began=3))
    asked = asking(client)
    asked.ask(1, [0, 1])
    notes = {partition: one.began for answer in asked.answers() for partition, one in answer.reports.items()}
    assert notes == {0: 3, 1: 0}


def test_where_one_is_unstable_each_is_asked_alone_and_those_first_that_were_asked_less() -> None:
    client = Client()
    client.unstable = {0}
    asked = asking(client)
    asked.ask(1, [0, 1])
    answers = list(asked.answers())
    assert reported(answers) == {1: (None, None)}
    assert [one.error.code() for one in answers if one.error is not None] == [TIMED_OUT]
    asked.ask(2, [0, 2])
    assert reported(list(asked.answers())) == {2: (7, "a-cluster/another")}
    assert client.questions == [[0, 1], [0], [1], [0, 2], [2], [0]]


def test_a_partition_that_was_added_just_now_is_looked_for() -> None:
    """The client that asks notices by itself after up to half a minute only."""
    client = Client()
    asked = asking(client)
    asked.ask(1, [0])
    client.unknown = {1}
    asked.ask(2, [0, 1])
    assert reported(list(asked.answers())) == {0: (5, None), 1: (None, None)}


def test_a_refusal_is_told_at_once() -> None:
    client = Client()
    client.error = KafkaError(REFUSED)
    asked = asking(client)
    asked.ask(1, [0, 1])
    assert [one.error.code() for one in asked.answers() if one.error is not None] == [REFUSED]
    assert client.questions == [[0, 1]]


def test_without_partitions_only_the_topics_id_is_asked_for() -> None:
    client = Client()
    asked = asking(client)
    asked.ask(1, [])
    assert [one.topic_id for one in asked.answers()] == ["a-cluster/AAAAAAAAAAEAAAAAAAAAAg"]
    assert client.questions == []


def test_brokers_without_topic_ids_tell_none() -> None:
    client = Client()
    client.has_ids = False
    asked = asking(client)
    asked.ask(1, [2])
    answers = list(asked.answers())
    assert {one.topic_id for one in answers} == {None}
    assert reported(answers) == {2: (7, None)}


def test_what_is_no_error_of_kafkas_is_not_swallowed() -> None:
    client = Client()
    client.committed_there = {}
    asked = asking(client)
    asked.ask(1, [0])
    with pytest.raises(KeyError):
        list(asked.answers())


def test_who_asks_takes_no_members_name() -> None:
    made: list[Any] = []

    def consumer(config: object) -> Consumer:
        made.append(config)
        return cast(Consumer, Client())

    factory = ClientFactory(consumer=consumer, admin=lambda _: cast(AdminClient, Client()))
    CommittedOffsetsClient(
        Settings(kafka=Kafka(consumer_options={"group.instance.id": "w-0"})), cast(Any, Clock()), factory
    )
    assert "group.instance.id" not in made[0]
