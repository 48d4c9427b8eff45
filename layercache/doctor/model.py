"""Checks the model: does it load, can it be cut, what runs it how fast, and do its frames fit record and memory?"""

import math
from collections.abc import Callable, Iterator

from layercache.doctor.checks import Area, Finding
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.measuring.needs import first_look_audits
from layercache.schemas.settings import Settings

AREA = Area("model")
_BATCH, _REPEATS = 8, 3
#: Of a model that takes longer, other runtimes are not measured: to make int8 takes it minutes.
_LONGEST_MS = 50.0
#: The size of a record's header, in addition to its frame.
_RECORD_BYTES = 4_096


def check(settings: Settings, on_traced: Callable[[TracedModel], None]) -> Iterator[Finding]:
    """Loads and cuts the model, and calls ``on_traced`` with it, for the check of its heads."""
    from layercache.early_exit.cutting import costs, cuts
    from layercache.early_exit.model import loading
    from layercache.early_exit.model.weights import has_weights
    from layercache.early_exit.runtimes import with_reference

    try:
        classifier = loading.load(settings.model)
    except loading.ModelError as error:
        yield AREA.error("load", str(error), "check [model] or --model, --weights and --metadata")
        return
    shape = f"{classifier.preprocessing.channels} × {' × '.join(map(str, classifier.preprocessing.size))}"
    found = f"{classifier.name}: {len(classifier.classes)} classes, frames of {shape}, on {classifier.device}"
    random = not has_weights(settings.model)
    if random:
        yield AREA.error(
            "load", f"{found}, but no weights: it answers at random, and heads of one process fit no other",
            "give --weights (model.weights): a file, or DEFAULT",
        )  # fmt: skip
    else:
        yield AREA.ok("load", found)
    try:
        classifier = with_reference(classifier, settings.worker.max_batch)
    except loading.ModelError as error:
        yield AREA.error("runtime", str(error), "set model.runtime to auto")
        return
    try:
        traced = cuts.trace(classifier, settings.trainer.max_cuts)
    except cuts.CutError as error:
        yield AREA.error("cuts", str(error), "exits cannot be put into this model; the message says why")
        return
    proposed = ", ".join(cut.name for cut in traced.proposed)
    yield AREA.ok("cuts", f"{len(traced.cuts)} places to cut; heads are tried at {proposed}")
    yield AREA.ok("fingerprint", classifier.fingerprint[:12] + (", another each time" if random else ""))
    frames = classifier.example(_BATCH)
    ms = costs.measure_ms(classifier.module, frames, _REPEATS) / _BATCH
    yield AREA.ok("speed", f"{traced.flops / 1e9:.3g} GFLOPs and {ms:.3g} ms a frame, in batches of {_BATCH}")
    on_traced(traced)
    yield from _sizes(settings, traced)
    yield from _runtimes(settings, traced, ms)


def _runtimes(settings: Settings, traced: TracedModel, ms: float) -> Iterator[Finding]:
    """What runs the full model and why, and what other runtimes would take."""
    from layercache.early_exit.compiled.allowed import allowed_precisions, refusal
    from layercache.early_exit.compiled.openvino_runtime import INSTALL, missing
    from layercache.measuring.runtime_times import RuntimeTimes

    classifier = traced.classifier
    reference, why_not = classifier.reference, refusal(classifier)
    if why_not is not None and why_not == missing():
        yield AREA.warning("runtime", reference.described, f"OpenVINO is often several times as quick: {INSTALL}")
    else:
        yield AREA.ok("runtime", reference.described)
    exits = allowed_precisions(classifier)
    may = f"the trainer may compile it in {' and in '.join(exits.precisions)}" if exits.precisions else "none"
    yield AREA.ok("compiled exits", f"{may}{f' ({exits.reason})' if exits.reason else ''}")
    if why_not is not None:
        return
    if ms > _LONGEST_MS:
        yield AREA.skipped("other runtimes", "it takes minutes to make them of this model: `layercache profile` does")
        return
    batches = (1, settings.worker.max_batch)
    times = RuntimeTimes.measure(traced, batches)
    told = [
        f"{name} {' / '.join(f'{spent / batch:.3g}' for batch, spent in by_batch.items())}"
        for name, by_batch in times.ms.items()
    ]
    note = f"; {times.note}" if times.note else ""
    yield AREA.ok("other runtimes", f"ms a frame in batches of 1 / {batches[1]}: {', '.join(told)}{note}")


def _sizes(settings: Settings, traced: TracedModel) -> Iterator[Finding]:
    """Whether a frame fits a record, and whether a certificate's frames fit the trainer's memory."""
    preprocessing = traced.classifier.preprocessing
    pixels = preprocessing.channels * math.prod(preprocessing.size)
    frame_bytes = pixels + 4 * len(traced.classifier.classes)
    if frame_bytes + _RECORD_BYTES > settings.topics.max_record_bytes:
        yield AREA.error(
            "record size",
            f"one frame for the trainer takes {frame_bytes:,} bytes, topics.max_record_bytes is "
            f"{settings.topics.max_record_bytes:,}: nothing would be learnt",
            f"set topics.max_record_bytes to {2 * frame_bytes + _RECORD_BYTES:,} at least, and the topics' limit",
        )
    promise, trainer = settings.promise, settings.trainer
    budget = promise.max_disagreement
    needed = first_look_audits(budget, promise.confidence)
    fit = min(trainer.window_frames, int(trainer.replay_mb * 1e6 / 4 / (frame_bytes + 16)))
    found = f"{needed:,} certification audits to begin with for {budget:.2%} at {promise.confidence:.0%}, {fit:,} fit"
    if fit >= needed:
        yield AREA.ok("trainer's memory", found)
        return
    enough = math.ceil(1.2 * 4 * needed * (frame_bytes + 16) / 1e6)
    more = f"replay_mb to {enough:,} or more" if trainer.window_frames >= needed else f"window_frames above {needed:,}"
    yield AREA.error("trainer's memory", f"{found}: nothing could ever be certified", f"set trainer.{more}")
