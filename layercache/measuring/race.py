"""The race: a worker's whole path with the final heads, with every exit closed, and by the best plain runtime."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch

from layercache.early_exit.cutting.cuts import TracedModel, trace
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.runtimes import with_reference
from layercache.early_exit.store.head_store import HeadStore
from layercache.measuring.columns import Integers
from layercache.measuring.labelled_frames import LabelledFrames
from layercache.measuring.plain_runtimes import PYTORCH, PlainRuntimes
from layercache.measuring.summary import Plain, Race, Round
from layercache.measuring.tally import Answer
from layercache.schemas import prediction
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import Settings
from layercache.stream.frames.decoding import Limits, decode_frame
from layercache.stream.frames.frame import Frame
from layercache.stream.offline import OfflineWorker

_ROUNDS = 5
#: On a slow machine fewer rounds will do, once there are enough for a median.
_FEWEST_ROUNDS = 3
_PATIENCE_S = 75.0
#: A heat has so many frames, and each runtime runs so many: the plain runtimes differ by more than a short run's noise.
_HEAT_FRAMES, _HEATS = 128, 2
#: int8 takes its ranges from so many frames; more make no better ones.
_RANGE_FRAMES = 300


@dataclass(frozen=True)
class Rival:
    """The plain runtime that a race is against, besides PyTorch."""

    name: str
    engine: Engine | None = None
    """None: PyTorch itself was the quickest, so that every exit closed is the best there is."""
    fps: Mapping[str, float] = field(default_factory=dict)
    """Frames per second in the heats, of every runtime."""
    note: str = ""


def run(
    settings: Settings,
    traced: TracedModel,
    store: HeadStore,
    pictures: LabelledFrames,
    answers: Sequence[Answer],
    report: Callable[[float], None] = lambda done: None,
) -> Race:
    """Races over the frames of ``answers``; their positions draw the audits, at the rate of the live heads.

    ``traced`` is run by PyTorch, as every exit closed is; the worker with exits runs the full model by the runtime that
    would serve it, also where no version was published. The stream's other frames, its first ones, set the
    ranges of the plain int8 model. ``report`` hears the share that is done.
    """
    frames = [_frame(settings.topics.frames, pictures, answer) for answer in answers]
    raced = {answer.frame for answer in answers}
    others = [place for place in range(len(pictures)) if place not in raced] or sorted(raced)
    limits, preprocessing = Limits.of(settings.worker), traced.classifier.preprocessing
    ranges = [decode_frame(pictures.pictures[place], None, preprocessing, limits) for place in others[:_RANGE_FRAMES]]
    _set_threads(settings)
    plain = PlainRuntimes.compiled(traced, torch.stack(ranges))
    served = trace(with_reference(traced.classifier, settings.worker.max_batch))
    found = rival(settings, traced, plain, frames)
    return against_closed(settings, _live_engine(served, store), Engine(traced), frames, found, report)


def rival(settings: Settings, traced: TracedModel, plain: PlainRuntimes, frames: Sequence[Frame]) -> Rival:
    """The quickest plain runtime on these frames, PyTorch among them, by heats in turns."""
    if not plain.engines:
        return Rival(PYTORCH, note=plain.note)
    _set_threads(settings)
    engines = {PYTORCH: Engine(traced), **plain.engines}
    fps = dict.fromkeys(engines, 0.0)
    with _worker(settings, traced) as worker:
        for engine in engines.values():
            engine.warm_up(settings.worker.max_batch)
        for _ in range(_HEATS):
            for name, engine in engines.items():
                fps[name] = max(fps[name], _lap(worker, engine, frames[:_HEAT_FRAMES]).fps)
    name = max(fps, key=fps.__getitem__)
    return Rival(name, plain.engines.get(name), fps, plain.note)


def against_closed(
    settings: Settings,
    with_exits: Engine,
    closed: Engine,
    frames: Sequence[Frame],
    rival: Rival,
    report: Callable[[float], None] = lambda done: None,
    patience_s: float = _PATIENCE_S,
) -> Race:
    """``with_exits`` against ``closed``, the same model without exits by PyTorch, and against ``rival``.

    All answer the same frames of one topic; audits are drawn at the rate of ``with_exits``. After ``patience_s``
    seconds no further round begins, once there are enough for a median.
    """
    _set_threads(settings)
    traced = closed.traced
    rounds: list[Round] = []
    differs = 0.0
    began = time.monotonic()
    with _worker(settings, traced) as worker:
        for engine in (with_exits, closed, rival.engine):
            if engine is not None:
                engine.warm_up(settings.worker.max_batch)
        while len(rounds) < _ROUNDS:
            ours, full = _lap(worker, with_exits, frames), _lap(worker, closed, frames)
            plain = full  # where PyTorch is the best plain runtime, one run stands for both
            if rival.engine is not None:
                plain = _lap(worker, rival.engine, frames)
                differs = float((plain.labels() != full.labels()).mean())
            rounds.append(_round(ours.fps, full.fps, plain.fps))
            report(len(rounds) / _ROUNDS)
            if len(rounds) >= _FEWEST_ROUNDS and time.monotonic() - began > patience_s:
                break
    return Race(
        frames=len(frames),
        max_batch=settings.worker.max_batch,
        torch_threads=torch.get_num_threads(),
        heads_version=with_exits.version,
        audit_rate=with_exits.audit_rate,
        rounds=tuple(rounds),
        with_exits_fps=median(one.with_exits_fps for one in rounds),
        closed_fps=median(one.closed_fps for one in rounds),
        plain_fps=median(one.plain_fps for one in rounds),
        speedup=median(one.ratio for one in rounds),
        speedup_plain=median(one.ratio_plain for one in rounds),
        plain=Plain(name=rival.name, disagreement=differs, heats_fps=dict(rival.fps), note=rival.note),
    )


def _set_threads(settings: Settings) -> None:
    torch.set_num_threads(settings.worker.torch_threads or torch.get_num_threads())


def _worker(settings: Settings, traced: TracedModel) -> OfflineWorker:
    return OfflineWorker(traced, settings.worker, settings.topics.max_record_bytes)


def _live_engine(traced: TracedModel, store: HeadStore) -> Engine:
    live = store.live()
    if live.version is None or live.closed:
        return Engine(traced)
    manifest, tensors = store.load(live.version)
    return Engine(traced, load_heads(manifest, tensors, traced))


@dataclass(frozen=True)
class _Lap:
    """One run over all frames."""

    fps: float
    predictions: Sequence[bytes]

    def labels(self) -> Integers:
        return np.array([prediction.decoder.decode(value).label for value in self.predictions], np.int64)


def _lap(worker: OfflineWorker, engine: Engine, frames: Sequence[Frame]) -> _Lap:
    began = time.perf_counter()
    predictions = worker.answer_frames(engine, frames)
    return _Lap(len(frames) / (time.perf_counter() - began), predictions)


def _round(with_exits_fps: float, closed_fps: float, plain_fps: float) -> Round:
    return Round(
        with_exits_fps=with_exits_fps,
        closed_fps=closed_fps,
        plain_fps=plain_fps,
        ratio=with_exits_fps / closed_fps,
        ratio_plain=with_exits_fps / plain_fps,
    )


def _frame(topic: str, pictures: LabelledFrames, answer: Answer) -> Frame:
    return Frame(
        topic=topic,
        partition=answer.partition,
        offset=answer.offset,
        timestamp_ms=answer.frame_ms,
        key=None,
        value=pictures.pictures[answer.frame],
        raw_headers=FrameHeaders(ce_id=pictures.names[answer.frame]).as_kafka(),
    )
