"""What both kinds of delivery have in common: records and offsets are collected, and leave together or not at all."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.settings import Settings
from stream.clients import CLIENTS, REPLACED, ClientFactory, KafkaUnusable, is_hopeless, is_replaced
from stream.metrics import Metrics
from stream.patience import SYSTEM_CLOCK, Clock, Deadline, Stuck
from stream.throttle import Throttle

log = logging.getLogger(__name__)

#: So many aborts without a commit in between are no accident; what comes next would abort too.
MAX_ABORTS = 10

#: Delivery is waited for so much longer than a transaction can last; then it is taken for lost, and its producer with
#: it: librdkafka's ``rd_kafka_send_offsets_to_transaction`` can ignore its own timeout for good after a broker was away
#: (confluentinc/librdkafka #5456, #5511, up to 2.16 at least), and a flush can make no more progress.
GRACE_S = 5.0

#: How long a worker that starts waits for its producer.
_START_S = 60.0

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
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
    }
)

#: Of the calls that are repeated, each.
CALL_S = 2.0
_PAUSE_S = 0.1
#: How often a full queue is asked for room: no report of a record that was delivered ends the wait for it.
_ROOM_S = 0.005

Headers = Sequence[tuple[str, bytes | None]]
Result = TypeVar("Result")


class Aborted(RuntimeError):
    """Nothing since the last commit was delivered: its frames must be read again."""


class Delivery(ABC):
    """Collects records and offsets, and commits them together.

    ``give_up`` says when waiting for a broker that is away has become pointless, and ``time_left`` for how many seconds
    a call may wait before the consumer must be polled again. Every method may raise :class:`Aborted`, or
    :class:`KafkaUnusable` where going on makes no sense.
    """

    def __init__(
        self,
        settings: Settings,
        consumer: Consumer,
        give_up: Callable[[], bool],
        time_left: Callable[[], float],
        metrics: Metrics,
        clock: Clock = SYSTEM_CLOCK,
        clients: ClientFactory = CLIENTS,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._clients = clients
        self._consumer = consumer
        self._interval_s = settings.worker.commit_interval_ms / 1000
        self._max_frames = settings.worker.commit_max_frames
        self._patience_s = settings.worker.transaction_timeout_ms / 1000 + GRACE_S
        self._give_up = give_up
        self._time_left = time_left
        self._offsets: dict[tuple[str, int], int] = {}
        self._frames = 0
        self._waited_s = 0.0
        self._began: float | None = None
        self._broken: str | None = None
        self._aborts = 0
        self._throttle = Throttle(clock=clock.now)
        self._producer = self._new_producer(Deadline(_START_S, clock.now))

    def produce(self, topic: str, value: bytes | None, key: bytes | None = None, headers: Headers = ()) -> None:
        """Hands a record to the producer, waiting for room in its queue if need be."""
        self._begin()
        try:
            self._producer.produce(topic, value, key, headers=list(headers))
        except BufferError:
            self._wait_for_room(topic, value, key, headers)
        except KafkaException as error:
            self._failed("producing", error)

    def produce_all(
        self, topic: str, values: Iterable[bytes], keys: Iterable[bytes | None], headers: Iterable[Headers]
    ) -> None:
        """Hands over a record for each value, its key and its headers, for less than as many :meth:`produce` cost."""
        self._begin()
        produce = self._producer.produce
        for value, key, raw in zip(values, keys, headers, strict=True):
            try:
                produce(topic, value, key, headers=raw)  # type: ignore[arg-type]  # the stub asks for an invariant list
            except BufferError:
                self._wait_for_room(topic, value, key, raw)
            except KafkaException as error:
                self._failed("producing", error)

    def answered(self, topic: str, partition: int, offset: int, frames: int = 1) -> None:
        """Everything about this frame, and about those before it on its partition, has been produced.

        ``frames`` says how many there were since the last call for the partition.
        """
        self._begin()
        self._offsets[topic, partition] = offset + 1
        self._frames += frames

    def due_in(self, now: float) -> float | None:
        """Seconds until :meth:`commit` should come, by ``time.monotonic``; None while there is nothing to commit."""
        if self._began is None:
            return None
        if self._max_frames is not None and self._frames >= self._max_frames:
            return 0.0
        return max(0.0, self._began + self._interval_s - now)

    def commit(self, metadata: str = "") -> bool:
        """Delivers what has been produced together with its offsets; False where there was nothing.

        The broker keeps ``metadata`` with the offsets.
        """
        offsets = [TopicPartition(*place, offset, metadata) for place, offset in self._offsets.items()]
        try:
            self._producer.poll(0)  # raises what has become fatal meanwhile
            if self._began is None:
                return False
            self._commit(offsets, self._deadline())
        except KafkaException as error:
            self._failed("committing", error)
        except Stuck as error:
            self._give_up_producer(f"committing: {error}")
        self._clear()
        self._aborts = 0
        self._metrics.last_commit.set_to_current_time()
        self._leave_unclean_producer()
        return True

    def abort(self) -> None:
        """Takes back what has been produced since the last commit, as far as that can be."""
        if self._began is None:
            return
        self._clear()
        try:
            self._abort(self._deadline())
        except (KafkaException, Stuck) as error:
            self._break(f"aborting: {text_of(error)}", fenced=is_fenced(error))
        else:
            self._leave_unclean_producer()

    def waited_s(self) -> float:
        """For how many seconds records have waited for room in the producer's queue since this was last asked."""
        waited, self._waited_s = self._waited_s, 0.0
        return waited

    def ensure_producer(self) -> None:
        """Makes sure that there is a producer that works; :class:`Aborted` where there cannot be one yet."""
        if self._broken is not None:
            self._replace()

    def close(self) -> None:
        """Aborts what is open."""
        self.abort()

    def _begin(self) -> None:
        if self._began is not None:
            return
        self.ensure_producer()
        try:
            self._open()
        except KafkaException as error:
            self._break(text_of(error), fenced=is_fenced(error))
            raise Aborted(text_of(error)) from error
        self._began = self._clock.now()

    def _clear(self) -> None:
        self._offsets.clear()
        self._frames = 0
        self._began = None

    def _deadline(self) -> Deadline:
        """One for all that a call does: the broker's patience with a transaction, or the group's with its member."""
        return Deadline(min(self._patience_s, self._time_left()), self._clock.now)

    def _wait_for_room(self, topic: str, value: bytes | None, key: bytes | None, headers: Headers) -> None:
        deadline, began = self._deadline(), self._clock.now()
        while deadline.left() and not self._give_up():
            try:
                self._producer.poll(min(_ROOM_S, deadline.left()))
                self._producer.produce(topic, value, key, headers=list(headers))
                self._waited_s += self._clock.now() - began
                return
            except BufferError:
                continue
            except KafkaException as error:
                self._failed("producing", error)
        self._give_up_producer("producing: its queue stays full")

    def _failed(self, doing: str, error: KafkaException) -> NoReturn:
        """Aborts after an error that waiting did not cure."""
        cause: KafkaError = error.args[0]
        if is_replaced(cause):
            raise KafkaUnusable(f"{doing}: {REPLACED} ({cause.str()})") from error
        self._aborts += cause.code() not in _PASSING
        if self._aborts >= MAX_ABORTS:
            raise KafkaUnusable(f"{self._aborts} commits in a row failed, the last while {doing}: {cause.str()}")
        if cause.fatal():
            self._clear()
            self._break(f"{doing}: {cause.str()}", fenced=is_fenced(error))
        else:
            self.abort()
        raise Aborted(f"{doing}: {cause.str()}") from error

    def _give_up_producer(self, why: str) -> NoReturn:
        """Ends what is open by leaving the producer: a call of it may hang for good."""
        self._clear()
        self._break(why)
        raise Aborted(why)

    def _break(self, why: str, fenced: bool = False) -> None:
        """The producer cannot go on: :meth:`ensure_producer` makes another, once the consumer has been polled again.

        Raises :class:`KafkaUnusable` where another makes no sense.
        """
        self._check_sense(why, fenced)
        log.warning("the producer cannot go on (%s); starting another", why)
        self._metrics.replaced_producers.labels("fenced" if fenced else "broken").inc()
        self._broken = why

    def _replace(self) -> None:
        try:
            self._producer = self._new_producer(self._deadline())
        except (KafkaException, Stuck) as error:
            if isinstance(error, KafkaException) and is_hopeless(error.args[0]):
                raise KafkaUnusable(text_of(error)) from error
            raise Aborted(f"no new producer: {text_of(error)}") from error
        self._broken = None

    def _persist(self, call: Callable[[float], Result], doing: str, deadline: Deadline) -> Result:
        """Repeats ``call`` (which takes a timeout in seconds) while its errors are such as pass, until the deadline."""
        last = "none was left"
        while deadline.left():
            try:
                return self._clock.call_with_timeout(
                    deadline.left(), lambda: call(min(CALL_S, deadline.left())), self._give_up
                )
            except KafkaException as error:
                if not error.args[0].retriable() or self._give_up():
                    raise
                last = error.args[0].str()
                if self._throttle.passes(doing):
                    log.warning("still %s: %s", doing, last)
                self._clock.sleep(min(_PAUSE_S, deadline.left()))
        raise Stuck(f"no success in time: {last}")

    @abstractmethod
    def _new_producer(self, deadline: Deadline) -> Producer: ...

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _commit(self, offsets: list[TopicPartition], deadline: Deadline) -> None: ...

    @abstractmethod
    def _abort(self, deadline: Deadline) -> None: ...

    def _leave_unclean_producer(self) -> None:  # noqa: B027  # without transactions nothing can be late
        """Has the producer replaced where requests of the transaction that ended may still be under way."""

    def _check_sense(self, why: str, fenced: bool) -> None:  # noqa: B027  # nothing to check in general
        """Raises :class:`KafkaUnusable` where another producer in place of this one makes no sense."""


def text_of(error: Exception) -> str:
    """What to tell people."""
    return str(error.args[0].str()) if isinstance(error, KafkaException) else str(error)


def is_fenced(error: Exception) -> bool:
    """True where another producer has taken over the transactional.id."""
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError._FENCED
