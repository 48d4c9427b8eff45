"""No frame stops the frames behind it, whatever is in it; a model that fails at everything stops the worker."""

import hashlib
import signal
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from layercache.schemas.dead_letter import DeadLetterHeaders, Reason
from layercache.schemas.settings import Settings
from testbed.waiting import wait_until
from testbed.worker_process import Picture, Reader, WorkerProcess, publish, reading, running_worker
from tests.support import fragile_model
from tests.support.fragile_model import BLACK, GREY, WHITE
from tests.support.odd_headers import NotUtf8, publish_with_headers
from tests.support.pictures import coloured, encode

pytestmark = pytest.mark.one_broker

BROKEN_2_MB = b"\xff\xd8\xff\xe0" + hashlib.shake_256(b"no picture").digest(2_000_000).replace(b"\xff", b"\x00")


@pytest.fixture
def settings(worker_settings: Settings, tmp_path: Path) -> Settings:
    """A worker whose model fails at some pictures."""
    model = fragile_model.write(tmp_path / "fragile").settings
    return worker_settings.model_copy(
        update={"model": model, "worker": worker_settings.worker.model_copy(update={"max_frame_bytes": 5_000_000})}
    )


def good(name: str) -> Picture:
    return Picture(encode(coloured("green"), "PNG"), id=name, key="camera")


def limit_records(settings: Settings, topic: str, max_bytes: int) -> None:
    """As a topic is that somebody created without saying how large its records may be."""
    entry = ConfigEntry("max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for altered in client.incremental_alter_configs([resource]).values():
        altered.result(30)


def committed(settings: Settings) -> list[int]:
    """The group's offsets of the frames' partitions; below 0 where there are none."""
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": settings.worker.group_id})
    try:
        partitions = [TopicPartition(settings.topics.frames, number) for number in range(settings.topics.partitions)]
        return [found.offset for found in consumer.committed(partitions, 30)]
    finally:
        consumer.close()


def test_poison_among_good_frames_is_a_dead_letter_and_all_others_are_answered(
    settings: Settings, tmp_path: Path
) -> None:
    limit_records(settings, settings.topics.dead_letters, 1_048_588)
    poison = {
        "model-failed": encode(WHITE, "PNG"),
        "not-finite": encode(BLACK, "PNG"),
        "corrupt": BROKEN_2_MB,
    }
    pictures = [good("0")]
    for number, (reason, value) in enumerate(poison.items(), 1):
        pictures += [Picture(value, id=reason, key="camera"), good(str(number))]
    publish(settings, pictures)
    servers, png = settings.kafka.bootstrap_servers, encode(coloured("green"), "PNG")
    publish_with_headers(servers, settings.topics.frames, png, [[("ce_id", b"odd"), (NotUtf8("x"), b"1")]])
    publish(settings, [good("4")])
    with running_worker(settings, tmp_path) as worker:
        with reading(settings, settings.topics.predictions) as reader:
            reader.read_count(6)
            names = [one.id for one in reader.predictions()]
            assert [name for name in names if name != "odd"] == ["0", "1", "2", "3", "4"], "in order"
            assert "odd" in names
            assert {one.class_name for one in reader.predictions()} == {"green"}
        with reading(settings, settings.topics.dead_letters) as letters:
            for message, (reason, value) in zip(letters.read_count(3), poison.items(), strict=True):
                told = DeadLetterHeaders.read(message.headers())  # type: ignore[arg-type]
                assert told.reason.value == reason
                if reason == "corrupt":
                    assert message.value() is None
                    assert (told.size, told.sha256) == ("2000004", hashlib.sha256(value).hexdigest())
                else:
                    assert (message.value(), told.size) == (value, None)
        assert worker.stop() == 0
        assert worker.said("takes records of 1,048,588 bytes at most")
        assert not worker.said("Traceback")


@pytest.mark.parametrize("broker", ["apache"], indirect=True)  # the embedded one refuses no record for its size
def test_a_dead_letter_that_the_broker_refuses_goes_without_its_value(settings: Settings, tmp_path: Path) -> None:
    with running_worker(settings, tmp_path) as worker:
        worker.wait_for("assigned partitions")
        limit_records(settings, settings.topics.dead_letters, 1_048_588)  # after the worker has asked
        publish(settings, [good("0"), Picture(BROKEN_2_MB, id="large", key="camera"), good("1")])
        with reading(settings, settings.topics.dead_letters) as letters:
            (message,) = letters.read_count(1)
            assert message.value() is None
        with reading(settings, settings.topics.predictions) as reader:
            reader.read_count(2)
            assert [one.id for one in reader.predictions()] == ["0", "1"]
        assert worker.stop() == 0


def test_a_model_that_fails_at_everything_ends_the_worker_with_nothing_committed(
    settings: Settings, tmp_path: Path
) -> None:
    with running_worker(settings, tmp_path) as worker:
        worker.wait_for("assigned partitions")
        (tmp_path / "fragile" / "broken").touch()
        publish(settings, [good(str(number)) for number in range(20)])
        assert worker.process.wait(60) == 1
        assert worker.said("the model fails at all of ")
        assert worker.said("ValueError: the weights are gone; it did so 3 times, and nothing of these frames was")
        assert not worker.said("Traceback")
    assert max(committed(settings)) <= 0, "where the worker began, at most"
    (tmp_path / "fragile" / "broken").unlink()
    with (
        running_worker(settings, tmp_path, "again") as worker,
        reading(settings, settings.topics.predictions) as reader,
    ):
        reader.read_count(20)
        assert worker.stop() == 0


def test_a_worker_that_is_stopped_in_a_slow_batch_ends_in_time_and_others_read_its_frames(
    settings: Settings, tmp_path: Path
) -> None:
    with running_worker(settings, tmp_path) as worker:
        worker.wait_for("assigned partitions")
        (tmp_path / "fragile" / "slow").touch()
        publish(settings, [good("0")])
        worker.wait_for("takes for ever")
        assert worker.stop() == 3
        assert worker.said("stopped while 1 frames were still being answered")
    assert max(committed(settings)) <= 0, "where the worker began, at most"
    (tmp_path / "fragile" / "slow").unlink()
    with running_worker(settings, tmp_path, "heir") as worker, reading(settings, settings.topics.predictions) as reader:
        reader.read_count(1)
        assert worker.stop() == 0


def ended_or_told(worker: WorkerProcess, letters: Reader) -> bool:
    letters.read()
    return bool(letters.messages) or worker.process.poll() is not None


@pytest.mark.faults
def test_a_frame_that_ends_processes_is_given_up_after_five_and_all_others_are_answered(
    settings: Settings, tmp_path: Path
) -> None:
    publish(settings, [good("0"), good("1")])
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        reader.read_count(2)
        wait_until(lambda: sum(max(0, one) for one in committed(settings)) == 2, "both are committed")
        publish(settings, [good("2"), Picture(encode(GREY, "PNG"), id="deadly", key="camera"), good("3")])
        assert worker.process.wait(60) == -signal.SIGSEGV
    ended = 1
    with reading(settings, settings.topics.dead_letters) as letters:
        while not letters.messages:
            with running_worker(settings, tmp_path, f"heir-{ended}") as worker:
                wait_until(lambda: ended_or_told(worker, letters), "an end")
                if worker.process.poll() is not None:
                    assert worker.process.returncode == -signal.SIGSEGV
                    ended += 1
                else:
                    with reading(settings, settings.topics.predictions) as reader:
                        reader.read_count(4)
                        assert [one.id for one in reader.predictions()] == ["0", "1", "2", "3"]
                    assert worker.stop() == 0
        told = DeadLetterHeaders.read(letters.messages[0].headers())  # type: ignore[arg-type]
        assert (told.reason, letters.messages[0].value()) == (Reason.CRASHED_WORKER, encode(GREY, "PNG"))
    assert ended <= 5
