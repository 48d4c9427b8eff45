"""Where partitions begin, by real clients on Apache Kafka: while a transaction is open over their committed offsets."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from layercache.schemas.settings import Kafka, Settings, Worker
from layercache.stream.kafka.clients import long_running, worker_config
from layercache.stream.worker.consuming.committed import CommittedOffsetsClient
from layercache.stream.worker.consuming.consumer import FrameConsumer
from layercache.stream.worker.consuming.membership import READER, MemberOptions
from layercache.stream.worker.metrics import Metrics
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from tests.conftest import Broker

PARTITIONS = 2
#: By name: the worker's settings and its consumer's options.
PROTOCOLS: dict[str, tuple[dict[str, object], dict[str, str | int | float | bool]]] = {
    "cooperative": ({}, {}),
    "range": ({}, {"partition.assignment.strategy": "range"}),
    "kip-848": ({"group_protocol": "consumer"}, {}),
    "static": ({"static_membership": True}, {}),
    "static kip-848": ({"static_membership": True, "group_protocol": "consumer"}, {}),
}


def settings_for(broker: Broker, protocol: str, options: dict[str, str | int | float | bool] | None = None) -> Settings:
    topics = create_topics(broker.bootstrap_servers, unique_topics(PARTITIONS))
    worker, own = PROTOCOLS[protocol]
    options = broker.kafka.consumer_options | own | (options or {})
    given = {"group_id": topics.frames, "worker_id": "owner"} | worker
    return Settings(
        kafka=Kafka(bootstrap_servers=broker.bootstrap_servers, consumer_options=options),
        topics=topics,
        worker=Worker.model_validate(given),
    )


def named(settings: Settings, name: str) -> Settings:
    """The same for another worker of the group."""
    return settings.model_copy(update={"worker": settings.worker.model_copy(update={"worker_id": name})})


class Member:
    """A consumer of frames that joins its group, and what came to it: partition and offset."""

    def __init__(self, settings: Settings) -> None:
        self.config = worker_config(settings)
        self.metrics = Metrics(max_batch=8)
        self.came: list[tuple[int, int]] = []
        offsets = CommittedOffsetsClient(settings)
        self.consumer = FrameConsumer(
            lambda: Consumer(long_running(self.config | READER)),
            settings.topics.frames, offsets, self.metrics, MemberOptions.of(self.config),
        )  # fmt: skip
        self.client = self.consumer.client
        self.consumer.subscribe(self)

    def assigned(self, partitions: set[int], kept: set[int]) -> None: ...

    def begins(self, partition: int, offset: int, began: int, takes_over: bool) -> None:
        """What workers do about it, :mod:`layercache.stream.worker.caution` says."""

    def revoked(self, partitions: set[int], kept: set[int]) -> None: ...

    def lost(self, partitions: set[int]) -> None:
        self.consumer.rewind()

    def rejoins(self, client: Consumer) -> None:
        self.client = client

    def poll(self) -> None:
        self.came += [(frame.partition, frame.offset) for frame in self.consumer.fetch(50, 0.05)]

    def partitions(self) -> int:
        self.poll()
        return len(self.client.assignment())

    def unconfirmed(self) -> int:
        self.poll()
        return int(self.metric("layercache_unconfirmed_partitions"))

    def metric(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0

    def first(self) -> dict[int, int]:
        """By partition, the first offset that came."""
        return dict(reversed(self.came))

    def close(self) -> None:
        self.consumer.close()


class BareMember(Member):
    """The same without it: librdkafka chooses where to begin."""

    def __init__(self, settings: Settings) -> None:
        self.came = []
        self.client = Consumer(long_running(worker_config(settings)))
        self.client.subscribe([settings.topics.frames])

    def poll(self) -> None:
        self.came += [(m.partition(), m.offset()) for m in self.client.consume(50, 0.05) if m.error() is None]  # type: ignore[misc]

    def close(self) -> None:
        self.client.close()


def publish(settings: Settings, offsets: range, partitions: Sequence[int] = range(PARTITIONS)) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for offset in offsets:
        for partition in partitions:
            producer.produce(settings.topics.frames, str(offset), partition=partition)
    assert producer.flush(30) == 0


def send_offsets(producer: Producer, settings: Settings, member: Member, offset: int) -> None:
    """Begins a transaction, and sends in it the same offset for every partition."""
    producer.begin_transaction()
    places = [TopicPartition(settings.topics.frames, number, offset) for number in range(PARTITIONS)]
    producer.send_offsets_to_transaction(places, member.client.consumer_group_metadata(), 30)


@contextmanager
def unstable_group(settings: Settings) -> Iterator[Producer]:
    """Ten records a partition; 5 is committed, and 7 is sent in a transaction that stays open. No members."""
    publish(settings, range(10))
    owner = Member(settings)
    servers, name = settings.kafka.bootstrap_servers, f"tx-{settings.topics.frames}"
    producer = Producer({"bootstrap.servers": servers, "transactional.id": name, "transaction.timeout.ms": 120_000})
    producer.init_transactions(30)
    wait_until(lambda: owner.partitions() == PARTITIONS, "the owner has its partitions")
    send_offsets(producer, settings, owner, 5)
    producer.commit_transaction(30)
    send_offsets(producer, settings, owner, 7)
    owner.close()
    yield producer


def all_came(members: Sequence[Member]) -> set[tuple[int, int]]:
    """What came to any of them, after another poll."""
    for member in members:
        member.poll()
    return {place for member in members for place in member.came}


def join_while_unstable(settings: Settings, kind: type[Member]) -> tuple[int, dict[int, int]]:
    """A member takes over, and another joins before the transaction is aborted; then one more record comes.

    Returns how many records came before the abort, and the first offset of each partition.
    """
    with unstable_group(settings) as producer:
        members = [kind(named(settings, "heir"))]
        try:
            wait_until(lambda: members[0].partitions() == PARTITIONS, "it takes over")
            members.append(kind(named(settings, "third")))
            wait_until(lambda: [one.partitions() for one in members] == [1, 1], "each has a partition")
            for _ in range(20):  # two seconds: who does not know where to begin has begun
                before = len(all_came(members))
            producer.abort_transaction(30)
            publish(settings, range(10, 11))
            wait_until(lambda: {(0, 10), (1, 10)} <= all_came(members), "the last records")
            return before, dict(sorted(all_came(members), reverse=True))
        finally:
            for one in members:
                one.close()


def test_a_partition_begins_where_the_group_has_committed_whoever_joins_meanwhile(apache_kafka: Broker) -> None:
    """And not before the transaction over its offsets has ended. All protocols at once, since most of it is waiting."""
    cases = [(protocol, reset) for protocol in PROTOCOLS for reset in ("earliest", "latest")]
    groups = [settings_for(apache_kafka, protocol, {"auto.offset.reset": reset}) for protocol, reset in cases]
    with ThreadPoolExecutor(len(groups)) as pool:
        found = dict(zip(cases, pool.map(lambda group: join_while_unstable(group, Member), groups), strict=True))
    assert found == dict.fromkeys(cases, (0, {0: 5, 1: 5}))


def test_librdkafka_by_itself_begins_elsewhere(apache_kafka: Broker) -> None:
    """Fails once it does not: then look whether partitions need to be confirmed by us (docs/exactly-once.md)."""
    before, first = join_while_unstable(settings_for(apache_kafka, "cooperative"), BareMember)
    assert before > 0
    assert min(first.values()) == 0


def test_an_unstable_partition_holds_up_no_other(apache_kafka: Broker) -> None:
    settings = settings_for(apache_kafka, "cooperative")
    with unstable_group(settings) as producer:
        producer.abort_transaction(30)
        owner = Member(settings)
        wait_until(lambda: owner.partitions() == PARTITIONS, "it is a member")
        producer.begin_transaction()
        place = TopicPartition(settings.topics.frames, 0, 7)
        producer.send_offsets_to_transaction([place], owner.client.consumer_group_metadata(), 30)
        owner.close()
        heir = Member(named(settings, "heir"))
        try:
            wait_until(lambda: heir.partitions() == PARTITIONS, "it takes over")
            wait_until(lambda: heir.unconfirmed() == 1 and bool(heir.came), "the other partition is read", 10)
            assert heir.first() == {1: 5}
            producer.commit_transaction(30)
            wait_until(lambda: heir.unconfirmed() == 0 and len(heir.first()) == 2, "both are", 10)
            assert heir.first() == {0: 7, 1: 5}
        finally:
            heir.close()


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_a_client_that_still_asks_where_its_log_begins_passes_over_no_frame(
    apache_kafka: Broker, reset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its question waits behind a long fetch of the partition that it has already. Sent elsewhere meanwhile, it would
    go back to the beginning half a second later, or to the end, past what was published since (librdkafka #2256)."""
    # On a busy machine its answer takes longer than is waited for; the client then does go back, which is noticed.
    monkeypatch.setattr("layercache.stream.worker.consuming.consumer._OWN_QUESTION_S", 30.0)
    settings = settings_for(apache_kafka, "cooperative", {"auto.offset.reset": reset, "fetch.wait.max.ms": 1_500})
    with unstable_group(settings) as producer:
        producer.abort_transaction(30)  # 5 is committed
    stays, leaves = members = [Member(named(settings, name)) for name in ("stays", "leaves")]
    try:
        wait_until(lambda: [one.partitions() for one in members] == [1, 1], "each has a partition")
        wait_until(lambda: {(0, 9), (1, 9)} <= all_came(members), "the first records")
        ((_, comes),) = {(one.topic, one.partition) for one in leaves.client.assignment()}
        stays.came.clear()
    finally:
        leaves.close()
    try:
        for offset in range(10, 50):
            publish(settings, range(offset, offset + 1), [comes])
            stays.poll()
        wait_until(lambda: (comes, 49) in all_came([stays]), "the last record")
        assert [offset for number, offset in stays.came if number == comes] == list(range(5, 50))
    finally:
        stays.close()


def test_frames_that_retention_deleted_unanswered_are_counted(apache_kafka: Broker) -> None:
    """Whatever ``auto.offset.reset`` says, reading goes on with the first one that is left."""
    settings = settings_for(apache_kafka, "cooperative", {"auto.offset.reset": "latest"})
    with unstable_group(settings) as producer:
        producer.abort_transaction(30)  # 5 is committed
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for deleted in admin.delete_records([TopicPartition(settings.topics.frames, 1, 8)]).values():
        deleted.result(30)
    heir = Member(named(settings, "heir"))
    try:
        wait_until(lambda: {(0, 9), (1, 9)} <= all_came([heir]), "the last records")
        assert heir.first() == {0: 5, 1: 8}
        assert heir.metric("layercache_frames_deleted_unanswered_total") == 3
    finally:
        heir.close()


def test_lag_is_none_at_the_end_of_what_a_transactional_publisher_wrote(apache_kafka: Broker) -> None:
    """There lies the marker of its last transaction, which no reader ever gets."""
    settings = settings_for(apache_kafka, "cooperative")
    servers, name = settings.kafka.bootstrap_servers, f"publisher-of-{settings.topics.frames}"
    publisher = Producer({"bootstrap.servers": servers, "transactional.id": name})
    publisher.init_transactions(30)
    publisher.begin_transaction()
    for number in range(4):
        publisher.produce(settings.topics.frames, str(number), partition=0)
    publisher.commit_transaction(30)
    member = Member(settings)
    try:
        wait_until(lambda: (0, 3) in all_came([member]), "the last record")
        wait_until(lambda: bool(all_came([member])) and member.consumer.lags() == {0: 0, 1: 0}, "no lag", 10)
    finally:
        member.close()


@pytest.mark.slow
def test_a_partition_that_is_added_is_read_soon(apache_kafka: Broker) -> None:
    """With librdkafka's own settings it took up to five minutes."""
    settings = settings_for(apache_kafka, "cooperative")
    member = Member(settings)
    try:
        wait_until(lambda: member.partitions() == PARTITIONS, "it has all partitions")
        admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
        grown = NewPartitions(settings.topics.frames, PARTITIONS + 1)
        admin.create_partitions([grown])[settings.topics.frames].result(30)
        producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
        producer.produce(settings.topics.frames, "new", partition=PARTITIONS)
        assert producer.flush(30) == 0
        wait_until(lambda: (PARTITIONS, 0) in all_came([member]), "the new partition's record", 30)
    finally:
        member.close()
