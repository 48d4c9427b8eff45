"""Delivery: predictions, dead letters, distillation records and the frames' offsets leave together.

Exactly once by Kafka's transactions (KIP-98, KIP-447), or at least once by flushing before offsets are committed.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.settings import Settings
from stream.clients import KafkaUnusable, long_running, producer_config
from stream.patience import Stuck, within
from stream.throttle import Throttle

log = logging.getLogger(__name__)

#: A transaction that its worker left open (it was killed) holds up readers of committed records, and whoever takes over
#: its partitions, for as long as this.
TRANSACTION_TIMEOUT_MS = 10_000

#: So many aborts without a commit in between are no accident; what comes next would abort too.
MAX_ABORTS = 10

#: A call that takes longer is taken for lost, and its producer with it: librdkafka's
#: ``rd_kafka_send_offsets_to_transaction`` can ignore its own timeout for good after a broker was away
#: (confluentinc/librdkafka #5456, #5511, up to 2.16 at least), and a flush can make no more progress. Longer than
#: TRANSACTION_TIMEOUT_MS, after which the broker has aborted the transaction anyhow.
STUCK_S = 15.0

#: Errors that pass; however many there are in a row, they do not say that the next commit fails too.
_PASSING = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._FENCED,
        KafkaError._STATE,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
    }
)

_CALL_S = 2.0
_PAUSE_S = 0.1

Headers = Sequence[tuple[str, bytes | None]]
Result = TypeVar("Result")


class Aborted(RuntimeError):
    """Nothing since the last commit was delivered: its frames must be read again."""


class Delivery(ABC):
    """Collects records and offsets, and commits them together.

    ``give_up`` says when waiting for a broker that is away has become pointless. Every method may raise
    :class:`Aborted`, or :class:`KafkaUnusable` where going on makes no sense.
    """

    def __init__(self, consumer: Consumer, interval_s: float, give_up: Callable[[], bool]) -> None:
        self._consumer = consumer
        self._interval_s = interval_s
        self._give_up = give_up
        self._offsets: dict[tuple[str, int], int] = {}
        self._began: float | None = None
        self._aborts = 0
        self._throttle = Throttle()
        self._producer = self._new_producer()

    def produce(self, topic: str, value: bytes | None, key: bytes | None = None, headers: Headers = ()) -> None:
        """Hands a record to the producer, waiting for room in its queue if need be."""
        self._begin()
        while True:
            try:
                self._producer.produce(topic, value, key, headers=list(headers))
                return
            except BufferError:
                self._producer.poll(_PAUSE_S)
                if self._give_up():
                    raise Aborted("stopped while the producer's queue was full") from None
            except KafkaException as error:
                self._failed("producing", error)

    def answered(self, topic: str, partition: int, offset: int) -> None:
        """Everything about this frame, and about those before it on its partition, has been produced."""
        self._begin()
        self._offsets[topic, partition] = offset + 1

    def due_in(self, now: float) -> float | None:
        """Seconds until :meth:`commit` should come, by ``time.monotonic``; None while there is nothing to commit."""
        return None if self._began is None else max(0.0, self._began + self._interval_s - now)

    def commit(self) -> bool:
        """Delivers what has been produced together with its offsets; False where there was nothing."""
        self._producer.poll(0)
        if self._began is None:
            return False
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in self._offsets.items()]
        try:
            self._commit(offsets)
        except KafkaException as error:
            self._failed("committing", error)
        except Stuck as error:
            self._clear()
            self._renew(f"committing: {error}")
            raise Aborted(f"committing: {error}") from error
        self._clear()
        self._aborts = 0
        return True

    def abort(self) -> None:
        """Takes back what has been produced since the last commit, as far as that can be."""
        if self._began is None:
            return
        self._clear()
        try:
            self._abort()
        except (KafkaException, Stuck) as error:
            self._renew(f"aborting: {_text(error)}", is_fenced=_is_fenced(error))

    def close(self) -> None:
        """Aborts what is open."""
        self.abort()

    def _begin(self) -> None:
        if self._began is None:
            try:
                self._open()
            except KafkaException as error:
                self._renew(_text(error), is_fenced=_is_fenced(error))
                raise Aborted(_text(error)) from error
            self._began = time.monotonic()

    def _clear(self) -> None:
        self._offsets.clear()
        self._began = None

    def _failed(self, doing: str, error: KafkaException) -> None:
        """Aborts after an error that waiting did not cure, and raises."""
        cause: KafkaError = error.args[0]
        self._aborts += cause.code() not in _PASSING
        if self._aborts >= MAX_ABORTS:
            raise KafkaUnusable(f"{self._aborts} commits in a row failed, the last while {doing}: {cause.str()}")
        if cause.fatal():
            self._clear()
            self._renew(f"{doing}: {cause.str()}", is_fenced=_is_fenced(error))
        else:
            self.abort()
        raise Aborted(f"{doing}: {cause.str()}") from error

    def _persist(self, call: Callable[[float], Result], doing: str) -> Result:
        """Repeats ``call`` (which takes a timeout in seconds) while its errors are such as pass."""
        while True:
            try:
                return within(STUCK_S, lambda: call(_CALL_S), self._give_up)
            except KafkaException as error:
                if not error.args[0].retriable() or self._give_up():
                    raise
                if self._throttle.passes(doing):
                    log.warning("still %s: %s", doing, error.args[0].str())
                self._producer.poll(_PAUSE_S)

    @abstractmethod
    def _new_producer(self) -> Producer: ...

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _commit(self, offsets: list[TopicPartition]) -> None: ...

    @abstractmethod
    def _abort(self) -> None: ...

    @abstractmethod
    def _renew(self, why: str, is_fenced: bool = False) -> None:
        """A working producer in place of one that cannot go on; :class:`KafkaUnusable` where that makes no sense."""


class ExactlyOnce(Delivery):
    """One transaction per commit interval, begun by its first record."""

    def __init__(self, settings: Settings, worker: str, consumer: Consumer, give_up: Callable[[], bool]) -> None:
        self._settings = settings
        self.transactional_id = f"{settings.worker.group_id}-{worker}"
        super().__init__(consumer, settings.worker.commit_interval_ms / 1000, give_up)

    def _new_producer(self) -> Producer:
        config = producer_config(
            self._settings, transactional_id=self.transactional_id, transaction_timeout_ms=TRANSACTION_TIMEOUT_MS
        )
        self._producer = Producer(long_running(config))
        try:
            self._persist(self._producer.init_transactions, "registering for transactions")
        except (KafkaException, Stuck) as error:
            raise KafkaUnusable(f"no transactions as {self.transactional_id}: {_text(error)}") from error
        return self._producer

    def _open(self) -> None:
        self._producer.begin_transaction()

    def _commit(self, offsets: list[TopicPartition]) -> None:
        group = self._consumer.consumer_group_metadata()
        producer = self._producer
        self._persist(lambda s: producer.send_offsets_to_transaction(offsets, group, s), "sending offsets")
        self._persist(producer.commit_transaction, "committing")

    def _abort(self) -> None:
        self._persist(self._producer.abort_transaction, "aborting")

    def _renew(self, why: str, is_fenced: bool = False) -> None:
        if is_fenced and self._settings.worker.worker_id is not None:
            raise KafkaUnusable(
                f"another worker took over the transactional.id {self.transactional_id}, or this one was away for more "
                f"than {TRANSACTION_TIMEOUT_MS / 1000:.0f} s: each running worker needs a worker_id of its own"
            )
        if self._give_up():
            raise KafkaUnusable(f"stopped while a transaction could not be ended: {why}")
        log.warning("the producer cannot go on (%s); starting another", why)
        # Of the same transactional.id: registering it ends whatever the one before left open.
        self._producer = self._new_producer()


class AtLeastOnce(Delivery):
    """Everything is flushed before offsets are committed: a frame may be answered twice, never not at all."""

    def __init__(self, settings: Settings, consumer: Consumer, give_up: Callable[[], bool]) -> None:
        self._settings = settings
        self._undelivered: KafkaError | None = None
        super().__init__(consumer, settings.worker.commit_interval_ms / 1000, give_up)

    def _new_producer(self) -> Producer:
        config = producer_config(self._settings) | {"delivery.report.only.error": True, "on_delivery": self._report}
        return Producer(long_running(config))

    def _report(self, error: KafkaError | None, _: object) -> None:
        self._undelivered = error or self._undelivered

    def _open(self) -> None:
        self._undelivered = None

    def _commit(self, offsets: list[TopicPartition]) -> None:
        left, since = len(self._producer), time.monotonic()
        while (now_left := self._producer.flush(_CALL_S)) and not self._undelivered:
            if now_left < left:
                left, since = now_left, time.monotonic()
            if self._give_up() or time.monotonic() - since > STUCK_S:
                raise Stuck(f"{now_left} records are not delivered")
            if self._throttle.passes("flushing"):
                log.warning("still flushing: %d records are on their way", now_left)
        if self._undelivered:
            raise KafkaException(self._undelivered)
        self._persist(lambda _: self._consumer.commit(offsets=offsets, asynchronous=False), "committing offsets")

    def _abort(self) -> None:
        """What was produced stays: at least once."""

    def _renew(self, why: str, is_fenced: bool = False) -> None:
        log.warning("the producer cannot go on (%s); starting another", why)
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)
        self._producer = self._new_producer()


def delivery(settings: Settings, worker: str, consumer: Consumer, give_up: Callable[[], bool]) -> Delivery:
    """The delivery that the settings ask for, by the worker of that name."""
    if settings.worker.delivery == "exactly_once":
        return ExactlyOnce(settings, worker, consumer, give_up)
    return AtLeastOnce(settings, consumer, give_up)


def _text(error: Exception) -> str:
    return str(error.args[0].str()) if isinstance(error, KafkaException) else str(error)


def _is_fenced(error: Exception) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError._FENCED
