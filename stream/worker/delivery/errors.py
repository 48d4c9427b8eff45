"""What a failed delivery means: whether it passes, whether the producer can go on, and what no worker can mend."""

from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException

from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import REPLACED, describe_error, is_hopeless, is_replaced, missing_topics
from layercache.stream.kafka.topics import wanted_topics
from layercache.stream.worker.delivery.states import Event, State

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

#: What is never a record's own fault, though a delivery report says so: purged by an abort, or refused with another.
_NO_CAUSE = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._INVALID_DIFFERENT_RECORD})

_MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})


def text_of(error: Exception) -> str:
    """What to tell people."""
    return str(error.args[0].str()) if isinstance(error, KafkaException) else str(error)


@dataclass(frozen=True)
class Failure:
    """What went wrong."""

    why: str
    reason: str
    """The same in a word, for metrics."""
    is_fenced: bool = False
    """Another producer has taken over the transactional.id."""
    is_passing: bool = True
    """False where the next commit may well fail too."""
    ends_worker: bool = False
    """Neither waiting nor another producer would help."""


@dataclass(frozen=True)
class Undelivered:
    """A record that was not delivered, and why."""

    topic: str
    error: KafkaError
    here: bool = False
    """True where librdkafka did not take it; then there is no report."""

    @property
    def is_cause(self) -> bool:
        """False where the report only says that the record went with others."""
        return self.error.code() not in _NO_CAUSE


def judge(
    doing: str, error: KafkaError, state: State, undelivered: Undelivered | None, settings: Settings
) -> tuple[Event, Failure]:
    """Which event an error of librdkafka is in this state, and what to say of it.

    ``undelivered`` is the first record that was not delivered, if any: by then librdkafka tells little more than that
    its state is erroneous.
    """
    why = f"{doing}: {error.str()}"
    if state is State.PENDING:
        is_under_way = error.code() in (KafkaError._PREV_IN_PROGRESS, KafkaError._CONFLICT)
        event = Event.FAILED if is_under_way else Event.BROKEN
        return event, Failure(why, "registration", ends_worker=is_hopeless(error))
    event = Event.BROKEN if error.fatal() or state in (State.READY, State.BEGINNING) else Event.FAILED
    if is_replaced(error):
        return event, Failure(f"{doing}: {REPLACED} ({error.str()})", "replaced", ends_worker=True)
    cause = error
    if undelivered is not None:
        cause = undelivered.error
        if (text := refusal(undelivered, settings)) is not None:
            return event, Failure(text, "refused", ends_worker=True)
        if not undelivered.here:
            why += f", since a record for topic {undelivered.topic} was not delivered: {cause.str()}"
    is_fenced = error.code() == KafkaError._FENCED
    return event, Failure(why, "fenced" if is_fenced else "error", is_fenced, is_passing=cause.code() in _PASSING)


def refusal(undelivered: Undelivered, settings: Settings) -> str | None:
    """What to say where the topic will refuse the record from any sender; None where trying again may help."""
    topic, error = undelivered.topic, undelivered.error
    servers = settings.kafka.bootstrap_servers
    code = error.code()
    if code in _MISSING:
        return missing_topics([topic], servers)
    if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return (
            f"this user may not write to topic {topic}: {describe_error(error)}; an administrator gives the right by "
            f"`kafka-acls.sh --bootstrap-server {servers} --add --allow-principal User:NAME --operation Write "
            f"--topic {topic}`"
        )
    if code in _TOO_LARGE and undelivered.here:
        return (
            f"a record for topic {topic} is larger than message.max.bytes of the worker's producer: raise it in "
            "kafka.producer_options, and the topic's max.message.bytes with it"
        )
    if code in _TOO_LARGE and topic == settings.topics.dead_letters:
        return (
            None  # the worker leaves the frame's value out (:class:`layercache.stream.kafka.record_limits.LetterLimit`)
        )
    if code in _TOO_LARGE:
        return _refused(undelivered, "it is larger than max.message.bytes", servers, _wanted(topic, settings))
    if code == KafkaError.INVALID_RECORD:
        return _refused(
            undelivered, "a topic whose cleanup.policy has compact takes no record without a key, and this frame has "
            "none: give every frame a key, or", servers, "cleanup.policy=delete",
        )  # fmt: skip
    if code == KafkaError.INVALID_TIMESTAMP:
        return _refused(
            undelivered, "its time is further from the broker's than message.timestamp.before.max.ms and "
            "message.timestamp.after.max.ms allow: set this machine's clock, or", servers,
            "message.timestamp.after.max.ms=3600000",
        )  # fmt: skip
    if code == KafkaError.UNSUPPORTED_COMPRESSION_TYPE:
        return f"topic {topic} refuses a record ({error.str()}): set compression.type in kafka.producer_options"
    if code == KafkaError.POLICY_VIOLATION:
        return f"topic {topic} refuses a record: the cluster's policy forbids it: {error.str()}; ask who runs it"
    return None


def _refused(undelivered: Undelivered, why: str, servers: str, setting: str) -> str:
    topic = undelivered.topic
    return (
        f"topic {topic} refuses a record ({undelivered.error.str()}): {why}; change the topic by `kafka-configs.sh "
        f"--bootstrap-server {servers} --alter --entity-type topics --entity-name {topic} --add-config {setting}`"
    )


def _wanted(topic: str, settings: Settings) -> str:
    sizes = {one.name: one.config["max.message.bytes"] for one in wanted_topics(settings)}
    return f"max.message.bytes={sizes.get(topic, settings.topics.max_record_bytes)}"
