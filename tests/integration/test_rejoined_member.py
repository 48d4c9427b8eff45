"""Members whose partitions others have had meanwhile, though nobody tells them that they lost anything.

*Thrown out while it joined again.* Another member joins; the answer of this one, JoinGroup, is late; the group goes on
without it, and its partitions are answered by the other one. Then its request arrives: UNKNOWN_MEMBER_ID. librdkafka
joins anew under another id, and keeps the assignment meanwhile (classic protocol). What a static member hands over
later it does not call lost; of others it learns by the way that they need a member id first (KIP-394).

*Joined by a request of long ago.* A JoinGroup of this member, from when it owned nothing, overtakes the one that it has
just sent. The group gives its partition to another member, and this one keeps its id and works on.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, TopicPartition

from layercache.schemas.settings import Kafka, Settings, Worker
from layercache.stream.kafka.clients import worker_config
from layercache.stream.worker.delivery.group_membership import generation_of
from layercache.stream.worker.delivery.transactions import Aborted, Delivery, delivery
from layercache.stream.worker.metrics import Metrics
from testbed.kafka_proxy import HeldRequest, Request, is_api
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from tests.conftest import Broker

JOIN_GROUP, SYNC_GROUP = 11, 14
THROWN_OUT = "the group has thrown this worker out"
MISSED = "missed a generation"


class Member:
    """A consumer with a delivery, which it tells what a worker tells it."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.consumer = Consumer(worker_config(settings))
        self.works: Delivery = delivery(settings, name, self.consumer, lambda: False, Metrics(max_batch=32))
        self.handed_over: list[str] = []
        self.is_closed = False
        self.consumer.subscribe(
            [settings.topics.frames], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        if self.consumer.assignment() and self.works.has_missed_a_generation():  # it keeps some that another one had
            self.works.abort()
            self.handed_over.append(MISSED)
        self.works.assigned([one.partition for one in partitions])

    def close(self) -> None:
        """Leaves the group; what is revoked by that has no producer any more to be committed with."""
        self.is_closed = True
        self.works.close()
        self.consumer.close()

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        if self.is_closed:
            return
        try:
            self.handed_over.append(f"committed {self.works.commit()}")
        except Aborted as error:
            self.handed_over.append(str(error))
        self.works.assigned()

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.handed_over.append("lost")

    def partitions(self) -> int:
        """Polls, and returns how many it has."""
        self.consumer.poll(0.05)
        return len(self.consumer.assignment())

    def generation(self) -> int:
        """Of the group, as it knows it."""
        return generation_of(self.consumer.consumer_group_metadata()) or 0


def settings_of(
    broker: Broker,
    servers: str,
    frames: Settings | None,
    worker: Mapping[str, object] | None = None,
    patience_ms: int = 1_500,
    name: str = "w",
) -> Settings:
    topics = frames.topics if frames else create_topics(broker.bootstrap_servers, unique_topics())
    patience = {"session.timeout.ms": patience_ms, "max.poll.interval.ms": patience_ms, "heartbeat.interval.ms": 300}
    return Settings(
        kafka=Kafka(bootstrap_servers=servers, consumer_options=patience | {"client.id": name}),
        topics=topics,
        worker=Worker.model_validate({"group_id": topics.frames, **(worker or {})}),
    )


@contextmanager
def member(settings: Settings, name: str) -> Iterator[Member]:
    one = Member(settings, name)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize(
    ("static", "said"),
    [(True, THROWN_OUT), (False, "lost")],
    ids=["static", "dynamic"],
)
def test_what_was_answered_before_is_not_committed_after(apache_kafka: Broker, static: bool, said: str) -> None:
    own = {"worker_id": "w-0", "static_membership": True} if static else {}
    settings = settings_of(apache_kafka, apache_kafka.detour_servers, None, own)
    direct = settings_of(apache_kafka, apache_kafka.bootstrap_servers, settings)
    frames = settings.topics.frames
    assert apache_kafka.proxy is not None
    with member(settings, "w-0") as first:
        wait_until(lambda: first.partitions() == 2, "it has both partitions")
        before = first.consumer.memberid()
        assert first.generation() > 0
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


def send_and_poll(held: HeldRequest, poll: Callable[[], object]) -> None:
    """A group's answer comes once all members have joined again, and some of them only do when they are polled."""
    held.send()
    wait_until(lambda: (poll(), held.is_answered)[1], "the broker answers it")


@pytest.mark.parametrize("hands_over", [True, False], ids=["handing-over", "before"])
def test_what_another_had_for_a_generation_is_not_committed(apache_kafka: Broker, hands_over: bool) -> None:
    """Commits of the next generation would be taken: on handing the partition over, and before that is asked for.

    Of members that own equally much, the first by its id is given a partition; ids begin with the client's name. Which
    of the two that own it then keeps it is left to librdkafka: mostly the one that has been given it last.
    """
    detour, direct = apache_kafka.detour_servers, apache_kafka.bootstrap_servers
    settings = settings_of(apache_kafka, detour, None, None, 60_000, "w-1")
    leading, third = (settings_of(apache_kafka, direct, settings, None, 60_000, name) for name in ("w-2", "w-0"))
    frames = settings.topics.frames
    assert apache_kafka.proxy is not None

    def names_its_member(request: Request) -> bool:
        return request.api == JOIN_GROUP and b"w-1-" in request.body

    with member(leading, "w-2") as leader:
        wait_until(lambda: leader.partitions() == 2, "it has both partitions")
        stale = apache_kafka.proxy.hold(names_its_member, reset=True)
        with member(settings, "w-1") as first:
            wait_until(lambda: [leader.partitions(), first.partitions()] == [1, 1], "they share")
            assert stale.is_held
            [place] = first.consumer.assignment()
            before = first.consumer.memberid(), first.generation()
            first.works.answered(frames, place.partition, 0)
            late = apache_kafka.proxy.hold(is_api(JOIN_GROUP))
            with member(third, "w-0") as second:

                def shares() -> list[int]:
                    return [leader.partitions(), first.partitions(), second.partitions()]

                wait_until(lambda: bool(shares()) and late.is_held, "it joins again")
                stale.release()
                wait_until(lambda: shares() == [1, 1, 1], "the other one has its partition, too")
                assert second.consumer.assignment() == [place]
                assert (first.consumer.memberid(), first.generation()) == before
                second.works.answered(frames, place.partition, 5)
                assert second.works.commit()
                with pytest.raises(Aborted, match="generation"):
                    first.works.commit()
                first.works.answered(frames, place.partition, 1)
                sync = None if hands_over else apache_kafka.proxy.hold(is_api(SYNC_GROUP))
                send_and_poll(late, shares)
                if sync is not None:
                    wait_until(lambda: bool(shares()) and sync.is_held, "it is in the next generation")
                    assert (first.consumer.memberid(), first.generation()) == (before[0], before[1] + 2)
                    with pytest.raises(Aborted, match=THROWN_OUT):
                        first.works.commit()
                    first.works.ensure_producer()  # as a worker does that goes back to the last commit
                    first.works.answered(frames, place.partition, 6)
                    second.works.answered(frames, place.partition, 6)
                    send_and_poll(sync, shares)
                wait_until(lambda: sum(shares()) == 2 and first.handed_over != [], "one has the partition", seconds=30)
                assert first.consumer.memberid() == before[0]
                assert first.handed_over == [MISSED if first.consumer.assignment() else THROWN_OUT]

                def has_committed() -> bool:  # the group may just go over to its next generation
                    shares()
                    try:
                        second.works.commit()  # if it has not handed the partition over
                    except Aborted:
                        second.works.ensure_producer()
                        if place in second.consumer.assignment():
                            second.works.answered(frames, place.partition, 5 if hands_over else 6)
                        return False
                    return True

                wait_until(has_committed, "it commits what it answered")
                assert [one.offset for one in second.consumer.committed([place], 20)] == [6 if hands_over else 7]
