"""A member of a group in memory: a consumer of frames, and what it talks to, as a test says."""

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from layercache.stream.kafka.waiting import Stuck
from layercache.stream.worker.consuming.committed import Answer
from layercache.stream.worker.consuming.consumer import FrameConsumer
from layercache.stream.worker.consuming.membership import MemberOptions
from layercache.stream.worker.consuming.positions import PartitionReport
from layercache.stream.worker.metrics import Metrics

OLD, NEW = "the-old-topic", "the-new-topic"


class Client:
    """A consumer that brings what a test gives it, and notes what it is told."""

    def __init__(self) -> None:
        self.coming: list[Message] = []
        self.assigned: list[tuple[int, int]] = []
        self.sought: list[tuple[int, int]] = []
        self.paused: set[int] = set()
        self.refusals: list[KafkaError] = []
        self.watermarks = (0, 1_000)
        self.is_closed = self.is_subscribed = False

    def subscribe(self, topics: Sequence[str], on_assign: object, on_revoke: object, on_lost: object) -> None:
        self.is_subscribed = True
        self.callbacks = {"assigned": on_assign, "revoked": on_revoke, "lost": on_lost}

    def rebalance(self, how: str, *partitions: int) -> None:
        callback = cast(Callable[[object, list[TopicPartition]], None], self.callbacks[how])
        callback(self, [TopicPartition("frames", number) for number in partitions])
        if how == "assigned":  # at the beginning of an empty log
            end = KafkaError(KafkaError._PARTITION_EOF)
            self.coming += [Message("frames", number, 0, error=end) for number in partitions]

    def incremental_assign(self, partitions: Iterable[TopicPartition]) -> None:
        self.assigned += [(one.partition, one.offset) for one in partitions]

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self.assigned = [(one.partition, one.offset) for one in partitions]

    def consume(self, count: int, timeout: float) -> list[Message]:
        taken, self.coming = self.coming[:count], self.coming[count:]
        return taken

    def seek(self, to: TopicPartition) -> None:
        if self.refusals:
            raise KafkaException(self.refusals.pop())
        self.sought.append((to.partition, to.offset))

    def close(self) -> None:
        if self.assigned:
            self.rebalance("revoked", *(number for number, _ in self.assigned))
        self.is_closed = True

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self.paused |= {one.partition for one in partitions}

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self.paused -= {one.partition for one in partitions}

    def get_watermark_offsets(self, partition: TopicPartition, cached: bool) -> tuple[int, int]:
        assert cached  # anything else waits for the broker
        return self.watermarks


class Broker:
    """Notes what it is asked, and answers when a test lets it."""

    def __init__(self) -> None:
        self.is_busy = False
        self.asked: list[tuple[int, Sequence[int]]] = []
        self._answers: list[Answer] = []

    def ask(self, number: int, partitions: Sequence[int]) -> None:
        self.asked.append((number, partitions))
        self.is_busy = True

    def tell(self, topic_id: str | None = OLD, error: int | None = None, **told: object) -> None:
        """Of each partition of the latest question the same."""
        number, partitions = self.asked[-1]
        what = PartitionReport(**{"low": 0, "end": 1_000, "committed": None, "topic_id": topic_id} | told)  # type: ignore[arg-type]
        if error is None:
            self._answers.append(Answer(number, topic_id, dict.fromkeys(partitions, what)))
        else:
            self._answers.append(Answer(number, error=KafkaError(error)))
        self.is_busy = False

    def answers(self) -> Iterable[Answer]:
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None: ...


class Clock:
    """Time passes when a test says so; calls take none, or never return."""

    def __init__(self) -> None:
        self.at = 100.0
        self.hangs = False

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds

    def call_with_timeout(self, seconds: float, call: Callable[[], object], give_up: object = None) -> object:
        if self.hangs:
            self.at += seconds
            raise Stuck("no return")
        return call()

    def start_call(self, call: Callable[[], object]) -> object:
        raise AssertionError("nothing is to be started here")


class Member:
    """A consumer of frames with its surroundings, and what its listener heard."""

    def __init__(self, **options: object) -> None:
        self.broker, self.clock, self.metrics = Broker(), Clock(), Metrics(max_batch=8)
        self.heard: list[tuple[str, set[int]]] = []
        self.kept: list[set[int]] = []
        #: partition, offset, how many began there before, whether it is taken over
        self.begun: list[tuple[int, int, int, bool]] = []
        self.consumer = FrameConsumer(
            self.connect, "frames", self.broker, self.metrics,
            MemberOptions(**options), self.clock,  # type: ignore[arg-type]
        )  # fmt: skip
        self.consumer.subscribe(self)

    def connect(self) -> Consumer:
        self.client = Client()
        return cast(Consumer, self.client)

    def assigned(self, partitions: set[int], kept: set[int]) -> None:
        self.kept.append(kept)

    def rejoins(self, client: Consumer) -> None:
        assert client is cast(Consumer, self.client)
        self.heard.append(("rejoins", set()))

    def begins(self, partition: int, offset: int, began: int, takes_over: bool) -> None:
        self.begun.append((partition, offset, began, takes_over))

    def revoked(self, partitions: set[int], kept: set[int]) -> None:
        self.kept.append(kept)
        self.heard.append(("revoked", partitions))

    def lost(self, partitions: set[int]) -> None:
        self.heard.append(("lost", partitions))
        self.consumer.rewind()  # as the worker does a little later

    def brings(self, *offsets: int, partition: int = 0) -> None:
        self.client.coming += [Message("frames", partition, offset, value=b"", timestamp=(0, 0)) for offset in offsets]

    def fetch(self) -> list[int]:
        return [frame.offset for frame in self.consumer.fetch(100, 0)]

    def later(self) -> "Member":
        self.clock.at += 1.0
        return self

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def reading(committed: int | None = 5, **options: object) -> Member:
    """A member that reads partition 0 from ``committed`` on."""
    member = Member(**options)
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.broker.tell(committed=committed)
    member.fetch()
    assert member.metric("layercache_unconfirmed_partitions") == 0
    return member
