"""One producer, with what its delivery reports and its log say."""

from collections.abc import Callable
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from layercache.stream.kafka.clients import Config, long_running
from layercache.stream.worker.delivery.errors import Undelivered, text_of
from layercache.stream.worker.delivery.request_watch import RequestWatch


class Reports:
    """The ``on_delivery`` of a producer that reports failures only.

    No part of :class:`WatchedProducer`, which a producer must not refer to: only the garbage collector would end the
    producer then, at any moment, and its end waits for threads.
    """

    def __init__(self, too_large: dict[str, int]) -> None:
        self._too_large = too_large
        self.failed = 0
        self.latest: KafkaError | None = None
        self.cause: Undelivered | None = None
        """The first that says why."""

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        self.failed += 1
        self.latest = error
        undelivered = Undelivered(message.topic() or "", error)
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            size = max(len(message.value() or b""), self._too_large.get(undelivered.topic, 0))
            self._too_large[undelivered.topic] = size
        if self.cause is None and undelivered.is_cause:
            self.cause = undelivered


class WatchedProducer:
    """Makes a producer from ``config``; one with a ``transactional.id`` is watched for requests without an answer.

    The producer writes into ``too_large``, by topic, the bytes of the largest value that a broker refused as too large.
    """

    def __init__(self, make: Callable[[Config], Producer], config: Config, too_large: dict[str, int]) -> None:
        self.reports = Reports(too_large)
        self.watch = RequestWatch() if "transactional.id" in config else None
        options = long_running(config | {"delivery.report.only.error": True, "on_delivery": self.reports})
        self.producer = make(self.watch.options(options) if self.watch else options)

    def hear(self) -> None:
        """Takes in delivery reports and log lines. Never waits; raises what has become fatal."""
        self.producer.poll(0)

    def cause(self) -> Undelivered | None:
        """Why a record was not delivered; None where all was well so far."""
        with suppress(KafkaException):  # the caller has an error already
            self.hear()
        return self.reports.cause

    def all_delivered(self) -> bool:
        """False while records are on their way, and where some were not delivered; raises what has become fatal."""
        self.hear()
        return not len(self.producer) and not self.reports.failed

    def unclean(self) -> tuple[str, str] | None:
        """Why this producer must not be used again though its call succeeded: a word, and a sentence. None: it may."""
        if self.watch is None:
            return None
        try:
            self.hear()  # brings the lines that librdkafka has logged until now
        except KafkaException as error:
            return "broken", text_of(error)
        if not self.watch.hears():
            return (
                "unheard",
                "librdkafka words its log in a way that we do not know, so late requests go unnoticed",
            )
        if unanswered := self.watch.unanswered():
            return "unanswered_request", f"{', '.join(unanswered)} had no answer and was repeated; it may arrive late"
        return None

    def may_be_registered_again(self) -> bool:
        """True where a registration had no answer: arriving late it would fence the producer that has the name then."""
        return self.watch is not None and "InitProducerId" in self.watch.unanswered()
