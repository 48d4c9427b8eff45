"""Frames out of a program: a producer whose room is bounded, and whose failures come back."""

import threading
import time
from collections.abc import Callable
from datetime import datetime

from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import Settings
from layercache.stream.publishing.producer import FrameProducer
from layercache.stream.publishing.sources import rfc3339

_POLL_S = 0.1
#: How soon a full queue of librdkafka is asked again.
_ROOM_S = 0.005
_NAMED_FAILURES = 5


class PublishError(RuntimeError):
    """Frames that the broker did not take; the message names the first few, and what to do."""


class Publisher:
    """Puts frames on the topic; at most ``max_waiting`` of them wait for the broker, or for the answer that frees their
    slot.

    Raises :class:`KafkaUnusable` where the broker cannot be reached or has no such topic.
    """

    def __init__(self, settings: Settings, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._slots = threading.BoundedSemaphore(max_waiting)
        self._noting = threading.Lock()
        self._failures: list[str] = []
        self._failed = 0
        self._stop = threading.Event()
        self._producer = FrameProducer(settings)
        self._producer.connect()
        self._thread = threading.Thread(target=self._poll, name="client-deliveries", daemon=True)
        self._thread.start()

    def take_slot(self, timeout: float) -> None:
        """Waits for room. Raises ``TimeoutError`` where there is none in time."""
        if not self._slots.acquire(timeout=timeout):
            troubles = self._producer.troubles
            trouble = f"; Kafka said: {troubles}" if troubles.latest else ""
            raise TimeoutError(
                f"{self._max_waiting:,} frames wait for Kafka or for their answers, and none got through within "
                f"{timeout:g} s: is a worker running?{trouble}"
            )

    def free_slot(self) -> None:
        """Gives back what :meth:`take_slot` took."""
        self._slots.release()

    def send(
        self, value: bytes, headers: FrameHeaders, key: bytes | None, done: Callable[[PublishError | None], None]
    ) -> None:
        """Hands a frame over; ``done`` is called, in another thread, once it is on the topic, or with why it
        never will be.

        Raises :class:`~layercache.stream.publishing.producer.FrameTooLarge` for one that no record holds.
        """

        def settle(failure: str | None) -> None:
            done(None if failure is None else PublishError(f"frame {headers.ce_id}: {failure}"))

        while True:
            try:
                self._producer.produce(value, headers, key, settle)
                return
            except BufferError:  # full by bytes: our slots count frames; the other thread's polls make room
                time.sleep(_ROOM_S)

    def flush(self, timeout: float) -> None:
        """Waits until all frames are on the topic. Raises ``TimeoutError``, or :meth:`raise_failures`'."""
        left = self._producer.flush(timeout)
        self.raise_failures()
        if left:
            raise TimeoutError(f"{left:,} frames are not on the topic after {timeout:g} s ({self._producer.troubles})")

    def note(self, failure: PublishError) -> None:
        """Keeps a failure that no caller waits for, until :meth:`raise_failures`."""
        with self._noting:
            self._failed += 1
            if len(self._failures) < _NAMED_FAILURES:
                self._failures.append(str(failure))

    def raise_failures(self) -> None:
        """Raises :class:`PublishError` where frames have failed since this was last asked."""
        with self._noting:
            named, count = "; ".join(self._failures), self._failed
            self._failures, self._failed = [], 0
        if count:
            frames = "1 frame was" if count == 1 else f"{count:,} frames were"
            raise PublishError(f"{frames} not published: {named}")

    def close(self, timeout: float) -> None:
        """Lets go out what is queued, for so long; what is not out by then fails."""
        try:
            if self._producer.flush(timeout):
                self._producer.purge()
        finally:
            self._stop.set()
            self._thread.join()

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(_POLL_S)


def frame_headers(frame: str, kind: str, source: str | None, time: datetime | None, label: str | None) -> FrameHeaders:
    """A frame's headers. Raises ``ValueError`` for a time without its zone."""
    if time is not None and time.tzinfo is None:
        raise ValueError(f"time {time} has no time zone: datetime.now(UTC) has one")
    return FrameHeaders(
        content_type=kind, ce_id=frame, ce_source=source, ce_time=rfc3339(time) if time else None, label=label
    )
