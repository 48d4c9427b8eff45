"""Workers whose transactions' ends arrive late, under a steady flow of frames: every frame is answered once."""

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from layercache.schemas.settings import Kafka, Settings, Store, Worker
from testbed.kafka_proxy import (
    ADD_OFFSETS_TO_TXN,
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    HeldRequest,
    KafkaProxy,
    ends,
    is_api,
)
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from testbed.worker_process import Picture, Reader, WorkerProcess, publish, reading, running_worker
from tests.conftest import Broker
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import TinyModel

pytestmark = pytest.mark.slow

RED = encode(coloured("red"), "PNG")
#: At once, at about 40 in a second.
FRAMES = 4


@dataclass
class Flow:
    """Frames that are published while the test waits for something, and a worker that answers them by the proxy."""

    settings: Settings
    worker: WorkerProcess
    reader: Reader
    proxy: KafkaProxy
    published: int = 0

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Publishes until ``condition`` holds."""

        def holds() -> bool:
            more = range(self.published, self.published + FRAMES)
            publish(self.settings, [Picture(RED, id=str(number), key=f"camera-{number % 10}") for number in more])
            self.published += FRAMES
            self.reader.read(0.1)
            return condition()

        wait_until(holds, what, 60)

    def let_arrive_late(self, held: HeldRequest) -> None:
        """Lets it go within the transaction that follows the one that it should have ended."""
        self.until(lambda: held.is_held, "an end that is held")
        assert held.request is not None
        at = list(self.proxy.seen).index(held.request)
        self.until(lambda: any(one.api == END_TXN for one in list(self.proxy.seen)[at + 1 :]), "the end once more")
        began = self.proxy.count(is_api(ADD_PARTITIONS_TO_TXN))
        self.until(lambda: self.proxy.count(is_api(ADD_PARTITIONS_TO_TXN)) > began, "the next transaction")
        held.release()

    def answered_once(self) -> None:
        """Waits for every frame's answer, and asserts that none has two."""
        self.reader.read_until(
            lambda: len({one.id for one in self.reader.predictions()}) >= self.published, "all answers", 60
        )
        self.reader.read(1.0)
        assert Counter(one.id for one in self.reader.predictions()) == {str(n): 1 for n in range(self.published)}


@contextmanager
def flow(broker: Broker, model: TinyModel, folder: Path, **worker: object) -> Iterator[Flow]:
    topics = create_topics(broker.bootstrap_servers, unique_topics(partitions=4))
    direct = Settings(kafka=broker.kafka, topics=topics)
    through = Settings(
        kafka=Kafka(bootstrap_servers=broker.detour_servers, consumer_options={"session.timeout.ms": 1_500}),
        topics=topics, model=model.settings, store=Store(url=f"file://{folder}/heads"),
        worker=Worker.model_validate({"group_id": topics.frames, "torch_threads": 1} | worker),
    )  # fmt: skip
    assert broker.proxy is not None
    with running_worker(through, folder) as process, reading(direct, topics.predictions) as reader:
        process.wait_for("assigned partitions")
        yield Flow(direct, process, reader, broker.proxy)
        assert process.stop() == 0


def test_late_commits_answer_no_frame_twice(apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path) -> None:
    with flow(apache_kafka, tiny_model, tmp_path) as going:
        for _ in range(3):
            going.let_arrive_late(going.proxy.hold(ends(commit=True), reset=True))
        going.answered_once()
        assert going.worker.said("the producer will be replaced")


def test_a_late_abort_of_a_worker_that_was_away_loses_no_frame(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """The group has thrown it out meanwhile, so it takes its transaction back when it goes on."""
    with flow(apache_kafka, tiny_model, tmp_path, commit_interval_ms=1_000) as going:

        def is_open() -> bool:
            latest = [one.api for one in going.proxy.seen if one.api in (ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN)]
            return latest[-1:] == [ADD_PARTITIONS_TO_TXN]

        group = going.settings.topics.frames
        client = AdminClient({"bootstrap.servers": going.settings.kafka.bootstrap_servers})

        def is_thrown_out() -> bool:
            return not client.describe_consumer_groups([group])[group].result(30).members

        while True:
            going.until(is_open, "an open transaction")
            going.worker.process.send_signal(signal.SIGSTOP)
            wait_until(is_thrown_out, "it is thrown out", 30)
            if is_open():
                break
            going.worker.process.send_signal(signal.SIGCONT)  # it had ended its transaction by the time it was stopped
        held = going.proxy.hold(ends(commit=False), reset=True)
        going.worker.process.send_signal(signal.SIGCONT)
        going.let_arrive_late(held)
        going.answered_once()
