"""Workers are killed in mid-stream; a reader of committed records still sees one answer per frame."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from layercache.schemas.settings import Settings, Store, Worker
from testbed.topics import create_topics, unique_topics
from testbed.worker_process import Picture, Reader, WorkerProcess, publish, reading, start_worker
from tests.conftest import Broker
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES, TinyModel

pytestmark = pytest.mark.faults

KILLS = 4
SEED = 3
#: Every so often a frame that nobody can read: dead letters are answers too.
BAD_EVERY = 7
#: A kill comes once so many frames, at most, were answered since the worker before was up again.
FRAMES_BETWEEN = 600
DEADLINE_S = 240.0

SHOWN = {colour: encode(coloured(colour), "JPEG") for colour in CLASSES}


class Stream:
    """Numbered frames (n shows colour n mod 3) in ten streams, published in bursts while their answers are read."""

    def __init__(self, settings: Settings, dice: random.Random, reader: Reader, workers: list[WorkerProcess]) -> None:
        self._settings = settings
        self._dice = dice
        self._reader = reader
        self._workers = workers
        self._deadline = time.monotonic() + DEADLINE_S
        self.published = 0

    @property
    def answerable(self) -> list[int]:
        return [number for number in range(self.published) if number % BAD_EVERY]

    def publish(self, count: int) -> None:
        numbers = range(self.published, self.published + count)
        publish(self._settings, [picture(number) for number in numbers])
        self.published += count

    def flow_until_up(self) -> None:
        """Publishes at random intervals until every worker is at work."""
        while not all(worker.said("working on") for worker in self._workers):
            self._step("all workers at work")

    def flow_for(self, answers: int) -> None:
        """Publishes at random intervals until so many more were answered."""
        wanted = len(self._reader.messages) + answers
        while len(self._reader.messages) < wanted:
            self._step(f"{wanted} answers")

    def _step(self, what: str) -> None:
        self.publish(self._dice.randrange(5, 60))
        self._reader.read(self._dice.uniform(0.01, 0.1))
        logs = "\n".join(f"{one.log.name}:\n{one.log.read_text()[-2_000:]}" for one in self._workers)
        assert all(one.process.poll() is None for one in self._workers), f"a worker ended by itself:\n{logs}"
        assert time.monotonic() < self._deadline, f"no {what}; {len(self._reader.messages)} were read:\n{logs}"


def picture(number: int) -> Picture:
    value = SHOWN[CLASSES[number % 3]] if number % BAD_EVERY else b"no picture"
    return Picture(value, id=str(number), key=f"camera-{number % 10}")


def test_a_killed_worker_loses_and_repeats_nothing(apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    topics = create_topics(apache_kafka.bootstrap_servers, unique_topics(partitions=4))
    settings = Settings(
        kafka=apache_kafka.kafka,
        topics=topics,
        model=tiny_model.settings,
        store=Store(url=f"file://{tmp_path}/heads"),
        worker=Worker(group_id=topics.frames, torch_threads=1, max_batch=8, commit_interval_ms=100),
    )
    workers = [start_worker(settings, tmp_path, f"worker-{index}") for index in range(2)]
    try:
        with reading(settings, topics.predictions) as reader, reading(settings, topics.dead_letters) as letters:
            stream = Stream(settings, dice, reader, workers)
            for kill in range(KILLS):
                stream.flow_until_up()
                stream.flow_for(dice.randrange(1, FRAMES_BETWEEN))
                victim = dice.randrange(2)
                workers[victim].process.kill()
                assert workers[victim].process.wait(30) == -9
                workers[victim] = start_worker(settings, tmp_path, f"worker-{victim}-after-kill-{kill}")
            stream.flow_until_up()
            stream.flow_for(FRAMES_BETWEEN)

            bad = [number for number in range(stream.published) if number % BAD_EVERY == 0]
            reader.read_until(lambda: len(reader.messages) >= len(stream.answerable), "an answer to every frame")
            letters.read_until(lambda: len(letters.messages) >= len(bad), "a letter for every bad frame")
            for worker in workers:
                assert worker.stop() == 0, worker.log.read_text()
            reader.read(2.0)
            letters.read(2.0)

            answers = reader.predictions()
            counts = Counter(int(one.id) for one in answers)
            places = [(message.partition(), message.offset()) for message in reader.messages]
            twice = [pair for pair in zip(answers, places, strict=True) if counts[int(pair[0].id)] > 1]
            assert not twice
            assert sorted(counts) == stream.answerable
            assert not [one for one in answers if one.class_name != CLASSES[int(one.id) % 3]]
            refused = Counter(dict(message.headers() or [])["ce_id"] for message in letters.messages)
            assert refused == {str(number).encode(): 1 for number in bad}
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait(30)
