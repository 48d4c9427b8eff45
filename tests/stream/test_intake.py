"""Going back to the last commit, where the broker does not tell it at once."""

from collections.abc import Sequence
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from stream.intake import Intake
from stream.metrics import Metrics

AWAY, LOADING = KafkaError._TRANSPORT, KafkaError.COORDINATOR_LOAD_IN_PROGRESS


class Offset:
    """What a broker tells of a partition's committed offset."""

    def __init__(self, partition: int, offset: int, error: KafkaError | None = None) -> None:
        self.partition, self.offset, self.error = partition, offset, error


class Told:
    """A consumer of partitions 0 and 1 that is told ``answers``, one at each question; notes where it is sent."""

    def __init__(self, *answers: Sequence[Offset] | KafkaError) -> None:
        self._answers = list(answers)
        self.sought: list[tuple[int, int]] = []

    def subscribe(self, topics: Sequence[str], on_assign: object, **_: object) -> None:
        assert callable(on_assign)
        on_assign(self, [TopicPartition(topics[0], number) for number in (0, 1)])

    def consume(self, count: int, timeout: float) -> list[Message]:
        return []

    def committed(self, partitions: object, timeout: float) -> Sequence[Offset]:
        answer = self._answers.pop(0)
        if isinstance(answer, KafkaError):
            raise KafkaException(answer)
        return answer

    def seek(self, to: TopicPartition) -> None:
        self.sought.append((to.partition, to.offset))


class Nobody:
    def revoked(self, partitions: set[int]) -> None: ...
    def lost(self, partitions: set[int]) -> None: ...


def joined(consumer: Told) -> Intake:
    intake = Intake(cast(Consumer, consumer), "frames", Nobody(), lambda: False, Metrics(max_batch=32))
    intake.subscribe()
    return intake


def test_a_broker_that_is_away_is_asked_again_in_another_round() -> None:
    consumer = Told(KafkaError(AWAY), [Offset(0, 7), Offset(1, 9)])
    intake = joined(consumer)
    assert not intake.rewind()
    assert consumer.sought == []
    assert intake.rewind()
    assert consumer.sought == [(0, 7), (1, 9)]


def test_an_offset_that_comes_with_an_error_is_none() -> None:
    consumer = Told([Offset(0, 7), Offset(1, -1001, KafkaError(LOADING))], [Offset(0, 7), Offset(1, 9)])
    intake = joined(consumer)
    assert not intake.rewind()
    assert consumer.sought == []  # partition 1 would have gone back to where it was first read
    assert intake.rewind()
    assert consumer.sought == [(0, 7), (1, 9)]
