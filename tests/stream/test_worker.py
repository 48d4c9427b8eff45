"""The loop while a micro-batch is being answered: partitions come and go, and the worker may be told to stop."""

import threading
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import Future
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from schemas.settings import Kafka, Settings
from stream.clients import ClientFactory, Config
from stream.decode import Unanswerable
from stream.delivery import Aborted, Delivery
from stream.frames import Arrived, Decoded, Frame
from stream.intake import Intake
from stream.kafka_log import LEVEL, KafkaLog
from stream.members import named_clients
from stream.metrics import Metrics
from stream.patience import SideThread
from stream.stopping import Stop
from stream.worker import Unfinished, Worker
from tests.stream.builders import frame, picture

SETTINGS = Settings.model_validate(
    {
        "kafka": Kafka(bootstrap_servers="localhost:1"),
        "worker": {"delivery": "at_least_once", "max_batch": 8, "max_wait_ms": 0},
    }
)


class ScriptedIntake:
    """Gives these frames, and stops the worker after them; while they are answered, ``meanwhile`` happens."""

    def __init__(self, stop: Stop, frames: Sequence[Frame]) -> None:
        self._stop = stop
        self._frames = list(frames)
        self.meanwhile: Callable[[], None] = lambda: None
        self.is_done: Callable[[], bool] = lambda: False
        self.rewinds = self.rejoins = 0
        self.closed = False

    def subscribe(self) -> None:
        """Nobody else is there."""

    def fetch(self, count: int, timeout_s: float) -> list[Frame]:
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
        self.closed = True


class Noted:
    """A delivery that notes what is committed."""

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
        self.closed = False

    def answered(self, topic: str, partition: int, offset: int, frames: int = 1) -> None:
        self.open[partition] = offset

    def assigned(self, partitions: Iterable[int] = ()) -> None:
        self.rebalances.append(set(partitions))

    def rejoins(self, consumer: object) -> None:
        self.client = consumer

    def has_missed_a_generation(self) -> bool:
        return self.misses_a_generation

    def open_offsets(self) -> dict[int, int]:
        return {partition: offset + 1 for partition, offset in self.open.items()}

    def commit(self, metadata: Callable[[int], str]) -> bool:
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
        """It works."""

    def due_in(self, now: float) -> float | None:
        return None

    def close(self) -> None:
        self.closed = True


class SlowAnswering:
    """Answers once the duties were done three times; never, where ``released`` is not set."""

    def __init__(self, produced: list[tuple[int, int]]) -> None:
        self._produced = produced
        self.begun = False
        #: how many frames were decoded or answered at a time
        self.sizes: list[int] = []
        self.refused: list[tuple[int, int]] = []
        self.released = threading.Event()
        self.thread = SideThread("answers")
        self.stopped = False

    def start(self) -> None:
        """Nothing."""

    def submit(self, frames: Sequence[Frame]) -> list[Arrived]:
        self.sizes.append(len(frames))
        chunk: Future[list[Decoded]] = Future()
        chunk.set_result([Decoded(picture("red"), 0.0)] * len(frames))
        return [Arrived(one, chunk, index) for index, one in enumerate(frames)]

    def answer(
        self,
        arrived: Sequence[Arrived],
        delivery: Delivery,
        duties: Callable[[], float],
        overloaded: bool,
        lost_partitions: Set[int],
    ) -> bool:
        self.begun = True
        times = iter(range(3))

        def counted() -> float:
            if next(times, None) is None:
                self.released.set()
            return duties()

        self.thread.run(self.released.wait, counted)
        self._produced += [
            (one.frame.partition, one.frame.offset) for one in arrived if one.frame.partition not in lost_partitions
        ]
        return False

    def refuse(self, frame: Frame, why: Unanswerable, delivery: Delivery) -> None:
        self.refused.append((frame.partition, frame.offset))

    def adjust(self, now: float) -> None:
        """Nothing."""

    def committed(self, seconds: float) -> None:
        """Nothing."""

    def stop(self) -> None:
        self.stopped = True


class Loop:
    """A worker between an intake, an answering and a delivery that tell what it does."""

    def __init__(self, *frames: Frame) -> None:
        self.stop = Stop()
        self.intake = ScriptedIntake(self.stop, frames)
        self.delivery = Noted()
        self.answering = SlowAnswering(self.delivery.produced)
        self.metrics = Metrics(max_batch=8)
        self.worker = Worker(SETTINGS, "w-1", self.answering, self.metrics, self.stop)
        self.intake.is_done = lambda: self.answering.begun
        self.worker._intake.close()
        self.worker._intake = cast(Intake, self.intake)
        self.worker._delivery = cast(Delivery, self.delivery)

    def run(self) -> None:
        try:
            self.worker.run()
        finally:
            self.answering.released.set()
            self.answering.thread.close()

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def test_a_batch_whose_partitions_all_stay_goes_on_through_a_rebalance() -> None:
    loop = Loop(*(frame(offset, partition) for offset in range(2) for partition in (0, 1)))
    loop.intake.meanwhile = lambda: loop.worker.revoked({2, 3}, kept=set())
    loop.run()
    assert loop.delivery.committed == {0: 1, 1: 1}
    assert loop.intake.rewinds == 0


def test_of_a_batch_in_flight_only_frames_of_partitions_that_went_are_dropped() -> None:
    loop = Loop(*(frame(offset, partition) for offset in range(2) for partition in (0, 1)))
    loop.intake.meanwhile = lambda: loop.worker.revoked({1, 3}, kept=set())
    loop.run()
    assert loop.delivery.produced == [(0, 0), (0, 1)]
    assert loop.delivery.committed == {0: 1}
    assert loop.intake.rewinds == 0


def test_a_batch_none_of_whose_partitions_stayed_commits_nothing() -> None:
    loop = Loop(frame(0, 1), frame(1, 1))
    loop.intake.meanwhile = lambda: loop.worker.revoked({1}, kept=set())
    loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})


def test_partitions_that_are_lost_take_the_whole_batch_with_them() -> None:
    """What was open went with the transaction, frames of other partitions too: all of it is read again."""
    loop = Loop(frame(0, 0), frame(0, 1))
    loop.intake.meanwhile = lambda: loop.worker.lost({1})
    loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})
    assert loop.intake.rewinds == 1
    assert loop.metric("layercache_transactions_total", result="aborted") == 1


def test_the_group_hears_of_a_worker_that_goes_back_before_it_waits_for_a_producer() -> None:
    loop = Loop(frame(0, 0))
    calls: list[str] = []
    abort, keep_membership = loop.delivery.abort, loop.intake.keep_membership
    loop.delivery.abort = lambda: calls.append("abort") or abort()  # type: ignore
    loop.intake.keep_membership = lambda: calls.append("heard of") or keep_membership()  # type: ignore
    loop.delivery.ensure_producer = lambda: calls.append("producer")  # type: ignore[method-assign]
    loop.worker._needs_rewind = True
    loop.run()
    assert calls[:3] == ["abort", "heard of", "producer"]


def test_frames_in_flight_are_counted_as_held_through_a_rebalance() -> None:
    """Else large frames would be fetched on top of them, past what the worker may hold."""
    loop = Loop(frame(0, 0, b"12345"), frame(0, 1, b"678"))
    held: list[int] = []

    def meanwhile() -> None:
        loop.worker.revoked({1}, kept={0})
        held.append(loop.worker._held.bytes)

    loop.intake.meanwhile = meanwhile
    loop.run()
    assert held == [8], "the one that went is still being answered"


@pytest.mark.parametrize("is_revoked", [False, True], ids=["assigned", "revoked"])
def test_who_keeps_partitions_that_may_have_been_anothers_joins_anew(is_revoked: bool) -> None:
    loop = Loop(frame(0, 0), frame(0, 1))
    loop.delivery.misses_a_generation = True
    callback = loop.worker.revoked if is_revoked else loop.worker.assigned
    loop.intake.meanwhile = lambda: callback({2}, kept={0, 1})
    loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})
    assert (loop.intake.rewinds, loop.intake.rejoins) == (1, 1)


def test_a_worker_that_shall_stop_waits_for_a_slow_batch_no_longer_than_its_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop(frame(0, 0), frame(1, 0))
    monkeypatch.setattr(loop.stop, "patience_is_over", loop.stop)
    monkeypatch.setattr(loop.answering.thread, "run", stuck(loop))
    with pytest.raises(Unfinished, match="stopped while 2 frames were still being answered"):
        loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})
    assert loop.delivery.closed
    assert loop.intake.closed, "others get its partitions at once"
    assert not loop.answering.stopped, "that would wait for the batch"


def stuck(loop: Loop) -> Any:
    """The duties are done again and again; the second time the worker has been told to stop."""

    def run(call: object, duties: Callable[[], float]) -> None:
        for _ in range(1_000):
            duties()
            loop.stop.set()
        raise AssertionError("it waits for ever")

    return run


def test_the_first_frames_of_a_partition_are_noted_before_they_are_touched_and_the_next_commit_takes_it_back() -> None:
    loop = Loop(frame(5, 0), frame(6, 0))
    loop.worker.begins(0, 5, 0, takes_over=True)
    noted: list[Any] = []
    submit = loop.answering.submit
    loop.answering.submit = lambda frames: noted.append(loop.delivery.commits[-1]) or submit(frames)  # type: ignore
    loop.run()
    assert noted[0] == {0: (5, 1)}
    assert loop.delivery.commits[-1] == {0: (7, 0)}


@pytest.mark.parametrize(
    ("began", "places", "note"),
    [(1, [8, 16, 24], 2), (2, [1, 2, 3, 4, 5, 6, 7, 8, 16, 24], 3)],
    ids=["a micro-batch at a time", "one at a time, as many as were at work with the last worker"],
)
def test_where_a_worker_ended_frames_are_taken_with_care_each_micro_batch_committed_and_none_overtakes(
    began: int, places: list[int], note: int
) -> None:
    suspects, others = ([frame(offset, partition) for offset in range(40)] for partition in (0, 1))
    loop = Loop(*(one for pair in zip(suspects, others, strict=True) for one in pair))
    loop.intake.is_done = lambda: len(loop.delivery.produced) == 80
    loop.worker.begins(0, 0, began, takes_over=True)
    loop.run()
    assert [offset for partition, offset in loop.delivery.produced if partition == 0] == list(range(40))
    assert [offset for partition, offset in loop.delivery.produced if partition == 1] == list(range(40))
    told = [commit[0] for commit in loop.delivery.commits if 0 in commit]
    assert told[0] == (0, note)
    assert [offset for offset, _ in told[1:]] == [*places, 32, 40], "four micro-batches of eight"
    assert [began for _, began in told[1:]] == [3 if place < 8 else 2 for place in places] + [0, 0]


def test_frames_behind_those_that_are_taken_with_care_wait_for_few_of_them() -> None:
    """A commit a frame once held other partitions up for a minute, where commits are slow."""
    careful, others = [frame(offset, 0) for offset in range(40)], [frame(offset, 1) for offset in range(8)]
    loop = Loop(*careful, *others)
    loop.intake.is_done = lambda: len(loop.delivery.produced) == 48
    loop.worker.begins(0, 0, 1, takes_over=True)
    loop.run()
    before = next(number for number, commit in enumerate(loop.delivery.commits) if 1 in commit)
    assert before <= 6, loop.delivery.commits


def test_frames_that_still_wait_to_be_taken_with_care_are_not_overtaken_once_that_is_over() -> None:
    waiting, later = [frame(offset, 0) for offset in range(36)], [frame(offset, 0) for offset in range(36, 90)]
    loop = Loop(*later)
    loop.worker.begins(0, 0, 1, takes_over=True)
    loop.worker._take_in(waiting)
    loop.intake.is_done = lambda: len(loop.delivery.produced) == 90
    loop.run()
    assert loop.delivery.produced == [(0, offset) for offset in range(90)]


def test_a_frame_at_which_worker_after_worker_ended_is_refused_untouched() -> None:
    loop = Loop(frame(5, 0), frame(6, 0))
    loop.worker.begins(0, 5, 4, takes_over=True)
    loop.run()
    assert loop.answering.refused == [(0, 5)]
    assert loop.delivery.produced == [(0, 6)]
    assert loop.answering.sizes == [1]
    assert loop.delivery.commits[:2] == [{0: (5, 5)}, {0: (6, 3)}]
    assert loop.delivery.commits[-1] == {0: (7, 0)}, "a worker that ends well leaves no note"


@pytest.mark.parametrize("is_uncertain", [False, True])
def test_a_worker_that_fails_takes_its_note_back_unless_a_commit_is_uncertain(is_uncertain: bool) -> None:
    """An offset that may have been passed already must not be committed again."""
    loop = Loop(frame(5, 0))
    loop.worker.begins(0, 5, 0, takes_over=True)

    def answer(*_: object) -> bool:
        if is_uncertain:
            loop.delivery.fails = True
            with pytest.raises(Aborted):
                loop.worker._commit()
            loop.delivery.fails = False
        raise MemoryError

    loop.answering.answer = answer  # type: ignore[method-assign, assignment]
    with pytest.raises(MemoryError):
        loop.run()
    assert loop.delivery.commits == [{0: (5, 1)}] + ([] if is_uncertain else [{0: (5, 0)}])


def test_who_hands_a_partition_over_takes_its_note_back() -> None:
    loop = Loop(frame(5, 0), frame(9, 1))
    for partition, offset in ((0, 5), (1, 9)):
        loop.worker.begins(partition, offset, 0, takes_over=True)
    loop.intake.meanwhile = lambda: loop.worker.revoked({1}, kept=set())
    loop.run()
    assert loop.delivery.commits[:3] == [{0: (5, 1)}, {1: (9, 1)}, {1: (9, 0)}]


def test_the_workers_clients_are_what_its_intake_and_people_need() -> None:
    """Whatever the user's options say, which are still heard where they are about something else."""
    options: Any = {"auto.offset.reset": "latest", "enable.partition.eof": False}
    kafka = Kafka(bootstrap_servers="localhost:1", consumer_options=options)
    made: list[tuple[str, Config]] = []

    def remembered(kind: Any) -> Any:
        def make(config: Config) -> Any:
            made.append((kind.__name__, config))
            return kind(config)

        return make

    clients = ClientFactory(remembered(Consumer), remembered(Producer), remembered(AdminClient))
    settings = SETTINGS.model_copy(update={"kafka": kafka})
    answering = SlowAnswering([])
    worker = Worker(settings, "w-1", answering, Metrics(max_batch=8), Stop(), clients=named_clients("me", clients))
    worker._delivery.close()
    worker._intake.close()
    answering.thread.close()
    assert sorted(kind for kind, _ in made) == ["AdminClient", "Consumer", "Consumer", "Producer"]
    assert {config["client.id"] for _, config in made} == {"me"}
    (reader,) = [config for kind, config in made if kind == "Consumer" and "logger" in config]
    assert (reader["auto.offset.reset"], reader["enable.partition.eof"]) == ("earliest", True)
    assert (reader["log_level"], type(reader["logger"])) == (LEVEL, KafkaLog)
    assert worker._delivery._time_left == worker._intake.time_left


def test_its_delivery_hears_of_every_rebalance_and_of_another_client() -> None:
    """By these it knows as whom it commits."""
    loop = Loop()
    loop.worker.assigned({0, 1}, kept=set())
    loop.worker.revoked({1}, kept={0})
    assert loop.delivery.rebalances == [{0, 1}, set()]
    client = cast(Consumer, object())
    loop.worker.rejoins(client)
    assert loop.delivery.client is client


def test_frames_that_wait_go_with_their_partition() -> None:
    """Those that wait to be taken with care, and those that are being decoded."""
    loop = Loop()
    for partition in (0, 1):
        loop.worker.begins(partition, 5, 1, takes_over=True)
    loop.worker._take_in([frame(5, 0), frame(5, 1), frame(5, 2), frame(5, 3)])
    loop.worker.revoked({0, 2}, kept={1, 3})
    loop.intake.is_done = lambda: len(loop.delivery.produced) >= 2
    loop.run()
    assert sorted(loop.delivery.produced) == [(1, 5), (3, 5)]


def test_lag_is_told_of_each_partition() -> None:
    loop = Loop(frame(0, 0))
    loop.run()
    assert loop.metric("layercache_consumer_lag", topic="frames", partition="0") == 7
