"""The same fault with confluent-kafka alone, and what a program of one's own can do: ask a ``RequestWatch`` after each
end, and go on with a new producer where a request had no answer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from layercache.schemas.settings import Settings
from layercache.stream.worker.delivery.request_watch import RequestWatch
from testbed.kafka_proxy import HeldRequest, KafkaProxy, ends
from testbed.topics import create_topics, unique_topics
from testbed.worker_process import reading
from tests.conftest import Broker


@dataclass
class Program:
    """Makes transactions as a program would; ``topic`` has two partitions."""

    servers: str
    topic: str
    proxy: KafkaProxy
    watch: RequestWatch = field(default_factory=RequestWatch)

    def __post_init__(self) -> None:
        self.register()

    def register(self) -> None:
        """Goes on as another producer of the same name."""
        self.watch = RequestWatch()
        self.producer = Producer(
            self.watch.options(
                {"bootstrap.servers": self.servers, "transactional.id": self.topic, "linger.ms": 0, "log_level": 0,
                 "reconnect.backoff.max.ms": 1000}
            )
        )  # fmt: skip
        self.producer.init_transactions(30)

    def begin(self, value: str) -> None:
        """Begins a transaction with ``value`` on partition 0, and waits until the broker has it."""
        self.producer.begin_transaction()
        self.write(value, 0)
        assert self.producer.flush(20) == 0

    def write(self, value: str, partition: int) -> None:
        """One record more."""
        self.producer.produce(self.topic, value, partition=partition)

    def end(self, commit: bool) -> bool:
        """False where the producer can only be left; leaves it also where it was not answered."""
        try:
            (self.producer.commit_transaction if commit else self.producer.abort_transaction)()
        except KafkaException:
            self.register()
            return False
        self.producer.poll(0)
        if self.watch.unanswered():
            self.register()
        return True

    def end_late(self, commit: bool) -> HeldRequest:
        """A transaction of the record `a`, of whose end a copy is still under way."""
        self.begin("a")
        late = self.proxy.hold(ends(commit), reset=True)
        assert self.end(commit)
        assert late.is_held
        return late


def aborted_and_done_again(program: Program) -> str:
    late = program.end_late(commit=True)
    program.begin("b")
    late.release()
    program.end(commit=False)
    program.begin("b")
    assert program.end(commit=True)
    return "ab"


def goes_on_with_another_partition(program: Program) -> str:
    """Half of the transaction would be committed before the other half is."""
    late = program.end_late(commit=True)
    program.begin("b")
    assert late.release_end() != 0
    program.write("c", 1)
    assert program.end(commit=True)
    return "abc"


def goes_on_with_the_same_partition(program: Program) -> str:
    """Where it is refused, all of it is done again."""
    late = program.end_late(commit=True)
    program.begin("b")
    late.release()
    program.write("c", 0)
    if not program.end(commit=True):
        program.begin("b")
        program.write("c", 0)
        assert program.end(commit=True)
    return "abc"


def goes_on_after_an_abort(program: Program) -> str:
    late = program.end_late(commit=False)
    program.begin("b")
    late.release()
    program.write("c", 1)
    assert program.end(commit=True)
    return "bc"


def offsets_after_an_abort(program: Program) -> str:
    late = program.end_late(commit=False)
    program.begin("b")
    late.release()
    consumer = Consumer({"bootstrap.servers": program.servers, "group.id": program.topic})
    offsets = [TopicPartition(program.topic, 0, 7)]
    program.producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 20)
    assert program.end(commit=True)
    assert consumer.committed(offsets, 20)[0].offset == 7
    consumer.close()
    return "b"


@contextmanager
def program_of(broker: Broker) -> Iterator[tuple[Program, Settings]]:
    topics = create_topics(broker.bootstrap_servers, unique_topics())
    assert broker.proxy is not None
    yield Program(broker.detour_servers, topics.predictions, broker.proxy), Settings(kafka=broker.kafka, topics=topics)


@pytest.mark.parametrize(
    "happens",
    [
        aborted_and_done_again,
        goes_on_with_another_partition,
        goes_on_with_the_same_partition,
        goes_on_after_an_abort,
        offsets_after_an_abort,
    ],
)
def test_what_was_committed_is_there_once(apache_kafka: Broker, happens: Callable[[Program], str]) -> None:
    with program_of(apache_kafka) as (program, settings):
        wanted = happens(program)
        with reading(settings, program.topic) as reader:
            reader.read_until(lambda: len(reader.messages) >= len(wanted), wanted, 20)
            reader.read(0.5)
            assert sorted((message.value() or b"").decode() for message in reader.messages) == list(wanted)
