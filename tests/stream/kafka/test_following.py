"""Following topics: where a follower begins, goes on and looks for new partitions, and what ends it."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from layercache.schemas.settings import Settings
from layercache.stream.kafka import following
from layercache.stream.kafka.clients import KafkaUnusable
from layercache.stream.kafka.following import TopicFollower, follow
from layercache.stream.kafka.reach import NoAnswer

AWAY = KafkaError(KafkaError._TRANSPORT)


class FakeConsumer:
    """A consumer of topics: with each look at the metadata the next of ``answers``, then the last.

    Each partition holds offsets 2 to 6, so that it ends at 7, unless ``watermarks`` says otherwise. What it reads is
    ``batches``, one by one.
    """

    def __init__(self, *answers: dict[str, int] | KafkaError) -> None:
        self._answers = list(answers)
        self.watermarks: dict[tuple[str, int], tuple[int, int] | KafkaError | None] = {}
        self.batches: list[list[Any]] = []
        self.assigned: list[list[tuple[str, int, int]]] = []
        self.added: list[list[tuple[str, int, int]]] = []
        self.closed = 0

    def list_topics(self, timeout: float) -> Any:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, KafkaError):
            raise KafkaException(answer)
        topics = {name: SimpleNamespace(error=None, partitions=range(count)) for name, count in answer.items()}
        return SimpleNamespace(topics=topics)

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int] | None:
        found = self.watermarks.get((partition.topic, partition.partition), (2, 7))
        if isinstance(found, KafkaError):
            raise KafkaException(found)
        return found

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned.append([(one.topic, one.partition, one.offset) for one in partitions])

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.added.append([(one.topic, one.partition, one.offset) for one in partitions])

    def consume(self, most: int, timeout: float) -> list[Any]:
        return self.batches.pop(0) if self.batches else []

    def poll(self, timeout: float) -> None:
        return None

    def close(self) -> None:
        self.closed += 1


class Record:
    """A record, or an error in its place."""

    def __init__(self, topic: str, partition: int, offset: int, error: KafkaError | None = None) -> None:
        self._at = topic, partition, offset
        self._error = error

    def topic(self) -> str:
        return self._at[0]

    def partition(self) -> int:
        return self._at[1]

    def offset(self) -> int:
        return self._at[2]

    def error(self) -> KafkaError | None:
        return self._error


def follower(consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch, before_end: int | None = 0) -> TopicFollower:
    monkeypatch.setattr(following, "connect", lambda *ignored: consumer)
    return TopicFollower(Settings(), ["a", "b"], before_end)


def steps(consumer: FakeConsumer, count: int, monkeypatch: pytest.MonkeyPatch, every_s: float) -> None:
    """So many steps of :func:`follow`."""
    monkeypatch.setattr(following, "connect", lambda *ignored: consumer)
    messages = follow(Settings(), ["a", "b"], threading.Event(), partitions_every_s=every_s)
    assert [next(messages) for _ in range(count)] == [None] * count
    messages.close()  # type: ignore[attr-defined]  # a generator
    assert consumer.closed == 1


def test_partitions_that_are_added_are_read_from_their_beginning_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    growing = FakeConsumer({"a": 2, "b": 1}, {"a": 2, "b": 1}, AWAY, {"b": 2}, {"a": 1, "b": 2}, {"a": 4, "b": 2})
    steps(growing, 7, monkeypatch, every_s=0.0)
    assert growing.assigned == [[("a", 0, 7), ("a", 1, 7), ("b", 0, 7)]]
    assert growing.added == [
        [("b", 1, OFFSET_BEGINNING)],
        [("a", 2, OFFSET_BEGINNING), ("a", 3, OFFSET_BEGINNING)],
    ]


def test_the_metadata_is_not_asked_for_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = FakeConsumer({"a": 1, "b": 1}, {"a": 2, "b": 1})
    steps(growing, 50, monkeypatch, every_s=3_600.0)
    assert growing.added == []


@pytest.mark.parametrize(
    ("before_end", "starts"),
    [(None, [OFFSET_BEGINNING] * 3), (0, [7, 7, 7]), (3, [5, 5, 4]), (100, [2, 2, 2])],
)
def test_it_begins_at_the_beginning_or_so_many_records_before_the_end_of_each_topic(
    monkeypatch: pytest.MonkeyPatch, before_end: int | None, starts: list[int]
) -> None:
    consumer = FakeConsumer({"a": 2, "b": 1})
    assert follower(consumer, monkeypatch, before_end).open() == 3
    assert [offset for _, _, offset in consumer.assigned[0]] == starts


def test_opened_again_it_goes_on_where_it_was_and_begins_anew_where_that_is_not_in_the_topic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consumer = FakeConsumer({"a": 2, "b": 1})
    one = follower(consumer, monkeypatch, before_end=3)
    one.open()
    consumer.batches = [[Record("a", 0, 5), Record("a", 1, 5)], [Record("b", 0, 4)]]
    assert [len(one.read(10, 0.0)) for _ in range(3)] == [2, 1, 0]
    one.close()
    consumer.watermarks = {("a", 0): (0, 4), ("b", 0): (6, 9)}  # made anew, and deleted by retention
    one.open()
    assert consumer.assigned[1] == [("a", 0, 2), ("a", 1, 6), ("b", 0, 6)]


def test_what_is_passed_over_is_not_read_and_the_other_partitions_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = FakeConsumer({"a": 2, "b": 1})
    one = follower(consumer, monkeypatch)
    one.open()
    consumer.batches = [[Record("a", 1, 8)]]
    one.read(10, 0.0)
    assert one.watermarks() == dict.fromkeys([("a", 0), ("a", 1), ("b", 0)], (2, 7))
    one.seek({("b", 0): 30})
    assert consumer.assigned[1] == [("a", 0, 7), ("a", 1, 9), ("b", 0, 30)]


def test_errors_that_pass_are_left_out_and_rights_that_are_missing_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = FakeConsumer({"a": 1, "b": 1})
    one = follower(consumer, monkeypatch)
    one.open()
    group = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
    consumer.batches = [
        [Record("a", 0, 0, AWAY), Record("a", 0, 0, group), Record("a", 0, 7)],
        [Record("a", 0, 0, KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))],
    ]
    assert [record.offset() for record in one.read(10, 0.0)] == [7]
    with pytest.raises(KafkaUnusable, match=r"a and b cannot be read: .*authorization") as refused:
        one.read(10, 0.0)
    assert not isinstance(refused.value, NoAnswer)


@pytest.mark.parametrize("said", [None, AWAY])
def test_an_end_that_the_broker_does_not_tell_may_be_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, said: KafkaError | None
) -> None:
    consumer = FakeConsumer({"a": 1, "b": 1})
    consumer.watermarks = {("a", 0): said}
    with pytest.raises(NoAnswer, match="a cannot be read"):
        follower(consumer, monkeypatch).open()


def test_a_missing_topic_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KafkaUnusable, match="no topic b at localhost:9092"):
        follower(FakeConsumer({"a": 1}), monkeypatch).open()
