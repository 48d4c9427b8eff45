"""Gathers what the dashboard shows, from topics, store and metrics alone; worker and trainer take no part."""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from confluent_kafka import Message

from layercache.dashboard.board import Board
from layercache.dashboard.frames import FrameReader, Position, frame_of
from layercache.dashboard.gathered import FRAMES, Gathered
from layercache.dashboard.heads import HeadsView, ModelChoice
from layercache.dashboard.lag import GroupWatch
from layercache.dashboard.periodic import Periodic
from layercache.dashboard.scrape import Scraper, WorkerAlarms
from layercache.dashboard.state import Snapshot
from layercache.dashboard.tail import Budget, Tail
from layercache.early_exit.store.head_store import StoreError
from layercache.presenting.redaction import redacted
from layercache.schemas.settings import Settings
from layercache.stream.frames.decoding import Limits

#: How much the dashboard reads of each topic. Decoding a prediction takes some ten microseconds; a distillation record
#: holds a whole micro-batch.
_PREDICTIONS = Budget(records_per_s=4_000, bytes_per_s=4e6, begin_with=20_000)
_DISTILLATION = Budget(records_per_s=500, bytes_per_s=8e6, begin_with=1_000)
_DEAD_LETTERS = Budget(records_per_s=20, bytes_per_s=4e6, begin_with=20)
#: New frames a second: a viewer cannot look at more. After a pause the page gets more of them at once.
_FRAMES_PER_S = 8
#: Decoding the pictures of a round may take so long; the remaining frames are shown without a picture.
_DECODE_S = 0.4
_TOO_MANY = "its turn did not come: the pictures are large"
_PICTURES_EVERY_S, _LOOK_EVERY_S, _LAG_EVERY_S, _METRICS_EVERY_S = 1.0, 2.0, 2.0, 5.0
#: The collector makes at most one snapshot in this time, however many pages are open.
_SNAPSHOT_EVERY_S = 0.4
_STOP_S = 3.0


class Collector:
    """Reads in threads of its own from :meth:`start` to :meth:`stop`; :meth:`snapshot` returns what they found.

    ``metrics`` are URLs of workers' and trainers' metrics, see :func:`layercache.dashboard.scrape.metrics_url`.
    ``fingerprint`` is how the shown model's fingerprint begins; by default the collector shows the model that answers.
    Memory is bounded, whatever the topics hold. Implements :class:`layercache.dashboard.backend.Backend`.

    >>> collector = Collector(Settings(), metrics=["http://localhost:9100/metrics"])
    >>> collector.snapshot().frames
    ()
    """

    def __init__(self, settings: Settings, metrics: Sequence[str] = (), fingerprint: str = "") -> None:
        self._settings = settings
        self._limits = Limits.of(settings.worker)
        self._board = Board()
        self._choice = ModelChoice(fingerprint)
        self._heads = HeadsView(settings.store, self._choice, self._board)
        self._gathered = Gathered(settings, self._choice)
        self._metrics = tuple(metrics)
        self._frames_allowed = FRAMES
        self._threads: list[Periodic] = []
        self._lock = threading.Lock()
        self._snapshot: tuple[float, Snapshot] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begins to read. A service that a thread cannot reach is a problem in the snapshot; the thread tries again."""
        self._threads = [*self._tails(), *self._watches()]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends reading, within a few seconds; leaves behind a thread that hangs in a call to a store or a broker."""
        for thread in self._threads:
            thread.stop()
        deadline = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def snapshot(self) -> Snapshot:
        """The current state."""
        with self._lock:
            now = time.monotonic()
            if self._snapshot is None or now - self._snapshot[0] >= _SNAPSHOT_EVERY_S:
                made = self._gathered.snapshot(self._heads.seen, self._board.problems(), bool(self._metrics))
                self._snapshot = now, made
            return self._snapshot[1]

    def roll_back(self, version: str | None = None, reason: str = "") -> str:
        """See :class:`~layercache.dashboard.backend.Backend`, as for the other actions."""
        return self._run_action(lambda: self._heads.roll_back(version, reason))

    def pin(self, version: str | None = None, reason: str = "") -> str:
        """Holds workers at a version."""
        return self._run_action(lambda: self._heads.pin(version, reason))

    def unpin(self, reason: str = "") -> str:
        """Lets workers follow the latest version again."""
        return self._run_action(lambda: self._heads.unpin(reason))

    def close_exits(self, reason: str = "") -> str:
        """Keeps every exit closed."""
        return self._run_action(lambda: self._heads.close_exits(reason))

    def _run_action(self, action: Callable[[], str]) -> str:
        try:
            sentence = action()
        except StoreError as error:
            raise StoreError(redacted(str(error))) from None
        with self._lock:
            self._snapshot = None  # the next snapshot shows the action's effect
        return sentence

    def _tails(self) -> list[Tail]:
        topics, gathered = self._settings.topics, self._gathered

        def tail(topic: str, budget: Budget, take: Callable[[Sequence[Message]], None]) -> Tail:
            def passed_over(count: int) -> None:
                gathered.passed_over(topic, count)

            return Tail(self._settings, topic, budget, self._board, take, passed_over)

        return [
            tail(topics.predictions, _PREDICTIONS, gathered.take_predictions),
            tail(topics.distillation, _DISTILLATION, gathered.take_distillation),
            tail(topics.dead_letters, _DEAD_LETTERS, gathered.take_dead_letters),
        ]

    def _watches(self) -> list[Periodic]:
        reader = FrameReader(self._settings)
        pictures = Periodic("pictures", _PICTURES_EVERY_S, lambda: self._fetch_frames(reader, pictures), reader.close)
        watches = [pictures, Periodic("heads", max(_LOOK_EVERY_S, self._settings.store.poll_s), self._heads.look)]
        for group in (GroupWatch(self._settings, who, self._board) for who in ("workers", "trainer")):
            watches.append(Periodic(f"lag-{group.group}", _LAG_EVERY_S, self._lag_reader(group), group.close))
        if self._metrics:
            scraper, alarms = Scraper(self._metrics, self._board), WorkerAlarms()
            watches.append(Periodic("metrics", _METRICS_EVERY_S, lambda: self._scrape(scraper, alarms), scraper.close))
        return watches

    def _lag_reader(self, group: GroupWatch) -> Callable[[], None]:
        def read_lag() -> None:
            lag = group.look()
            if lag is not None:
                self._gathered.set_lag(lag)

        return read_lag

    def _scrape(self, scraper: Scraper, alarms: WorkerAlarms) -> None:
        reading = scraper.look()
        self._gathered.set_metrics(reading, alarms.raised(reading.workers))

    def _fetch_frames(self, reader: FrameReader, thread: Periodic) -> None:
        """Fetches and decodes the frames of some answers, within its time limits."""
        picked = self._gathered.pick(self._frames_allowed)
        self._frames_allowed = min(
            FRAMES, self._frames_allowed - len(picked) + round(_FRAMES_PER_S * _PICTURES_EVERY_S)
        )
        on_topic = [one for one in picked if one.topic == self._settings.topics.frames]
        wanted: list[Position] = [(one.partition, one.offset) for one in on_topic]
        records = reader.fetch(wanted, lambda: thread.stopping) if wanted else {}
        deadline = time.monotonic() + _DECODE_S
        shown = []
        for prediction in picked:
            position = prediction.partition, prediction.offset
            record = records.get(position, f"the frame was on another topic, {prediction.topic}")
            shown.append(frame_of(prediction, record if time.monotonic() < deadline else _TOO_MANY, self._limits))
        self._gathered.add_frames(shown)
