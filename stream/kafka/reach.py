"""Reaching a broker: a command gives up soon, with an error that says what to check; a service waits for as long as
waiting can help.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin._metadata import ClusterMetadata

from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import (
    Config,
    KafkaUnusable,
    Troubles,
    admin_client,
    describe_error,
    is_hopeless,
    missing_topics,
)
from layercache.stream.kafka.throttle import Throttle

log = logging.getLogger(__name__)

#: How long a command waits for a broker that does not answer.
PATIENCE_S = 8.0

#: How long one attempt may take, and one of a service: it tries for ever, and a broker that is slow must not always be
#: too slow.
_PROBE_S, _SERVICE_PROBE_S = 1.0, 2.0


class NoAnswer(KafkaUnusable):
    """No broker answered in time, and none refused us: the next attempt may succeed."""


class AsksForMetadata(Protocol):
    """A consumer, a producer or an admin client."""

    def list_topics(self, *, timeout: float) -> ClusterMetadata: ...

    def poll(self, timeout: float) -> object: ...


Client = TypeVar("Client")


def connect(kind: Callable[[Config], Client], config: Config, troubles: Troubles) -> Client:
    """A client that logs nothing and reports its errors to ``troubles``.

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
    waiting: Callable[[KafkaException], None] = lambda error: None,
    probe_s: float = _PROBE_S,
) -> ClusterMetadata | None:
    """What the brokers say about themselves and their topics; None where ``stopping`` came first.

    ``waiting`` is called after each attempt that no broker answered within ``probe_s`` seconds. Raises
    :class:`NoAnswer` where no broker answers within ``patience_s`` seconds, and :class:`KafkaUnusable` where the broker
    refuses us, or we its certificate.
    """
    deadline = time.monotonic() + patience_s
    while not stopping():
        try:
            return client.list_topics(timeout=probe_s)
        except KafkaException as error:
            client.poll(0)  # lets error_cb speak
            for cause in (error.args[0], troubles.latest):
                if cause is not None and is_hopeless(cause):
                    servers = settings.kafka.bootstrap_servers
                    raise KafkaUnusable(f"Kafka at {servers} cannot be used: {describe_error(cause)}") from error
            if time.monotonic() > deadline:
                raise NoAnswer(no_answer(settings, troubles)) from error
            waiting(error)
    return None


def wait_for_topics(settings: Settings, stopping: Callable[[], bool], topics: Iterable[str]) -> bool:
    """Waits until a broker answers and has all ``topics``; False where ``stopping`` came first.

    Logs every few seconds that it waits. Raises :class:`KafkaUnusable` where a topic is missing, and where the broker
    refuses us, or we its certificate.
    """
    throttle, troubles, servers = Throttle(), Troubles(), settings.kafka.bootstrap_servers

    def report(error: KafkaException) -> None:
        if throttle.passes():
            why = troubles if troubles.latest is not None else error.args[0].str()
            log.warning("no answer from Kafka at %s (%s); trying again", servers, why)

    client = admin_client(settings, troubles)
    metadata = cluster(client, settings, troubles, stopping, math.inf, report, _SERVICE_PROBE_S)
    if metadata is None:
        return False
    if missing := [name for name in topics if name not in metadata.topics]:
        raise KafkaUnusable(missing_topics(missing, servers))
    return True


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


def unreadable(topics: Iterable[str], error: KafkaException) -> KafkaUnusable:
    """What to raise where a request about ``topics`` failed: :class:`NoAnswer` where another attempt may succeed."""
    cause = error.args[0]
    kind = KafkaUnusable if is_hopeless(cause) else NoAnswer
    return kind(f"{' and '.join(topics)} cannot be read: {describe_error(cause)}")
