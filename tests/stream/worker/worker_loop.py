"""A worker's loop between a consumer, an answering and a delivery that do what a test says."""

import math
import threading
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import Future
from typing import cast

from layercache.schemas.settings import Kafka, Settings
from layercache.stream.frames.decode_pool import Decoded, PendingFrame
from layercache.stream.frames.decoding import Unanswerable
from layercache.stream.frames.frame import Frame
from layercache.stream.kafka.waiting import SideThread
from layercache.stream.worker.consuming.consumer import FrameConsumer
from layercache.stream.worker.consuming.membership import RebalanceListener
from layercache.stream.worker.delivery.delivery import Aborted, Delivery
from layercache.stream.worker.loop import Worker
from layercache.stream.worker.metrics import Metrics
from layercache.stream.worker.overload import LagObjective
from layercache.stream.worker.stopping import StopRequest
from tests.stream.builders import picture

SETTINGS = Settings.model_validate(
    {
        "kafka": Kafka(bootstrap_servers="localhost:1"),
        "worker": {"delivery": "at_least_once", "max_batch": 8, "max_wait_ms": 0},
    }
)


class ScriptedConsumer:
    """Gives these frames, and stops the worker after them.

    While the first are fetched, ``at_first_fetch`` happens, and while they are answered, ``meanwhile``.
    """

    def __init__(self, stop: StopRequest, frames: Sequence[Frame]) -> None:
        self._stop = stop
        self._frames = list(frames)
        self.at_first_fetch: Callable[[], None] = lambda: None
        self.meanwhile: Callable[[], None] = lambda: None
        self.is_done: Callable[[], bool] = lambda: False
        self.rewinds = self.rejoins = 0
        self.listener: RebalanceListener | None = None
        self.closed = False

    def subscribe(self, listener: RebalanceListener) -> None:
        self.listener = listener

    def fetch(self, count: int, timeout_s: float) -> list[Frame]:
        happens, self.at_first_fetch = self.at_first_fetch, lambda: None
        happens()
        given, self._frames = self._frames[:count], self._frames[count:]
        if not given and self.is_done():
            self._stop.set()
        return given

    def keep_membership(self) -> float:
        happens, self.meanwhile = self.meanwhile, lambda: None
        happens()
        return 0.001

    def rewind(self) -> None:
        self.rewinds += 1

    def rejoin(self, must_leave: bool) -> None:
        self.rejoins += must_leave

    def lags(self) -> dict[int, int]:
        return {0: 7}

    def offset_metadata(self, began: int = 0) -> str:
        return str(began)

    def close(self) -> None:
        """As a client does: what it still has is revoked within."""
        self.closed = True
        assert self.listener is not None
        self.listener.revoked({0, 1, 2, 3}, kept=set())


class RecordingDelivery:
    """A delivery that records what is committed; ``fails`` says whether its commits do, ``due`` in how many seconds one
    is due.
    """

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        self.produced: list[tuple[int, int]] = []
        self.committed: dict[int, int] = {}
        self.misses_a_generation = False
        self.rebalances: list[set[int]] = []
        self.client: object = None
        #: for each commit, by partition: the offset and its note
        self.commits: list[dict[int, tuple[int, int]]] = []
        self.fails = False
        self.due: float | None = None
        self.closed = False

    def answered(self, topic: str, partition: int, offset: int, frames: int = 1) -> None:
        self.open[partition] = offset

    def assigned(self, partitions: Iterable[int] = ()) -> None:
        self.rebalances.append(set(partitions))

    def rejoins(self, client: object) -> None:
        self.client = client

    def has_missed_a_generation(self) -> bool:
        return self.misses_a_generation

    def open_offsets(self) -> dict[int, int]:
        return {partition: offset + 1 for partition, offset in self.open.items()}

    def commit(self, metadata: Callable[[int], str]) -> bool:
        assert not self.closed
        if self.fails:
            raise Aborted("the broker is away")
        self.commits += [{partition: (offset + 1, int(metadata(partition))) for partition, offset in self.open.items()}]
        self.committed |= self.open
        self.open = {}
        return True

    def abort(self) -> None:
        self.open = {}

    def poll(self) -> None:
        """It has nothing to tell."""

    def ensure_producer(self) -> None:
        """Another one works."""
        self.fails = False

    def due_in(self, now: float) -> float | None:
        return self.due

    def close(self) -> None:
        self.closed = True


class SlowAnswering:
    """Answers once the duties were done three times; never, where ``released`` is not set."""

    def __init__(self, produced: list[tuple[int, int]]) -> None:
        self._produced = produced
        self.begun = False
        #: how many frames were decoded at a time
        self.sizes: list[int] = []
        #: how many frames were answered at a time, and whether the worker was too far behind
        self.batches: list[tuple[int, bool]] = []
        #: what :meth:`answer` says of the budget
        self.under_overload = False
        self.refused: list[tuple[int, int]] = []
        self.released = threading.Event()
        self.thread = SideThread("answers")
        self.stopped = False

    def start(self) -> None:
        """Nothing."""

    def submit(self, frames: Sequence[Frame]) -> list[PendingFrame]:
        self.sizes.append(len(frames))
        chunk: Future[list[Decoded]] = Future()
        chunk.set_result([Decoded(picture("red"), 0.0)] * len(frames))
        return [PendingFrame(one, chunk, index) for index, one in enumerate(frames)]

    def answer(
        self,
        pending: Sequence[PendingFrame],
        delivery: Delivery,
        duties: Callable[[], float],
        overloaded: bool,
        lost_partitions: Set[int],
    ) -> bool:
        self.begun = True
        self.batches.append((len(pending), overloaded))
        times = iter(range(3))

        def counted() -> float:
            if next(times, None) is None:
                self.released.set()
            return duties()

        self.thread.run(self.released.wait, counted)
        self._produced += [
            (one.frame.partition, one.frame.offset) for one in pending if one.frame.partition not in lost_partitions
        ]
        return self.under_overload

    def refuse(self, frame: Frame, why: Unanswerable, delivery: Delivery) -> None:
        self.refused.append((frame.partition, frame.offset))

    def adjust(self, now: float) -> None:
        """Nothing."""

    def committed(self, seconds: float) -> None:
        """Nothing."""

    def stop(self) -> None:
        self.stopped = True


class Loop:
    """A worker's loop, and what it talks to, which tells what the loop does."""

    def __init__(self, *frames: Frame, lag: LagObjective | None = None, **options: float) -> None:
        self.stop = StopRequest()
        self.consumer = ScriptedConsumer(self.stop, frames)
        self.delivery = RecordingDelivery()
        self.answering = SlowAnswering(self.delivery.produced)
        self.metrics = Metrics(max_batch=8)
        settings = SETTINGS.model_copy(update={"worker": SETTINGS.worker.model_copy(update=options)})
        self.worker = Worker(
            settings,
            cast(FrameConsumer, self.consumer),
            cast(Delivery, self.delivery),
            self.answering,
            lag or LagObjective(math.inf),
            self.metrics,
            self.stop,
        )
        self.consumer.is_done = lambda: self.answering.begun

    def run(self) -> None:
        try:
            self.worker.run()
        finally:
            self.answering.released.set()
            self.answering.thread.close()

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)
