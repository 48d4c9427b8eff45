"""Checks the readers: how far workers and trainer are behind, how old its records are, and whether clocks agree."""

import time
from collections.abc import Callable, Iterator
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException

from layercache.doctor.checks import Area, Finding
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import KafkaUnusable, Troubles, admin_client, consumer_config, describe_error
from layercache.stream.kafka.offsets import TopicOffsets, is_waiting
from layercache.stream.kafka.reach import connect
from layercache.stream.kafka.waiting import Deadline
from layercache.stream.worker.answering.trainer_lag import trainer_patience_s
from layercache.stream.worker.members import models_of

AREA = Area("groups")
#: A record stamped further ahead of this machine's clock than this means that clocks disagree.
_AHEAD_S = 5
#: Errors of brokers that have just started, of topics just created, or while a transaction ends: the doctor asks again.
_SETTLING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)
_PATIENCE_S, _PAUSE_S = 10.0, 0.5
_REQUEST_S = 5.0
#: The ages of the latest record that the doctor tells apart.
_AGES = ((60, "a minute"), (600, "ten minutes"), (3_600, "an hour"), (86_400, "a day"))


def check(settings: Settings, fingerprint: str | None = None) -> Iterator[Finding]:
    """Checks through clients that neither join nor commit. ``fingerprint`` is the settings' model's, if known."""
    topics = settings.topics
    yield from _warn_on_failure("workers", lambda: _workers(settings))
    yield from _warn_on_failure("models", lambda: _models(settings, fingerprint))
    yield from _warn_on_failure("trainer", lambda: _trainer(settings))
    for topic in (topics.frames, topics.predictions):
        yield from _warn_on_failure("clock", partial(_clock, settings, topic))


def _warn_on_failure(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from _ask_until_settled(look)
    except KafkaException as error:
        found = f"the broker does not tell: {describe_error(error.args[0])}"
        if error.args[0].code() in _SETTLING:
            yield AREA.warning(check, found, "ask again once the broker has settled")
        else:
            yield AREA.warning(check, found, "docs/security.md lists the rights that are needed")
    except (KafkaUnusable, KeyError) as error:
        yield AREA.warning(check, f"cannot be asked: {error}", "see the topics above")


def _ask_until_settled(look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    deadline = Deadline(_PATIENCE_S)
    while True:
        try:
            return list(look())
        except KafkaException as error:
            if error.args[0].code() not in _SETTLING or not deadline.left():
                raise
        time.sleep(_PAUSE_S)


def _offsets(settings: Settings, group: str, topic: str) -> TopicOffsets:
    config = consumer_config(settings, group) | {"log_level": 0}
    return TopicOffsets(connect(Consumer, config, Troubles()), topic)


def _workers(settings: Settings) -> Iterator[Finding]:
    group = settings.worker.group_id
    lags = _offsets(settings, group, settings.topics.frames).lags()
    waiting = sum(one.lag for one in lags)
    if all(one.committed is None for one in lags):
        found = f"none of group {group} has ever answered a frame; {waiting:,} wait"
        if waiting:
            yield AREA.warning("workers", found, "start `layercache worker`, or check worker.group_id")
        else:
            yield AREA.ok("workers", found)
        return
    worst = max(lags, key=lambda one: one.lag)
    found = f"group {group}: {waiting:,} frames wait" + (
        f", at most {worst.lag:,} on partition {worst.partition}" if waiting else ""
    )
    yield AREA.ok("workers", found)


def _models(settings: Settings, fingerprint: str | None) -> Iterator[Finding]:
    """Which models the group's members run, by their ``client.id``."""
    group = settings.worker.group_id
    client = admin_client(settings)  # kept in a variable: once the client is gone, no answer comes
    asked = client.describe_consumer_groups([group], request_timeout=_REQUEST_S)
    names = [member.client_id for member in asked[group].result(2 * _REQUEST_S).members]
    if not names:
        yield AREA.ok("models", f"group {group} has no members just now")
        return
    models = models_of(names)
    runs = f"workers in group {group}: {len(names)}, of model {', '.join(models) or 'unknown'}"
    if len(models) > 1:
        yield AREA.warning(
            "models", f"{runs}: each frame is answered by one of these models, whichever has its partition",
            "that is meant while a new model is rolled out; else give each model a worker.group_id of its own",
        )  # fmt: skip
    elif fingerprint is not None and models and not fingerprint.startswith(models[0]):
        yield AREA.warning(
            "models", f"{runs}; these settings name model {fingerprint[:12]}",
            "are these the workers' settings? A worker started with them would join another model's group",
        )  # fmt: skip
    else:
        yield AREA.ok("models", runs)


def _trainer(settings: Settings) -> Iterator[Finding]:
    group = settings.trainer.group_id
    offsets = _offsets(settings, group, settings.topics.distillation)
    now = time.time()
    latest = _latest(offsets, now)
    committed = offsets.committed()
    if latest is None and not any(high > low for low, high in offsets.watermarks().values()):
        yield AREA.ok("trainer", "no worker has sent anything to learn from yet")
        return
    sent = f"the latest record for it is {latest} old at most" if latest else "nothing was sent for a day"
    if all(offset < 0 for offset in committed.values()):
        yield AREA.warning(
            "trainer", f"{sent}, and none of group {group} has ever read one",
            "start `layercache trainer`, or check trainer.group_id",
        )  # fmt: skip
        return
    patience = trainer_patience_s(settings)
    if any(is_waiting(offsets, int((now - patience) * 1000)).values()):
        yield AREA.warning(
            "trainer", f"{sent}, and it is more than {patience:.0f} s behind",
            "does it run? Look at its log; workers send it fewer frames meanwhile",
        )  # fmt: skip
    else:
        yield AREA.ok("trainer", f"{sent}, and it keeps up")


def _latest(offsets: TopicOffsets, now: float) -> str | None:
    """How old the latest record is at most, in words."""
    for seconds, words in _AGES:
        if any(offset is not None for offset in offsets.since(int((now - seconds) * 1000)).values()):
            return words
    return None


def _clock(settings: Settings, topic: str) -> Iterator[Finding]:
    """Records from the future show a clock that is ahead; a late clock looks like a stream that stands still."""
    ahead = _offsets(settings, settings.worker.group_id, topic).since(int((time.time() + _AHEAD_S) * 1000))
    if any(offset is not None for offset in ahead.values()):
        yield AREA.warning(
            "clock", f"records on {topic} are stamped more than {_AHEAD_S} s ahead of this machine's clock",
            "set the clocks of publishers, workers and this machine by NTP: frames of one key share a block by time",
        )  # fmt: skip
    else:
        yield AREA.ok("clock", f"no record on {topic} is stamped ahead of this machine's clock")
