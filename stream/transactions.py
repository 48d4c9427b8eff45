"""Delivery: predictions, dead letters, distillation records and the frames' offsets leave together.

Exactly once by Kafka's transactions (KIP-98, KIP-447), or at least once by flushing before offsets are committed.
"""

import logging
from collections.abc import Callable
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.settings import Settings
from stream.clients import CLIENTS, ClientFactory, KafkaUnusable, long_running, producer_config
from stream.delivery import CALL_S, Aborted, Delivery, text_of
from stream.metrics import Metrics
from stream.patience import SYSTEM_CLOCK, Clock, Deadline, Stuck
from stream.request_watch import RequestWatch

__all__ = ["Aborted", "AtLeastOnce", "Delivery", "ExactlyOnce", "delivery"]

log = logging.getLogger(__name__)


class ExactlyOnce(Delivery):
    """One transaction per commit interval, begun by its first record."""

    _closing = False
    _undelivered = False

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
        self._coming: Producer | None = None
        try:
            super().__init__(settings, consumer, give_up, time_left, metrics, clock, clients)
        except (KafkaException, Stuck) as error:
            raise KafkaUnusable(f"no transactions as {self.transactional_id}: {text_of(error)}") from error

    def _new_producer(self, deadline: Deadline) -> Producer:
        config = producer_config(
            self._settings,
            transactional_id=self.transactional_id,
            transaction_timeout_ms=self._settings.worker.transaction_timeout_ms,
            delivery_report_only_error=True,  # what was delivered the commit says; reports would pile up until then
        )
        # Of the same transactional.id as one before: registering it ends whatever that one left open. One that could
        # not be registered in time is tried again: left behind, it might be registered late, and fence its successor.
        if self._coming is None:
            self._watch = RequestWatch()
            options = self._watch.options(long_running(config | {"on_delivery": self._report}))
            self._coming = self._clients.producer(options)
        producer = self._coming
        self._undelivered = False
        try:
            self._persist(producer.init_transactions, "registering for transactions", deadline)
        except KafkaException as error:
            if error.args[0].code() not in (KafkaError._PREV_IN_PROGRESS, KafkaError._CONFLICT):
                self._coming = None
            raise
        self._coming = None
        return producer

    def _open(self) -> None:
        self._producer.begin_transaction()

    def _commit(self, offsets: list[TopicPartition], deadline: Deadline) -> None:
        group, producer = self._membership(), self._producer
        self._persist(lambda s: producer.send_offsets_to_transaction(offsets, group, s), "sending offsets", deadline)
        self._persist(producer.commit_transaction, "committing", deadline)

    def _membership(self) -> bytes:
        """The group's metadata, by which the broker refuses the offsets of who is no longer a member (KIP-447).

        The metadata of who is no member name none, and with those brokers take a transaction's offsets from anybody,
        even while another worker has the partitions.
        """
        member = self._consumer.memberid()
        group: bytes = self._consumer.consumer_group_metadata()
        if not member or member.encode() not in group:
            self.abort()
            raise Aborted("the group has thrown this worker out")
        return group

    def _report(self, error: KafkaError | None, _: object) -> None:
        self._undelivered = self._undelivered or error is not None

    def close(self) -> None:
        """Aborts what is open; nothing comes after it that could be lost."""
        self._closing = True
        super().close()

    def _abort(self, deadline: Deadline) -> None:
        """Aborts the transaction; leaves its producer to be replaced where a record of it has not been delivered.

        librdkafka 2.16 loses records otherwise: one whose reply was lost, and that waits to be sent again, is purged by
        the abort, and its sequence number given to the next one. Where the first one had arrived after all, the broker
        takes the next one for a repetition, and acknowledges it without writing it. Another producer has another epoch.
        """
        producer = self._producer
        producer.poll(0)
        if not (len(producer) or self._undelivered) or self._closing:
            self._persist(producer.abort_transaction, "aborting", deadline)
            return
        # Not for the abort's sake, which its successor's registration brings: who is no longer the transactional.id's
        # owner learns it here, before that registration would take it from the one who is.
        self._clock.call_with_timeout(
            min(CALL_S, deadline.left()), lambda: producer.abort_transaction(CALL_S), self._give_up
        )
        raise Stuck("not every record was delivered")

    def _leave_unclean_producer(self) -> None:
        if self._closing or self._broken is not None:
            return
        self._producer.poll(0)  # brings the lines that librdkafka has logged until now
        if not self._watch.hears():
            reason = "unheard"
            self._broken = "librdkafka does not log its requests as this version of ours knows them"
        elif unanswered := self._watch.unanswered():
            reason = "unanswered_request"
            self._broken = f"no answer to {', '.join(unanswered)}: it may still arrive"
        else:
            return
        self._metrics.replaced_producers.labels(reason).inc()
        if self._throttle.passes(reason):
            log.warning("the transaction has ended, and its producer will be replaced: %s", self._broken)

    def _check_sense(self, why: str, fenced: bool) -> None:
        if fenced and self._settings.worker.worker_id is not None:
            raise KafkaUnusable(
                f"another worker took over the transactional.id {self.transactional_id}, or this one was away for "
                f"more than {self._settings.worker.transaction_timeout_ms / 1000:g} s: each running worker needs a "
                "worker_id of its own"
            )
        if self._give_up():
            raise KafkaUnusable(f"stopped while a transaction could not be ended: {why}")


class AtLeastOnce(Delivery):
    """Everything is flushed before offsets are committed: a frame may be answered twice, never not at all."""

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
        self._undelivered: KafkaError | None = None
        super().__init__(settings, consumer, give_up, time_left, metrics, clock, clients)

    def _new_producer(self, deadline: Deadline) -> Producer:
        config = producer_config(self._settings) | {"delivery.report.only.error": True, "on_delivery": self._report}
        return self._clients.producer(long_running(config))

    def _report(self, error: KafkaError | None, _: object) -> None:
        self._undelivered = error or self._undelivered

    def _open(self) -> None:
        self._undelivered = None

    def _commit(self, offsets: list[TopicPartition], deadline: Deadline) -> None:
        left, stuck = len(self._producer), deadline
        while (now_left := self._producer.flush(min(CALL_S, stuck.left()))) and not self._undelivered:
            if now_left < left:  # slow is not stuck
                left, stuck = now_left, self._deadline()
            if self._give_up() or not stuck.left():
                raise Stuck(f"{now_left} records are not delivered")
            if self._throttle.passes("flushing"):
                log.warning("still flushing: %d records are on their way", now_left)
        if self._undelivered:
            raise KafkaException(self._undelivered)
        commit = partial(self._consumer.commit, offsets=offsets, asynchronous=False)
        self._persist(lambda _: commit(), "committing offsets", stuck)

    def _abort(self, deadline: Deadline) -> None:
        """What was produced stays: at least once."""

    def _break(self, why: str, fenced: bool = False) -> None:
        super()._break(why, fenced)
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)


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
    """The delivery that the settings ask for, by the worker of that name; for the rest see :class:`Delivery`."""
    if settings.worker.delivery == "exactly_once":
        return ExactlyOnce(settings, worker, consumer, give_up, time_left, metrics, clock, clients)
    return AtLeastOnce(settings, consumer, give_up, time_left, metrics, clock, clients)
