"""One system at work: drains a backlog, then keeps up with half of its own throughput; what was seen of it."""

import multiprocessing
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.pipeline.load import (
    STREAMS,
    Load,
    Predictions,
    assignments,
    create_topics,
    decode,
    delete_topics,
    publish,
    published,
)
from benchmarks.pipeline.numbers import (
    Sample,
    cpu_ms_per_frame,
    frames_for,
    is_settled,
    latencies,
    most_waiting,
    rate_per_s,
)
from benchmarks.pipeline.process import Usage, usage
from benchmarks.pipeline.systems import BATCH, Place, System, environment
from layercache.demo.processes import Children
from layercache.schemas.settings import Topics

PARTITIONS = 4
#: Frames come in multiples of this, so that systems which batch by key and count are left with none.
WHOLE = STREAMS * BATCH

_SAMPLE_S = 0.1
#: A backlog is drained when all is written and nothing more has come for this long.
_SETTLED_S = 0.6
_START_LIMIT_S = 60.0
#: Past this many times the expected time a backlog is left.
_SLOW = 6.0
#: Frames that are not measured while a system changes from draining to keeping up.
_WARM_UP_S = 1.0
_LATE_S = 15.0


class Drained(msgspec.Struct, frozen=True):
    """What a backlog took, from its first prediction to its last."""

    frames: int
    frames_per_s: float
    cpu_ms_per_frame: float
    memory_mb: float
    agreement: float | None
    """Share of labels that are those expected; None where there was nothing to expect."""
    finished: bool


class Kept(msgspec.Struct, frozen=True):
    """Milliseconds from publishing to a prediction that a reader of committed records has."""

    per_s: float
    frames: int
    mean_ms: float
    p99_ms: float
    most_waiting: int
    """The most frames that were published and not yet answered."""


class Session:
    """A system with topics and a process of its own; leaving ends the one and deletes the others."""

    def __init__(self, system: System, load: Load, servers: str, folder: Path, heads: Path, workers: int = 1,
                 partitions: int = PARTITIONS) -> None:  # fmt: skip
        tag = uuid.uuid4().hex[:8]
        self._system, self._load, self._servers = system, load, servers
        self.topics = Topics(
            frames=f"frames-{tag}", predictions=f"predictions-{tag}", distillation=f"distillation-{tag}",
            dead_letters=f"dead-{tag}", partitions=partitions,
        )  # fmt: skip
        self._folder = folder / tag
        self._place = Place(servers, self.topics, f"group-{tag}", self._folder, heads)
        self._workers = workers

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        create_topics(self._servers, self.topics)
        self._children = Children(self._folder, environment(), patience_s=0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._children.stop()
        finally:
            delete_topics(self._servers, self.topics)

    def publish(self, frames: int) -> None:
        """A backlog."""
        publish(self._servers, self.topics, self._load, frames)

    def start(self) -> None:
        """The system, with all its workers."""
        command = self._system.command(self._load.model, self._place)
        self._running = [self._children.start(f"worker-{number}", command) for number in range(self._workers)]

    def wait_for_group(self) -> None:
        """Until the workers have shared out the partitions as evenly as can be; only for those that join a group."""
        deadline = time.monotonic() + _START_LIMIT_S
        while not is_settled(assignments(self._servers, self._place.group), self._workers, self.topics.partitions):
            self._check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._system.key}: the group did not settle within {_START_LIMIT_S:.0f} s")
            time.sleep(_SAMPLE_S)

    def drain(self, frames: int, expected_s: float, label: Callable[[int], int] | None = None) -> Drained:
        """Waits until the system has answered a backlog of ``frames`` frames.

        Where that takes much longer than ``expected_s``, what was answered by then counts. ``label`` gives the label to
        expect by a frame's number.
        """
        with Predictions(self._servers, self.topics) as predictions:
            samples = self._watch(predictions, frames, _SLOW * expected_s)
            times: list[int] = []
            agreed = 0
            for batch in predictions.batches(1.0):
                times += [message.timestamp()[1] for message in batch]
                if label:
                    answers = (decode(message.value() or b"") for message in batch)
                    agreed += sum(answer.label == label(published(answer.id)[0]) for answer in answers)
        if len(times) > frames or (samples[-1].written >= frames and len(times) != frames):
            raise RuntimeError(f"{self._system.key}: {len(times):,} predictions of {frames:,} frames")
        return Drained(
            frames=len(times),
            frames_per_s=rate_per_s(times),
            cpu_ms_per_frame=cpu_ms_per_frame(samples),
            memory_mb=samples[-1].usage.memory_mb,
            agreement=agreed / len(times) if label else None,
            finished=len(times) == frames,
        )

    def keep_up(self, per_s: float, seconds: float) -> Kept:
        """Publishes at a rate, once a backlog is drained, and reads predictions as they come."""
        count = frames_for(seconds + _WARM_UP_S, per_s, WHOLE)
        first = round(per_s * _WARM_UP_S)
        process = multiprocessing.get_context("spawn").Process(
            target=publish, args=(self._servers, self.topics, self._load, count, per_s), daemon=True
        )
        times: list[tuple[int, int]] = []
        spent_ms = []
        with Predictions(self._servers, self.topics, from_end=True) as predictions:
            process.start()
            deadline = time.monotonic() + count / per_s + _LATE_S
            seen = 0
            while seen < count:
                message = predictions.one(0.5)
                now = time.time_ns()
                if message is None:
                    self._check()
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{self._system.key}: {count - seen:,} of {count:,} were not answered")
                    continue
                seen += 1
                number, at = published(decode(message.value() or b"").id)
                times.append((at, now))
                if number >= first:
                    spent_ms.append((now - at) / 1e6)
        process.join()
        mean_ms, p99_ms = latencies(spent_ms)
        return Kept(per_s, len(spent_ms), mean_ms, p99_ms, most_waiting(times))

    def usage(self) -> Usage:
        """Of all workers together."""
        each = [usage(child.pid) for child in self._running]
        return Usage(each[-1].at, sum(one.cpu_s for one in each), sum(one.memory_mb for one in each))

    def _watch(self, predictions: Predictions, frames: int, limit_s: float) -> list[Sample]:
        samples = [Sample(0, self.usage())]
        ends = time.monotonic() + _START_LIMIT_S
        changed = time.monotonic()
        while True:
            time.sleep(_SAMPLE_S)
            self._check()
            sample = Sample(predictions.written(), self.usage())
            now = time.monotonic()
            if sample.written > samples[-1].written:
                changed = now
                if samples[-1].written == 0:
                    ends = now + limit_s
            samples.append(sample)
            if (sample.written >= frames and now - changed > _SETTLED_S) or now > ends:
                break
        if sample.written == 0:
            raise TimeoutError(f"{self._system.key}: no prediction within {_START_LIMIT_S:.0f} s")
        return samples

    def _check(self) -> None:
        for child in self._running:
            child.check()
