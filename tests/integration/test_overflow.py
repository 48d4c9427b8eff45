"""A trainer or a producer that cannot keep up gets fewer misses; no frame waits for it, and no audit is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from layercache.schemas import distillation
from layercache.schemas.distillation import DistillationBatch
from layercache.schemas.settings import Settings
from testbed.waiting import wait_until
from testbed.worker_process import Picture, Reader, WorkerProcess, publish, reading, running_worker
from tests.support.heads import publish_heads
from tests.support.pictures import coloured, encode

pytestmark = [pytest.mark.one_broker, pytest.mark.slow]

SENT_AT_A_TIME = 100
SHARE, HELD_BACK = "layercache_distillation_share", "layercache_distillation_held_back_total"
Position = tuple[int, int]


@pytest.fixture
def settings(worker_settings: Settings) -> Settings:
    """Of a worker whose trainer may be half a second behind, and is not there."""
    worker = worker_settings.worker.model_copy(update={"metrics_port": 0, "distillation_max_lag_s": 0.5})
    trainer = worker_settings.trainer.model_copy(update={"group_id": f"of-{worker.group_id}", "checkpoint_s": 0.1})
    return worker_settings.model_copy(update={"worker": worker, "trainer": trainer})


class Stream:
    """Sends frames, and reads what comes of them."""

    def __init__(self, settings: Settings, predictions: Reader, records: Reader) -> None:
        self.sent = 0
        self._settings = settings
        self._predictions = predictions
        self._records = records
        self._picture = encode(coloured("red"), "PNG")

    def send(self) -> None:
        """A hundred frames more, and waits for all answers."""
        publish(self._settings, [Picture(self._picture) for _ in range(SENT_AT_A_TIME)])
        self.sent += SENT_AT_A_TIME
        self._predictions.read_until(lambda: len(self._predictions.messages) >= self.sent, "an answer to each")

    def audited(self) -> set[Position]:
        """Which frames were answered as audits; asserts that each frame was answered once."""
        answers = self._predictions.predictions()
        assert len({(one.partition, one.offset) for one in answers}) == len(answers) == self.sent
        return {(one.partition, one.offset) for one in answers if one.audited}

    def taught(self) -> list[DistillationBatch]:
        """All records of the distillation topic, once those of all audits are there."""
        expected = self.audited()
        self._records.read_until(lambda: expected <= positions(self._decoded(), audits=True), "all audits")
        records = self._decoded()
        assert positions(records, audits=True) == expected
        return records

    def _decoded(self) -> list[DistillationBatch]:
        return [distillation.decode(message.value() or b"") for message in self._records.messages]


def positions(records: list[DistillationBatch], audits: bool) -> set[Position]:
    """Of the audits, or of the misses."""
    return {
        (int(partition), int(offset))
        for record in records
        for partition, offset, audit in zip(record.partition, record.offset, record.audit, strict=True)
        if bool(audit) == audits
    }


@contextmanager
def streaming(settings: Settings, folder: Path) -> Iterator[tuple[WorkerProcess, Stream]]:
    """A worker at work."""
    with (
        running_worker(settings, folder) as worker,
        reading(settings, settings.topics.predictions) as predictions,
        reading(settings, settings.topics.distillation) as records,
    ):
        yield worker, Stream(settings, predictions, records)
        assert worker.stop() == 0


def metric(worker: WorkerProcess, name: str) -> float:
    """What Prometheus reads of one series, 0 where it is not there yet."""
    lines = (line.split() for line in worker.metrics().splitlines() if not line.startswith("#"))
    return next((float(value) for found, value in lines if found == name), 0.0)


def test_a_trainer_that_is_not_there_gets_all_audits_and_few_misses(settings: Settings, tmp_path: Path) -> None:
    publish_heads(settings, "v1", "red", audit_rate=0.2, threshold=1.1)
    with streaming(settings, tmp_path) as (worker, stream):
        worker.wait_for("serving heads v1")

        def share_is_low() -> bool:
            stream.send()
            return worker.said("the trainer is behind") and metric(worker, SHARE) <= 0.0625

        wait_until(share_is_low, "the share has fallen", 90)
        for _ in range(5):
            stream.send()
        records = stream.taught()
        assert min(record.header.miss_share for record in records) <= 0.0625
        # On a busy machine commits may be slow as well, and the producer be the one that is the furthest behind.
        held_back = sum(metric(worker, f'{HELD_BACK}{{why="{why}"}}') for why in ("trainer", "producer"))
        audits, misses = (positions(records, audits) for audits in (True, False))
        assert held_back == stream.sent - len(audits) - len(misses) > 300


def test_without_heads_fewer_frames_are_audited_until_the_trainer_has_caught_up(
    settings: Settings, tmp_path: Path
) -> None:
    # This trainer learns between two hundreds of frames only, which takes a busy machine a while.
    worker_section = settings.worker.model_copy(update={"distillation_max_lag_s": 2.0})
    settings = settings.model_copy(update={"worker": worker_section})
    with streaming(settings, tmp_path) as (worker, stream):

        def share() -> float:
            stream.send()
            return metric(worker, SHARE)

        wait_until(lambda: share() <= 0.0625, "the share has fallen", 90)
        for _ in range(5):
            stream.send()
        records = stream.taught()
        assert min(record.header.audit_rate for record in records) <= 0.0625
        assert len(stream.audited()) < stream.sent - 300
        trainer = Consumer(
            {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": settings.trainer.group_id}
            | settings.kafka.consumer_options
            | {"auto.offset.reset": "earliest"}
        )
        trainer.subscribe([settings.topics.distillation])

        def share_while_the_trainer_learns() -> float:
            for message in trainer.consume(500, 0.2):
                trainer.commit(message=message, asynchronous=False)
            return share()

        try:
            lowest = min(share_while_the_trainer_learns() for _ in range(3))
            wait_until(lambda: share_while_the_trainer_learns() >= lowest + 0.1, "the share rises", 90)
            assert worker.said("the trainer keeps up again")
        finally:
            trainer.close()
        stream.taught()


def test_a_producer_whose_queue_is_full_is_given_fewer_misses(settings: Settings, tmp_path: Path) -> None:
    """A queue of one micro-batch's answers: what teaches finds it full each time, and waits.

    For as long as the producer lingers, so that it is a broker that takes its time, however quick this one is.
    """
    narrow = {"queue.buffering.max.messages": settings.worker.max_batch, "linger.ms": 50}
    patient = settings.worker.model_copy(update={"distillation_max_lag_s": 3600.0})
    settings = settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"producer_options": narrow}),
            "worker": patient,
        }
    )
    publish_heads(settings, "v1", "red", audit_rate=0.2, threshold=1.1)
    with streaming(settings, tmp_path) as (worker, stream):
        worker.wait_for("serving heads v1")

        def held_back() -> float:
            stream.send()
            return metric(worker, f'{HELD_BACK}{{why="producer"}}')

        wait_until(lambda: held_back() > 10, "misses held back for the producer", 120)
        records = stream.taught()
        assert min(record.header.miss_share for record in records) < 1
        assert metric(worker, f'{HELD_BACK}{{why="trainer"}}') == 0
