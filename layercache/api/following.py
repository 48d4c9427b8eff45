"""Predictions and dead letters into a program: iterators over a topic, and the answers to frames that wait for them."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Generic, Self, TypeVar

import msgspec
from confluent_kafka import Message

from layercache.schemas.prediction import Prediction, decoder
from layercache.schemas.settings import Settings
from layercache.stream.kafka.following import follow
from layercache.stream.watching import DeadLetter, read_dead_letter

log = logging.getLogger(__name__)

Item = TypeVar("Item")


class DeadLetterError(ValueError):
    """A frame that workers could not answer: ``dead_letter`` has its reason, the message says it for people."""

    def __init__(self, dead_letter: DeadLetter) -> None:
        super().__init__(f"frame {dead_letter.id} is a dead letter: {dead_letter.reason}: {dead_letter.message}")
        self.dead_letter = dead_letter


def read_prediction(message: Message) -> Prediction:
    """From a record of the predictions topic. Raises ``msgspec.MsgspecError`` where it is none."""
    return decoder.decode(message.value() or b"")


class Following(Generic[Item]):
    """An iterator over what comes on a topic from its creation on, or from the topic's beginning.

    Ends once nothing has come for ``idle_s`` seconds, where that is given, and by :meth:`close`, also from another
    thread. Records that cannot be read are logged and passed over. Raises :class:`KafkaUnusable` where the broker
    cannot be reached or has no such topic. ``read`` makes items of records.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        read: Callable[[Message], Item],
        from_beginning: bool = False,
        idle_s: float | None = None,
    ) -> None:
        self._topic = topic
        self._read = read
        self._idle_s = idle_s
        self._stop = threading.Event()
        self._messages = follow(settings, topic, self._stop, from_beginning)
        # The generator connects at its first step: nothing that is published from here on shall be missed.
        self._first = next(self._messages, None)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        quiet_since = time.monotonic()
        while True:
            message, self._first = self._first, None
            if message is None:
                message = next(self._messages)
            if message is not None:
                try:
                    return self._read(message)
                except msgspec.MsgspecError as error:
                    log.warning("%s-%s-%s is passed over: %s", *_position(message), error)
            elif self._idle_s is not None and time.monotonic() - quiet_since >= self._idle_s:
                self.close()

    def close(self) -> None:
        """Ends the iteration."""
        self._stop.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        # Called in the thread that iterates, so that the generator is not running now: the consumer leaves at once.
        self._messages.close()  # type: ignore[attr-defined]  # a generator


class Answers:
    """Gives frames that are waited for their predictions, or their dead letters as exceptions.

    A thread follows both topics from :meth:`start` on, which returns once every later record is sure to be seen.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[Prediction]] = {}
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Once is enough. Raises :class:`KafkaUnusable` where the topics cannot be followed."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="client-answers", daemon=True)
                self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def expect(self, frame: str) -> Future[Prediction]:
        """The answer to come to a frame of that id. Raises ``ValueError`` where one is waited for already."""
        future: Future[Prediction] = Future()
        with self._lock:
            if frame in self._waiting:
                raise ValueError(f"the answer to a frame {frame!r} is waited for already: give each an id of its own")
            self._waiting[frame] = future
        future.add_done_callback(lambda done: self._forget(frame))
        return future

    def fail(self, frame: str, error: BaseException) -> None:
        """There will be no answer to this frame."""
        self._settle(frame, error)

    def close(self) -> None:
        """Ends the thread; what is still waited for is cancelled."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for future in self._all():
            future.cancel()

    def _run(self) -> None:
        topics = self._settings.topics
        both = (topics.predictions, topics.dead_letters)
        try:
            for message in follow(self._settings, both, self._stop, ready=lambda _: self._ready.set()):
                if message is not None:
                    self._take(message)
        except Exception as error:  # raised wherever an answer is waited for
            self._failure = error
            for future in self._all():
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
        finally:
            self._ready.set()

    def _take(self, message: Message) -> None:
        try:
            if message.topic() == self._settings.topics.predictions:
                prediction = read_prediction(message)
                self._settle(prediction.id, prediction)
            else:
                letter = read_dead_letter(message)
                self._settle(letter.id, DeadLetterError(letter))
        except msgspec.MsgspecError as error:
            log.warning("%s-%s-%s is passed over: %s", *_position(message), error)

    def _settle(self, frame: str, outcome: Prediction | BaseException) -> None:
        with self._lock:
            future = self._waiting.get(frame)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Prediction):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    def _forget(self, frame: str) -> None:
        with self._lock:
            self._waiting.pop(frame, None)

    def _all(self) -> list[Future[Prediction]]:
        with self._lock:
            return list(self._waiting.values())


def _position(message: Message) -> tuple[str | None, int | None, int | None]:
    return message.topic(), message.partition(), message.offset()
