"""Publishing: pictures of a source to the frames topic, at a pace, counted until the broker has acknowledged them."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import Troubles
from layercache.stream.publishing.producer import FrameProducer, FrameTooLarge
from layercache.stream.publishing.sources import Picture, PictureSource, Skipped, rfc3339

#: After Ctrl-C what is queued has this long to go out.
PARTING_S = 5.0

#: Bounds what waits in memory while the broker is slow.
_QUEUE_KB = 65_536
_POLL_S = 0.1
_NOTES = 10


@dataclass(frozen=True)
class Plan:
    """How to publish a source."""

    rate: float | None = None
    """Frames per second; None for as fast as the broker takes them."""
    limit: int | None = None
    """Stop after so many frames."""
    loop: bool = False
    """Begin again at the end."""
    key: str | None = None
    """The frames' key, instead of the source's own."""
    label_pattern: re.Pattern[str] | None = None
    """Its first group, searched in a picture's name, is the frame's ``label``."""


@dataclass
class Counts:
    """How publishing goes."""

    published: int = 0
    """Handed to the client."""
    delivered: int = 0
    """Acknowledged by the broker."""
    failed: int = 0
    """Given up by the client or refused by the broker."""
    skipped: int = 0
    """Never handed over: too large, or unreadable."""
    labelled: int = 0
    """Of the published, with a label."""
    notes: list[str] = field(default_factory=list)
    """What happened to the first few that failed or were skipped."""
    troubles: Troubles = field(default_factory=Troubles)
    """The connection's latest."""

    @property
    def whole(self) -> bool:
        """True where every picture arrived."""
        return not self.failed and not self.skipped and self.delivered == self.published

    def note(self, name: str, why: str) -> None:
        """Keeps the first few; the counts include the rest."""
        if len(self.notes) < _NOTES:
            self.notes.append(f"{name}: {why}")


def publish(
    settings: Settings,
    source: PictureSource,
    plan: Plan,
    stop: threading.Event,
    report: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Publishes ``source`` to ``settings.topics.frames`` until it ends, the limit is reached or ``stop`` is set.

    Calls ``report`` after each frame and while it waits. What is queued goes out before it returns, whatever happened.

    Raises :class:`KafkaUnusable` where the broker cannot be reached or has no such topic, and
    :class:`~layercache.stream.publishing.sources.SourceError` where the source breaks off.
    """
    producer = FrameProducer(settings, queue_buffering_max_kbytes=_QUEUE_KB)
    counts = Counts(troubles=producer.troubles)
    if not producer.connect(stop.is_set):
        return counts
    publisher = _Publisher(source, plan, stop, report, counts, producer)
    try:
        publisher.run()
    finally:
        publisher.flush()
    return counts


def frame_headers(
    picture: Picture, source: PictureSource, pattern: re.Pattern[str] | None, lap: int = 1
) -> FrameHeaders:
    """The headers of a picture's frame; from the second lap of a loop on, ids end in ``#2``, ``#3``, …"""
    found = pattern.search(picture.name) if pattern else None
    return FrameHeaders(
        content_type=picture.content_type,
        ce_id=picture.name if lap == 1 else f"{picture.name}#{lap}",
        ce_source=source.uri,
        ce_time=rfc3339(picture.time) if picture.time else None,
        ce_dataref=picture.reference,
        label=found[1] if found else None,
    )


class _Publisher:
    """One publishing: the loop over the source and the producer's callbacks, which run inside ``poll``."""

    def __init__(
        self,
        source: PictureSource,
        plan: Plan,
        stop: threading.Event,
        report: Callable[[Counts], None],
        counts: Counts,
        producer: FrameProducer,
    ) -> None:
        self._source = source
        self._plan = plan
        self._stop = stop
        self._report = report
        self._counts = counts
        self._producer = producer
        self._skipped: set[str] = set()
        self._start = time.monotonic()
        key = plan.key if plan.key is not None else source.key
        self._key = None if key is None else key.encode()

    def run(self) -> None:
        for lap, item in self._items():
            if self._stop.is_set():
                return
            if isinstance(item, Skipped):
                self._skip(item.name, item.why)
            elif self._is_due():
                self._send(item, lap)
            self._report(self._counts)
            if self._counts.published == self._plan.limit:
                return  # before the source is asked for another: a webcam would have to take it first

    def flush(self) -> None:
        """Lets what is queued go out; the client gives up by itself what no broker takes."""
        deadline = None
        while self._producer.unacknowledged:
            if self._stop.is_set():
                deadline = deadline or time.monotonic() + PARTING_S
                if time.monotonic() > deadline:
                    self._producer.purge()
                    break
            self._producer.flush(_POLL_S)
            self._report(self._counts)

    def _items(self) -> Iterator[tuple[int, Picture | Skipped]]:
        for lap in count(1):
            before = self._counts.published
            for item in self._source.pictures():
                yield lap, item
            if not self._plan.loop or self._counts.published == before:
                return

    def _is_due(self) -> bool:
        """Waits for the next frame's turn, reckoned from the start so that delays do not add up.

        A live source does not wait: its pictures before their turn are let go, and the next one is fresh.
        """
        if self._plan.rate is None:
            return True
        due = self._start + self._counts.published / self._plan.rate
        while (left := due - time.monotonic()) > 0 and not self._stop.is_set():
            if self._source.live:
                return False
            self._producer.poll(min(left, _POLL_S))
            self._report(self._counts)
        return not self._stop.is_set()

    def _send(self, picture: Picture, lap: int) -> None:
        headers = frame_headers(picture, self._source, self._plan.label_pattern, lap)
        value = picture.value if picture.reference is None else None
        while not self._stop.is_set():
            try:
                self._producer.produce(value, headers, self._key, partial(self._done, picture.name))
            except FrameTooLarge as error:
                self._skip(picture.name, str(error))
                return
            except BufferError:  # the queue is full
                self._producer.poll(_POLL_S)
                self._report(self._counts)
                continue
            self._counts.published += 1
            self._counts.labelled += headers.label is not None
            self._producer.poll(0)
            return

    def _skip(self, name: str, why: str) -> None:
        if name in self._skipped:
            return  # once, however often a loop comes by
        self._skipped.add(name)
        self._counts.skipped += 1
        self._counts.note(name, f"skipped: {why}")

    def _done(self, name: str, failure: str | None) -> None:
        if failure is None:
            self._counts.delivered += 1
            return
        self._counts.failed += 1
        self._counts.note(name, f"not delivered: {failure}")
