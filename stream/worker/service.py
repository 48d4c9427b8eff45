"""A worker as a process: its parts are made from the settings, and its end becomes an exit code."""

import logging
import signal
import socket
import uuid
from contextlib import ExitStack
from functools import partial

import torch
from confluent_kafka import KafkaError, KafkaException

from layercache.early_exit.cutting.cuts import CutError, trace
from layercache.early_exit.machine import MachineFailed
from layercache.early_exit.memory import keep_freed_memory
from layercache.early_exit.model.loading import ModelError, load
from layercache.early_exit.runtimes import with_reference
from layercache.early_exit.store.head_store import StoreError, open_store
from layercache.schemas.settings import Settings
from layercache.schemas.settings import Worker as WorkerSettings
from layercache.stream.kafka.clients import (
    CLIENTS,
    ClientFactory,
    KafkaUnusable,
    long_running,
    refuse_void_options,
    worker_config,
)
from layercache.stream.kafka.reach import wait_for_topics
from layercache.stream.kafka.record_limits import LetterLimit, ask_size_limits, with_fitting_batches
from layercache.stream.kafka.waiting import SYSTEM_CLOCK, Clock
from layercache.stream.references.fetching_pool import fetching_pool
from layercache.stream.references.prefixes import UnusablePrefix
from layercache.stream.worker.answering.answering import Answering, ModelAnswering
from layercache.stream.worker.answering.heads_watch import HeadWatch
from layercache.stream.worker.consuming.committed import CommittedOffsetsClient
from layercache.stream.worker.consuming.consumer import FrameConsumer
from layercache.stream.worker.consuming.membership import READER, MemberOptions
from layercache.stream.worker.delivery.transactions import delivery
from layercache.stream.worker.garbage import collect_seldom
from layercache.stream.worker.loop import Unfinished, Worker
from layercache.stream.worker.members import GroupCheck, client_id, named_clients
from layercache.stream.worker.metrics import Metrics
from layercache.stream.worker.overload import lag_objective
from layercache.stream.worker.stopping import StopRequest

log = logging.getLogger(__name__)

OK, FAILED, UNFINISHED, INTERRUPTED = 0, 1, 3, 130

#: At most so much later than a transaction's time-out the broker aborts it (it looks every 10 s), and the group has
#: shared out its partitions anew.
_BROKER_ABORTS_S = 20.0


def worker_name(settings: WorkerSettings) -> str:
    """The worker's own name: its ``worker_id``, or one that no other process has."""
    return settings.worker_id or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"


def make_worker(
    settings: Settings,
    name: str,
    answering: Answering,
    metrics: Metrics,
    stop: StopRequest,
    clock: Clock = SYSTEM_CLOCK,
    clients: ClientFactory = CLIENTS,
) -> Worker:
    """A loop with all that it talks to: its Kafka clients are made, by ``clients``, and nothing is read yet.

    Raises :class:`layercache.stream.kafka.clients.KafkaUnusable`.
    """
    config = worker_config(settings)
    consumer = FrameConsumer(
        lambda: clients.consumer(long_running(config | READER)), settings.topics.frames,
        CommittedOffsetsClient(settings, clock, clients), metrics, MemberOptions.of(config), clock,
    )  # fmt: skip
    sends = delivery(
        settings, name, consumer.client, stop.patience_is_over, metrics, consumer.time_left, clock, clients
    )
    return Worker(settings, consumer, sends, answering, lag_objective(settings), metrics, stop, clock)


def run(settings: Settings) -> int:
    """Runs a worker until SIGTERM (exit code 0) or Ctrl-C (130); 1 where it cannot go on, and the log says why.

    3 where it was stopped while a micro-batch took too long: a thread still works on it then, so that the caller must
    end the process without waiting for threads.
    """
    stop = StopRequest()
    with stop.on_signals():
        try:
            _run(settings, stop)
        except Unfinished as error:
            log.warning("%s (exit code %d)", error, UNFINISHED)
            return UNFINISHED
        except (MachineFailed, ModelError, CutError, StoreError, KafkaUnusable, UnusablePrefix, OSError) as error:
            log.error("%s", error)
            return FAILED
        except KafkaException as error:
            log.error("Kafka: %s", error.args[0].str() if isinstance(error.args[0], KafkaError) else error)
            return FAILED
        except Exception:
            log.exception("the worker failed; what it had not committed will be read again")
            return FAILED
    return INTERRUPTED if stop.signal == signal.SIGINT else OK


def _run(settings: Settings, stop: StopRequest) -> None:
    refuse_void_options(settings)
    keep_freed_memory()
    if settings.worker.torch_threads is not None:
        torch.set_num_threads(settings.worker.torch_threads)
    topics = settings.topics
    metrics = Metrics(settings.worker.max_batch)
    metrics.show_promise(settings.promise)
    if settings.worker.metrics_port is not None:
        metrics.health.stalled_after_s = settings.worker.stalled_after_s
        metrics.health.settle_s = settings.worker.transaction_timeout_ms / 1000 + _BROKER_ABORTS_S
        metrics.serve(settings.worker.metrics_port)
    classifier = with_reference(load(settings.model), settings.worker.max_batch)
    traced = trace(classifier)
    heads = HeadWatch(
        open_store(settings.store, classifier.name, classifier.fingerprint),
        traced,
        settings.worker.mode,
        settings.worker.max_batch,
        settings.promise,
        on_error=metrics.store_errors.inc,
        on_refused=metrics.heads_refused.inc,
    )
    log.info("model %s, fingerprint %s, on %s", classifier.name, classifier.fingerprint[:12], classifier.device)
    log.info("%s", classifier.reference.described)
    needed = (topics.frames, topics.predictions, topics.distillation, topics.dead_letters)
    if not wait_for_topics(settings, stop, needed):
        return
    pool = fetching_pool(settings, classifier.preprocessing, partial(metrics.observe, "fetch"))
    group = GroupCheck(settings, classifier.fingerprint, lambda: metrics.health.settled)
    with ExitStack() as at_the_end:
        at_the_end.callback(pool.close)
        at_the_end.callback(heads.stop)
        at_the_end.callback(group.stop)
        heads.start(settings.store.poll_s)
        name = worker_name(settings.worker)
        letters = topics.dead_letters
        limit = LetterLimit(settings, ask=lambda: ask_size_limits(settings, [letters]).get(letters))
        answering = ModelAnswering(settings, name, traced, heads, metrics, pool, limit)
        written = ask_size_limits(settings, (topics.predictions, topics.distillation, letters))
        clients = named_clients(client_id(classifier.fingerprint, name))
        worker = make_worker(with_fitting_batches(settings, written), name, answering, metrics, stop, clients=clients)
        collect_seldom()
        group.start()
        log.info("working on %s at %s", topics.frames, settings.kafka.bootstrap_servers)
        try:
            worker.run()
        except Unfinished:
            at_the_end.pop_all()  # closing the pool would wait: a picture may be what takes so long
            raise
        log.info("stopped")
