"""The Faust app that feeds the trainer: an agent takes records from the distillation topic, a thread learns from them.

A record is acknowledged only once a checkpoint holds what it taught, so that its offset and its effect are never apart.
"""

import asyncio
import concurrent.futures
import logging
import queue
from typing import Any

import faust
import torch
from aiohttp.web import Response
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from layercache.cache_training.service.credentials import credentials
from layercache.cache_training.service.state import Checkpoints
from layercache.cache_training.service.thread import ReceivedRecord, TrainingThread
from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.compiled.allowed import allowed_precisions
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import CutError
from layercache.early_exit.memory import keep_freed_memory
from layercache.early_exit.model import loading
from layercache.early_exit.model.loading import Classifier, ModelError
from layercache.early_exit.runtimes import with_reference
from layercache.early_exit.store.head_store import StoreError, model_folder, open_store
from layercache.schemas.distillation import DistillationBatch, DistillationError, decode
from layercache.schemas.manifest import PathPrecision
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import KafkaUnusable, Troubles, consumer_config
from layercache.stream.kafka.reach import connect, wait_for_topics

log = logging.getLogger(__name__)

_TAKE, _WITHIN_S = 8, 0.2
#: Records that Faust may hold for the agent, and that it takes from its client at a time: a record can have megabytes,
#: and Faust stops taking once it has too many, not before.
_BUFFER_RECORDS, _POLLED_RECORDS = 8, 8
_BROKER_WAIT_S = 5.0
#: How long a killed trainer's partitions wait for the next one.
_SESSION_TIMEOUT_MS = 10_000


def run(settings: Settings) -> int:
    """Trains until SIGTERM or SIGINT; the exit code is 0, or 1 where something cannot be mended by waiting."""
    keep_freed_memory()
    try:
        _check_kafka(settings)
        torch.set_num_threads(settings.trainer.torch_threads)
        classifier = with_reference(loading.load(settings.model))
        log.info("%s", classifier.reference.described)
        traced = cuts.trace(classifier, settings.trainer.max_cuts)
        store = open_store(settings.store, classifier.name, classifier.fingerprint)
        store.check_writable()
        checkpoints = Checkpoints(settings.trainer.state_dir / model_folder(classifier.name, classifier.fingerprint))
        thread: list[TrainingThread] = []
        trainer = OnlineTrainer(
            traced,
            store,
            settings.promise,
            settings.trainer,
            make_durable=lambda: thread[0].checkpoint(),  # noqa: PLW0108  # made later
            precisions=_precisions(classifier),
        )
        saved = checkpoints.load()
        if saved is not None:
            trainer.restore(*saved)
            log.info("resumed from the checkpoint in %s", checkpoints.folder)
    except (KafkaUnusable, ModelError, CutError, StoreError, OSError) as error:
        log.error("%s", error)
        return 1
    thread.append(TrainingThread(trainer, checkpoints, settings.trainer.checkpoint_s, settings.trainer.torch_threads))
    return _serve(settings, thread[0])


def _precisions(classifier: Classifier) -> tuple[PathPrecision, ...]:
    """In what the model may be compiled as an exit."""
    allowed = allowed_precisions(classifier)
    if allowed.reason:
        may = " and ".join(allowed.precisions) or "no other precision"
        log.info("the model may be an exit in %s: %s", may, allowed.reason)
    return allowed.precisions


def _check_kafka(settings: Settings) -> None:
    """Waits for a broker. Raises :class:`KafkaUnusable` where waiting for one that lets the trainer work is in vain."""
    try:
        credentials(settings.kafka)
    except (ValueError, OSError) as error:
        raise KafkaUnusable(f"the trainer cannot connect with these options: {error}") from error
    wait_for_topics(settings, lambda: False, [settings.topics.distillation])
    group = settings.trainer.group_id
    # By a consumer that never joins. An admin client that asks for a group that the broker does not know yet ends the
    # process with a segmentation fault (confluentinc/librdkafka #5040, in 2.16 still).
    consumer = connect(Consumer, consumer_config(settings, group, isolation_level="read_uncommitted"), Troubles())
    said = []
    try:
        consumer.committed([TopicPartition(settings.topics.distillation, 0)], _BROKER_WAIT_S)
    except KafkaException as error:
        said.append(error.args[0])
        # That is a time-out most often. Why there is no coordinator comes as if it were a record.
        while (message := consumer.poll(0)) is not None:
            said.append(message.error())
    finally:
        consumer.close()
    # The trainer's own client would ask for ever.
    if any(error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED for error in said):
        raise KafkaUnusable(
            f"this user may not join the group {group!r}; give it the right to read it (docs/security.md)"
        )


def build_app(settings: Settings, thread: TrainingThread) -> faust.App:
    """The Faust app whose agent hands records to ``thread``."""
    users = settings.kafka.options | settings.kafka.consumer_options
    session_s = int(users.get("session.timeout.ms", _SESSION_TIMEOUT_MS)) / 1000
    app = faust.App(
        settings.trainer.group_id,
        broker="kafka://" + settings.kafka.bootstrap_servers.replace(",", ";kafka://"),
        broker_credentials=credentials(settings.kafka),
        autodiscover=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=_POLLED_RECORDS,
        consumer_max_fetch_size=settings.topics.max_record_bytes + 1_000_000,
        broker_max_poll_interval=600,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 4,
        stream_wait_empty=False,
        stream_buffer_maxsize=_BUFFER_RECORDS,
        web_enabled=settings.trainer.web_port is not None,
        web_port=settings.trainer.web_port or 6066,
        store="memory://",
        datadir=str(settings.trainer.state_dir / "faust"),
    )
    topic = app.topic(
        settings.topics.distillation, key_type=bytes, value_type=bytes, value_serializer="raw", key_serializer="raw"
    )

    committing: list[concurrent.futures.Future[None]] = []

    async def commit(offsets: dict[Any, int]) -> None:
        # Faust's own list of acknowledged offsets takes the record after each transaction marker for a part of the gap,
        # and so never gets past the next marker (seen in 0.15): it is left empty, and what is committed is said here.
        consumer: Any = app.consumer
        for partition, offset in offsets.items():
            consumer._gap[partition].chop(0, offset)
        await consumer._commit(offsets)

    def acknowledge(offsets: dict[Any, int]) -> None:
        if offsets and not app.loop.is_closed():
            committing[:] = [asyncio.run_coroutine_threadsafe(commit(offsets), app.loop)]

    thread.acknowledge = acknowledge

    @app.agent(topic)
    async def learn(stream: Any) -> None:
        async for events in stream.noack_take(_TAKE, within=_WITHIN_S):
            for event in events:
                await _hand_over(thread, (_decoded(event.value), event.message.tp, event.message.offset + 1))

    @app.task  # type: ignore[untyped-decorator]  # Faust's own
    async def train() -> None:
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.2)
        if thread.failure is not None:
            raise RuntimeError("the trainer failed") from thread.failure

    @app.page("/metrics")  # type: ignore[arg-type]  # the answer is of the driver's own type
    async def metrics(_: Any, __: Any) -> Response:
        return Response(body=generate_latest(thread.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.on_before_shutdown.connect
    async def finish(*_: Any, **__: Any) -> None:
        # While the consumer still runs, so that the last checkpoint's records can be acknowledged.
        if thread.is_alive():
            await asyncio.get_running_loop().run_in_executor(None, thread.stop)
            for future in committing:
                await asyncio.wrap_future(future)

    return app


def _decoded(value: bytes | None) -> DistillationBatch | None:
    try:
        return decode(value or b"")
    except DistillationError as error:
        log.warning("skipping a record of the distillation topic: %s", error)
        return None


async def _hand_over(thread: TrainingThread, record: ReceivedRecord) -> None:
    while True:
        try:
            thread.inbox.put_nowait(record)
            return
        except queue.Full:
            await asyncio.sleep(0.05)


def _serve(settings: Settings, thread: TrainingThread) -> int:
    app = build_app(settings, thread)
    for noisy in ("faust", "aiokafka", "mode"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    worker = faust.Worker(app, loglevel="WARN", quiet=True, redirect_stdouts=False, override_logging=False)
    try:
        worker.execute_from_commandline()
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    else:
        code = 0
    finally:
        if thread.is_alive():
            thread.stop()
    return 1 if thread.failure is not None else code
