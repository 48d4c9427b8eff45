"""Options of librdkafka that would void what ``worker.delivery`` promises: which, why, and what to do instead.

The user's options stand above the worker's own, which is right for buffers and time-outs and wrong for what the promise
rests on. :data:`RULES` is the whole list; the table in ``docs/exactly-once.md`` is made from it. Read against
librdkafka 2.16's ``CONFIGURATION.md`` and its ``rd_kafka_conf_finalize``.

Looked at and left to the user, since they only cost time or repeat work: ``auto.offset.reset`` (what a group without
commits does), ``enable.auto.offset.store``, ``auto.commit.interval.ms`` and ``offset.store.method`` (nothing reads them
without automatic commits), ``enable.gapless.guarantee``, ``message.timeout.ms`` and ``socket.timeout.ms`` (the
transaction fails and is done again), ``delivery.report.only.error`` (more reports), ``group.instance.id``,
``session.timeout.ms``, ``max.poll.interval.ms`` and the assignment strategies (partitions move), ``partitioner`` (where
an answer goes; with ``random`` the answers of one key lose their order), ``api.version.request`` (librdkafka turns it
on again), interceptors.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from layercache.schemas.settings import Kafka, Options, Settings

Delivery = Literal["exactly_once", "at_least_once"]
Client = Literal["consumer", "producer"]

_ONCE: tuple[Delivery, ...] = ("exactly_once",)
_BOTH: tuple[Delivery, ...] = ("exactly_once", "at_least_once")
_CONSUMER: tuple[Client, ...] = ("consumer",)
_PRODUCER: tuple[Client, ...] = ("producer",)

#: As librdkafka reads them (``rd_kafka_anyconf_set_prop``).
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


@dataclass(frozen=True)
class Rule:
    """One option: for which promise it matters, what it may be, and why."""

    names: tuple[str, ...]
    """Its name, and librdkafka's aliases of it."""
    clients: tuple[Client, ...]
    """The worker's clients that it concerns."""
    deliveries: tuple[Delivery, ...]
    """The values of ``worker.delivery`` whose promise it would void."""
    allowed: str
    """What it may be, in words."""
    allows: Callable[[str, Settings], bool]
    """Whether it may be this; the value as librdkafka would read it, as text."""
    because: str
    """What would come of any other value."""
    instead: str
    """What to do."""


@dataclass(frozen=True)
class Refused:
    """An option that the worker will not take."""

    rule: Rule
    name: str
    value: str
    source: str
    """The setting that it came from."""
    delivery: Delivery

    def __str__(self) -> str:
        return (
            f"{self.name} = {self.value} ({self.source}) voids worker.delivery = {self.delivery}: {self.rule.because}; "
            f"{self.rule.instead}"
        )


def _one_of(*values: str) -> Callable[[str, Settings], bool]:
    return lambda value, _: value.lower() in values


def _number(fits: Callable[[int], bool]) -> Callable[[str, Settings], bool]:
    def allows(value: str, _: Settings) -> bool:
        try:
            return fits(int(value, 0))
        except ValueError:
            return False

    return allows


def _never(_: str, __: Settings) -> bool:
    return False


RULES = (
    Rule(
        ("isolation.level",), _CONSUMER, _ONCE, "`read_committed`", _one_of("read_committed"),
        "frames of transactions that their publisher aborted, and sends again, would be answered as well",
        "leave it out",
    ),
    Rule(
        ("enable.auto.commit",), _CONSUMER, _BOTH, "`false`", _one_of(*_FALSE),
        "offsets would be committed before their frames are answered, and a crash would lose those",
        "leave it out",
    ),
    Rule(
        ("group.id",), _CONSUMER, _BOTH, "`worker.group_id`",
        lambda value, settings: value == settings.worker.group_id,
        "a partition's start is confirmed by the commits of worker.group_id, and would be that of another group",
        "set worker.group_id",
    ),
    Rule(
        ("broker.version.fallback",), ("consumer", "producer"), _ONCE, "`0.10.0` or later",
        lambda value, _: not value.startswith(("0.8", "0.9")),
        "a connection that falls back to so old a protocol has neither committed reads nor stable offsets, and says "
        "nothing of it",
        "leave it out",
    ),
    Rule(
        ("enable.idempotence",), _PRODUCER, _ONCE, "`true`", _one_of(*_TRUE),
        "what the producer sends again would be written twice, and there are no transactions without it",
        "leave it out, or set worker.delivery to at_least_once",
    ),
    Rule(
        ("acks", "request.required.acks"), _PRODUCER, _BOTH, "`all` (`-1`)", _one_of("all", "-1"),
        "answers that only one broker has would be lost with it, after their frames' offsets are committed",
        "leave it out",
    ),
    Rule(
        ("transactional.id",), _PRODUCER, _BOTH, "nothing", _never,
        "workers that share one end each other's transactions, and at_least_once has none to begin",
        "set worker.worker_id, from which each worker makes its own",
    ),
    Rule(
        ("transaction.timeout.ms",), _PRODUCER, _ONCE, "`worker.transaction_timeout_ms`",
        lambda value, settings: value == str(settings.worker.transaction_timeout_ms),
        "the worker would give up transactions that are still open, or wait for some that the broker has ended: its "
        "own deadlines come from worker.transaction_timeout_ms",
        "set worker.transaction_timeout_ms",
    ),
    Rule(
        ("max.in.flight.requests.per.connection", "max.in.flight"), _PRODUCER, _ONCE, "at most 5",
        _number(lambda value: value <= 5),
        "brokers recognise repetitions among the latest five requests of a producer only",
        "leave it out",
    ),
    Rule(
        ("retries", "message.send.max.retries"), _PRODUCER, _ONCE, "at least 1", _number(lambda value: value >= 1),
        "an idempotent producer must be able to repeat a request whose reply was lost",
        "leave it out",
    ),
    Rule(
        ("queuing.strategy",), _PRODUCER, _ONCE, "`fifo`", _one_of("fifo"),
        "answers would overtake each other, and brokers refuse an idempotent producer's records out of order",
        "leave it out",
    ),
)  # fmt: skip


def refused_options(settings: Settings) -> list[Refused]:
    """The options in the settings that would void the worker's promise, in the order of :data:`RULES`.

    >>> options = Kafka(consumer_options={"isolation.level": "read_uncommitted"})
    >>> print(*refused_options(Settings(kafka=options)))  # doctest: +ELLIPSIS
    isolation.level = read_uncommitted (kafka.consumer_options) voids worker.delivery = exactly_once: frames of ...
    """
    found = {(one.name, one.source): one for one in _refused(settings)}
    return list(found.values())


def _refused(settings: Settings) -> Iterator[Refused]:
    delivery = settings.worker.delivery
    for rule in RULES:
        if delivery not in rule.deliveries:
            continue
        for client in rule.clients:
            for name in rule.names:
                value, source = _effective(settings.kafka, client, name)
                if value is not None and not rule.allows(value, settings):
                    yield Refused(rule, name, value, source, delivery)


def _effective(kafka: Kafka, client: Client, name: str) -> tuple[str | None, str]:
    """The value that the client would get, as librdkafka would read it, and the setting that gives it."""
    own: Options = kafka.consumer_options if client == "consumer" else kafka.producer_options
    if name in own:
        return _text(own[name]), f"kafka.{client}_options"
    if name in kafka.options:
        return _text(kafka.options[name]), "kafka.option_files" if name in kafka.option_files else "kafka.options or -X"
    return None, ""


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).strip()
