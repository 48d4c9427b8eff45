"""Kafka clients from the settings: their configuration, and what their errors mean."""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from layercache.schemas.dead_letter import HEADROOM_BYTES
from layercache.schemas.settings import Settings
from layercache.stream.kafka.client_log import LEVEL, KafkaLog
from layercache.stream.kafka.delivery_options import refused_options
from layercache.stream.kafka.throttle import Throttle

log = logging.getLogger(__name__)

#: With librdkafka's 1,000 ms a consumer that ever filled its queue sleeps a second before it fetches again: a fifth of
#: the throughput, measured.
FETCH_BACKOFF_MS = 2

#: With librdkafka's 10,000 ms a broker that is back is not asked again for up to ten seconds, while everything stands
#: still: about half of the 20 s that it took to recover from lost connections. The Java clients' own default.
RECONNECT_AT_MOST_MS = 1_000

#: With librdkafka's 300,000 ms the frames of a new partition wait for up to five minutes until some worker notices it
#: (260 s seen).
METADATA_REFRESH_MS = 10_000

#: Every client's ``client.id``; a worker's says more (:mod:`layercache.stream.worker.members`).
CLIENT_ID = "layercache"

#: What librdkafka holds in memory for a consumer, in addition to what we have taken from it.
CONSUMER_QUEUE_KB = 65_536

#: What a producer holds before it makes us wait.
PRODUCER_QUEUE_KB = 131_072

#: librdkafka adds it to the errors of connections, and each client counts for itself.
_CONNECTION_NOTE = re.compile(r" \(after \d+ms in state \w+(, \d+ identical error\(s\) suppressed)?\)")

#: Room for a record's key, headers and framing under the topic's limit.
RECORD_SLACK_BYTES = 4_096

#: librdkafka's own, where the user sets no ``max.poll.interval.ms``.
MAX_POLL_INTERVAL_MS = 300_000

#: librdkafka's own, where the user sets no ``session.timeout.ms``.
SESSION_TIMEOUT_MS = 45_000

#: Of the group's patience between two polls, what a worker lets anything take.
_POLL_BUDGET = 0.5

#: With KIP-848 the broker keeps these for the group; librdkafka refuses them.
_CLASSIC_ONLY = frozenset(
    {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy", "group.protocol.type"}
)

Config = dict[str, Any]


class KafkaUnusable(RuntimeError):
    """Kafka cannot be used as the settings say, and waiting would not help; the message says what to do."""


@dataclass(frozen=True)
class ClientFactory:
    """Makes Kafka clients from their configurations; a simulation makes its own."""

    consumer: Callable[[Config], Consumer] = Consumer
    producer: Callable[[Config], Producer] = Producer
    admin: Callable[[Config], AdminClient] = AdminClient


#: librdkafka's.
CLIENTS = ClientFactory()


def consumer_config(settings: Settings, group_id: str, **overrides: Any) -> Config:
    """Configuration of a consumer of committed records: no automatic commits, from the earliest offset.

    ``overrides`` stand under the user's own options. Keyword names take ``_`` for ``.``.
    """
    own = {
        "group.id": group_id,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "fetch.queue.backoff.ms": FETCH_BACKOFF_MS,
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": CONSUMER_QUEUE_KB,
        "fetch.message.max.bytes": settings.topics.max_record_bytes + HEADROOM_BYTES,
        "receive.message.max.bytes": 100_000_000 + settings.topics.max_record_bytes,
        **_dotted(overrides),
    }
    users = settings.kafka.options | settings.kafka.consumer_options
    session_timeout_ms = int(users.get("session.timeout.ms", min(SESSION_TIMEOUT_MS, poll_interval_ms(users))))
    if session_timeout_ms != SESSION_TIMEOUT_MS:
        own["session.timeout.ms"] = session_timeout_ms  # librdkafka takes none that is longer than max.poll.interval.ms
    # With librdkafka's 3 s between heartbeats a shorter session would be lost again and again.
    own["heartbeat.interval.ms"] = max(1, min(3_000, session_timeout_ms // 4))
    config = _common(settings) | own | users
    if is_kip848(config):
        return {name: value for name, value in config.items() if name not in _CLASSIC_ONLY}
    return config


def is_kip848(config: Config) -> bool:
    """Whether a consumer so configured joins its group by KIP-848's protocol, not by the classic one."""
    return config.get("group.protocol") == "consumer"


def refuse_void_options(settings: Settings) -> None:
    """Raises :class:`KafkaUnusable`, a line for each, where options would void what ``worker.delivery`` promises."""
    if refused := refused_options(settings):
        raise KafkaUnusable("\n".join(map(str, refused)))


def worker_config(settings: Settings) -> Config:
    """Configuration of a worker's consumer: a member of the workers' group, as the settings want it to be one.

    Raises :class:`KafkaUnusable` for options that would void the worker's promise.

    >>> config = worker_config(Settings(worker={"worker_id": "w-0", "static_membership": True}))
    >>> config["group.instance.id"], config["partition.assignment.strategy"]
    ('w-0', 'cooperative-sticky')
    """
    refuse_void_options(settings)
    worker = settings.worker
    membership: Config = {}
    if worker.group_protocol != "classic":
        membership["group_protocol"] = worker.group_protocol
    if worker.static_membership:
        membership["group_instance_id"] = worker.worker_id
    config = consumer_config(settings, worker.group_id, **membership)
    users = settings.kafka.options | settings.kafka.consumer_options
    if left_out := sorted(_CLASSIC_ONLY & users.keys() - config.keys()):
        log.warning("with KIP-848 the broker sets %s for the group; what the settings say is left out", left_out)
    return config


def poll_budget_s(config: Config) -> float:
    """For how many seconds at most a consumer may stay away from being polled, by its ``max.poll.interval.ms``.

    A member that exceeds the interval is thrown out of its group, its partitions go to others, and what it did
    since its last commit is done again.
    """
    return _POLL_BUDGET * poll_interval_ms(config) / 1000


def poll_interval_ms(options: Config) -> int:
    """The ``max.poll.interval.ms`` of these options, librdkafka's own where they have none."""
    return int(options.get("max.poll.interval.ms", MAX_POLL_INTERVAL_MS))


def session_ms(options: Config) -> int:
    """The ``session.timeout.ms`` of these options, librdkafka's own where they have none."""
    return int(options.get("session.timeout.ms", SESSION_TIMEOUT_MS))


def producer_config(settings: Settings, **overrides: Any) -> Config:
    """Configuration of an idempotent producer; ``overrides`` as in :func:`consumer_config`."""
    own = {
        "enable.idempotence": True,
        "linger.ms": 2,
        "compression.type": "zstd",
        "message.max.bytes": settings.topics.max_record_bytes + HEADROOM_BYTES,
        "queue.buffering.max.kbytes": PRODUCER_QUEUE_KB,
        **_dotted(overrides),
    }
    return _common(settings) | own | settings.kafka.options | settings.kafka.producer_options


class ErrorLog:
    """The ``error_cb`` of a client that runs for long: warns of each trouble once every few seconds.

    Calls report whatever matters as well; but a call may wait for long, and an operator wants to know for what.
    """

    def __init__(self) -> None:
        self._throttle = Throttle()

    def __call__(self, error: KafkaError) -> None:
        if self._throttle.passes(error.code()):
            log.warning("Kafka: %s", error.str())


def long_running(config: Config) -> Config:
    """``config`` with errors, and what else librdkafka says that operators must see, through our own log."""
    return {"log_level": LEVEL, "error_cb": ErrorLog(), "logger": KafkaLog(config)} | config


class Troubles:
    """The ``error_cb`` of a client: remembers the latest trouble, since a timeout by itself says nothing."""

    def __init__(self) -> None:
        self.latest: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        # "all brokers down" follows the error that says why
        if error.code() != KafkaError._ALL_BROKERS_DOWN or self.latest is None:
            self.latest = error

    def __str__(self) -> str:
        return describe_error(self.latest) if self.latest else "no connection"


def admin_client(settings: Settings, troubles: Troubles | None = None, clients: ClientFactory = CLIENTS) -> AdminClient:
    """A client to ask about topics and create them. Raises :class:`KafkaUnusable` for options that make none."""
    own: Config = {"log_level": 0} | ({"error_cb": troubles} if troubles else {})
    try:
        return clients.admin(_common(settings) | own | settings.kafka.options)
    except KafkaException as error:
        raise KafkaUnusable(f"kafka.options, or -X: {error.args[0].str()}") from error


def missing_topics(names: Iterable[str], servers: str) -> str:
    """What to say where topics are missing."""
    return (
        f"no topic {', '.join(names)} at {servers} that this user may see; create the topics with "
        "`layercache topics create`, or give the user rights on them"
    )


def describe_error(error: KafkaError) -> str:
    """What the error says, and what to do about it where that is known.

    Two clients that meet the same trouble say the same: librdkafka's note on how long a connection's attempt took and
    how often it has been suppressed is left out.
    """
    said, advice = _CONNECTION_NOTE.sub("", error.str()), _advice(error)
    return f"{said}; {advice}" if advice else said


def _advice(error: KafkaError) -> str | None:
    if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
        return "check sasl.mechanism and its credentials in kafka.options"
    if error.code() == KafkaError._SSL:
        return "check ssl.ca.location, and for client certificates ssl.certificate.location, in kafka.options"
    if error.name().endswith("_AUTHORIZATION_FAILED"):
        return "give this user the right; docs/security.md lists those that are needed"
    return None


def is_hopeless(error: KafkaError) -> bool:
    """True for errors that no waiting cures: rights, authentication, a missing topic, a fatal state of the client."""
    if error.code() == KafkaError._SSL:  # other handshakes fail for a moment while a broker starts
        return "certificate" in error.str()
    return error.fatal() or error.code() in _HOPELESS


#: What to say where it is so.
REPLACED = (
    "another worker of the group has this worker_id: each running worker needs one of its own; that of a killed worker "
    "is free after the session time-out"
)


def is_replaced(error: KafkaError) -> bool:
    """True where the worker's ``group.instance.id`` is another member's (KIP-345, KIP-848).

    It comes as ``_FATAL``, and only its text says which.
    """
    return error.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID) and any(
        name in error.str() for name in ("group.instance.id", "instance ID")
    )


_HOPELESS = {
    KafkaError._FATAL,  # such an error's own fatal() says no
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,
    KafkaError.UNSUPPORTED_VERSION,
}


def _common(settings: Settings) -> Config:
    return {
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        "client.id": CLIENT_ID,
        "reconnect.backoff.max.ms": RECONNECT_AT_MOST_MS,
        "topic.metadata.refresh.interval.ms": METADATA_REFRESH_MS,
    }


def _dotted(overrides: Config) -> Config:
    # librdkafka's one option whose name has no dot
    return {name if name == "log_level" else name.replace("_", "."): value for name, value in overrides.items()}
