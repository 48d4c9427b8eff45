"""``publish``, ``watch`` and ``topics create`` as a user runs them: as processes, on a broker."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from layercache.schemas import dead_letter, prediction
from layercache.schemas.dead_letter import Reason
from layercache.schemas.settings import Settings, Topics
from layercache.stream.kafka.following import follow
from testbed.commands import Command, run, start
from testbed.ports import free_ports
from testbed.topics import unique_topics
from testbed.trainer_process import as_toml
from testbed.waiting import wait_until
from testbed.worker_process import reading
from tests.conftest import Broker
from tests.schemas.test_published import PREDICTION

pytestmark = pytest.mark.one_broker


@pytest.fixture
def settings(broker: Broker, topics: Topics) -> Settings:
    return Settings(kafka=broker.kafka, topics=topics)


@pytest.fixture
def config(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "layercache.toml"
    path.write_text(as_toml(settings))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:03d}-bag.png").write_bytes(f"picture {number}".encode())
    return folder


@contextmanager
def started(folder: Path, *arguments: object) -> Iterator[tuple[Command, Path, Path]]:
    """The process, and the files of its standard output and error."""
    out, err = folder / "out", folder / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = start(*arguments, stdout=stdout, stderr=stderr)
    try:
        yield process, out, err
    finally:
        process.kill()
        process.wait(30)


def send(settings: Settings, topic: str, values: list[bytes], headers: list[tuple[str, bytes]] | None = None) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for value in values:
        producer.produce(topic, value, headers=list(headers or []))
    assert producer.flush(30) == 0


def value_of(message: Message) -> bytes:
    assert message.error() is None
    return message.value() or b""


def answers(count: int, exit_name: str = "layer2") -> list[bytes]:
    return [
        prediction.encoder.encode(msgspec.structs.replace(PREDICTION, id=f"{number:03d}.png", exit=exit_name))
        for number in range(count)
    ]


def test_publish_delivers_a_folder_and_says_so(settings: Settings, config: Path, photos: Path) -> None:
    done = run("publish", photos, "--config", config, "--label-pattern", r"-(\w+)\.png")
    assert done.returncode == 0, done.stderr
    assert f"20 frames published to {settings.topics.frames} in " in done.stderr
    with reading(settings, settings.topics.frames) as reader:
        found = reader.read_count(20)
    assert {message.value() for message in found} == {f"picture {number}".encode() for number in range(20)}
    assert {dict(message.headers() or [])["label"] for message in found} == {b"bag"}


def test_ctrl_c_delivers_what_is_queued_and_ends_with_130(
    settings: Settings, config: Path, photos: Path, tmp_path: Path
) -> None:
    with (
        started(tmp_path, "publish", photos, "--config", config, "--loop", "--rate", 50) as (process, _, err),
        reading(settings, settings.topics.frames) as reader,
    ):
        reader.read_until(lambda: len(reader.messages) >= 30, "30 frames")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        published = int(err.read_text().splitlines()[-1].split(" frames published")[0].replace(",", ""))
        assert published >= 30
        reader.read_until(lambda: len(reader.messages) >= published, f"{published} frames")
        reader.read()
        assert len(reader.messages) == published


def test_a_picture_that_is_too_large_is_named_and_the_exit_code_is_1(
    settings: Settings, config: Path, photos: Path
) -> None:
    (photos / "huge.png").write_bytes(bytes(settings.topics.max_record_bytes + 1))
    done = run("publish", photos, "--config", config)
    assert done.returncode == 1
    assert "20 frames published" in done.stderr
    assert "huge.png: skipped: 5,000,001 bytes, over the 5,000,000 of topics.max_record_bytes" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["absent"], 2, "absent: there is no such file or folder"),
        (["webcam:87"], 2, "there is no /dev/video87"),
        ([".", "--label-pattern", "("], 2, "not a regular expression"),
        ([".", "--label-pattern", "a"], 2, "needs one around the label"),
        ([".", "--rate", "0"], 2, "--rate"),
        ([".", "--limit", "-1"], 2, "--limit"),
    ],
)
def test_wrong_usage_of_publish_says_what_is_wrong(arguments: list[str], code: int, said: str) -> None:
    done = run("publish", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["publish", "{photos}"], ["watch"], ["topics", "create", "--wait", "1"]])
def test_without_a_broker_a_command_says_what_to_check(command: list[str], photos: Path) -> None:
    (port,) = free_ports(1)
    done = run(*(part.format(photos=photos) for part in command), "--bootstrap", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"error: no answer from Kafka at 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["publish", "{photos}"], ["watch"], ["watch", "--dead-letters"]])
def test_without_the_topic_a_command_says_how_to_create_it(
    command: list[str], embedded_broker: Broker, photos: Path
) -> None:
    done = run(
        *(part.format(photos=photos) for part in command),
        *("--bootstrap", embedded_broker.bootstrap_servers),
        *("--topic", unique_topics().frames),
    )
    assert done.returncode == 1
    assert "create the topics with `layercache topics create`" in done.stderr


def test_watch_json_gives_every_prediction_as_it_is(settings: Settings, config: Path) -> None:
    sent = answers(10)
    send(settings, settings.topics.predictions, sent)
    done = run("watch", "--config", config, "--json", "--from-beginning", "--limit", 10)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.encode().splitlines()) == sorted(sent)


def test_watch_begins_at_the_end_and_ctrl_c_ends_it_with_130(settings: Settings, config: Path, tmp_path: Path) -> None:
    for early in answers(5, "early"):  # one by one: the embedded broker knows the end of a topic only up to a batch
        send(settings, settings.topics.predictions, [early])
    with started(tmp_path, "watch", "--config", config) as (process, out, err):
        wait_until(lambda: "watching" in err.read_text(), "watch says that it watches")
        send(settings, settings.topics.predictions, answers(3))
        wait_until(lambda: len(out.read_text().splitlines()) >= 3, "three lines")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        lines = sorted(out.read_text().splitlines())
    assert lines == [f"{number:03d}.png\t8\tBag\t0.980\tlayer2\taudited" for number in range(3)]


@pytest.mark.parametrize("broker", ["apache"], indirect=True)  # the embedded one adds no partitions
def test_partitions_that_are_added_are_seen_and_nothing_twice(settings: Settings, broker: Broker) -> None:
    topic, stop = settings.topics.predictions, threading.Event()
    send(settings, topic, [b"before"])
    following = follow(settings, topic, stop, from_beginning=True, partitions_every_s=0.2)
    seen = [value_of(next(message for message in following if message is not None))]

    partitions = settings.topics.partitions + 1
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    (created,) = admin.create_partitions([NewPartitions(topic, partitions)]).values()
    created.result(30)
    wait_until(lambda: len(admin.list_topics(topic, timeout=10).topics[topic].partitions) == partitions, "a partition")
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for number in range(partitions):
        producer.produce(topic, f"into {number}".encode(), partition=number)
    assert producer.flush(30) == 0

    deadline = time.monotonic() + 60
    while len(seen) <= partitions and time.monotonic() < deadline:
        if (message := next(following)) is not None:
            seen.append(value_of(message))
    producer.produce(topic, b"last", partition=0)  # what is read a second time comes before it
    assert producer.flush(30) == 0
    while seen[-1] != b"last" and time.monotonic() < deadline:
        if (message := next(following)) is not None:
            seen.append(value_of(message))
    stop.set()
    assert list(following) == []
    assert (seen[0], seen[-1]) == (b"before", b"last")
    assert sorted(seen[1:-1]) == [f"into {number}".encode() for number in range(partitions)]


def test_watch_leaves_out_what_is_no_prediction(settings: Settings, config: Path) -> None:
    send(settings, settings.topics.predictions, [b"\xff", b"{}", *answers(2)])
    done = run("watch", "--config", config, "--json", "--from-beginning", "--limit", 2)
    assert done.returncode == 0
    assert {json.loads(line)["id"] for line in done.stdout.splitlines()} == {"000.png", "001.png"}


def test_watch_ends_quietly_when_its_reader_has_enough(settings: Settings, config: Path) -> None:
    send(settings, settings.topics.predictions, answers(500))
    command = f"{sys.executable} -m layercache watch --config {config} --json --from-beginning"
    done = subprocess.run(  # a process as a shell starts it: what comes after its last line is Python's
        ["bash", "-c", f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_watch_on_a_terminal_shows_a_table_and_the_hit_rate(settings: Settings, config: Path) -> None:
    send(settings, settings.topics.predictions, answers(3) + answers(1, "full"))
    ours, theirs = pty.openpty()
    with Path(os.devnull).open("wb") as nowhere:
        process = start(
            "watch", "--config", config, "--from-beginning", "--limit", 4,
            stdout=theirs, stderr=nowhere, environment={"COLUMNS": "140", "TERM": "xterm"},
        )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65_536)
        except OSError:  # the terminal's other end is closed
            break
    os.close(ours)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "4 predictions" in text
    assert "hit rate 75.0%" in text
    assert "layer2 3, full 1" in text
    assert "002.png" in text


def test_watch_shows_dead_letters_with_their_reasons(settings: Settings, config: Path) -> None:
    headers = [("ce_id", b"cat.jpg"), *dead_letter.headers(Reason.CORRUPT, "ends after 17 bytes", "frames", 3, 17)]
    send(settings, settings.topics.dead_letters, [b"\xff\xd8"], headers)
    arguments = ("watch", "--config", config, "--dead-letters", "--from-beginning", "--limit", 1)
    assert run(*arguments).stdout == "cat.jpg\tcorrupt\tends after 17 bytes\n"
    assert json.loads(run(*arguments, "--json").stdout) == {
        "id": "cat.jpg",
        "topic": "frames",
        "partition": 3,
        "offset": 17,
        "reason": "corrupt",
        "message": "ends after 17 bytes",
    }


def test_topics_are_created_and_at_once_there_for_publish(broker: Broker, tmp_path: Path, photos: Path) -> None:
    config = tmp_path / "new.toml"
    config.write_text(as_toml(Settings(kafka=broker.kafka, topics=unique_topics())))
    done = run("topics", "create", "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    assert [topic["created"] for topic in json.loads(done.stdout)] == [True] * 4
    assert run("publish", photos, "--config", config).returncode == 0
    again = run("topics", "create", "--config", config, "--partitions", 5)
    assert again.returncode == 0
    assert again.stdout.count("exists") == 4
    assert again.stderr.count("the settings ask for 5") == 3


def test_an_option_that_librdkafka_does_not_know_is_told_without_a_traceback(photos: Path) -> None:
    done = run("publish", photos, "-X", "no.such.option=1")
    assert done.returncode == 1
    assert "no.such.option" in done.stderr
    assert "Traceback" not in done.stderr
