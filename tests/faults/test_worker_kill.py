"""Workers are killed in mid-stream; a reader of committed records still sees one answer per frame."""

import random
import time
from collections import Counter
from pathlib import Path

from schemas.settings import Settings, Store, Worker
from tests.conftest import Broker
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES, TinyModel
from tests.support.topics import create_topics, unique_topics
from tests.support.worker_process import Picture, WorkerProcess, publish, reading, start_worker

FRAMES = 4_000
KILLS = 3
SEED = 3

#: Every so often a frame that nobody can read: dead letters are answers too.
BAD_EVERY = 50


def pictures(first: int, count: int) -> list[Picture]:
    """Numbered frames: number n shows colour n mod 3, in ten streams."""
    found = []
    for number in range(first, first + count):
        value = b"no picture" if number % BAD_EVERY == 0 else SHOWN[CLASSES[number % 3]]
        found.append(Picture(value, id=str(number), key=f"camera-{number % 10}"))
    return found


SHOWN = {colour: encode(coloured(colour), "JPEG") for colour in CLASSES}


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
            published = 0

            def stream_until(answers: int) -> None:
                """Publishes in bursts of random length while it reads, so that kills meet a stream under way."""
                nonlocal published
                deadline = time.monotonic() + 200
                while len(reader.messages) < answers:
                    if published < FRAMES:
                        burst = min(dice.randrange(20, 120), FRAMES - published)
                        publish(settings, pictures(published, burst))
                        published += burst
                    reader.read(dice.uniform(0.01, 0.1))
                    assert time.monotonic() < deadline, f"{len(reader.messages)} of {answers} answers:\n{logs(workers)}"

            total = FRAMES - len(range(0, FRAMES, BAD_EVERY))
            for kill in range(KILLS):
                stream_until((kill + 1) * total // (KILLS + 2) + dice.randrange(100))
                victim = dice.randrange(2)
                workers[victim].process.kill()
                assert workers[victim].process.wait(30) == -9
                workers[victim] = start_worker(settings, tmp_path, f"worker-{victim}")
            stream_until(total)
            for worker in workers:
                worker.wait_for("working on")
                assert worker.stop() == 0, worker.log.read_text()
            letters.read_until(lambda: len(letters.messages) >= FRAMES - total, "all dead letters")
            reader.read(1.0)
            letters.read(1.0)

            answered = Counter(one.id for one in reader.predictions())
            wrong = [one for one in reader.predictions() if one.class_name != CLASSES[int(one.id) % 3]]
            refused = Counter(dict(message.headers() or [])["ce_id"] for message in letters.messages)
            assert set(answered.values()) == {1}
            assert not wrong
            assert sorted(map(int, answered)) == [n for n in range(FRAMES) if n % BAD_EVERY]
            assert refused == {str(n).encode(): 1 for n in range(0, FRAMES, BAD_EVERY)}
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait(30)


def logs(workers: list[WorkerProcess]) -> str:
    return "\n".join(f"{worker.log.name}:\n{worker.log.read_text()[-2_000:]}" for worker in workers)
