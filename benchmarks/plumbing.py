"""The ceiling of the worker's plumbing: the real worker with a model that does nothing, beside a bare Kafka loop.

    KAFKA_HOME=... python -m benchmarks.plumbing --frames 400000 --frame-bytes 3000

Both read the same topic, filled beforehand: key and headers of every frame, one JSON prediction under the same key, one
transaction per 200 ms. The worker is the product's own: intake, decode pool, micro-batches, predictions with headers,
metrics, transactions; only decoding a picture and running a model are left out. Each run has a process of its own.
"""

import argparse
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from confluent_kafka import Consumer, Message, Producer
from torch import Tensor, nn

from layercache.early_exit.cutting.cuts import TracedModel, trace
from layercache.early_exit.engine import Answers, Engine
from layercache.early_exit.model.loading import Classifier
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.early_exit.store.head_store import Live
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Kafka, Settings, Topics, Worker
from layercache.stream.frames.decode_pool import DecodePool
from layercache.stream.kafka.clients import consumer_config, producer_config
from layercache.stream.worker.answering.answering import ModelAnswering
from layercache.stream.worker.answering.heads_watch import HeadWatch, Serving
from layercache.stream.worker.garbage import collect_seldom
from layercache.stream.worker.metrics import Metrics
from layercache.stream.worker.service import make_worker
from layercache.stream.worker.stopping import StopRequest
from testbed.apache_kafka import KafkaNode
from testbed.topics import create_topics

#: Without a model to wait for, a larger micro-batch only saves calls.
MAX_BATCH = 4_096

_CLASSES = tuple(f"class {number}" for number in range(10))
_COMMIT_INTERVAL_S = 0.2


@dataclass(frozen=True)
class Usage:
    """What answering ``frames`` took, from the first frame to the last commit; the clients' threads count as ours."""

    frames: int
    seconds: float
    cpu_seconds: float
    loop_cpu_seconds: float
    """Of the thread that runs Python's loop alone."""

    @property
    def frames_per_s(self) -> float:
        return self.frames / self.seconds

    @property
    def cpu_us_per_frame(self) -> float:
        return self.cpu_seconds / self.frames * 1e6

    @property
    def loop_us_per_frame(self) -> float:
        return self.loop_cpu_seconds / self.frames * 1e6


class _Meter:
    """Counts answered frames; time runs from the first."""

    def __init__(self) -> None:
        self.frames = 0
        self._began: tuple[float, float] | None = None
        self._loop_began = 0.0

    def begin(self) -> None:
        """The first frame is here; called in any thread."""
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()

    def step(self) -> None:
        """Called in the loop's thread before every step: waiting for the first frame takes none of its time."""
        if self._began is None:
            self._loop_began = time.thread_time()

    def usage(self) -> Usage:
        """Called in the loop's thread."""
        assert self._began is not None, "no frame came"
        seconds, cpu_seconds = self._began
        return Usage(
            self.frames,
            time.perf_counter() - seconds,
            time.process_time() - cpu_seconds,
            time.thread_time() - self._loop_began,
        )


class DoNothingEngine(Engine):
    """Answers every frame at its one exit at once."""

    def __init__(self, traced: TracedModel, meter: _Meter) -> None:
        super().__init__(traced)
        self.exits = ("nothing",)
        self.version = "do-nothing"
        self.audit_rate = 0.0
        self._meter = meter
        self._chances = np.random.default_rng(0).dirichlet(np.ones(len(_CLASSES)), 1).astype(np.float32)

    def run(self, frames: Tensor, audits: npt.NDArray[np.bool_]) -> Answers:
        """One label for all."""
        count = len(frames)
        self._meter.begin()
        self._meter.frames += count
        none = np.empty(0, np.int32)
        return Answers(
            labels=np.full(count, self._chances.argmax(), np.int64),
            probabilities=np.broadcast_to(self._chances, (count, len(_CLASSES))),
            exits=np.zeros(count, np.int16),
            full_rows=np.empty(0, np.int64),
            logits=np.empty((0, len(_CLASSES)), np.float32),
            live_exit=none,
            live_label=none,
        )


class _NoHeads:
    """A store without versions."""

    def live(self) -> Live:
        return Live(version=None, closed=False, pinned=False)

    def latest(self) -> None:
        return None

    def load(self, version: str) -> tuple[Manifest, dict[str, Tensor]]:
        raise AssertionError(f"nobody published {version}")


def run_do_nothing_worker(settings: Settings, frames: int) -> Usage:
    """Runs the worker of ``settings`` in this thread until it has answered and committed ``frames`` frames.

    The topics must exist and hold that many frames, whose bytes need not be pictures. A fresh ``group_id`` reads them
    from the beginning.
    """
    meter = _Meter()
    preprocessing = Preprocessing((1, 1), (0.5,), (0.5,))
    module = nn.Sequential(nn.Flatten(), nn.Linear(1, len(_CLASSES))).eval().requires_grad_(False)
    traced = trace(
        Classifier(module, preprocessing, _CLASSES, "do-nothing", "0" * 64, torch.device("cpu"), torch.float32)
    )
    heads = HeadWatch(_NoHeads(), traced, "serve", 1, settings.promise)
    engine = DoNothingEngine(traced, meter)
    heads.serving = Serving(engine, engine, settings.promise.max_disagreement)
    picture = torch.zeros(1, 1, 1, dtype=torch.uint8)
    pool = DecodePool(settings.worker.decode_threads, lambda frame: picture)
    stop = _StopAt(meter, frames)
    metrics = Metrics(settings.worker.max_batch)
    collect_seldom()
    try:
        with stop.on_signals():
            answering = ModelAnswering(settings, "plumbing", traced, heads, metrics, pool)
            make_worker(settings, "plumbing", answering, metrics, stop).run()
        return meter.usage()
    finally:
        pool.close()


class _StopAt(StopRequest):
    """Asked before every step."""

    def __init__(self, meter: _Meter, frames: int) -> None:
        super().__init__()
        self._meter = meter
        self._frames = frames

    def __call__(self) -> bool:
        self._meter.step()
        if self._meter.frames >= self._frames:
            self.set()
        return super().__call__()


def run_bare_loop(settings: Settings, frames: int) -> Usage:
    """The same job as a few lines of confluent-kafka, with our clients' configuration and no error handling."""
    worker, topics = settings.worker, settings.topics
    consumer = Consumer(consumer_config(settings, worker.group_id))
    producer = Producer(
        producer_config(settings, transactional_id=worker.group_id) | {"delivery.report.only.error": True}
    )
    producer.init_transactions(30)
    consumer.subscribe([topics.frames])
    meter = _Meter()
    encode = msgspec.json.Encoder().encode
    while meter.frames < frames:
        began = time.monotonic()
        producer.begin_transaction()
        while time.monotonic() - began < _COMMIT_INTERVAL_S and meter.frames < frames:
            meter.step()
            messages = consumer.consume(10_000, 0.01)
            if messages:
                meter.begin()
            for message in messages:
                key, headers = message.key(), message.headers()
                producer.produce(topics.predictions, encode(_prediction(message, headers)), key)
            meter.frames += len(messages)
            producer.poll(0)
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
        )
        producer.commit_transaction()
    usage = meter.usage()
    consumer.close()
    return usage


def _prediction(message: Message, headers: object) -> dict[str, object]:
    """About 300 bytes of JSON."""
    return {
        "id": str(message.offset()),
        "headers": len(headers) if isinstance(headers, list) else 0,
        "label": 3,
        "class_name": "class 3",
        "confidence": 0.5,
        "model": "0" * 64,
        "padding": "x" * 140,
    }


def fill(settings: Settings, frames: int, frame_bytes: int, headers: bool = True) -> None:
    """Publishes ``frames`` random values of 64 streams; with ``headers`` each has a content type and an id."""
    producer = Producer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "linger.ms": 20, "batch.size": 1_000_000}
    )
    dice = random.Random(0)
    values = [dice.randbytes(frame_bytes) for _ in range(64)]
    for number in range(frames):
        raw = [("content-type", b"image/jpeg"), ("ce_id", b"%08d.jpg" % number)] if headers else []
        while True:
            try:
                producer.produce(settings.topics.frames, values[number % 64], b"camera-%d" % (number % 64), headers=raw)  # type: ignore[arg-type]  # the stub asks for an invariant list
                break
            except BufferError:
                producer.poll(0.05)
    left = producer.flush(120)
    assert left == 0, f"{left} frames were not published"


def plumbing_settings(bootstrap_servers: str, topics: Topics, **worker: object) -> Settings:
    """Settings of a worker in a group of its own, for :func:`run_do_nothing_worker`."""
    own = {"group_id": f"plumbing-{uuid.uuid4().hex[:8]}", "max_batch": MAX_BATCH, "top_k": 1} | worker
    return Settings(kafka=Kafka(bootstrap_servers=bootstrap_servers), topics=topics, worker=Worker.model_validate(own))


RUNS: dict[str, Callable[[Settings, int], Usage]] = {
    "bare loop": run_bare_loop,
    "worker": run_do_nothing_worker,
}


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=400_000)
    parser.add_argument("--frame-bytes", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-headers", action="store_true")
    parser.add_argument("--only", choices=RUNS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, KafkaNode(Path(os.environ["KAFKA_HOME"]), Path(folder)) as node:
        topics = create_topics(node.bootstrap_servers, Topics(partitions=4))
        settings = plumbing_settings(node.bootstrap_servers, topics)
        fill(settings, options.frames, options.frame_bytes, not options.no_headers)
        print("| | frames/s | CPU us a frame | of these the loop |\n|---|---|---|---|")
        for _ in range(options.rounds):
            for name, run in RUNS.items():
                if options.only in (None, name):
                    usage = in_own_process(run, plumbing_settings(node.bootstrap_servers, topics), options.frames)
                    print(
                        f"| {name} | {usage.frames_per_s:,.0f} | {usage.cpu_us_per_frame:.2f} "
                        f"| {usage.loop_us_per_frame:.2f} |",
                        flush=True,
                    )


def in_own_process(run: Callable[[Settings, int], Usage], settings: Settings, frames: int) -> Usage:
    """``run`` in a fresh process: clients of one run do not share memory and threads with those of the next."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(run, settings, frames).result()


if __name__ == "__main__":
    main()
