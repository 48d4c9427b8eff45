"""Simulated lives of the trainer's certifier: one stream, many attempts, and did a version ever break its promise?

Everything that certifies is the trainer's own: windows, intake, dealing, choosing, the certifier, the store. Only what
the heads would have said is simulated.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from itertools import count, pairwise

import fsspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.promise.mutants import MUTANTS
from benchmarks.promise.simulated_heads import SimulatedHeads, risks
from benchmarks.promise.simulated_streams import Stream, Videos, latents_of
from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.binomial import upper_bound
from layercache.cache_training.certifying.certifier import Certifier
from layercache.cache_training.certifying.choosing import Option, ScoredCandidate
from layercache.cache_training.certifying.live_version import LiveVersion
from layercache.cache_training.certifying.windows import Windows
from layercache.cache_training.learning.candidates import Candidate, Costs, ExitCandidate
from layercache.cache_training.learning.compiled_exits import CompiledExit
from layercache.cache_training.learning.kept_frames import Frames
from layercache.cache_training.learning.routes import Route
from layercache.early_exit.store.head_store import HeadStore, StoreError
from layercache.early_exit.store.version_files import GRAPH
from layercache.schemas.attempt import AttemptOutcome
from layercache.schemas.manifest import CompiledPath, HeadSpec, Manifest
from layercache.schemas.settings import Promise

_CUTS = ("early", "late", "int8")
_PLAIN = Route({"early": Costs(0.3, 0.3), "late": Costs(0.6, 0.6)})
#: Nobody runs a compiled path's graphs here; a version has them all the same.
_GRAPHS = {sha256(bytes([number])).hexdigest(): torch.tensor([number], dtype=torch.uint8) for number in range(4)}
_WHOLE, *_PIECES = _GRAPHS


def _path(reach: dict[str, Costs], graphs: Sequence[str]) -> Route:
    """Past it the model begins anew."""
    return Route(
        reach,
        nowhere=Costs(2.0, 1.0 + reach["int8"].time),
        path=CompiledPath(precision="int8", graphs=tuple(graphs), made_by="simulated"),
        tensors={f"{GRAPH}{digest}": _GRAPHS[digest] for digest in graphs},
    )


#: The model in int8 alone, and with heads on its path.
_END = _path({"int8": Costs(1.0, 0.25)}, [_WHOLE])
_PATH = _path({"early": Costs(0.3, 0.08), "late": Costs(0.6, 0.18), "int8": Costs(1.0, 0.3)}, _PIECES)
_HEAD_COSTS = Costs(0.01, 0.01)
_TUNING_FRAMES = 200
_FOLDERS = count()
_LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
_SECONDS = count()


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
    """Between two rounds of the certifier; by default a third of its window."""
    loses_outcomes: bool = False
    """Three of four outcomes cannot be written before the trainer is killed and goes on from its checkpoint."""
    trainers: int = 1
    """So many try to certify on streams of their own with one store: while one attempts, the next one does, too."""


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


class _RecordedVersion(LiveVersion):
    """Also keeps what this trainer has published."""

    def __init__(self, store: HeadStore, promise: Promise, classes: int) -> None:
        super().__init__(store, promise, classes)
        self.published: list[Manifest] = []

    def publish(self, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
        """As ever."""
        super().publish(manifest, tensors)
        self.published.append(manifest)


class Simulated:
    """A stream's trainer, but for learning: its heads are simulated."""

    def __init__(self, scenario: Scenario, seed: int, store: HeadStore) -> None:
        self.scenario = scenario
        self.stream, self.heads = scenario.stream(seed), scenario.heads()
        self.windows = Windows(512, scenario.window_frames, _TUNING_FRAMES, seed)
        self.intake = AuditIntake(self.windows, scenario.promise.block_s, scenario.promise.block_frames)
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while an attempt that is claimed has not yet looked at its frames."""
        self.versions, self.overloads, self.broken = 0, 0, False
        self._tested, self._drafted = self.heads, ""
        """The heads of the attempt under way, as they were when it began, and when that was."""
        self._store = store
        self._random = np.random.default_rng([seed, 1])
        self.start()

    def start(self) -> None:
        """Also again, after being killed right after an attempt: all that is left are the frames and what was used."""
        self.published = _RecordedVersion(self._store, self.scenario.promise, self.scenario.classes)
        self._certifier = Certifier(
            _Model(tuple(str(label) for label in range(self.scenario.classes))),
            self.published, self.intake, self._score, min_audit_rate=0.02,
            make_durable=self._save, now=lambda: _LONG_AGO + timedelta(seconds=next(_SECONDS)),
        )  # fmt: skip

    def _save(self) -> None:
        self.meanwhile()

    @property
    def under_way(self) -> bool:
        """Whether an attempt waits for more frames."""
        return self._certifier.under_way

    def step(self) -> bool:
        """Takes in some audits and lets the certifier look; True where it began an attempt."""
        live = self.published.live
        if isinstance(self.stream, Videos) and live is not None:
            self.stream.audit_rate = live.audit_rate
        self.intake.take(
            self.stream.next(self.scenario.frames_at_once or max(100, len(self.windows.certification) // 3))
        )
        tuning = self.windows.tuning.frames()
        if tuning is None:
            return False
        learnt = [window.frames() for window in (self.windows.learning, self.windows.misses)]
        self.heads.learn(self.intake.audits, self._random, [frames for frames in learnt if frames is not None])
        attempted = self._certifier.consider(_options(self.heads, tuning, self.scenario.classes))
        for manifest in self.published.published:
            self.versions += 1
            self.overloads += manifest.overload is not None
            self.broken |= _breaks(manifest, self._tested, self.stream, self.scenario)
        self.published.published.clear()
        return attempted

    def _score(
        self, manifest: Manifest, tensors: dict[str, Tensor], frames: Frames
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        rows = [_CUTS.index(exit_.cut) for exit_ in manifest.exits]
        if manifest.created != self._drafted:
            self._tested, self._drafted = deepcopy(self.heads), manifest.created
        scores, wrong = _answers(self._tested, frames)
        full = frames.labels[:, None]
        return scores[:, rows], np.where(wrong[:, rows], (full + 1) % self.scenario.classes, full)


class _ForgetfulStore(HeadStore):
    """Can write one outcome in four."""

    def finish_attempt(self, number: int, outcome: AttemptOutcome) -> bool:
        """Of every fourth attempt."""
        if number % 4:
            raise StoreError("no space left on device")
        return super().finish_attempt(number, outcome)


def live(scenario: Scenario, seed: int) -> Life:
    """One stream from its first audit to its last attempt, all from ``seed``."""
    folder = f"simulated-{next(_FOLDERS)}"
    kind = _ForgetfulStore if scenario.loses_outcomes else HeadStore
    store = kind("memory://promise", folder, now=lambda: _LONG_AGO)
    trainers = [Simulated(scenario, seed + 1_000_000 * number, store) for number in range(scenario.trainers)]
    for one, following in pairwise(trainers):
        following.intake.lineage = one.intake.lineage  # of a copied checkpoint: nothing but the store keeps them apart
        one.meanwhile = following.step
    attempts, first = 0, trainers[0]
    while (
        (attempts < scenario.attempts or first.under_way)
        and first.intake.audits < scenario.longest
        and not _any_broken(trainers)
    ):
        attempts += first.step()
        for other in trainers[1:]:
            other.step()
        if scenario.loses_outcomes and not first.under_way:
            first.start()
    if attempts:
        fsspec.filesystem("memory").rm(f"/promise/{folder}", recursive=True)
    final = first.published.live.certificate if first.published.live else None
    tested = final.frames if final else 0
    return Life(
        attempts,
        sum(one.versions for one in trainers),
        sum(one.overloads for one in trainers),
        _any_broken(trainers),
        first.intake.audits,
        first.published.time_saved,
        tested,
    )


def _any_broken(trainers: list[Simulated]) -> bool:
    return any(one.broken for one in trainers)


@cache
def _candidates(classes: int) -> tuple[ExitCandidate, ...]:
    """What drafts are made of. Nobody trains them, so that all streams can share them."""
    spec = HeadSpec(family="pooled", features=(1,), classes=classes)
    *heads, end = _CUTS
    return (
        *(Candidate(f"{cut}/simulated", cut, spec, _HEAD_COSTS, seed=0) for cut in heads),
        CompiledExit(end, end, None, Costs(0.0, 0.0)),
    )


def _answers(heads: SimulatedHeads, frames: Frames) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Scores, and whether they are wrong, of every frame at every exit."""
    latents = latents_of(frames)
    return (1 - heads.doubts(latents)).astype(np.float32), latents.luck[:, None] < heads.chances(latents)


def _options(heads: SimulatedHeads, tuning: Frames, classes: int) -> list[Option]:
    """Heads on the model's own layers; where the model itself is an exit, in int8, that alone and heads on its path."""
    scores, wrong = _answers(heads, tuning)
    scored = [
        ScoredCandidate(candidate, 1.0, scores[:, exit_], wrong[:, exit_] & heads.honest)
        for exit_, candidate in enumerate(_candidates(classes)[: heads.exits])
    ]
    if heads.exits < len(_CUTS):
        return [Option(_PLAIN, scored)]
    return [Option(_PLAIN, scored[:-1]), Option(_END, scored[-1:]), Option(_PATH, scored)]


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
