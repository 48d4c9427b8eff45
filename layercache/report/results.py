"""What rehearsal and exam have found, gathered into numbers."""

import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

import layercache
from layercache.cache_training.certifying.choosing import ExitChoice
from layercache.early_exit.cutting.costs import CostTable
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.model.weights import has_weights
from layercache.measuring.columns import moving
from layercache.measuring.needs import first_attempt_audits, first_attempt_frames
from layercache.measuring.race import Rival
from layercache.measuring.summary import Race
from layercache.report import exam, numbers
from layercache.report.exam import Known, Sitting
from layercache.report.footage import Footage
from layercache.report.rehearsal import Lane, Rehearsal, RehearsedFrames
from layercache.schemas.settings import Settings

#: Share of the frames that is kept for the exam.
EXAM_SHARE = 0.15
_POINTS = 160


def gather(
    settings: Settings,
    table: CostTable,
    footage: Footage,
    rehearsal: Rehearsal,
    sitting: Sitting,
    choice: ExitChoice | None,
    races: Mapping[float, Race],
    rival: Rival,
) -> numbers.Report:
    """The report but for its findings; ``choice`` are the exits of the curve, ``races`` are by budget.

    ``rival`` is the best plain runtime.
    """
    promise, classifier = settings.promise, rehearsal.traced.classifier
    known = sitting.known() if len(sitting) else None
    rows = _fresh(rehearsal, known) if known is not None else np.empty(0, np.bool_)
    exams: dict[float, numbers.Exam | None] = {}
    classes: tuple[numbers.OfClass, ...] = ()
    points: tuple[numbers.Point, ...] = ()
    nothing = np.empty(0, np.int64)
    plain = exam.plain_result(rival, nothing, nothing)
    if known is not None:
        for number, paper in enumerate(sitting.papers):
            found = exam.result(paper, sitting.answered(number), known, rows)
            exams[paper.budget] = _timed(found, races.get(paper.budget))
            if paper.budget == rehearsal.own.budget:
                classes = exam.by_class(sitting.answered(number), known, rows, classifier.classes)
        plain = exam.plain_result(rival, sitting.plain_labels()[rows], known.full[rows])
        if choice is not None:
            scores, labels = sitting.scores()
            points = exam.curve(choice, scores[rows], labels[rows], known.full[rows])
    return numbers.Report(
        layercache=layercache.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        confidence=promise.confidence,
        max_disagreement=promise.max_disagreement,
        least_audit_rate=settings.trainer.min_audit_rate,
        machine=_machine(rehearsal.traced),
        model=numbers.Model(
            name=table.model,
            fingerprint=table.fingerprint,
            classes=len(classifier.classes),
            has_weights=has_weights(settings.model),
            flops=table.flops,
            frame_ms=table.frame_ms,
            cuts=table.cuts,
        ),
        frames=_frames(footage, rehearsal, known, rows),
        stream=_stream(rehearsal),
        budgets=tuple(_budget(rehearsal, lane, exams.get(lane.budget)) for lane in rehearsal.lanes),
        plain=plain,
        classes=classes,
        curve=points,
    )


def report_frames(budget: float, confidence: float) -> int:
    """Frames of a report, those of its exam included, until the first attempt, about.

    >>> report_frames(0.01, 0.95)
    983
    """
    return int(first_attempt_frames(budget, confidence) / (1 - EXAM_SHARE)) + 1


def _fresh(rehearsal: Rehearsal, known: Known) -> npt.NDArray[np.bool_]:
    """The exam's frames that were not in the stream; all of them where there are hardly any such."""
    new = ~np.isin(known.content, rehearsal.frames().content)
    return new if new.sum() >= max(1, len(new) // 10) else np.ones(len(new), np.bool_)


def _timed(found: numbers.Exam | None, race: Race | None) -> numbers.Exam | None:
    if found is None or race is None:
        return found
    return msgspec.structs.replace(
        found,
        speedup=race.speedup,
        speedup_plain=race.speedup_plain,
        with_exits_fps=race.with_exits_fps,
        closed_fps=race.closed_fps,
        plain_fps=race.plain_fps,
    )


def _budget(rehearsal: Rehearsal, lane: Lane, found: numbers.Exam | None) -> numbers.Budget:
    certificate = lane.live.certificate if lane.live else None
    confidence = lane.published.promise.confidence
    return numbers.Budget(
        max_disagreement=lane.budget,
        state="certified" if certificate else "estimated" if found else "nothing",
        certificate=certificate,
        attempts=lane.published.store.attempts(),
        audits=max(rehearsal.most_waiting(lane), certificate.frames if certificate else 0),
        audits_needed=first_attempt_audits(lane.budget, confidence),
        frames_needed=report_frames(lane.budget, confidence),
        room=lane.intake.windows.certification.capacity,
        exam=found,
    )


def _stream(rehearsal: Rehearsal) -> numbers.Stream:
    columns = rehearsal.frames()
    n = len(columns.full)
    window = max(20, n // 20)
    at = np.unique(np.linspace(0, n - 1, _POINTS).astype(np.int64))

    def at_points(values: npt.NDArray[np.bool_] | npt.NDArray[np.float64]) -> tuple[float, ...]:
        return tuple(round(value, 5) for value in moving(values, window)[at].tolist())

    labelled = columns.truth >= 0
    return numbers.Stream(
        budget=rehearsal.own.budget,
        at=tuple((at + 1).tolist()),
        window=window,
        hit_rate=at_points(columns.hit),
        time_saved=at_points(1 - columns.time_share),
        flops_saved=at_points(1 - columns.flops_share),
        audited=at_points(columns.audited),
        disagreement=at_points(columns.exit_label != columns.full),
        versions=tuple(
            numbers.Version(
                at_frame=frame,
                reason=manifest.reason,
                exits=tuple(exit_.cut for exit_ in manifest.exits),
                audit_rate=manifest.audit_rate,
            )
            for frame, manifest in rehearsal.versions
        ),
        served_disagreements=int((columns.served != columns.full).sum()),
        accuracy=_accuracy(columns.served, columns, labelled),
        full_accuracy=_accuracy(columns.full, columns, labelled),
    )


def _accuracy(labels: npt.NDArray[np.int64], columns: RehearsedFrames, labelled: npt.NDArray[np.bool_]) -> float | None:
    return float((labels == columns.truth)[labelled].mean()) if labelled.any() else None


def _frames(
    footage: Footage, rehearsal: Rehearsal, known: Known | None, fresh: npt.NDArray[np.bool_]
) -> numbers.Frames:
    columns, classes = rehearsal.frames(), rehearsal.traced.classifier.classes
    scenes = rehearsal.trainer.intake.scenes
    full, confidence, labelled = [columns.full], [columns.confidence], columns.truth >= 0
    copies = 0
    if known is not None:
        copies = int(np.isin(known.content, columns.content).sum())
        full, confidence = [*full, known.full], [*confidence, known.confidence]
        labelled = np.concatenate((labelled, known.truth >= 0))
    counts = np.bincount(np.concatenate(full), minlength=len(classes))
    return numbers.Frames(
        source=footage.path,
        available=footage.available,
        streamed=len(columns.full),
        exam=0 if known is None else len(known.full),
        skipped=footage.skipped,
        skipped_notes=tuple(footage.notes),
        shuffled=footage.shuffled,
        labelled=int(labelled.sum()),
        keyed=footage.key is not None,
        blocks=rehearsal.blocks,
        copies=len(columns.content) - len(np.unique(columns.content)),
        near_copies=int(columns.near.sum()),
        likeness=scenes.likeness,
        scenes_outlast=bool(scenes.outlast),
        exam_copies=copies,
        fresh=not copies or int(fresh.sum()) == len(fresh) - copies,
        classes_seen=int((counts > 0).sum()),
        top_class=classes[int(counts.argmax())],
        top_class_share=float(counts.max() / counts.sum()),
        mean_confidence=float(np.concatenate(confidence).mean()),
    )


def _machine(traced: TracedModel) -> numbers.Machine:
    return numbers.Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        torch_threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        device=str(traced.classifier.device),
        dtype=str(traced.classifier.dtype).removeprefix("torch."),
    )


def _processor() -> str:
    """As Linux names it; elsewhere what Python knows."""
    if sys.platform == "linux":
        try:
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()
