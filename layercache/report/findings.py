"""What the reader must know about the numbers before believing them: pure, from the numbers themselves."""

from collections.abc import Iterator

from layercache.measuring.plain_runtimes import PYTORCH
from layercache.report.numbers import Budget, Exam, Finding, Report

#: From these shares on: the model answers nearly one class; frames look alike; few frames differ from each other.
_ONE_CLASS, _ALIKE, _COPIES = 0.8, 0.3, 0.01
#: Exits should make a worker this many times as fast at least to be worth having.
_WORTH = 1.02


def findings(report: Report) -> tuple[Finding, ...]:
    """Warnings first."""
    found = [*_model(report), *_frames(report), *_certificates(report), *_worth(report)]
    return tuple(sorted(found, key=lambda finding: finding.level != "warning"))


def reason(budget: Budget, confidence: float) -> str:
    """Why nothing was certified for a budget, with what it would take."""
    if budget.room < budget.audits_needed:
        return (
            f"memory: the first attempt takes {budget.audits_needed:,} certification audits, "
            f"{budget.room:,} fit into trainer.replay_mb"
        )
    if not budget.attempts and budget.audits < budget.audits_needed:
        return (
            f"too few frames: at least {budget.audits_needed:,} independent certification audits are needed at "
            f"{confidence:.0%}, there were {budget.audits:,}; that takes about {budget.frames_needed:,} "
            "independent frames"
        )
    if budget.attempts:
        return f"tried {_times(budget.attempts)}, and the heads were not good enough"
    return "tuning expected nothing worth an attempt from what the heads had learnt by then"


def _model(report: Report) -> Iterator[Finding]:
    model, frames = report.model, report.frames
    if not model.has_weights:
        yield _warning(
            "The model has no weights",
            f"{model.name} was built without weights: it answers at random, so that these numbers show what its pieces "
            "cost and that it can be cut, and nothing about a trained model. Give --weights.",
        )
    if frames.top_class_share >= _ONE_CLASS:
        yield _warning(
            "The model answers nearly one class",
            f"{frames.top_class_share:.1%} of the answers are “{frames.top_class}” ({frames.classes_seen} of "
            f"{model.classes} classes occur, mean confidence {frames.mean_confidence:.1%}). Heads learn that at once: "
            "frames like those that the model is for would leave less early.",
        )
    elif frames.mean_confidence < 0.5:
        yield _note(
            "The model is unsure of these frames",
            f"Its mean confidence is {frames.mean_confidence:.1%}. Heads can only be as sure as the model: are size, "
            "mean and std right, and are these frames what the model was trained for?",
        )


def _frames(report: Report) -> Iterator[Finding]:
    frames = report.frames
    if report.interrupted:
        yield _warning("Stopped early", "The report was interrupted: it is of the frames seen until then.")
    used = frames.streamed + frames.exam
    if frames.available is not None and used + frames.skipped < frames.available:
        yield _note(
            "Not all frames were used",
            f"{used:,} of {frames.available:,} frames were read in the time that there was, or by --frames-limit. More "
            "--minutes read more, and let heads learn longer.",
        )
    if frames.skipped:
        notes = "; ".join(frames.skipped_notes)
        yield _warning(
            f"{frames.skipped:,} frames could not be used", f"A worker would make them dead letters: {notes}"
        )
    if frames.copies > _COPIES * frames.streamed:
        yield _warning(
            "Frames repeat",
            f"{frames.copies:,} of the stream's {frames.streamed:,} frames are exact copies of earlier ones. Heads "
            "know a frame that they have learnt, so that each picture certifies once; the stream's curve holds for a "
            f"stream that repeats itself as much. {_exam_copies(report)}",
        )
    elif frames.exam_copies:
        yield _note("Frames repeat", _exam_copies(report))
    if not frames.keyed and frames.near_copies > _ALIKE * frames.streamed:
        yield _warning(
            "Frames look like their predecessors",
            f"{frames.near_copies / frames.streamed:.0%} of the frames are nearly the same as the one before: pictures "
            "of a video? Then they are not independent, and a certificate that counts each is worth less than it says. "
            "Give the video itself, or --fps.",
        )
    if frames.keyed:
        yield _note(
            "One camera",
            f"The frames are one stream: near-copies within promise.block_s count together, so that the stream of "
            f"{frames.streamed:,} frames holds {frames.blocks:,} independent ones to certify with.",
        )
    if frames.scenes_outlast:
        yield _warning(
            "Scenes outlast blocks",
            f"The camera's neighbouring blocks of promise.block_s differ by {frames.likeness or 0:.0%} of what blocks "
            "farther apart do: they show one scene, and are fewer independent frames than blocks. So nothing is "
            "certified on them. Set promise.block_s to how long a scene lasts.",
        )
    if frames.shuffled:
        yield _note(
            "The order is drawn",
            "Frames were shuffled by --seed: folders are classes here, and one class after the other is no stream that "
            "any camera sends."
            if frames.labelled
            else "Frames were shuffled by --seed.",
        )


def _exam_copies(report: Report) -> str:
    frames = report.frames
    if not frames.exam_copies:
        return "None of the exam's frames does."
    if frames.fresh:
        return f"{frames.exam_copies:,} of the exam's {frames.exam:,} frames do, and are left out of its numbers."
    return (
        f"Nearly all of the exam's {frames.exam:,} frames do, so that its numbers, too, are of frames that were "
        "learnt from."
    )


def _certificates(report: Report) -> Iterator[Finding]:
    promised = report.promised
    for budget in report.budgets:
        if budget.state != "certified":
            tell = _warning if budget is promised else _note
            yield tell(
                f"Nothing certified at {_share(budget)}",
                f"{reason(budget, report.confidence).capitalize()}."
                + (" Its row shows what tuning would try, without a promise." if budget.state == "estimated" else ""),
            )
        elif budget.exam is not None and budget.exam.lowest > budget.max_disagreement:
            yield _warning(
                f"Over the budget of {_share(budget)} in the exam",
                f"{budget.exam.disagreements:,} of {budget.exam.frames:,} frames differed, more than chance explains: "
                "the exam's frames are not like the stream's. In production audits notice that, and close the exits.",
            )
    if report.stream.versions and any(version.reason == "unsafe" for version in report.stream.versions):
        yield _warning(
            "The stream drifted",
            "Audits said that the exits exceeded their budget, and they were closed until new ones could be certified: "
            "the frames changed on the way.",
        )


def _worth(report: Report) -> Iterator[Finding]:
    exam = report.promised.exam
    if exam is None:
        if report.promised.state == "nothing" and not report.curve:
            yield _note(
                "No exit was worth it",
                "No head at any cut was expected to save more time than it costs itself, with what could be learnt "
                "from these frames. Longer learning helps (--minutes), and so do more frames.",
            )
    elif exam.speedup is None and not report.interrupted:
        yield _note("Time was not measured", "Everything took longer than --minutes allows; give it more.")
    elif exam.speedup is not None and exam.speedup < _WORTH:
        yield _note(
            "Hardly any time is saved here",
            f"A worker was {exam.speedup:.2f} times as fast with its exits open: the model is so small, or so quick on "
            "this machine, that heads cost about what they save, or decoding the pictures takes most of the time.",
        )
    yield from _plain(report, exam)


def _plain(report: Report, exam: Exam | None) -> Iterator[Finding]:
    plain = report.plain
    if plain.note:
        yield _note("Not every plain runtime was tried", f"The best that was is {plain.name}: {plain.note}.")
    if plain.name == PYTORCH or exam is None or exam.speedup_plain is None or not plain.frames:
        return
    if exam.speedup_plain < _WORTH:
        yield _note(
            f"{plain.name} alone is {'quicker' if exam.speedup_plain < 1 / _WORTH else 'about as fast'}",
            f"With the exits a worker was {exam.speedup_plain:.2f} times as fast as the whole model by {plain.name}. "
            f"That differed from the model on {plain.disagreements:,} of {plain.frames:,} frames (95 %: "
            f"{plain.lowest:.2%} to {plain.highest:.2%}), and nothing watches or bounds that: what the exits add is "
            "the certificate, the audits, and the model itself for what they are not sure of.",
        )


def _warning(title: str, text: str) -> Finding:
    return Finding(level="warning", title=title, text=text)


def _note(title: str, text: str) -> Finding:
    return Finding(level="note", title=title, text=text)


def _share(budget: Budget) -> str:
    return f"{100 * budget.max_disagreement:g} %"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
