"""Creating the topics, as often as a user likes: those that exist are left as they are."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata
from confluent_kafka.cimpl import NewTopic

from layercache.schemas.dead_letter import HEADROOM_BYTES
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import CLIENT_ID, KafkaUnusable, Troubles
from layercache.stream.kafka.reach import cluster, connect
from layercache.stream.kafka.record_limits import size_limits

_REQUEST_S = 30.0
_PROBE_S = 0.2


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one topic."""

    name: str
    created: bool
    """False where it was there already."""
    partitions: int
    warnings: tuple[str, ...] = ()
    """What differs from the settings; nothing is changed on a topic that is there."""


@dataclass(frozen=True)
class Wanted:
    """A topic as the settings ask for it."""

    name: str
    partitions: int
    config: dict[str, str]


def wanted_topics(settings: Settings) -> tuple[Wanted, ...]:
    """The four topics.

    The distillation topic has one partition: its key is the model's fingerprint, so that the records of one model would
    land on one partition anyway, and their one trainer reads them in order.
    Dead letters may be larger than frames: they carry the frame's bytes and headers, and some of their own.
    """
    topics = settings.topics
    size = topics.max_record_bytes
    kept = {
        "retention.ms": str(topics.distillation_retention_ms),
        "retention.bytes": str(topics.distillation_retention_bytes),
    }
    return (
        Wanted(topics.frames, topics.partitions, _config(size)),
        Wanted(topics.predictions, topics.partitions, _config(size)),
        Wanted(topics.distillation, 1, _config(size) | kept),
        Wanted(topics.dead_letters, topics.partitions, _config(size + HEADROOM_BYTES)),
    )


def create(
    settings: Settings, wait_s: float = 0.0, waiting: Callable[[str], None] = lambda what: None
) -> list[Outcome]:
    """Creates the topics that are not there yet.

    Waits up to ``wait_s`` seconds for a broker to answer, and for as many brokers as the replication factor asks for;
    ``waiting`` is called once, with what is waited for. Raises :class:`KafkaUnusable` where the topics cannot be
    created.
    """
    troubles = Troubles()
    config = {"bootstrap.servers": settings.kafka.bootstrap_servers, "client.id": CLIENT_ID}
    client = connect(AdminClient, config | settings.kafka.options, troubles)
    metadata = _enough_brokers(client, settings, troubles, wait_s, waiting)
    wanted = wanted_topics(settings)
    missing = [topic for topic in wanted if topic.name not in metadata.topics]
    created = _create(client, missing, settings, len(metadata.brokers))
    there = [topic for topic in wanted if topic.name not in created]
    if missing:
        metadata = _with_topics(client, [topic.name for topic in missing], settings, troubles)
    limits = size_limits(client, [topic.name for topic in there], _REQUEST_S)
    return [
        Outcome(name=topic.name, created=True, partitions=topic.partitions)
        if topic.name in created
        else _existing(topic, len(metadata.topics[topic.name].partitions), limits.get(topic.name))
        for topic in wanted
    ]


def _config(max_message_bytes: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "max.message.bytes": str(max_message_bytes)}


def _enough_brokers(
    client: AdminClient, settings: Settings, troubles: Troubles, wait_s: float, waiting: Callable[[str], None]
) -> ClusterMetadata:
    """Brokers of a cluster that is just starting come one by one, and a topic needs ``replication`` of them."""
    deadline = time.monotonic() + wait_s
    asked = settings.topics.replication
    announced = False
    while True:
        try:
            metadata = cluster(client, settings, troubles, patience_s=0.0)
            assert metadata is not None  # nothing stops it
            if len(metadata.brokers) >= asked or time.monotonic() > deadline:
                return metadata
        except KafkaUnusable:
            if time.monotonic() > deadline:
                raise
        if not announced:
            waiting(f"waiting up to {wait_s:.0f} s for {asked} broker(s) at {settings.kafka.bootstrap_servers}")
            announced = True
        time.sleep(_PROBE_S)


def _create(client: AdminClient, wanted: list[Wanted], settings: Settings, brokers: int) -> set[str]:
    """Returns the names of those that were created; a topic that another client created meanwhile is not among them."""
    if not wanted:
        return set()
    replication = settings.topics.replication
    new = [NewTopic(topic.name, topic.partitions, replication, config=topic.config) for topic in wanted]
    created = set()
    futures: dict[str, Future[None]] = client.create_topics(
        new, operation_timeout=_REQUEST_S, request_timeout=_REQUEST_S
    )
    for name, future in futures.items():
        try:
            future.result()
            created.add(name)
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise KafkaUnusable(
                    f"topic {name} was not created: {_reason(error, replication, brokers)}"
                ) from failure
    return created


def _reason(error: KafkaError, replication: int, brokers: int) -> str:
    match error.code():
        case KafkaError.INVALID_REPLICATION_FACTOR:
            return (
                f"topics.replication is {replication} and {brokers} broker(s) are up; "
                "start more brokers, or set topics.replication to what there is"
            )
        case KafkaError.TOPIC_AUTHORIZATION_FAILED | KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            return "this user may not create topics; give it the right, or have an administrator run this command"
        case KafkaError.POLICY_VIOLATION:
            return f"the cluster's policy forbids it: {error.str()}"
        case KafkaError.INVALID_CONFIG:
            return f"the broker refuses its configuration: {error.str()}"
        case _:
            return error.str()


def _with_topics(client: AdminClient, names: list[str], settings: Settings, troubles: Troubles) -> ClusterMetadata:
    """A topic that has just been created shows up a little later: the next client must find it."""
    deadline = time.monotonic() + _REQUEST_S
    while True:
        metadata = cluster(client, settings, troubles)
        assert metadata is not None
        if all(name in metadata.topics for name in names):
            return metadata
        if time.monotonic() > deadline:
            raise KafkaUnusable(f"the broker says that it created {', '.join(names)}, and does not show them")
        time.sleep(_PROBE_S)


def _existing(topic: Wanted, partitions: int, size_limit: int | None) -> Outcome:
    warnings = []
    if partitions != topic.partitions:
        warnings.append(f"has {partitions} partitions, the settings ask for {topic.partitions}")
    asked = int(topic.config["max.message.bytes"])
    if size_limit is not None and size_limit < asked:
        warnings.append(f"takes records of at most {size_limit:,} bytes, the settings ask for {asked:,}")
    return Outcome(name=topic.name, created=False, partitions=partitions, warnings=tuple(warnings))
