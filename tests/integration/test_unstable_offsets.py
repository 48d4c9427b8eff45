"""Killed while committing, with joins inside the window: every frame is answered once, wherever the heirs begin.

librdkafka gives up asking for a committed offset that a transaction still covers as soon as the assignment changes, and
begins where ``auto.offset.reset`` says (docs/exactly-once.md). Each test failed before workers asked for themselves.
"""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import Producer

from layercache.schemas.settings import Kafka, Settings, Store, Worker
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from testbed.worker_process import Picture, Reader, publish, reading, running_worker
from tests.conftest import Broker
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import TinyModel

RED = encode(coloured("red"), "PNG")
#: Longer than a test takes: the dead worker's transaction stays open until the test has it aborted.
TRANSACTION_MS = 120_000
PARTITIONS = 4


def numbered(numbers: range) -> list[Picture]:
    return [Picture(RED, id=str(number), key=f"camera-{number % 20}") for number in numbers]


def warm_up(settings: Settings, reader: Reader) -> None:
    """Until each partition has an answer: with ``latest``, what comes before a worker has begun there is not read."""
    partitions = set(range(settings.topics.partitions))
    while {one.partition for one in reader.predictions()} != partitions:
        publish(settings, [Picture(RED, id="warm-up", key=f"camera-{number}") for number in range(20)])
        reader.read(0.2)


def answers(reader: Reader) -> Counter[int]:
    """How many there are for each numbered frame."""
    return Counter(int(one.id) for one in reader.predictions() if one.id != "warm-up")


def abort_transaction_of(name: str, settings: Settings) -> None:
    """As the broker does once the transaction has timed out."""
    transactional_id = f"{settings.worker.group_id}-{name}"
    heir = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "transactional.id": transactional_id})
    heir.init_transactions(30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "reset"), [("classic", "earliest"), ("classic", "latest"), ("consumer", "earliest")]
)
def test_killed_while_committing_with_a_join_in_the_window(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path, protocol: str, reset: str
) -> None:
    """One dies between ``send_offsets_to_transaction`` and ``commit_transaction``; as its heir waits another joins."""
    topics = create_topics(apache_kafka.bootstrap_servers, unique_topics(PARTITIONS))
    options = apache_kafka.kafka.consumer_options | {"auto.offset.reset": reset}
    settings = Settings(
        kafka=Kafka(bootstrap_servers=apache_kafka.bootstrap_servers, consumer_options=options), topics=topics,
        model=tiny_model.settings, store=Store(url=f"file://{tmp_path}/heads"),
        worker=Worker(
            group_id=topics.frames, torch_threads=1, max_batch=8, transaction_timeout_ms=TRANSACTION_MS,
            group_protocol=protocol,
        ),
    )  # fmt: skip
    named = settings.model_copy(update={"worker": settings.worker.model_copy(update={"worker_id": "dying"})})
    die, join, join_too = tmp_path / "die", tmp_path / "join", tmp_path / "join-too"
    with ExitStack() as stack:
        reader = stack.enter_context(reading(settings, topics.predictions))
        dying = stack.enter_context(running_worker(named, tmp_path, "dying", die=die, die_with=PARTITIONS))
        heir = stack.enter_context(running_worker(settings, tmp_path, "heir", join=join))
        third = stack.enter_context(running_worker(settings, tmp_path, "third", join=join_too))
        warm_up(settings, reader)
        publish(settings, numbered(range(100)))
        reader.read_until(lambda: len(answers(reader)) == 100, "the first answers")
        heir.wait_for("ready to join")
        third.wait_for("ready to join")
        die.touch()
        sent = 100
        while dying.process.poll() is None:
            publish(settings, numbered(range(sent, sent + 20)))
            sent += 20
            assert sent < 4_000, f"it does not die:\n{dying.log.read_text()}"
            reader.read(0.1)
        # The heir gets all partitions, none of them stable, and keeps some when the third one joins.
        join.touch()
        wait_until(lambda: heir.has_partitions(PARTITIONS), "the heir has all partitions")
        join_too.touch()
        wait_until(third.has_partitions, "the third has some")
        publish(settings, numbered(range(sent, sent + 20)))
        sent += 20
        reader.read(2.0)  # who does not know where to begin answers wrongly now, not later
        abort_transaction_of("dying", settings)
        reader.read_until(lambda: len(set(answers(reader))) >= sent, f"{sent} answers", 60)
        reader.read(1.0)
        assert answers(reader) == dict.fromkeys(range(sent), 1)
        assert (heir.stop(), third.stop()) == (0, 0)
