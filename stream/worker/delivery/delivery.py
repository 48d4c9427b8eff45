"""What both kinds of delivery have in common: they collect records and offsets, which leave together or not at all.

:mod:`layercache.stream.worker.delivery.states` decides what comes after what; here are the calls.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NoReturn, TypeVar

from confluent_kafka import Consumer, KafkaException, TopicPartition

from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import CLIENTS, ClientFactory, Config, KafkaUnusable, is_kip848
from layercache.stream.kafka.throttle import Throttle
from layercache.stream.kafka.waiting import SYSTEM_CLOCK, Clock, Deadline, Stuck
from layercache.stream.worker.delivery.errors import Failure, Undelivered, judge, text_of
from layercache.stream.worker.delivery.group_membership import GroupMembership
from layercache.stream.worker.delivery.states import DeliveryStates, Effect, Event, State
from layercache.stream.worker.delivery.watched_producer import WatchedProducer
from layercache.stream.worker.metrics import Metrics

log = logging.getLogger(__name__)

#: So many aborts without a commit in between are no accident: the next transaction would abort, too.
MAX_ABORTS = 10

#: The worker waits for a delivery so much longer than a transaction can last, and then gives it up with its producer:
#: librdkafka's ``rd_kafka_send_offsets_to_transaction`` can ignore its own timeout for good after a broker was away
#: (confluentinc/librdkafka #5456, #5511, up to 2.16 at least), and a flush can stop making progress.
GRACE_S = 5.0

#: How long a worker that starts waits for its producer.
_START_S = 60.0

#: How long each try of a repeated call may take, and the pause before the next.
CALL_S = 2.0
_PAUSE_S = 0.1
#: How often to ask a full queue for room: the producer reports failures only, so no report ends the wait for it.
_ROOM_S = 0.005

Headers = Sequence[tuple[str, bytes | None]]
Result = TypeVar("Result")


class Aborted(RuntimeError):
    """Nothing since the last commit was delivered: the worker must read its frames again."""


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
        self._interval_s = settings.worker.commit_interval_ms / 1000
        self._max_frames = settings.worker.commit_max_frames
        self._patience_s = settings.worker.transaction_timeout_ms / 1000 + GRACE_S
        self._give_up = give_up
        self._time_left = time_left
        self._states = DeliveryStates()
        self._offsets: dict[tuple[str, int], int] = {}
        self._frames = 0
        self._opened = self._end_by = 0.0
        self._metadata: Callable[[int], str] = lambda partition: ""
        self._waited_s = 0.0
        self._too_large: dict[str, int] = {}
        self._aborts = 0
        users = settings.kafka.options | settings.kafka.consumer_options
        counts_generations = not is_kip848({"group.protocol": settings.worker.group_protocol} | users)
        self._membership = GroupMembership(consumer, counts_generations)
        self._throttle = Throttle(clock=clock.now)
        #: producers never to be used again; :meth:`_make` ends them
        self._left: list[WatchedProducer] = []
        self._watched: WatchedProducer
        try:
            self._need(Deadline(_START_S, clock.now))
        except Aborted as error:
            raise KafkaUnusable(str(error)) from error

    def produce(self, topic: str, value: bytes | None, key: bytes | None = None, headers: Headers = ()) -> None:
        """Hands a record to the producer, waiting for room in its queue if need be."""
        self._begin()
        try:
            self._watched.producer.produce(topic, value, key, headers=list(headers))
        except BufferError:
            self._wait_for_room(topic, value, key, headers)
        except KafkaException as error:
            self._fail("producing", error, topic)

    def produce_all(
        self, topic: str, values: Iterable[bytes], keys: Iterable[bytes | None], headers: Iterable[Headers]
    ) -> None:
        """Hands over a record for each value, key and headers; cheaper than as many calls of :meth:`produce`."""
        self._begin()
        produce = self._watched.producer.produce
        for value, key, raw in zip(values, keys, headers, strict=True):
            try:
                produce(topic, value, key, headers=raw)  # type: ignore[arg-type]  # the stub asks for an invariant list
            except BufferError:
                self._wait_for_room(topic, value, key, raw)
            except KafkaException as error:
                self._fail("producing", error, topic)

    def answered(self, topic: str, partition: int, offset: int, frames: int = 1) -> None:
        """Everything about this frame, and about those before it on its partition, has been produced.

        ``frames`` says how many there were since the last call for the partition.
        """
        self._begin()
        self._offsets[topic, partition] = offset + 1
        self._frames += frames

    def open_offsets(self) -> dict[int, int]:
        """By partition, the offsets that the next commit has: of one topic."""
        return {partition: offset for (_, partition), offset in self._offsets.items()}

    def due_in(self, now: float) -> float | None:
        """Seconds until :meth:`commit` should come, by the clock; None while there is nothing to commit."""
        if self._states.state is not State.OPEN:
            return None
        if self._max_frames is not None and self._frames >= self._max_frames:
            return 0.0
        return max(0.0, self._opened + self._interval_s - now)

    def commit(self, metadata: Callable[[int], str] = lambda partition: "") -> bool:
        """Delivers what has been produced together with its offsets; False where there was nothing.

        With each partition's offset the broker keeps what ``metadata`` says.
        """
        self._metadata = metadata
        self.poll()
        has_something = self._states.state is State.OPEN
        self._on(Event.COMMIT)
        if has_something:
            self._aborts = 0
            self._metrics.last_commit.set_to_current_time()
        return has_something

    def abort(self) -> None:
        """Takes back what has been produced since the last commit, as far as that can be."""
        self._on(Event.ABORT, Failure("partitions were lost, or are read again", "lost_partitions"))

    def poll(self) -> None:
        """Takes in the producer's reports and log lines before they pile up. Never waits."""
        if self._states.state in (State.READY, State.OPEN):
            try:
                self._watched.hear()
            except KafkaException as error:
                self._fail("committing", error)

    def too_large(self, topic: str) -> int | None:
        """Bytes of the largest value that a broker has refused as too large for ``topic`` since this was last asked."""
        return self._too_large.pop(topic, None)

    def waited_s(self) -> float:
        """For how many seconds records have waited for room in the producer's queue since this was last asked."""
        waited, self._waited_s = self._waited_s, 0.0
        return waited

    def assigned(self, partitions: Iterable[int] = ()) -> None:
        """A rebalance was served; see :meth:`GroupMembership.assigned`."""
        self._membership.assigned(partitions)

    def has_missed_a_generation(self) -> bool:
        """True where others may have had this member's partitions; see
        :meth:`GroupMembership.has_missed_a_generation`.
        """
        return self._membership.has_missed_a_generation()

    def rejoins(self, client: Consumer) -> None:
        """``client`` is the group's member from now on. Nothing may be open."""
        self._membership.rejoins(client)

    def ensure_producer(self) -> None:
        """Makes sure that there is a producer that works; :class:`Aborted` where there cannot be one yet.

        Call this when nothing is in flight any more: the worker reads all frames from now on as the present member.
        """
        self._membership.read_again()
        self._need(self._deadline())

    def close(self) -> None:
        """Aborts what is open; nothing comes after it."""
        self._on(Event.CLOSE)

    def _begin(self) -> None:
        if self._states.state is not State.OPEN:
            self._need(self._deadline())
            self._on(Event.BEGIN)

    def _on(self, event: Event, failure: Failure | None = None) -> None:
        """Takes in an event and carries out what follows; what comes of that are the next events."""
        for effect in self._states.on(event):
            match effect:
                case Effect.MAKE:
                    self._make()
                case Effect.REGISTER:
                    self._try("registering for transactions", self._register)
                case Effect.BEGIN:
                    self._try("beginning", self._open)
                    self._opened = self._clock.now()
                case Effect.HAND_IN:
                    self._end_by = self._clock.now() + self._deadline().left()
                    self._try("committing", self._hand_in)
                case Effect.COMMIT:
                    self._try("committing", self._commit)
                case Effect.ABORT:
                    self._try("aborting", self._abort)
                case Effect.FORGET:
                    self._offsets.clear()
                    self._frames = 0
                    if event not in (Event.DONE, Event.UNCLEAN):
                        self._metrics.aborts.labels(failure.reason if failure else "closing").inc()
                case Effect.RETIRE:
                    self._retire(failure)
                case Effect.LEAVE:
                    self._leave(failure or Failure("closing", "closing"))
                case Effect.LOSE:
                    why = failure.why if failure else "the delivery was given up"
                    raise KafkaUnusable(why) if failure and failure.ends_worker else Aborted(why)

    def _try(self, doing: str, call: Callable[[], tuple[Event, Failure | None]]) -> None:
        """Makes a call; what comes of it is the next event."""
        try:
            event, failure = call()
        except KafkaException as error:
            event, failure = self._judge(doing, error)
        except Stuck as error:
            event, failure = Event.BROKEN, Failure(f"{doing}: {error}", "stuck")
            if self._states.state is State.PENDING:  # it may still succeed, and is asked again
                event = Event.FAILED
        self._on(event, failure)

    def _judge(self, doing: str, error: KafkaException, topic: str = "") -> tuple[Event, Failure]:
        """What comes of an error; ``topic`` is whose record librdkafka did not take."""
        undelivered = self._watched.cause() or (Undelivered(topic, error.args[0], here=True) if topic else None)
        event, failure = judge(doing, error.args[0], self._states.state, undelivered, self._settings)
        self._aborts += not failure.is_passing
        if self._aborts >= MAX_ABORTS and not failure.ends_worker:
            why = f"{self._aborts} commits in a row failed, the last while {failure.why}"
            failure = replace(failure, why=why, ends_worker=True)
        return event, failure

    def _fail(self, doing: str, error: KafkaException, topic: str = "") -> NoReturn:
        self._on(*self._judge(doing, error, topic))
        raise AssertionError("a failure loses what is open")

    def _need(self, deadline: Deadline) -> None:
        """Has a producer by then."""
        self._register_by = deadline
        self._on(Event.NEED)

    def _make(self) -> None:
        # Let go of the old producers here, where no exception is being handled whose frames refer to them; and in
        # another thread, since their end waits for threads.
        doomed, self._left = self._left, []
        if doomed:
            self._clock.start_call(doomed.clear)
        try:
            self._watched = WatchedProducer(self._clients.producer, self._config(), self._too_large)
        except KafkaException as error:
            raise KafkaUnusable(f"kafka.options, kafka.producer_options, or -X: {text_of(error)}") from error

    def _retire(self, failure: Failure | None) -> None:
        if failure is not None:
            self._metrics.replaced_producers.labels(failure.reason).inc()
            if self._throttle.passes(failure.reason):
                log.warning("the producer will be replaced: %s", failure.why)
        self._left.append(self._watched)

    def _leave(self, failure: Failure) -> None:
        self._check_sense(failure)
        self._metrics.replaced_producers.labels(failure.reason).inc()
        log.warning("the producer cannot go on (%s); starting another", failure.why)
        self._left.append(self._watched)

    def _check_sense(self, failure: Failure) -> None:  # noqa: B027  # nothing to check in general
        """Raises :class:`KafkaUnusable` where another producer in place of this one makes no sense."""

    def _ended(self) -> tuple[Event, Failure | None]:
        """What comes of an end that succeeded."""
        unclean = self._watched.unclean()
        if unclean is None:
            return Event.DONE, None
        reason, why = unclean
        return Event.UNCLEAN, Failure(why, reason)

    def _may_commit(self) -> bool:
        return self._membership.may_commit(partition for _, partition in self._offsets)

    def _deadline(self) -> Deadline:
        """One for all that a call does: the broker's patience with a transaction, or the group's with its member."""
        return Deadline(min(self._patience_s, self._time_left()), self._clock.now)

    def _time_to_end(self) -> Deadline:
        """What is left of the deadline that the commit under way began with."""
        return Deadline(self._end_by - self._clock.now(), self._clock.now)

    def _wait_for_room(self, topic: str, value: bytes | None, key: bytes | None, headers: Headers) -> None:
        deadline, began = self._deadline(), self._clock.now()
        producer = self._watched.producer
        while deadline.left() and not self._give_up():
            try:
                producer.poll(min(_ROOM_S, deadline.left()))
                producer.produce(topic, value, key, headers=list(headers))
                self._waited_s += self._clock.now() - began
                return
            except BufferError:
                continue
            except KafkaException as error:
                self._fail("producing", error, topic)
        self._on(Event.BROKEN, Failure("producing: its queue stays full", "stuck"))

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
    def _config(self) -> Config:
        """Of the producer."""

    @abstractmethod
    def _register(self) -> tuple[Event, Failure | None]:
        """And the following: what comes of the effect of that name."""

    @abstractmethod
    def _open(self) -> tuple[Event, Failure | None]: ...

    @abstractmethod
    def _hand_in(self) -> tuple[Event, Failure | None]: ...

    @abstractmethod
    def _commit(self) -> tuple[Event, Failure | None]: ...

    @abstractmethod
    def _abort(self) -> tuple[Event, Failure | None]: ...

    def _offsets_to_commit(self) -> list[TopicPartition]:
        return [TopicPartition(*place, offset, self._metadata(place[1])) for place, offset in self._offsets.items()]
