"""How large records may be: what topics say of themselves, and what a broker's refusal shows where they do not say."""

import logging
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import admin_client, producer_config

log = logging.getLogger(__name__)

_REQUEST_S = 5.0

#: librdkafka's own ``batch.size``: it puts together as many records, and a topic's limit counts them together.
BATCH_BYTES = 1_000_000


def size_limits(client: AdminClient, names: Iterable[str], request_s: float = _REQUEST_S) -> dict[str, int]:
    """``max.message.bytes`` of topics; of none where the broker does not say."""
    limits: dict[str, int] = {}
    for name in names:
        resource = ConfigResource(ResourceType.TOPIC, name)
        (future,) = client.describe_configs([resource], request_timeout=request_s).values()
        try:
            limits[name] = int(future.result()["max.message.bytes"].value)
        except (KafkaException, KeyError, TypeError, ValueError):
            continue  # not every broker answers this, and not every user may ask
    return limits


def ask_size_limits(settings: Settings, names: Iterable[str]) -> dict[str, int]:
    """:func:`size_limits` by a client of its own."""
    return size_limits(admin_client(settings), names)


def with_fitting_batches(settings: Settings, limits: Mapping[str, int]) -> Settings:
    """The settings, with producers that put no more records together than the smallest of these topics takes.

    >>> with_fitting_batches(Settings(), {"frames.dlq": 100_000}).kafka.producer_options
    {'batch.size': 100000}
    >>> with_fitting_batches(Settings(), {"frames.dlq": 1_048_588}).kafka.producer_options
    {}
    """
    smallest = min(limits.values(), default=BATCH_BYTES)
    if smallest >= BATCH_BYTES:
        return settings
    kafka = settings.kafka
    options = {"batch.size": smallest} | kafka.options | kafka.producer_options
    own = {name: value for name, value in options.items() if name not in kafka.options}
    return settings.model_copy(update={"kafka": kafka.model_copy(update={"producer_options": own})})


class LetterLimit:
    """How large a dead letter may be, in ``bytes``: what its topic takes and what the producer sends.

    ``ask`` says what the topic takes, None where that is not known. It is asked once more when the broker refuses a
    dead letter: an operator may have changed the topic. Each refusal lowers the limit, so that none is met twice.

    >>> limit = LetterLimit(Settings(), ask=lambda: 1_048_588)
    >>> limit.bytes
    1048588
    >>> limit.refused(900_000)
    >>> limit.bytes
    450000
    """

    def __init__(self, settings: Settings, ask: Callable[[], int | None]) -> None:
        self._topic = settings.topics.dead_letters
        self._ask = ask
        self._wanted = self.bytes = int(producer_config(settings)["message.max.bytes"])
        self._lower(self._topics_limit())

    def refused(self, value_bytes: int) -> None:
        """The broker refused a dead letter whose value had so many bytes."""
        before = self.bytes
        self._lower(self._topics_limit())
        if self.bytes == before:
            # The topic says nothing, or the broker counted what was sent together with the letter.
            self._lower(min(self.bytes, value_bytes) // 2)

    def _topics_limit(self) -> int:
        limit = self._ask()
        return self.bytes if limit is None else limit

    def _lower(self, to: int) -> None:
        if to >= self.bytes:
            return
        self.bytes = to
        log.warning(
            "the topic %s takes records of %s bytes at most: larger dead letters go without the frame's value, and "
            "tell its size and SHA-256. To keep the values: kafka-configs.sh --alter --topic %s --add-config "
            "max.message.bytes=%d, then start the worker again",
            self._topic, f"{to:,}", self._topic, self._wanted,
        )  # fmt: skip
