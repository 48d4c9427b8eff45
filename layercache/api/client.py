"""A client of a running stack: frames in, predictions out, from one's own program."""

import uuid
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import datetime
from types import TracebackType
from typing import Self

from layercache.api.following import Answers, Following, read_prediction
from layercache.api.publishing import Publisher, PublishError, frame_headers
from layercache.api.values import Sendable, encoded
from layercache.schemas.prediction import Prediction
from layercache.schemas.settings import Settings, load
from layercache.stream.kafka.waiting import Deadline
from layercache.stream.publishing.publisher import PARTING_S
from layercache.stream.watching import DeadLetter, read_dead_letter

#: How long a call waits for room, and :meth:`Client.close` for what is queued, where the caller does not say.
PATIENCE_S = 60.0


class Client:
    """Publishes frames and reads what workers answer. Use it as a context manager, from as many threads as you like.

    ``where`` names the brokers, or holds the settings that workers have; without it the environment's
    ``LAYERCACHE_*`` variables and the defaults count. ``options`` are librdkafka's, for TLS and SASL. At most
    ``max_waiting`` frames wait, for the broker or for their answers; then calls that publish wait for room.

    Raises :class:`KafkaUnusable` where no broker answers within a few seconds, or the topics are not there.

    >>> import numpy as np
    >>> from layercache.broker import EmbeddedBroker
    >>> from layercache.stream.kafka.topics import create
    >>> with EmbeddedBroker() as broker:
    ...     _ = create(load(overrides={"kafka": {"bootstrap_servers": broker.bootstrap_servers}}))
    ...     with Client(broker.bootstrap_servers) as client:
    ...         client.publish(np.zeros((28, 28), np.uint8), key="camera-1", id="42")
    '42'
    """

    def __init__(
        self,
        where: str | Settings | None = None,
        *,
        options: Mapping[str, str | int | float | bool] | None = None,
        max_waiting: int = 1_000,
    ) -> None:
        if max_waiting < 1:
            raise ValueError(f"max_waiting must be at least 1, not {max_waiting}")
        self.settings = _settings(where, options)
        self._publisher = Publisher(self.settings, max_waiting)
        self._answers = Answers(self.settings)
        self._followings: weakref.WeakSet[Following[Prediction] | Following[DeadLetter]] = weakref.WeakSet()
        self._closed = False

    def publish(
        self,
        picture: Sendable,
        *,
        key: str | bytes | None = None,
        id: str | None = None,
        time: datetime | None = None,
        label: str | None = None,
        source: str | None = None,
        timeout: float = PATIENCE_S,
    ) -> str:
        """Hands a frame over and returns its id, the one given or a new UUID, by which its prediction is known.

        A picture is encoded bytes (JPEG, PNG, WebP, ``.npy``), the path of such a file, a PIL image (sent as PNG) or a
        uint8 array H x W or H x W x 3 (as ``.npy``). ``key`` says which camera it is from: frames of one key keep
        their order. ``time`` is when it was taken, with its zone; ``label`` the true answer, for evaluation only.

        It is on the topic once :meth:`flush` has returned; frames that the broker did not take raise
        :class:`PublishError` there, or at the next call. Raises ``ValueError`` for what is no picture or too large,
        ``TimeoutError`` where there is no room within ``timeout`` seconds.
        """
        self._check_open()
        self._publisher.raise_failures()
        frame = id or uuid.uuid4().hex

        def done(error: PublishError | None) -> None:
            self._publisher.free_slot()
            if error is not None:
                self._publisher.note(error)

        self._send(picture, frame, key, time, label, source, timeout, done)
        return frame

    def flush(self, timeout: float = PATIENCE_S) -> None:
        """Returns once all frames are on the topic.

        Raises :class:`PublishError` for those that the broker did not take, ``TimeoutError`` where some still wait
        after ``timeout`` seconds.
        """
        self._publisher.flush(timeout)

    def submit(
        self,
        picture: Sendable,
        *,
        key: str | bytes | None = None,
        id: str | None = None,
        time: datetime | None = None,
        label: str | None = None,
        source: str | None = None,
        timeout: float = PATIENCE_S,
    ) -> "Future[Prediction]":
        """Publishes a frame, as :meth:`publish` does, and returns the answer to come.

        Its ``result(timeout)`` returns the prediction, or raises :class:`DeadLetterError` where workers could not
        answer, :class:`PublishError` where the broker did not take the frame. A frame counts as waiting until then;
        ``cancel()`` gives up waiting for it.
        """
        self._check_open()
        self._answers.start()
        frame = id or uuid.uuid4().hex
        future = self._answers.expect(frame)

        def done(error: PublishError | None) -> None:
            if error is not None:
                self._answers.fail(frame, error)

        try:
            self._send(picture, frame, key, time, label, source, timeout, done)
        except BaseException:
            future.cancel()
            raise
        future.add_done_callback(lambda _: self._publisher.free_slot())
        return future

    def predict(
        self, picture: Sendable, *, key: str | bytes | None = None, id: str | None = None, timeout: float = 30.0
    ) -> Prediction:
        """Publishes a frame and waits for its prediction.

        Raises what :meth:`submit`'s future does, and ``TimeoutError`` where there is none after ``timeout`` seconds.
        """
        deadline = Deadline(timeout)
        future = self.submit(picture, key=key, id=id, timeout=timeout)
        try:
            return future.result(deadline.left())
        except FutureTimeoutError:
            future.cancel()
            raise TimeoutError(self.no_answer(timeout)) from None

    def predictions(self, *, from_beginning: bool = False, idle_s: float | None = None) -> Following[Prediction]:
        """All predictions from now on, also of frames that others published, or from the topic's beginning.

        An iterator, which ends by its ``close()``, with the client, and once nothing has come for ``idle_s`` seconds.
        Committed records alone; it joins no group, so that no other reader gets fewer.
        """
        self._check_open()
        following = Following(self.settings, self.settings.topics.predictions, read_prediction, from_beginning, idle_s)
        self._followings.add(following)
        return following

    def dead_letters(self, *, from_beginning: bool = False, idle_s: float | None = None) -> Following[DeadLetter]:
        """The frames that workers could not answer, with the reason, as :meth:`predictions`."""
        self._check_open()
        following = Following(
            self.settings, self.settings.topics.dead_letters, read_dead_letter, from_beginning, idle_s
        )
        self._followings.add(following)
        return following

    def close(self, timeout: float = PATIENCE_S) -> None:
        """Lets go out what is queued, for ``timeout`` seconds, then leaves: iterators end, answers still to come are
        cancelled.

        Raises :class:`PublishError` where frames were not taken.
        """
        if self._closed:
            return
        self._closed = True
        for following in list(self._followings):
            following.close()
        try:
            self._publisher.close(timeout)
        finally:
            self._answers.close()
        self._publisher.raise_failures()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close(PARTING_S)  # Ctrl-C, say: the user does not want to wait long
        except PublishError as failed:
            error.add_note(str(failed))

    def no_answer(self, seconds: float) -> str:
        """What to say where no answer came in time."""
        return (
            f"no answer within {seconds:g} s: is a worker running that reads {self.settings.topics.frames} at "
            f"{self.settings.kafka.bootstrap_servers}? `layercache doctor` looks"
        )

    def _send(
        self,
        picture: Sendable,
        frame: str,
        key: str | bytes | None,
        time: datetime | None,
        label: str | None,
        source: str | None,
        timeout: float,
        done: Callable[[PublishError | None], None],
    ) -> None:
        """Takes a slot and sends; ``done`` must free it."""
        value, kind = encoded(picture)
        headers = frame_headers(frame, kind, source, time, label)
        self._publisher.take_slot(timeout)
        try:
            self._publisher.send(value, headers, key.encode() if isinstance(key, str) else key, done)
        except BaseException:
            self._publisher.free_slot()
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")


def _settings(where: str | Settings | None, options: Mapping[str, str | int | float | bool] | None) -> Settings:
    """Raises what :func:`layercache.schemas.settings.load` does."""
    if isinstance(where, Settings):
        kafka = where.kafka.model_copy(update={"options": where.kafka.options | dict(options or {})})
        return where.model_copy(update={"kafka": kafka})
    given = {"bootstrap_servers": where, "options": dict(options) if options else None}
    return load(overrides={"kafka": {name: value for name, value in given.items() if value is not None}})
