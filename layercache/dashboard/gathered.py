"""Everything that the threads have read, behind one lock: records go in, a snapshot comes out."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence

import msgspec
from confluent_kafka import Message

from layercache.dashboard.answers import AnswerTally
from layercache.dashboard.audited import AuditCount, AuditTally, class_disagreement, worst_classes
from layercache.dashboard.board import now_ms
from layercache.dashboard.frames import dead_letter_of, written_ms
from layercache.dashboard.heads import ModelChoice, StoreState, model_name_of
from layercache.dashboard.heads_state import Alarm
from layercache.dashboard.scrape import Reading
from layercache.dashboard.slices import Slices, Windows
from layercache.dashboard.state import (
    ClassDisagreement,
    DeadLetter,
    DeadLetters,
    Disagreement,
    Frame,
    GroupLag,
    Problem,
    Snapshot,
)
from layercache.schemas import distillation, prediction
from layercache.schemas.prediction import Prediction
from layercache.schemas.settings import Settings
from layercache.stream.frames.decoding import Limits

#: The page shows so many frames and dead letters.
FRAMES, LETTERS = 24, 20
_NOW_S = 60.0
#: For so long a note says that the dashboard passed over records.
_NOTE_MS = 60_000


class Gathered:
    """What the threads have read from all topics, the store and the metrics; bounded, whatever they hold. Thread-safe.

    Other programs may write to the topics: a record that cannot be decoded is counted and left out.
    """

    def __init__(self, settings: Settings, choice: ModelChoice, clock: Callable[[], int] = now_ms) -> None:
        self._settings = settings
        self._limits = Limits.of(settings.worker)
        self._choice = choice
        self._clock = clock
        self._lock = threading.Lock()
        self._recent, self._day = Slices(5.0, 180), Slices(300.0, 288)
        self._windows = Windows(self._recent, self._day)
        self._answers = AnswerTally(self._windows, FRAMES)
        self._audits = AuditTally(settings.promise.block_s)
        self._frames: tuple[Frame, ...] = ()
        self._letters: deque[DeadLetter] = deque(maxlen=LETTERS)
        self._reasons = Counter[str]()
        self._dead_letters = DeadLetters()
        self._unreadable = Counter[str]()
        self._passed_over: dict[str, tuple[int, int]] = {}
        """By topic: how many records the dashboard passed over, and when it last did."""
        self._lags: dict[str, GroupLag] = {}
        self._metrics: tuple[Reading, tuple[Alarm, ...]] | None = None
        self._heads_counted: StoreState | None = None

    def take_predictions(self, records: Sequence[Message]) -> None:
        """Counts the shown model's predictions."""
        now, found, undecodable = self._clock(), [], 0
        for record in records:
            try:
                found.append(prediction.decoder.decode(record.value() or b""))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                undecodable += 1
        with self._lock:
            self._unreadable[self._settings.topics.predictions] += undecodable
            for answer in found:
                if self._choice.is_shown(answer.model, now):
                    self._answers.add(answer, now)

    def take_distillation(self, records: Sequence[Message]) -> None:
        """Counts the audits in these records."""
        now = self._clock()
        for record in records:
            try:
                batch = distillation.decode(record.value() or b"")
            except distillation.DistillationError:
                with self._lock:
                    self._unreadable[self._settings.topics.distillation] += 1
                continue
            with self._lock:
                audits, disagreements = self._audits.add(batch)
                if self._choice.fingerprint not in (None, batch.header.model):
                    continue
                for counts in self._windows.at(written_ms(record, now), now):
                    counts.audits += audits
                    counts.disagreements += disagreements

    def take_dead_letters(self, records: Sequence[Message]) -> None:
        """Keeps the latest dead letters, and counts all by reason."""
        now = self._clock()
        for record in records:
            try:
                letter = dead_letter_of(record, self._limits, now)
            except (msgspec.ValidationError, ValueError):
                with self._lock:
                    self._unreadable[self._settings.topics.dead_letters] += 1
                continue
            with self._lock:
                self._letters.append(letter)
                self._reasons[letter.reason] += 1
        with self._lock:
            latest = sorted(self._letters, key=lambda letter: letter.at_ms, reverse=True)
            self._dead_letters = DeadLetters(latest=tuple(latest), by_reason=dict(self._reasons))

    def passed_over(self, topic: str, count: int) -> None:
        """Counts records that the dashboard passed over unread."""
        now = self._clock()
        with self._lock:
            self._passed_over[topic] = self._passed_over.get(topic, (0, 0))[0] + count, now
            if topic == self._settings.topics.predictions:
                self._answers.count_skipped(count, now)

    def pick(self, most: int) -> list[Prediction]:
        """The answers whose frames to show next, oldest first; ``most`` is at most :data:`FRAMES`."""
        with self._lock:
            return self._answers.pick(most)

    def add_frames(self, frames: Sequence[Frame]) -> None:
        """Adds frames to show, given oldest first."""
        if frames:
            with self._lock:
                self._frames = (*reversed(frames), *self._frames)[:FRAMES]

    def set_lag(self, lag: GroupLag) -> None:
        """Replaces a group's lag by what the broker reported."""
        with self._lock:
            self._lags[lag.who] = lag

    def set_metrics(self, reading: Reading, alarms: tuple[Alarm, ...]) -> None:
        """Replaces the workers' metrics and their alarms."""
        with self._lock:
            self._metrics = reading, alarms

    def snapshot(self, heads: StoreState, problems: tuple[Problem, ...], has_metrics: bool) -> Snapshot:
        """Everything that is known now."""
        now = self._clock()
        with self._lock:
            if heads is not self._heads_counted:
                self._answers.set_versions(heads.manifests, heads.heads.closed)
                self._heads_counted = heads
            reading, worker_alarms = self._metrics or (Reading(), ())
            normal, overload, classes = self._disagreement(heads, reading)
            alarms = sorted((*worker_alarms, *heads.alarms), key=lambda alarm: (not alarm.active, -(alarm.at_ms or 0)))
            return Snapshot(
                at_ms=now,
                model=self._choice.fingerprint,
                model_name=model_name_of(heads.manifests),
                brokers=self._settings.kafka.bootstrap_servers,
                frames_topic=self._settings.topics.frames,
                now=self._recent.latest(_NOW_S, now),
                frames=self._frames,
                flow=self._answers.flow(heads.manifests, heads.heads.live),
                recent=self._recent.series(now),
                day=self._day.series(now),
                disagreement=normal,
                overload=overload,
                classes=classes,
                heads=heads.heads,
                alarms=tuple(alarms),
                lags=self._with_seconds(reading.lag_seconds),
                dead_letters=self._dead_letters,
                workers=reading.workers,
                metrics=has_metrics,
                problems=problems,
                notes=tuple(self._notes(now)),
            )

    def _disagreement(
        self, heads: StoreState, reading: Reading
    ) -> tuple[Disagreement, Disagreement | None, tuple[ClassDisagreement, ...]]:
        """For the everyday budget, for overload's, and by class; a certificate's budget wins over the settings'."""
        promise, live = self._settings.promise, heads.live
        audited = self._audits.of_version(self._choice.fingerprint, heads.heads.live)
        certificate = live.certificate if live else None
        budget = certificate.max_disagreement if certificate else promise.max_disagreement
        confidence = certificate.confidence if certificate else promise.confidence
        relaxed = live.overload.certificate if live and live.overload else None
        overload = None
        if relaxed is not None or promise.overload_max_disagreement is not None:
            allowed = relaxed.max_disagreement if relaxed else promise.overload_max_disagreement
            overload = audited.overload.as_disagreement(allowed or budget, confidence, relaxed)
        if not audited.normal.audits and reading.class_audits:
            normal, classes = _by_metrics(reading, confidence)
            return normal.as_disagreement(budget, confidence, certificate, "metrics"), overload, classes
        return (
            audited.normal.as_disagreement(budget, confidence, certificate),
            overload,
            audited.classes(self._answers.names, confidence),
        )

    def _with_seconds(self, seconds: float | None) -> tuple[GroupLag, ...]:
        return tuple(
            msgspec.structs.replace(lag, seconds=seconds) if lag.who == "workers" else lag
            for lag in sorted(self._lags.values(), key=lambda lag: lag.who, reverse=True)
        )

    def _notes(self, now: int) -> list[str]:
        notes = []
        for topic, (count, last_ms) in self._passed_over.items():
            if now - last_ms < _NOTE_MS:
                notes.append(
                    f"{topic} brings more than the dashboard reads: {count:,} records were passed over, "
                    "and rates are those of a sample"
                )
        for model, count in self._choice.others.items():
            topic = self._settings.topics.predictions
            notes.append(f"{count:,} predictions of another model ({model[:12]}) on {topic} are left out")
        for topic, count in self._unreadable.items():
            if count:
                notes.append(f"{count:,} records on {topic} are none that a worker writes, and are left out")
        return notes


def _by_metrics(reading: Reading, confidence: float) -> tuple[AuditCount, tuple[ClassDisagreement, ...]]:
    """What the workers have counted since they started, for all their versions together."""
    count = AuditCount(sum(reading.class_audits.values()), sum(reading.class_disagreements.values()))
    shown = [
        class_disagreement(name, audits, reading.class_disagreements.get(name, 0), confidence)
        for name, audits in reading.class_audits.items()
        if audits
    ]
    return count, worst_classes(shown)
