"""Simulated lives of the trainer's certifier: one stream, many attempts, and did a version ever break its promise?

Everything that certifies is the trainer's own: windows, intake, dealing, choosing, the certifier, the store. Only what
the heads would have said is simulated. A mutant is the same with one of its parts replaced by a tempting mistake.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import count
from unittest.mock import patch

import fsspec
import numpy as np
import numpy.typing as npt
from torch import Tensor

from benchmarks.promise.simulated_streams import SimulatedHeads, Stream, latents_of, risks
from layercache.cache_training.certifying import audits, certificate, certifier
from layercache.cache_training.certifying.audits import AuditIntake, Windows
from layercache.cache_training.certifying.certificate import ClassCap, Errors, Verdict, upper_bound, verdict_of
from layercache.cache_training.certifying.certifier import Certifier
from layercache.cache_training.certifying.choosing import ScoredCandidate
from layercache.cache_training.certifying.dealing import blocks
from layercache.cache_training.certifying.live_version import LiveVersion
from layercache.cache_training.learning.candidates import Candidate, Costs
from layercache.cache_training.learning.kept_frames import Frames
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.distillation import DistillationBatch
from layercache.schemas.manifest import HeadSpec, Manifest
from layercache.schemas.settings import Promise

_CUTS = ("early", "late")
_COSTS = {"early": Costs(0.3, 0.3), "late": Costs(0.6, 0.6)}
_HEAD_COSTS = Costs(0.01, 0.01)
_TUNING_FRAMES = 200
_FOLDERS = count()
_LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _Model:
    """A model of two classes (or more) that nobody ever runs."""

    classes: tuple[str, ...]
    name: str = "simulated"
    fingerprint: str = "00" * 32


@dataclass(frozen=True)
class Scenario:
    """Streams of one kind, and heads of one kind on them."""

    name: str
    promise: Promise
    stream: Callable[[int], Stream]
    heads: Callable[[], SimulatedHeads]
    attempts: int = 10
    """A stream's life ends with so many, or with the first version that breaks its promise."""
    window_frames: int = 20_000
    classes: int = 2
    longest: int = 400_000
    """Or after so many audits."""
    frames_at_once: int | None = None
    """Between two looks of the certifier; by default a third of its window."""


@dataclass(frozen=True)
class Life:
    """What became of one stream."""

    attempts: int
    published: int
    overloads: int
    """Versions that were published with thresholds for overload."""
    broken: bool
    audits: int
    time_saved: float
    """Expected of the last version."""
    tested: int
    """Frames in the certificate of the last version; 0 without one."""


class Simulated:
    """A stream's trainer, but for learning: its heads are simulated."""

    def __init__(self, scenario: Scenario, seed: int, store: HeadStore) -> None:
        self.scenario = scenario
        self.stream, self.heads = scenario.stream(seed), scenario.heads()
        self.windows = Windows(512, scenario.window_frames, _TUNING_FRAMES, seed)
        self.intake = AuditIntake(self.windows, scenario.promise.block_s)
        self.published = LiveVersion(store, scenario.promise, scenario.classes)
        model = _Model(tuple(str(label) for label in range(scenario.classes)))
        self._certifier = Certifier(
            model, self.published, self.intake, _COSTS, self._score, min_audit_rate=0.02, now=lambda: _LONG_AGO
        )
        self._random = np.random.default_rng([seed, 1])

    def step(self) -> bool:
        """Takes in some audits and lets the certifier look; True where it attempted something."""
        self.intake.take(
            self.stream.next(self.scenario.frames_at_once or max(100, len(self.windows.certification) // 3))
        )
        tuning = self.windows.tuning.frames()
        if tuning is None:
            return False
        learnt = [window.frames() for window in (self.windows.learning, self.windows.misses)]
        self.heads.learn(self.intake.audits, self._random, [frames for frames in learnt if frames is not None])
        return self._certifier.consider(_scored(self.heads, tuning, self.scenario.classes))

    def _score(
        self, manifest: Manifest, tensors: dict[str, Tensor], frames: Frames
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        rows = [_CUTS.index(exit_.cut) for exit_ in manifest.exits]
        scores, wrong = _answers(self.heads, frames)
        full = frames.labels[:, None]
        return scores[:, rows], np.where(wrong[:, rows], (full + 1) % self.scenario.classes, full)


def live(scenario: Scenario, seed: int) -> Life:
    """One stream from its first audit to its last attempt, all from ``seed``."""
    folder = f"simulated-{next(_FOLDERS)}"
    simulated = Simulated(scenario, seed, HeadStore("memory://promise", folder, now=lambda: _LONG_AGO))
    intake, published = simulated.intake, simulated.published
    versions, overloads, broken, attempts = 0, 0, False, 0
    while attempts < scenario.attempts and intake.audits < scenario.longest and not broken:
        before = published.live
        attempts += simulated.step()
        if published.live is not before and published.live is not None:
            versions += 1
            overloads += published.live.overload is not None
            broken = _breaks(published.live, simulated.heads, simulated.stream, scenario)
    if attempts:
        fsspec.filesystem("memory").rm(f"/promise/{folder}", recursive=True)
    final = published.live.certificate if published.live else None
    tested = final.frames if final else 0
    return Life(attempts, versions, overloads, broken, intake.audits, published.time_saved, tested)


@cache
def _candidates(classes: int) -> tuple[Candidate, ...]:
    """What drafts are made of. Nobody trains them, so that all streams can share them."""
    spec = HeadSpec(family="pooled", features=(1,), classes=classes)
    return tuple(Candidate(f"{cut}/simulated", cut, spec, _HEAD_COSTS, seed=0) for cut in _CUTS)


def _answers(heads: SimulatedHeads, frames: Frames) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Scores, and whether they are wrong, of every frame at every exit."""
    latents = latents_of(frames)
    return (1 - heads.doubts(latents)).astype(np.float32), latents.luck[:, None] < heads.chances(latents)


def _scored(heads: SimulatedHeads, tuning: Frames, classes: int) -> list[ScoredCandidate]:
    scores, wrong = _answers(heads, tuning)
    return [
        ScoredCandidate(candidate, 1.0, scores[:, exit_], wrong[:, exit_] & heads.honest)
        for exit_, candidate in enumerate(_candidates(classes)[: heads.exits])
    ]


def _breaks(manifest: Manifest, heads: SimulatedHeads, stream: Stream, scenario: Scenario) -> bool:
    """Whether the exits of a version answer otherwise more often than promised, by their true risks."""
    exits = [_CUTS.index(exit_.cut) for exit_ in manifest.exits]
    promise = scenario.promise
    settings = [(promise.max_disagreement, tuple(exit_.threshold for exit_ in manifest.exits))]
    if manifest.overload and promise.overload_max_disagreement:
        settings.append((promise.overload_max_disagreement, manifest.overload.thresholds))
    for budget, thresholds in settings:
        by_class = risks(heads, exits, thresholds, scenario.classes)
        cap = promise.max_class_disagreement
        overall = float(by_class @ np.array(stream.class_shares))
        if overall > budget or (cap is not None and float(by_class.max()) > cap):
            return True
    return False


@dataclass(frozen=True)
class Result:
    """What became of many streams."""

    scenario: str
    mutant: str
    confidence: float
    streams: int
    broken: int
    """Streams in which any published version broke its promise."""
    published: int
    """Streams in which any was published."""
    attempts: float
    """Mean number in a stream."""
    versions: float
    overloads: float
    audits: float
    time_saved: float

    @property
    def allowed(self) -> float:
        """The share of streams that may be broken."""
        return 1 - self.confidence

    def interval(self, level: float = 0.99) -> tuple[float, float]:
        """Clopper-Pearson for the share of broken streams: either bound holds with probability ``level``."""
        return (
            1 - upper_bound(self.streams - self.broken, self.streams, 1 - level),
            upper_bound(self.broken, self.streams, 1 - level),
        )

    @property
    def kept(self) -> bool:
        """False where more streams broke than the promise explains."""
        return self.interval()[0] <= self.allowed


def simulate(scenario: Scenario, seeds: range, mutant: str = "none") -> Result:
    """Many streams of a scenario, with the trainer's classes as they are or with one of :data:`MUTANTS`."""
    with MUTANTS[mutant]():
        lives = [live(scenario, seed) for seed in seeds]
    return Result(
        scenario=scenario.name,
        mutant=mutant,
        confidence=scenario.promise.confidence,
        streams=len(lives),
        broken=sum(life.broken for life in lives),
        published=sum(life.published > 0 for life in lives),
        attempts=float(np.mean([life.attempts for life in lives])),
        versions=float(np.mean([life.published for life in lives])),
        overloads=float(np.mean([life.overloads for life in lives])),
        audits=float(np.mean([life.audits for life in lives])),
        time_saved=float(np.mean([life.time_saved for life in lives])),
    )


def _trust_the_mean(
    wrong: npt.NDArray[np.bool_], budget: float, error: float, cap: ClassCap | None = None
) -> Verdict | None:
    passes = np.append(wrong.mean(1) <= budget, False)
    passed = int(passes.argmin())
    return verdict_of(passed - 1, wrong[passed - 1], budget, error) if passed else None


def _trust_the_bolder_mean(
    wrong: npt.NDArray[np.bool_], after: Verdict, budget: float, error: float, cap: ClassCap | None = None
) -> Verdict | None:
    verdict = _trust_the_mean(wrong[after.index + 1 :], budget, error, cap)
    return replace(verdict, index=verdict.index + after.index + 1) if verdict else None


def _overload_takes_all(attempt: int, confidence: float, two_budgets: bool) -> Errors:
    return replace(_ERRORS_OF(attempt, confidence, two_budgets), overload=1 - confidence)


def _deal_by_frame(batch: DistillationBatch, block_s: float) -> npt.NDArray[np.uint64]:
    return blocks(replace(batch, key_hash=np.zeros_like(batch.key_hash)), block_s)


_ERRORS_OF = Errors.of
#: The trainer as it is, and mistakes that the simulation must catch.
MUTANTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "none": nullcontext,
    "empirical mean": lambda: patch.object(certifier, "certify", _trust_the_mean),
    "error not shared": lambda: patch.object(certificate, "attempt_error", lambda attempt, confidence: 1 - confidence),
    "overload by the mean": lambda: patch.object(certifier, "certify_bolder", _trust_the_bolder_mean),
    "overload's error not shared": lambda: patch.object(Errors, "of", _overload_takes_all),
    "copies counted singly": lambda: patch.object(certifier, "one_per_block", lambda block: np.arange(len(block))),
    "dealt by frame": lambda: patch.object(audits, "blocks", _deal_by_frame),
    "classes not tested": lambda: patch.object(ClassCap, "passes", lambda cap, wrong, error: np.ones(len(wrong), bool)),
}
