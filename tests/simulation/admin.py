"""An AdminClient, as far as the project's workers ask one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
    Uuid,
)

from tests.simulation.broker import Broker
from tests.simulation.network import Connection, Network
from tests.simulation.offsets import Position
from tests.simulation.thread_calls import ThreadCalls
from tests.simulation.world import Process

Value = TypeVar("Value")


class SimulatedFuture(Generic[Value]):
    """A future whose ``result`` waits in simulated time."""

    def __init__(self, threads: ThreadCalls) -> None:
        self._threads = threads
        self._outcome: list[Value | KafkaException] = []

    def done(self) -> bool:
        """True once it has come."""
        return bool(self._outcome)

    def result(self, timeout: float = 3600.0) -> Value:
        """Waits for it."""
        while not self._outcome:
            self._threads.block(timeout)
        outcome = self._outcome[0]
        if isinstance(outcome, KafkaException):
            raise outcome
        return outcome

    def come(self, outcome: Value | KafkaException) -> None:
        """It has come; what comes later is ignored."""
        if not self._outcome:
            self._outcome.append(outcome)
            self._threads.wake_all()


class SimulatedAdminClient:
    """Answers by futures."""

    def __init__(
        self, config: dict[str, Any], process: Process, broker: Broker, network: Network, threads: ThreadCalls
    ) -> None:
        self._process = process
        self._broker = broker
        self._connection = Connection(network, process)
        self._threads = threads

    def list_consumer_group_offsets(
        self, request: list[ConsumerGroupTopicPartitions], require_stable: bool = False, request_timeout: float = 60.0
    ) -> dict[str, SimulatedFuture[ConsumerGroupTopicPartitions]]:
        """OffsetFetch; unstable partitions come with their own error, after no retry (``rdkafka_admin.c``)."""
        (asked,) = request
        positions = [(one.topic, one.partition) for one in asked.topic_partitions or ()]

        def read(found: dict[Position, tuple[int, int, str]]) -> ConsumerGroupTopicPartitions:
            partitions = []
            for (topic, number), (offset, error, metadata) in found.items():
                one = TopicPartition(topic, number, offset, metadata)
                if error:
                    one = _Failed(topic, number)
                    one.error = KafkaError(error)
                partitions.append(one)
            return ConsumerGroupTopicPartitions(asked.group_id, partitions)

        call = partial(self._broker.fetch_offsets, positions, require_stable)
        return {asked.group_id: self._ask("OffsetFetch(admin)", call, read, request_timeout)}

    def describe_topics(
        self, topics: TopicCollection, request_timeout: float = 60.0
    ) -> dict[str, SimulatedFuture[SimpleNamespace]]:
        """Tells the topic's id, which never changes here."""
        description = SimpleNamespace(topic_id=Uuid(1, 2))
        return {
            name: self._ask("Metadata", lambda reply: reply(0, None), lambda _: description, request_timeout)
            for name in topics.topic_names
        }

    def list_topics(self, topic: str | None = None, timeout: float = -1.0) -> SimpleNamespace:
        """Tells the cluster's id."""
        self._threads.enter("list_topics")
        cluster = SimpleNamespace(cluster_id="simulated")
        return self._ask("Metadata", lambda reply: reply(0, None), lambda _: cluster, timeout).result()

    def _ask(
        self, kind: str, call: Callable[[Any], None], read: Callable[[Any], Value], timeout_s: float
    ) -> SimulatedFuture[Value]:
        future: SimulatedFuture[Value] = SimulatedFuture(self._threads)

        def answered(error: int, value: Any) -> None:
            future.come(KafkaException(KafkaError(error)) if error else read(value))

        self._connection.send(kind, call, answered)
        self._process.later(timeout_s, lambda: answered(int(KafkaError._TIMED_OUT), None))
        return future


class _Failed(TopicPartition):
    """One whose ``error`` can be given, which confluent-kafka's own cannot."""

    error: KafkaError | None = None
