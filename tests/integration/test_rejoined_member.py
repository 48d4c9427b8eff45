"""A member that was thrown out while it joined again is another one, though nobody tells it that it lost anything.

Another member joins; the answer of this one, JoinGroup, is late; the group goes on without it, and its partitions are
answered by the other one. Then its request arrives: UNKNOWN_MEMBER_ID. librdkafka joins anew under another id, and
keeps the assignment meanwhile (classic protocol). What a static member hands over later it does not call lost; of
others it learns by the way that they need a member id first (KIP-394).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas.settings import Kafka, Settings, Worker
from stream.clients import worker_config
from stream.group_metadata import generation_of
from stream.metrics import Metrics
from stream.transactions import Aborted, Delivery, delivery
from tests.conftest import Broker
from tests.support.kafka_proxy import is_api
from tests.support.topics import create_topics, unique_topics
from tests.support.waiting import wait_until

JOIN_GROUP = 11


class Member:
    """A consumer with a delivery, which it tells what a worker tells it."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.consumer = Consumer(worker_config(settings))
        self.works: Delivery = delivery(settings, name, self.consumer, lambda: False, Metrics(max_batch=32))
        self.handed_over: list[str] = []
        self.consumer.subscribe(
            [settings.topics.frames], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.works.assigned([one.partition for one in partitions])

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            self.handed_over.append(f"committed {self.works.commit()}")
        except Aborted as error:
            self.handed_over.append(str(error))

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.handed_over.append("lost")

    def partitions(self) -> int:
        """Polls, and returns how many it has."""
        self.consumer.poll(0.05)
        return len(self.consumer.assignment())


def settings_of(broker: Broker, servers: str, frames: Settings | None, **worker: object) -> Settings:
    topics = frames.topics if frames else create_topics(broker.bootstrap_servers, unique_topics())
    patience = {"session.timeout.ms": 1_500, "max.poll.interval.ms": 1_500}
    return Settings(
        kafka=Kafka(bootstrap_servers=servers, consumer_options=patience),
        topics=topics,
        worker=Worker.model_validate({"group_id": topics.frames} | worker),
    )


@contextmanager
def member(settings: Settings, name: str) -> Iterator[Member]:
    one = Member(settings, name)
    try:
        yield one
    finally:
        one.works.close()
        one.consumer.close()


@pytest.mark.parametrize(
    ("static", "said"),
    [(True, "the group has thrown this worker out"), (False, "lost")],
    ids=["static", "dynamic"],
)
def test_what_was_answered_before_is_not_committed_after(apache_kafka: Broker, static: bool, said: str) -> None:
    own = {"worker_id": "w-0", "static_membership": True} if static else {}
    settings = settings_of(apache_kafka, apache_kafka.detour_servers, None, **own)
    direct = settings_of(apache_kafka, apache_kafka.bootstrap_servers, settings)
    frames = settings.topics.frames
    assert apache_kafka.proxy is not None
    with member(settings, "w-0") as first:
        wait_until(lambda: first.partitions() == 2, "it has both partitions")
        before = first.consumer.memberid()
        assert (generation_of(first.consumer.consumer_group_metadata()) or 0) > 0
        for partition in (0, 1):
            first.works.answered(frames, partition, 0)
        held = apache_kafka.proxy.hold(is_api(JOIN_GROUP))
        with member(direct, "w-1") as second:
            wait_until(lambda: second.partitions() >= 0 and first.partitions() >= 0 and held.is_held, "it joins again")
            wait_until(lambda: first.partitions() >= 0 and second.partitions() == 2, "the other one has its partitions")
            for partition in (0, 1):
                second.works.answered(frames, partition, 5)
            assert second.works.commit()
            held.release()
            wait_until(lambda: second.partitions() >= 0 and first.partitions() == 1, "they share")
            assert first.consumer.memberid() != before
            assert first.handed_over == [said]
            places = [TopicPartition(frames, partition) for partition in (0, 1)]
            assert [one.offset for one in second.consumer.committed(places, 20)] == [6, 6]
