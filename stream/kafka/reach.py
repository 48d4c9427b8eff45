"""Reaching a broker from a command: soon, or with an error that says what to check."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin._metadata import ClusterMetadata

from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import Config, KafkaUnusable, Troubles, is_hopeless, missing_topics

#: How long a command waits for a broker that does not answer.
PATIENCE_S = 8.0

_PROBE_S = 1.0


class AsksForMetadata(Protocol):
    """A consumer, a producer or an admin client."""

    def list_topics(self, *, timeout: float) -> ClusterMetadata: ...

    def poll(self, timeout: float) -> object: ...


Client = TypeVar("Client")


def connect(kind: Callable[[Config], Client], config: Config, troubles: Troubles) -> Client:
    """A quiet client whose troubles are told to ``troubles``.

    Raises :class:`KafkaUnusable` where librdkafka does not know an option.
    """
    try:
        return kind(config | {"error_cb": troubles, "log_level": 0})
    except KafkaException as error:
        raise KafkaUnusable(f"kafka.options, or -X: {error.args[0].str()}") from error


def cluster(
    client: AsksForMetadata,
    settings: Settings,
    troubles: Troubles,
    stopping: Callable[[], bool] = lambda: False,
    patience_s: float = PATIENCE_S,
) -> ClusterMetadata | None:
    """What the brokers say about themselves and their topics; None where ``stopping`` came first.

    Raises :class:`KafkaUnusable` where no broker answers within ``patience_s`` seconds.
    """
    deadline = time.monotonic() + patience_s
    while not stopping():
        try:
            return client.list_topics(timeout=_PROBE_S)
        except KafkaException as error:
            client.poll(0)  # lets error_cb speak
            if is_hopeless(error.args[0]) or time.monotonic() > deadline:
                raise KafkaUnusable(no_answer(settings, troubles)) from error
            if troubles.latest is not None and is_hopeless(troubles.latest):
                raise KafkaUnusable(no_answer(settings, troubles)) from error
    return None


def partitions_of(metadata: ClusterMetadata, topic: str, settings: Settings) -> tuple[int, ...]:
    """The topic's partitions. Raises :class:`KafkaUnusable` where there is no such topic."""
    known = metadata.topics.get(topic)
    if known is None or known.error is not None:
        raise KafkaUnusable(missing_topics([topic], settings.kafka.bootstrap_servers))
    return tuple(sorted(known.partitions))


def no_answer(settings: Settings, troubles: Troubles) -> str:
    """What to say where no broker answers."""
    return (
        f"no answer from Kafka at {settings.kafka.bootstrap_servers} ({troubles}); check that it runs, that "
        "--bootstrap or kafka.bootstrap_servers names it, and that kafka.options hold what it asks for (TLS, SASL)"
    )
