"""The report, from settings to numbers: measure, rehearse the stream, hold the exam, race, and say what is wrong."""

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec
import torch

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.choosing import ExitChoice, Option, choose_among
from layercache.early_exit.cutting import costs, cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.memory import keep_freed_memory
from layercache.early_exit.model import loading
from layercache.early_exit.runtimes import with_reference
from layercache.measuring import race
from layercache.measuring.race import Rival
from layercache.measuring.summary import Race
from layercache.report import numbers
from layercache.report.alternative import Opening
from layercache.report.exam import Paper, Sitting
from layercache.report.findings import findings
from layercache.report.footage import Batch, Footage, FrameOptions
from layercache.report.rehearsal import Lane, Rehearsal, take
from layercache.report.results import EXAM_SHARE, gather
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Settings

#: The exam has so many frames at most.
_MOST_EXAM = 4_000
#: Of the time: for answering the stream's frames, until the stream ends (the rest of that is for learning), for the
#: exam, and for measuring with exits and without.
_SERVING, _STREAM, _EXAM, _RACE = 0.45, 0.75, 0.15, 0.1
#: How long heads may learn for each frame, as a multiple of the model's own time, and in seconds at least: few frames
#: do not become more by being learnt for minutes.
_LEARN_TIMES, _LEARN_LEAST_S = 30, 0.02
#: A frame costs this much more than the model's own time: decoding it, the heads, its record.
_OVERHEAD = 1.4
#: What tuning aims at, as a share of a budget, where nothing was certified: what certified exits use of it, about.
_USUAL_RISK = 0.5
_RACE_FRAMES = 256
#: Once everything took this many times as long as it was to, nothing more is measured.
_LATE = 1.5
#: A stream that takes this many times as long as it was to ends before its last frame.
_PATIENCE = 1.2
#: Few frames come in smaller batches, so that there is a stream and an exam.
_FEWEST_BATCHES = 8


@dataclass(frozen=True)
class Options:
    """What the user asks for, besides settings."""

    frames: FrameOptions
    budgets: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05)
    minutes: float = 5.0
    command: str = "layercache report"


class Watch(Protocol):
    """Hears how far a report is."""

    def phase(self, name: str) -> None:
        """Another part begins."""

    def progress(self, done: float, note: str = "") -> None:
        """A share of this part is done."""


class Quiet:
    """A :class:`Watch` that does not care."""

    def phase(self, name: str) -> None:
        """Nothing."""

    def progress(self, done: float, note: str = "") -> None:
        """Nothing."""


class NothingSeen(RuntimeError):
    """No frame could be used: there is nothing to report. The message says why."""


def run(
    settings: Settings, options: Options, watch: Watch | None = None, stop: threading.Event | None = None
) -> numbers.Report:
    """Makes the report. Once ``stop`` is set the stream ends where it is, and the exam follows.

    A ``KeyboardInterrupt`` during exam or race cuts these short. Raises :class:`NothingSeen`, what :func:`loading.load`
    and :func:`cuts.trace` raise, and :class:`layercache.stream.publishing.sources.SourceError`.
    """
    watch, stop = watch or Quiet(), stop or threading.Event()
    began = started_at = time.monotonic()
    keep_freed_memory()
    if settings.worker.torch_threads is not None:
        torch.set_num_threads(settings.worker.torch_threads)
    watch.phase("building and cutting the model")
    by_pytorch = cuts.trace(loading.load(settings.model), settings.trainer.max_cuts)
    classifier = with_reference(by_pytorch.classifier, settings.worker.max_batch)
    traced = cuts.trace(classifier, settings.trainer.max_cuts)
    footage = Footage(options.frames, settings, traced.classifier)
    watch.phase("measuring the model's pieces")
    table = costs.cost_table(by_pytorch)
    with tempfile.TemporaryDirectory(prefix="layercache-report-") as folder:
        watch.phase("measuring heads")
        rehearsal = Rehearsal(traced, settings, (*options.budgets, settings.promise.max_disagreement), Path(folder))
        seconds, max_batch = options.minutes * 60, settings.worker.max_batch
        pace = Pace.of(footage.count(), table.frame_ms, seconds, len(rehearsal.lanes), max_batch)
        batches = footage.batches(pace.batch)
        watch.phase("frames")
        opening = Opening(seconds, pace.race_s, pace.frame_s)
        _stream(rehearsal, batches, pace, watch, stop, opening)
        if not rehearsal.seen:
            raise NothingSeen(_nothing(footage, options.frames.path))
        found = rehearsal.finish()
        compiling = time.monotonic()
        watch.phase("alternative")
        rival = opening.rival(settings, by_pytorch, stop)
        interrupted, races = stop.is_set(), dict[float, Race]()
        began += time.monotonic() - compiling  # on top of what was asked for: how long it takes is not known before
        watch.phase("exam")
        sitting, choice = _sitting(rehearsal, traced, found, pace, rival)
        try:
            _sit(sitting, batches, pace, watch)
            if time.monotonic() - began < _LATE * seconds:
                watch.phase("race")
                _race(settings, sitting, by_pytorch, rival, pace, watch, races)
        except KeyboardInterrupt:
            interrupted = True
        report = gather(settings, table, footage, rehearsal, sitting, choice, races, rival)
    report = msgspec.structs.replace(
        report, command=options.command, seconds=time.monotonic() - started_at, interrupted=interrupted
    )
    return msgspec.structs.replace(report, findings=findings(report))


@dataclass(frozen=True)
class Pace:
    """How many frames go where, in which batches, and how long everything may take (seconds)."""

    stream: int
    exam: int
    batch: int
    frame_s: float
    stream_s: float
    exam_s: float
    race_s: float

    @classmethod
    def of(cls, frames: int, frame_ms: float, seconds: float, papers: int, max_batch: int) -> "Pace":
        """For ``frames`` frames of a model that takes ``frame_ms`` for one, and ``papers`` budgets.

        >>> pace = Pace.of(1000, 4.0, 300, papers=4, max_batch=32)
        >>> pace.stream, pace.exam, pace.batch
        (832, 168, 32)
        >>> pace = Pace.of(1_000_000, 4.0, 300, papers=4, max_batch=32)  # as many as there is time for
        >>> pace.stream, pace.exam
        (24096, 2363)
        """
        frame_s = _OVERHEAD * frame_ms / 1000
        batch = max(1, min(max_batch, frames // _FEWEST_BATCHES))
        held_out = min(round(EXAM_SHARE * frames), _MOST_EXAM, int(_EXAM * seconds / (frame_s * (1 + 0.6 * papers))))
        held_out = max(held_out, min(batch, frames - 1))
        fits = max(1, int(_SERVING * seconds / frame_s))
        stream = max(batch, (min(frames - held_out, fits) // batch) * batch)
        if fits >= frames - held_out:
            held_out = frames - stream  # what no whole batch is made of
        return cls(stream, held_out, batch, frame_s, _STREAM * seconds, _EXAM * seconds, _RACE * seconds)


def _stream(
    rehearsal: Rehearsal, batches: Iterator[Batch], pace: Pace, watch: Watch, stop: threading.Event, opening: Opening
) -> None:
    """Frames at an even pace, so that heads learn between them as long as the time allows."""
    began = time.monotonic()
    most = max(_LEARN_LEAST_S, _LEARN_TIMES * pace.frame_s)
    serving = 0.0
    for batch in take(batches, pace.stream):
        opening.take(batch)
        started = time.monotonic()
        rehearsal.serve(batch)
        serving += time.monotonic() - started
        seen = rehearsal.seen
        to_come = max(0, pace.stream - seen)
        left = pace.stream_s - (time.monotonic() - began) - to_come * serving / seen
        rehearsal.learn(min(most * len(batch), max(0.0, left) * len(batch) / (to_come + len(batch))))
        live = rehearsal.own.live
        watch.progress(seen / pace.stream, f"{seen:,} of {pace.stream:,}{_saying(live)}")
        if stop.is_set() or time.monotonic() - began > _PATIENCE * pace.stream_s:
            return


def _saying(live: object) -> str:
    expected = getattr(live, "expected", None)
    return f", exits open: {expected.hit_rate:.0%} leave at them" if expected else ", learning"


def _sitting(
    rehearsal: Rehearsal, traced: TracedModel, options: Sequence[Option], pace: Pace, rival: Rival
) -> tuple[Sitting, ExitChoice | None]:
    """The papers: what was certified for a budget, or what tuning would try for it; and the exits of the curve."""
    papers = []
    for lane in rehearsal.lanes:
        version = lane.loaded() or _estimated(traced, options, lane)
        if version is not None:
            papers.append(Paper.of(lane.budget, traced, *version))
    wanted = (rehearsal.own.budget, max(lane.budget for lane in rehearsal.lanes))
    choices = (choose_among(options, _USUAL_RISK * budget) for budget in wanted)
    choice = next((found for found in choices if found is not None), None)
    engine = None
    if choice is not None:
        now = datetime.now(UTC)
        manifest, tensors = versions.draft(traced.classifier, None, choice, 0.0, now)
        engine = Engine(traced, load_heads(manifest, tensors, traced))
    race_s = pace.race_s / max(1, len(papers))
    frames = int(race_s / (pace.frame_s * 3 * 3))  # with exits, PyTorch, the best plain runtime; three rounds
    return Sitting(traced, papers, engine, min(_RACE_FRAMES, max(16, frames)), rival.engine), choice


def _estimated(
    traced: TracedModel, options: Sequence[Option], lane: Lane
) -> tuple[Manifest, dict[str, torch.Tensor]] | None:
    """Exits with the thresholds that tuning expects to stay well within a budget; no certificate says so."""
    choice = choose_among(options, _USUAL_RISK * lane.budget)
    if choice is None:
        return None
    manifest, tensors = versions.draft(traced.classifier, None, choice, 0.0, datetime.now(UTC))
    return versions.with_thresholds(manifest, versions.thresholds(choice, choice.target)), tensors


def _sit(sitting: Sitting, batches: Iterator[Batch], pace: Pace, watch: Watch) -> None:
    began = time.monotonic()
    for batch in take(batches, pace.exam):
        sitting.take(batch)
        watch.progress(len(sitting) / pace.exam, f"{len(sitting):,} of {pace.exam:,}")
        if time.monotonic() - began > 2 * pace.exam_s:
            return


def _race(
    settings: Settings,
    sitting: Sitting,
    by_pytorch: TracedModel,
    rival: Rival,
    pace: Pace,
    watch: Watch,
    found: dict[float, Race],
) -> None:
    """Puts races by budget into ``found``: the worker's whole path on the exam's first frames, the promised first.

    Of large models it may be the only one: warming up alone takes dozens of frames.
    """
    began, promised = time.monotonic(), settings.promise.max_disagreement
    papers = sorted(sitting.papers, key=lambda paper: paper.budget != promised) if sitting.kept else []
    for number, paper in enumerate(papers):

        def report(done: float, number: int = number) -> None:
            watch.progress((number + done) / len(papers))

        found[paper.budget] = race.against_closed(
            settings, paper.engine, Engine(by_pytorch), sitting.kept, rival, report, pace.race_s / len(papers)
        )
        if time.monotonic() - began > pace.race_s:
            return


def _nothing(footage: Footage, path: str) -> str:
    why = f": {footage.notes[0]}" if footage.notes else ""
    return f"{path}: none of its {footage.skipped:,} frames could be used{why}"
