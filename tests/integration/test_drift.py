"""A stream shifts under open exits: worker and trainer close them, the trainer reopens, and the worker alone closes.

Real processes on a stream of stripes that colour tells, until it no longer does (``tests/support/striped_model.py``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.manifest import Manifest
from layercache.schemas.prediction import FULL, Prediction
from layercache.schemas.settings import Settings, Store, Topics, Worker
from testbed.trainer_process import running_trainer
from testbed.worker_process import Picture, Reader, WorkerProcess, publish, reading, running_worker
from tests.cache_training.streams import traced
from tests.conftest import Broker
from tests.support import striped_model
from tests.support.pictures import encode
from tests.support.striped_model import SHIFTS, Pixels
from tests.support.tiny_model import TinyModel
from tests.support.trainer_records import store_of, trainer_settings

pytestmark = pytest.mark.one_broker

#: Frames that are under way at once.
ROUND = 60
#: For each step: opening takes a quiet machine about ten seconds.
DEADLINE_ROUNDS = 400


@dataclass
class Stream:
    """Publishes pictures, waits for their answers, and knows what the full model says to each."""

    settings: Settings
    reader: Reader
    full: Engine
    sent: list[int] = field(default_factory=list)
    """The full model's label of every frame so far."""

    def feed(self, pictures: Callable[[int, int], Pixels]) -> list[Prediction]:
        """A round of frames; returns their answers in the order in which they were sent."""
        first = len(self.sent)
        pixels = pictures(ROUND, first)
        publish(self.settings, [Picture(encode(one, "PNG"), id=str(first + n)) for n, one in enumerate(pixels)])
        self.sent += labels(self.full, pixels, audited=True).tolist()
        self.reader.read_until(lambda: len(self.reader.messages) >= len(self.sent), f"{len(self.sent)} answers")
        answers = [one for one in self.reader.predictions() if int(one.id) >= first]
        return sorted(answers, key=lambda one: int(one.id))

    def feed_until(
        self, pictures: Callable[[int, int], Pixels], done: Callable[[list[Prediction]], bool], what: str
    ) -> list[Prediction]:
        """Rounds of frames until one's answers are ``done``; returns all of these answers."""
        answers: list[Prediction] = []
        for _ in range(DEADLINE_ROUNDS):
            latest = self.feed(pictures)
            answers += latest
            if done(latest):
                return answers
        raise AssertionError(f"not within {DEADLINE_ROUNDS * ROUND} frames: {what}")

    def wrong(self, answers: list[Prediction]) -> list[int]:
        """Places in ``answers`` of those that differ from the full model's."""
        return [place for place, one in enumerate(answers) if one.label != self.sent[int(one.id)]]


def labels(engine: Engine, pixels: Pixels, audited: bool) -> npt.NDArray[np.int64]:
    frames = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return engine.run(frames, np.full(len(frames), audited)).labels


def share_wrong(model: TracedModel, store: HeadStore, version: str, pictures: Callable[[int, int], Pixels]) -> float:
    """What the version in the store would answer to these pictures otherwise than the full model: not left to luck."""
    engine = Engine(model, load_heads(*store.load(version), model))
    pixels = pictures(400, 1_000_000)
    return float(np.mean(labels(engine, pixels, audited=False) != labels(engine, pixels, audited=True)))


def has_hits(answers: list[Prediction]) -> bool:
    return any(one.exit != FULL for one in answers)


def live(store: HeadStore) -> Manifest:
    return store.load(store.latest() or "")[0]


@pytest.fixture
def files(tmp_path: Path) -> TinyModel:
    """Written once: a worker that starts meanwhile must not read half of them."""
    return striped_model.write(tmp_path / "model")


@pytest.fixture
def settings(broker: Broker, topics: Topics, files: TinyModel, tmp_path: Path) -> Settings:
    settings = trainer_settings(broker.kafka, topics, files, tmp_path, checkpoint_s=5.0)
    worker = Worker(
        group_id=f"workers-of-{topics.frames}", max_batch=8, torch_threads=1, metrics_port=0, commit_interval_ms=50.0
    )
    return settings.model_copy(update={"worker": worker, "store": Store(url=settings.store.url, poll_s=0.1)})


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[WorkerProcess]:
    with running_worker(settings, tmp_path) as worker:
        yield worker


@pytest.mark.parametrize(
    ("shift", "next_shift"),
    [
        ("noise", "blur"),
        pytest.param("blur", "new classes", marks=pytest.mark.slow),
        pytest.param("new classes", "noise", marks=pytest.mark.slow),
    ],
)
def test_exits_close_when_the_stream_shifts_and_reopen_and_close_without_a_trainer(
    settings: Settings, files: TinyModel, worker: WorkerProcess, tmp_path: Path, shift: str, next_shift: str
) -> None:
    model, store = traced(files), store_of(settings, files)
    with reading(settings, settings.topics.predictions) as reader:
        stream = Stream(settings, reader, Engine(model))
        with running_trainer(settings, tmp_path) as trainer:
            # Exits open on the healthy stream.
            stream.feed_until(striped_model.healthy, has_hits, "open exits")
            first = live(store)
            assert share_wrong(model, store, first.version, SHIFTS[shift]) > 0.2

            # The stream shifts: the trainer publishes a version without exits, the worker takes it up.
            shifted = stream.feed_until(
                SHIFTS[shift],
                lambda _: live(store).reason == "unsafe" and worker.said("(no exit open)"),
                "closed exits",
            )
            closing = live(store)
            assert closing.exits == ()
            left = store.load(closing.predecessor or "")[0]  # "first", or a better one that came meanwhile
            assert len(stream.wrong(shifted)) < 100 / left.audit_rate  # none, where audits came first
            answers = stream.feed(SHIFTS[shift])
            assert not has_hits(answers)
            assert stream.wrong(answers) == []

            # The trainer learns the new stream, and opens what it can certify there.
            stream.feed_until(SHIFTS[shift], has_hits, "exits that open again")
            second = live(store)
            assert second.certificate is not None
            answers = stream.feed(SHIFTS[shift]) + stream.feed(SHIFTS[shift])
            assert has_hits(answers)
            assert len(stream.wrong(answers)) <= 2 * 0.05 * len(answers)
            trainer.kill()
            trainer.wait(30)

        # Nobody but the worker is left to notice the next shift.
        second = live(store)
        worker.wait_for(f"serving heads {second.version}")
        assert share_wrong(model, store, second.version, SHIFTS[next_shift]) > 0.2
        shifted = stream.feed_until(
            SHIFTS[next_shift], lambda _: worker.said(f"heads {second.version} exceed their budget"), "an alarm"
        )
        assert len(stream.wrong(shifted)) < 100 / second.audit_rate
        answers = stream.feed(SHIFTS[next_shift])
        assert not has_hits(answers)
        assert stream.wrong(answers) == []
        assert store.latest() == second.version
        assert "layercache_exits_closed 1.0" in worker.metrics()

        # Every frame was answered, and once.
        assert sorted(int(one.id) for one in reader.predictions()) == list(range(len(stream.sent)))
        assert worker.stop() == 0
