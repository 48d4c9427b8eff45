"""A delivery in memory: its producers and its group do what a test says, and note what they are asked."""

import logging
import struct
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from layercache.schemas.settings import Settings, Worker
from layercache.stream.kafka.clients import ClientFactory, Config
from layercache.stream.worker.delivery.transactions import Delivery, delivery
from layercache.stream.worker.metrics import Metrics

FENCED = KafkaError(KafkaError._FENCED, "fenced by a newer instance", fatal=True)


class Message:
    def topic(self) -> str:
        return "predictions"


class FakeProducer:
    """Does what it is asked to; tells its requests as librdkafka's log does, where ``speaks``."""

    speaks = True

    def __init__(self, config: Config, cluster: "FakeCluster") -> None:
        self.config = config
        self.cluster = cluster
        self.records: list[bytes | None] = []
        self.fails: dict[str, KafkaError] = {}
        self.repeats: set[str] = set()

    def _requests(self, *names: str) -> None:
        for name in names:
            if not self.speaks:
                return
            for _ in range(1 + (name in self.repeats)):
                self._say("SEND", f"TxnCoordinator/1: Sent {name}Request (v1, 43 bytes @ 0, CorrId 5)")
            self._say("RECV", f"TxnCoordinator/1: Received {name}Response (v1, 6 bytes, CorrId 5, rtt 0.04ms)")

    def _say(self, facility: str, text: str) -> None:
        self.config["logger"].log(logging.DEBUG, "%s [%s] %s", facility, "p", text)

    def _call(self, name: str) -> None:
        self.cluster.calls.append(name)
        self.cluster.on_call(name)
        if name in self.fails:
            raise KafkaException(self.fails[name])

    def init_transactions(self, _: float) -> None:
        self._call("init")
        self.repeats |= self.cluster.next_repeats
        self.cluster.next_repeats = set()
        self._requests("InitProducerId")

    def begin_transaction(self) -> None:
        self._call("begin")

    def produce(self, topic: str, value: bytes | None, key: bytes | None, headers: object) -> None:
        self._call("produce")
        self.records.append(value)

    def send_offsets_to_transaction(self, offsets: list[TopicPartition], group: bytes, _: float) -> None:
        self._call("offsets")
        self.cluster.offsets.append([(one.partition, one.offset, one.metadata) for one in offsets])
        self._requests("AddOffsetsToTxn", "TxnOffsetCommit")

    def commit_transaction(self, _: float) -> None:
        self._call("commit")
        self._requests("AddPartitionsToTxn", "EndTxn")

    def abort_transaction(self, _: float) -> None:
        self._call("abort")
        self._requests("EndTxn")

    def flush(self, _: float) -> int:
        self._call("flush")
        return 0

    def purge(self, **_: bool) -> None:
        """Nothing waits."""

    def poll(self, _: float) -> int:
        self._call("poll") if "poll" in self.fails else None
        return 0

    def __len__(self) -> int:
        return 0

    def refuse(self, code: int) -> None:
        """The report of a record that the topic refused."""
        self.config["on_delivery"](KafkaError(code), Message())


class FakeCluster:
    """Makes the producers, and remembers them."""

    def __init__(self) -> None:
        self.producers: list[FakeProducer] = []
        self.calls: list[str] = []
        self.next_repeats: set[str] = set()
        self.speaks = True
        self.on_call: Callable[[str], None] = lambda name: None
        #: of each transaction: partition, offset and metadata
        self.offsets: list[list[tuple[int, int, str | None]]] = []

    def producer(self, config: Config) -> Producer:
        self.producers.append(FakeProducer(config, self))
        self.producers[-1].speaks = self.speaks
        return cast(Producer, self.producers[-1])


class Member:
    """A consumer that is a member of its group."""

    def __init__(self) -> None:
        self.member = "worker-1"
        self.generation = 1
        self.committed: list[tuple[int, int]] = []

    def memberid(self) -> str:
        return self.member

    def consumer_group_metadata(self) -> bytes:
        return b"CGMDv2:" + struct.pack("=i", self.generation) + self.member.encode()

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert not asynchronous
        self.committed += [(one.partition, one.offset) for one in offsets]


class Now:
    """A clock whose time passes when a test says so, and that makes calls at once."""

    def __init__(self) -> None:
        self.at = 100.0
        self.on_the_side: list[Callable[[], Any]] = []
        #: how long each call had
        self.allowed: list[float] = []

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")

    def call_with_timeout(self, seconds: float, call: Callable[[], Any], give_up: object = None) -> Any:
        self.allowed.append(seconds)
        return call()

    def start_call(self, call: Callable[[], Any]) -> Future[Any]:
        self.on_the_side.append(call)
        return Future()


class Bench:
    """A delivery with all that it talks to."""

    def __init__(self, **worker: object) -> None:
        self.cluster, self.member, self.clock = FakeCluster(), Member(), Now()
        self.metrics = Metrics(max_batch=32)
        self.settings = Settings(worker=Worker.model_validate(worker))
        #: how long the group goes without the worker
        self.time_left = 60.0
        self.works = self.delivery()

    def delivery(self) -> Delivery:
        return delivery(
            self.settings, "one", cast(Consumer, self.member), lambda: False, self.metrics, lambda: self.time_left,
            self.clock, ClientFactory(producer=self.cluster.producer),
        )  # fmt: skip

    @property
    def producer(self) -> FakeProducer:
        """The latest."""
        return self.cluster.producers[-1]

    def answer(self, offset: int, partition: int = 0) -> None:
        self.works.produce("predictions", b"%d" % offset)
        self.works.answered("frames", partition, offset)

    def count(self, metric: str, reason: str) -> float:
        return self.metrics.registry.get_sample_value(f"layercache_{metric}_total", {"reason": reason}) or 0.0
