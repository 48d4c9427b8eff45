"""New heads, fetched, built and warmed up in the background; and the exits' own watch over their promise."""

import gc
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.drift import DriftDetector
from layercache.early_exit.engine import Answers, Engine
from layercache.early_exit.heads.families import HeadsError
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.store.head_store import Live, SignatureError, StoreError
from layercache.schemas.distillation import key_hash
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Promise
from layercache.stream.frames.frame import Frame
from layercache.stream.worker.answering.records import MicroBatch

log = logging.getLogger(__name__)

#: A store or a version that fails is asked again after up to this many times the polling interval.
_MAX_BACKOFF = 30
#: Keys whose latest block is remembered.
_MAX_KEYS = 100_000
#: Versions whose alarm is remembered: far more than a store keeps to roll back to.
_MAX_ALARMED = 1000


class Store(Protocol):
    """What is asked of :class:`layercache.early_exit.store.head_store.HeadStore`."""

    def live(self) -> Live: ...
    def latest(self) -> str | None: ...
    def load(self, version: str) -> tuple[Manifest, dict[str, Tensor]]: ...


@dataclass(frozen=True)
class Serving:
    """What to run: ``engine``, or ``closed`` once the engine exceeds its budget.

    ``closed`` still scores the exits without serving them: the trainer must see how often they disagree.
    """

    engine: Engine
    closed: Engine
    budget: float
    """The disagreement that the version may have."""
    overload: Engine | None = None
    """What to run while the worker is behind; None where nothing was certified for what may be then."""

    @property
    def version(self) -> str | None:
        return self.engine.version


class HeadWatch:
    """Keeps :attr:`serving` at what the store says is live. One attribute is swapped; nobody waits for anything.

    :meth:`look` is one look, by one thread at a time; :meth:`start` looks again and again in a thread.
    """

    def __init__(
        self,
        store: Store,
        traced: TracedModel,
        mode: Literal["serve", "shadow"],
        max_batch: int,
        promise: Promise,
        on_error: Callable[[], None] = lambda: None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_error`` hears of every look that fails, ``on_refused`` once of heads that must not be used."""
        self._store = store
        self._traced = traced
        self._mode = mode
        self._max_batch = max_batch
        self._promise = promise
        self._on_error = on_error
        self._on_refused = on_refused
        self._seen: tuple[str | None, bool] | None = None
        self._trouble: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._looking = threading.Lock()
        full = Engine(traced, None, mode)
        full.warm_up(max_batch)
        self._full = Serving(full, full, promise.max_disagreement)
        self.serving = self._full

    def start(self, poll_s: float) -> None:
        """Looks every ``poll_s`` seconds, less often while looking fails."""
        self._thread = threading.Thread(target=self._watch, args=(poll_s,), name="heads", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; one that hangs in a slow store is left behind."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def look(self) -> bool:
        """Asks the store once and takes up what it says; False where that failed and what was served still is."""
        with self._looking:
            return self._look()

    def _look(self) -> bool:
        try:
            live = self._store.live()
            version = live.version or (self._store.latest() if live.closed else None)
            if (version, live.closed) != self._seen:
                self._take_up(version, live.closed)
                self._seen = (version, live.closed)
                gc.collect()  # segments are circles, with weights in them; in the hot thread it is done seldom
        except (StoreError, HeadsError) as error:
            self._on_error()
            if isinstance(error, SignatureError):
                self.serving = self._full  # who may write to the store cannot be trusted: nor what it said before
                self._seen = None
            if str(error) != self._trouble:
                self._trouble = str(error)
                if isinstance(error, (SignatureError, HeadsError)):
                    self._on_refused()
                log.warning("%s; still serving %s", error, _named(self.serving))
            return False
        if self._trouble is not None:
            self._trouble = None
            log.info("the store of heads answers again; serving %s", _named(self.serving))
        return True

    def _take_up(self, version: str | None, closed: bool) -> None:
        if version is None:
            if self.serving is not self._full:
                log.info("the store has no heads any more: serving the full path")
            self.serving = self._full
            return
        manifest, tensors = self._store.load(version)
        own = self._traced.classifier.fingerprint
        if manifest.model != own:
            log.warning(
                "heads %s were trained for model %s, this worker runs %s; serving the full path",
                version, manifest.model[:12], own[:12],
            )  # fmt: skip
            self.serving = self._full
            return
        if closed:
            manifest = msgspec.structs.replace(manifest, exits=(), overload=None)
        heads = load_heads(manifest, tensors, self._traced)
        engine = Engine(self._traced, heads, self._mode)
        shut = Engine(self._traced, heads, "shadow")
        engine.warm_up(self._max_batch)
        budget = manifest.certificate.max_disagreement if manifest.certificate else self._promise.max_disagreement
        self.serving = Serving(engine, shut, budget, engine.overloaded() if self._may_overload(manifest) else None)
        log.info("serving %s%s", _named(self.serving), ", all exits kept closed by the operator" if closed else "")

    def _may_overload(self, manifest: Manifest) -> bool:
        """Whether the version's thresholds for overload were certified for what this worker's settings allow."""
        promise, overload = self._promise, manifest.overload
        if promise.overload_max_disagreement is None or overload is None or self._mode == "shadow":
            return False
        return overload.certificate.covers(
            promise.overload_max_disagreement, promise.confidence, promise.max_class_disagreement
        )

    def _watch(self, poll_s: float) -> None:
        failures = 0
        while True:
            try:
                failures = 0 if self.look() else failures + 1
            except Exception:  # the thread must outlive what nobody foresaw; the frames do
                log.exception("looking for heads failed; still serving %s", _named(self.serving))
                self._on_error()
                failures += 1
            if self._stop.wait(poll_s * min(2**failures, _MAX_BACKOFF)):
                return


@dataclass(frozen=True)
class Audited:
    """What A audits of a micro-batch found."""

    rows: npt.NDArray[np.int64]
    """``[A]``: their places in the micro-batch."""
    labels: npt.NDArray[np.int64]
    """``[A]``: the full model's."""
    disagreed: npt.NDArray[np.bool_]
    """``[A]``: whether an exit would have answered otherwise."""
    overload_disagreed: npt.NDArray[np.bool_] | None
    """``[A]``: the same under the thresholds for overload; None where the heads have none."""

    @classmethod
    def of(cls, batch: MicroBatch, answers: Answers) -> "Audited":
        """The audits of a batch that was answered so."""
        kept = batch.audits[answers.full_rows]
        rows = answers.full_rows[kept]
        labels = answers.labels[rows]
        overload = answers.overload_label
        return cls(
            rows,
            labels,
            answers.live_label[kept] != labels,
            None if overload is None else overload[kept] != labels,
        )


class ExitGuard:
    """Runs drift tests on the audits of the version in force, and closes what exceeds its budget.

    One test is for the thresholds of every day: when it alarms, all exits close. The other is for those of overload, at
    their own budget, on the same audits, whether the worker is behind or not: when it alarms, the thresholds of every
    day hold at any lag. Either holds for its version, which may come again by a rollback, until the worker is started
    anew. In shadow mode nothing is served by exits, so the alarm is but said.
    """

    def __init__(self, confidence: float, block_s: float) -> None:
        self._level = 1 - confidence
        self._block_ms = max(1, int(block_s * 1000))
        self._blocks: dict[int, int] = {}
        self._serving: Serving | None = None
        self._detector: DriftDetector | None = None
        self._overload_detector: DriftDetector | None = None
        #: Versions whose alarm has been raised: taken up again, they stay as they were left.
        self._alarmed: deque[str | None] = deque(maxlen=_MAX_ALARMED)
        self._overload_alarmed: deque[str | None] = deque(maxlen=_MAX_ALARMED)
        self._last: dict[int, int] = {}

    def choose(self, serving: Serving, behind: bool = False) -> Engine:
        """The engine to run now; ``behind``: overload's, where there is one to trust."""
        if serving is not self._serving:
            self._serving = serving
            self._detector = DriftDetector(serving.budget, self._level) if serving.engine.exits else None
            bolder = serving.overload.max_disagreement if serving.overload else None
            self._overload_detector = DriftDetector(bolder, self._level) if bolder is not None else None
            self._blocks.clear()
        if self.closed:
            return serving.closed
        if behind and serving.overload is not None and not self.overload_closed:
            return serving.overload
        return serving.engine

    @property
    def closed(self) -> bool:
        """True while an alarm keeps the exits closed."""
        return self._has_alarmed(self._detector, self._alarmed)

    @property
    def overload_closed(self) -> bool:
        """True while an alarm keeps overload's thresholds out of use."""
        return self._has_alarmed(self._overload_detector, self._overload_alarmed)

    def _has_alarmed(self, detector: DriftDetector | None, alarmed: Collection[str | None]) -> bool:
        return detector is not None and (
            detector.alarmed or (self._serving is not None and self._serving.version in alarmed)
        )

    def watch(self, batch: MicroBatch, answers: Answers) -> Audited:
        """Takes in a batch that :meth:`choose`'s engine answered; returns what its audits found."""
        audited = Audited.of(batch, answers)
        version = self._serving.version if self._serving else None
        if self._detector is not None and not (self._detector.alarmed and self.overload_closed):
            counted = self._counted(batch, audited)
            if self._alarms(self._detector, audited.disagreed[counted], "exits closed"):
                _remember(self._alarmed, version)
            if self._overload_detector is not None and audited.overload_disagreed is not None:
                disagreed = audited.overload_disagreed[counted]
                if self._alarms(self._overload_detector, disagreed, "exits open no wider at any lag"):
                    _remember(self._overload_alarmed, version)
        for partition, offset in {frame.partition: frame.offset for frame in batch.frames}.items():
            self._last[partition] = max(offset, self._last.get(partition, -1))
        return audited

    def _counted(self, batch: MicroBatch, audited: Audited) -> npt.NDArray[np.bool_]:
        """``[A]``: which audits enter a test."""
        frames = (batch.frames[row] for row in audited.rows.tolist())
        # A frame that is read again after an abort has been counted.
        counted = [frame.offset > self._last.get(frame.partition, -1) and self._opens_block(frame) for frame in frames]
        return np.array(counted, np.bool_)

    def _alarms(self, detector: DriftDetector, disagreed: npt.NDArray[np.bool_], consequence: str) -> bool:
        """Feeds a test that has not alarmed yet; True where it does now, which is said."""
        if detector.alarmed:
            return False
        for one in disagreed.tolist():
            if detector.update(one):
                log.warning(
                    "heads %s exceed their budget of %.4f: %d of %d audits disagreed; %s until another version "
                    "comes",
                    self._serving and self._serving.version, detector.budget,
                    detector.disagreements, detector.audits, consequence,
                )  # fmt: skip
                return True
        return False

    def _opens_block(self, frame: Frame) -> bool:
        """Whether the frame is the first of its key's block of time: near-copies counted singly raise false alarms."""
        if frame.key is None:
            return True
        if len(self._blocks) > _MAX_KEYS:
            self._blocks.clear()
        block = frame.timestamp_ms // self._block_ms
        key = key_hash(frame.key)  # as long as all others, whatever publishers put into theirs
        opens = self._blocks.get(key) != block
        self._blocks[key] = block
        return opens


def _remember(alarmed: deque[str | None], version: str | None) -> None:
    """As the latest; once, though a version that is taken up again may raise its alarm again."""
    if version in alarmed:
        alarmed.remove(version)
    alarmed.append(version)


def _named(serving: Serving) -> str:
    if serving.version is None:
        return "the full path, without heads"
    exits = ", ".join(serving.engine.exits)
    wider = ", wider under overload" if serving.overload else ""
    return f"heads {serving.version} ({f'exits at {exits}{wider}' if exits else 'no exit open'})"
