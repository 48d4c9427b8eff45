"""Does memory stay flat at the machine's limit? A worker and a trainer on more frames than the worker can take.

    python -m benchmarks.soak                  # five minutes to settle, then ten: docs/benchmarks/soak.json, .md, .png
    python -m benchmarks.soak --settle 1 --minutes 2

The broker is ``KAFKA_BOOTSTRAP_SERVERS``, or a node of the Apache Kafka in ``KAFKA_HOME``, or the embedded one (which
keeps all frames in memory of its own). Lag grows there by ``--growth`` frames per second, as it would under any
overload. Meanwhile the worker's version of heads changes every few seconds: exits are closed, opened, and pinned to an
earlier version. Every second the memory of both processes is read.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.soak.load import Kinds, Publisher
from benchmarks.soak.memory import memory_of
from benchmarks.soak.report import Second, Soak, write
from layercache.broker import EmbeddedBroker
from layercache.early_exit.model import loading
from layercache.early_exit.store.head_store import HeadStore, StoreError, open_store
from layercache.schemas.settings import Kafka, Model, Promise, Settings, Store, Trainer, Worker
from testbed.apache_kafka import KafkaNode
from testbed.topics import unique_topics
from testbed.trainer_process import running_trainer
from testbed.worker_process import WorkerProcess, running_worker

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

#: Frames that are there before the worker has begun.
_HEAD_START = 2_000
_SAMPLE_S = 1.0
_MEGABYTE = 2**20
#: What the disk holds of each partition: frames until they are read, and of the others what the run may look at.
_KEPT_BYTES = {"frames": 1_024, "predictions": 64, "distillation": 256, "dead_letters": 64}
#: A broker that looks for what it may delete only every five minutes keeps five minutes more.
_NODE = {"log.retention.check.interval.ms": 5_000, "log.segment.delete.delay.ms": 1_000}


@contextmanager
def broker(folder: Path) -> Iterator[tuple[str, str]]:
    """Where a broker is, and its name."""
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield servers, "Apache Kafka (KAFKA_BOOTSTRAP_SERVERS)"
    elif home := os.environ.get("KAFKA_HOME"):
        (folder / "kafka").mkdir()
        with KafkaNode(Path(home), folder / "kafka", properties=_NODE) as node:
            yield node.bootstrap_servers, "Apache Kafka, one node"
    else:
        with EmbeddedBroker() as embedded:
            yield embedded.bootstrap_servers, "embedded"


def soak_settings(servers: str, folder: Path, seed: int) -> Settings:
    """Of a worker and a trainer with a thread each; the trainer's windows are small, so that they are full soon."""
    topics = unique_topics(partitions=4)
    return Settings(
        kafka=Kafka(bootstrap_servers=servers),
        topics=topics,
        model=Model(spec=f"{EXAMPLES / 'fashion_mnist.py'}:build"),
        promise=Promise(max_disagreement=0.05),
        store=Store(url=f"file://{folder / 'heads'}", poll_s=0.5),
        worker=Worker(
            group_id=topics.frames, torch_threads=1, metrics_port=0, commit_interval_ms=200.0,
            distillation_max_lag_s=30.0,
        ),
        trainer=Trainer(
            group_id=topics.distillation, state_dir=folder / "state", checkpoint_s=10.0, replay_mb=64, ring_mb=128,
            window_frames=5_000, seed=seed,
        ),
    )  # fmt: skip


def create_topics(settings: Settings) -> None:
    """All topics, bounded in bytes: the disk must last as well."""
    topics = settings.topics
    client = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    wanted = []
    for name, kept_mb in _KEPT_BYTES.items():
        config = {
            "max.message.bytes": str(topics.max_record_bytes + 1_000_000),
            "retention.bytes": str(kept_mb * _MEGABYTE),
            "segment.bytes": str(16 * _MEGABYTE),
        }
        partitions = topics.partitions if name in ("frames", "predictions") else 1
        wanted.append(NewTopic(getattr(topics, name), partitions, 1, config=config))
    for created in client.create_topics(wanted, operation_timeout=30).values():
        created.result(30)


class Group:
    """How far the worker has got."""

    def __init__(self, settings: Settings) -> None:
        topics = settings.topics
        self._partitions = [TopicPartition(topics.frames, number) for number in range(topics.partitions)]
        servers = settings.kafka.bootstrap_servers
        self._consumer = Consumer({"bootstrap.servers": servers, "group.id": settings.worker.group_id})
        self.answered = 0

    def look(self) -> int:
        """Frames that have been answered, as committed by now."""
        committed = self._consumer.committed(self._partitions, 30.0)
        self.answered = sum(max(0, one.offset) for one in committed)
        return self.answered

    def close(self) -> None:
        self._consumer.close()


class Operator:
    """Changes what the worker serves at each :meth:`act`: closed, the latest version, an earlier one, and again."""

    def __init__(self, store: HeadStore) -> None:
        self._store = store
        self._turn = 0
        self.changes = 0

    def act(self) -> None:
        versions = [manifest.version for manifest in self._store.versions()]
        if not versions:
            return
        self._turn += 1
        try:
            if self._turn % 2 == 0:
                self._store.unpin()
            elif self._turn % 4 == 1:
                self._store.close("soak")
            else:
                self._store.pin(versions[(self._turn // 4) % len(versions)], "soak")
            self.changes += 1
        except StoreError:  # the trainer has just cleaned that version away
            return


def metric(text: str, name: str) -> float:
    """The sum of a metric's series."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines())
    return sum(float(value) for found, value in lines if found.split("{")[0] == name)


def second(began: float, pids: tuple[int, int], worker: WorkerProcess, group: Group, publisher: Publisher) -> Second:
    """All readings of now."""
    text = worker.metrics()
    ours, trainers = map(memory_of, pids)
    answered = group.look()
    return Second(
        at_s=time.monotonic() - began,
        worker_rss_mb=ours.rss_mb,
        worker_pss_mb=ours.pss_mb,
        trainer_rss_mb=trainers.rss_mb,
        trainer_pss_mb=trainers.pss_mb,
        published=publisher.published,
        answered=answered,
        lag=publisher.published - answered,
        dead_letters=int(metric(text, "layercache_dead_letters_total")),
        held_back=int(metric(text, "layercache_distillation_held_back_total")),
        miss_share=metric(text, "layercache_distillation_share"),
    )


def run(settle: float, minutes: float, growth: float, swap_s: float, seed: int, folder: Path) -> Soak:
    """The whole run. Raises ``RuntimeError`` where the worker or the trainer ended."""
    with ExitStack() as stack:
        servers, broker_name = stack.enter_context(broker(folder))
        settings = soak_settings(servers, folder, seed)
        create_topics(settings)
        kinds = Kinds.of(EXAMPLES / "fashion-mnist-frames.zip", seed)
        classifier = loading.load(settings.model)
        operator = Operator(open_store(settings.store, classifier.name, classifier.fingerprint))
        group = Group(settings)
        stack.callback(group.close)
        began = time.monotonic()

        def wanted() -> int:
            return int(group.answered + _HEAD_START + growth * (time.monotonic() - began))

        publisher = Publisher(settings, kinds, seed, wanted)
        publisher.start()
        stack.callback(publisher.stop)
        worker = stack.enter_context(running_worker(settings, folder, anew=True))
        trainer = stack.enter_context(running_trainer(settings, folder, anew=True))
        worker.wait_for("working on")
        began = time.monotonic()
        seconds: list[Second] = []
        next_swap = swap_s
        while (now := time.monotonic() - began) < 60 * (settle + minutes):
            if worker.process.poll() is not None or trainer.poll() is not None:
                raise RuntimeError(f"the worker or the trainer ended; their logs:\n{_tails(folder)}")
            seconds.append(second(began, (worker.process.pid, trainer.pid), worker, group, publisher))
            if now >= next_swap:
                operator.act()
                next_swap += swap_s
            time.sleep(max(0.0, _SAMPLE_S - (time.monotonic() - began - now)))
        return Soak(
            machine=f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            broker=broker_name,
            seed=seed,
            settle_s=60 * settle,
            growth_per_s=growth,
            published_mb=publisher.bytes / _MEGABYTE,
            head_changes=operator.changes,
            seconds=seconds,
        )


def _tails(folder: Path) -> str:
    return "\n".join((folder / f"{name}.log").read_text()[-3_000:] for name in ("worker", "trainer"))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settle", type=float, default=5.0, help="minutes before memory is expected to be flat")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes after that")
    parser.add_argument("--growth", type=float, default=50.0, help="frames per second by which lag grows")
    parser.add_argument("--swap-s", type=float, default=5.0, help="seconds between two changes of the heads served")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        try:
            soak = run(options.settle, options.minutes, options.growth, options.swap_s, options.seed, Path(folder))
        finally:
            print(_tails(Path(folder)))
    print(msgspec.json.format(msgspec.json.encode(write(soak, options.out)), indent=2).decode())


if __name__ == "__main__":
    main()
