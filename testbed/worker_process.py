"""A real worker as a child process, frames for it, and readers of what it sends."""

import re
import signal
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from layercache.schemas.prediction import Prediction, decoder
from layercache.schemas.settings import Settings
from testbed.commands import Process, start, start_anew
from testbed.topics import partitions_of
from testbed.trainer_process import as_toml
from testbed.waiting import wait_until

_WORKING_ON = re.compile(r"working on \[(.*?)\]")


@dataclass
class WorkerProcess:
    """``layercache worker`` as it runs; its log is ``log``."""

    process: Process
    log: Path

    def said(self, text: str, times: int = 1) -> bool:
        """True once the log has ``text``, so many times at least."""
        return self.log.read_text().count(text) >= times

    def wait_for(self, text: str, seconds: float = 120.0, times: int = 1) -> None:
        """Waits until the log has ``text``, so many times at least since it began, or fails with the log."""
        try:
            wait_until(lambda: self.said(text, times) or self.process.poll() is not None, text, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; the log:\n{self.log.read_text()}") from None
        assert self.said(text, times), f"ended with {self.process.returncode} before {text!r}:\n{self.log.read_text()}"

    def has_partitions(self, at_least: int = 1) -> bool:
        """True if the log says last that it works on at least so many partitions."""
        *_, last = ["", *_WORKING_ON.findall(self.log.read_text())]
        return len(last.split(",")) >= at_least if last else False

    def metrics(self, path: str = "/metrics") -> str:
        """What Prometheus would read, or a probe; the settings must have a ``metrics_port``."""
        self.wait_for("metrics at ")
        url = self.log.read_text().split("metrics at ")[1].split()[0].replace("/metrics", path)
        with urllib.request.urlopen(url, timeout=10) as response:
            text: str = response.read().decode()
            return text

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signals, waits, and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def running_worker(
    settings: Settings, folder: Path, name: str = "worker", anew: bool = False, **hooks: object
) -> Iterator[WorkerProcess]:
    """`layercache worker` with these settings; killed at the end if it still runs. Log: ``<folder>/<name>.log``.

    It is a fork that has imported its libraries already, unless it is started ``anew``. ``hooks`` are what
    :mod:`testbed.dying_worker` reads from its environment, in lower case.
    """
    worker = start_worker(settings, folder, name, anew, **hooks)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait(60)


def start_worker(
    settings: Settings, folder: Path, name: str = "worker", anew: bool = False, **hooks: object
) -> WorkerProcess:
    """The same, for a caller that ends the worker itself."""
    config, log = folder / f"{name}.toml", folder / f"{name}.log"
    config.write_text(as_toml(settings))
    with log.open("ab") as output:
        if anew:
            assert not hooks, "only forks have doubles"
            return WorkerProcess(start_anew("worker", "--config", config, output=output), log)
        process = start(
            "worker", "--config", config, stdout=output, stderr=output,
            environment={hook.upper(): str(value) for hook, value in hooks.items()},
            doubles="testbed.dying_worker" if hooks else "",
        )  # fmt: skip
    return WorkerProcess(process, log)


@dataclass(frozen=True)
class Picture:
    """A frame to publish."""

    value: bytes | None
    content_type: str | None = None
    id: str | None = None
    key: str | None = None


def publish(settings: Settings, pictures: Iterable[Picture]) -> None:
    """Puts frames on the topic, in order."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "message.max.bytes": 5_000_000})
    for picture in pictures:
        headers: list[tuple[str, str | bytes | None]] = []
        if picture.content_type:
            headers.append(("content-type", picture.content_type))
        if picture.id:
            headers.append(("ce_id", picture.id))
        producer.produce(settings.topics.frames, picture.value, picture.key, headers=headers)
    assert producer.flush(30) == 0


class Reader:
    """Reads committed records of a topic from its beginning."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka.bootstrap_servers,
                "group.id": f"reader-{uuid.uuid4().hex[:8]}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.message.max.bytes": 6_000_000,
            }
        )
        # Without a group: on a slow machine the broker may expel a member, which would read everything twice.
        numbers = partitions_of(topic, self._consumer)
        self._consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers])
        self.messages: list[Message] = []

    def read(self, seconds: float = 0.2) -> None:
        """Reads the records that are there."""
        for message in self._consumer.consume(500, seconds):
            error = message.error()
            assert error is None, error
            self.messages.append(message)

    def read_until(self, enough: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        """Reads until ``enough``; fails, naming ``what``, if that takes too long."""
        deadline = time.monotonic() + seconds
        while not enough():
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what} ({len(self.messages)} were read)"
            self.read()

    def read_count(self, count: int, seconds: float = 120.0) -> list[Message]:
        """Reads until there are ``count`` records, and asserts that there are no more at that moment."""
        self.read_until(lambda: len(self.messages) >= count, f"{count} records", seconds)
        assert len(self.messages) == count
        return self.messages

    def predictions(self) -> list[Prediction]:
        """The records read so far, as predictions."""
        return [decoder.decode(message.value() or b"") for message in self.messages]

    def close(self) -> None:
        """Closes the consumer."""
        self._consumer.close()


@contextmanager
def reading(settings: Settings, topic: str) -> Iterator[Reader]:
    """A :class:`Reader` for the length of a block."""
    reader = Reader(settings, topic)
    try:
        yield reader
    finally:
        reader.close()
