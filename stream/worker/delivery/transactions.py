"""Delivery: predictions, dead letters, distillation records and the frames' offsets leave together.

Exactly once by Kafka's transactions (KIP-98, KIP-447), or at least once by flushing before offsets are committed.
"""

import logging
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException, libversion

from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import CLIENTS, ClientFactory, Config, KafkaUnusable, producer_config
from layercache.stream.kafka.waiting import SYSTEM_CLOCK, Clock, Stuck
from layercache.stream.worker.delivery.delivery import CALL_S, Aborted, Delivery
from layercache.stream.worker.delivery.errors import Failure
from layercache.stream.worker.delivery.states import Event, State
from layercache.stream.worker.metrics import Metrics

__all__ = ["Aborted", "AtLeastOnce", "Delivery", "ExactlyOnce", "delivery"]

log = logging.getLogger(__name__)

_DONE = Event.DONE, None
_THROWN_OUT = Failure("the group has thrown this worker out", "thrown_out")

#: When all its connections break at once, librdkafka bootstraps anew (KIP-899, its default from 2.10 on). For that 2.16
#: drops the brokers that it knew, but keeps one of them as the group's coordinator, and sending offsets waits for that
#: one until some other connection changes its state: until the next outage (confluentinc/librdkafka #5511, #5600). With
#: ``none`` librdkafka connects again to the brokers that it knew. Only clients whose brokers all changed their
#: addresses meanwhile need to bootstrap anew. With ``none`` such a worker loses one transaction, which does not end in
#: time: its next producer bootstraps from ``bootstrap.servers``. A consumer has no successor, nor this fault.
_STAY_WITH_BROKERS: Config = {"metadata_recovery_strategy": "none"} if libversion()[1] >= 0x020A0000 else {}

Outcome = tuple[Event, Failure | None]


class ExactlyOnce(Delivery):
    """One transaction per commit interval, begun by its first record."""

    def __init__(
        self,
        settings: Settings,
        worker: str,
        consumer: Consumer,
        give_up: Callable[[], bool],
        time_left: Callable[[], float],
        metrics: Metrics,
        clock: Clock = SYSTEM_CLOCK,
        clients: ClientFactory = CLIENTS,
    ) -> None:
        self.transactional_id = f"{settings.worker.group_id}-{worker}"
        #: registrations of our own that had no answer: each may arrive late and fence us
        self._stray_registrations = 0
        try:
            super().__init__(settings, consumer, give_up, time_left, metrics, clock, clients)
        except KafkaUnusable as error:
            raise KafkaUnusable(f"no transactions as {self.transactional_id}: {error}") from error

    def _config(self) -> Config:
        return producer_config(
            self._settings,
            transactional_id=self.transactional_id,
            transaction_timeout_ms=self._settings.worker.transaction_timeout_ms,
            **_STAY_WITH_BROKERS,
        )

    def _register(self) -> Outcome:
        self._persist(self._watched.producer.init_transactions, "registering for transactions", self._register_by)
        self._watched.hear()
        self._stray_registrations += self._watched.may_be_registered_again()
        return _DONE

    def _open(self) -> Outcome:
        self._watched.producer.begin_transaction()
        return _DONE

    def _hand_in(self) -> Outcome:
        """Sends the offsets with the group's metadata, by which the broker refuses those of a former member (KIP-447).

        The metadata of a client that is no member name none, and with such metadata brokers take a transaction's
        offsets from any client, even while another worker has the partitions.
        """
        member = self._membership.member
        group: bytes = self._membership.client.consumer_group_metadata()
        if not member or member.encode() not in group or not self._may_commit():
            return Event.FAILED, _THROWN_OUT
        send, offsets = self._watched.producer.send_offsets_to_transaction, self._offsets_to_commit()
        self._persist(lambda s: send(offsets, group, s), "sending offsets", self._time_to_end())
        return _DONE

    def _commit(self) -> Outcome:
        self._persist(self._watched.producer.commit_transaction, "committing", self._time_to_end())
        return self._ended()

    def _abort(self) -> Outcome:
        """Aborts the transaction; has its producer replaced where a record of it was not delivered.

        librdkafka 2.16 loses records otherwise. Where a record's reply was lost, the record waits to be sent again; the
        abort purges it, and librdkafka gives its sequence number to the next record. Where the first one had arrived
        after all, the broker takes the next one for a repetition, and acknowledges it without writing it. Another
        producer has another epoch.
        """
        deadline, abort = self._deadline(), self._watched.producer.abort_transaction
        if self._states.state is State.CLOSING or self._watched.all_delivered():
            self._persist(abort, "aborting", deadline)
            return self._ended()
        # The successor's registration would abort, too. This call is made because a worker that no longer owns the
        # transactional.id learns it here, before its registration would take the id from the worker that does.
        self._clock.call_with_timeout(min(CALL_S, deadline.left()), lambda: abort(CALL_S), self._give_up)
        return Event.UNDELIVERED, Failure("aborted, but not every record was delivered", "undelivered")

    def _check_sense(self, failure: Failure) -> None:
        if failure.is_fenced and self._settings.worker.worker_id is not None:
            if not self._stray_registrations:
                raise KafkaUnusable(
                    f"another worker took over the transactional.id {self.transactional_id}, or this one was away for "
                    f"more than {self._settings.worker.transaction_timeout_ms / 1000:g} s: each running worker needs a "
                    "worker_id of its own"
                )
            self._stray_registrations -= 1
        if self._give_up():
            raise KafkaUnusable(f"stopped while a transaction could not be ended: {failure.why}")


class AtLeastOnce(Delivery):
    """Flushes all records before it commits offsets: a frame may be answered twice, never not at all."""

    def _config(self) -> Config:
        return producer_config(self._settings)

    def _register(self) -> Outcome:
        return _DONE

    def _open(self) -> Outcome:
        return _DONE

    def _hand_in(self) -> Outcome:
        """Flushes."""
        if not self._may_commit():
            return Event.FAILED, _THROWN_OUT
        producer, reports = self._watched.producer, self._watched.reports
        left, stuck = len(producer), self._time_to_end()
        while (now_left := producer.flush(min(CALL_S, stuck.left()))) and not reports.failed:
            if now_left < left:  # slow is not stuck
                left, stuck = now_left, self._deadline()
            if self._give_up() or not stuck.left():
                raise Stuck(f"{now_left} records are not delivered")
            if self._throttle.passes("flushing"):
                log.warning("still flushing: %d records are on their way", now_left)
        if reports.latest is not None:
            raise KafkaException(reports.latest)
        self._end_by = self._clock.now() + stuck.left()
        return _DONE

    def _commit(self) -> Outcome:
        offsets = self._offsets_to_commit()
        self._persist(
            lambda _: self._membership.client.commit(offsets=offsets, asynchronous=False),
            "committing offsets",
            self._time_to_end(),
        )
        return self._ended()

    def _abort(self) -> Outcome:
        """What was produced stays: at least once."""
        if self._watched.reports.failed:
            return Event.UNDELIVERED, Failure("not every record was delivered", "undelivered")
        return _DONE

    def _retire(self, failure: Failure | None) -> None:
        super()._retire(failure)
        self._watched.producer.purge(in_queue=True, in_flight=True, blocking=False)

    def _leave(self, failure: Failure) -> None:
        super()._leave(failure)
        self._watched.producer.purge(in_queue=True, in_flight=True, blocking=False)


def delivery(
    settings: Settings,
    worker: str,
    consumer: Consumer,
    give_up: Callable[[], bool],
    metrics: Metrics,
    time_left: Callable[[], float] = lambda: float("inf"),
    clock: Clock = SYSTEM_CLOCK,
    clients: ClientFactory = CLIENTS,
) -> Delivery:
    """The delivery that the settings ask for, of the worker of that name; :class:`Delivery` has the other arguments."""
    if settings.worker.delivery == "exactly_once":
        return ExactlyOnce(settings, worker, consumer, give_up, time_left, metrics, clock, clients)
    return AtLeastOnce(settings, consumer, give_up, time_left, metrics, clock, clients)
