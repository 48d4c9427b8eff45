"""The race: a worker's whole path with the final heads and with every exit closed, in turns, on the same frames."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.store.head_store import HeadStore
from layercache.measuring.labelled_frames import LabelledFrames
from layercache.measuring.summary import Race, Round
from layercache.measuring.tally import Answer
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import Settings
from layercache.stream.frames.frame import Frame
from layercache.stream.offline import OfflineWorker

_ROUNDS = 5
#: On a slow machine fewer rounds will do, once there are enough for a median.
_FEWEST_ROUNDS = 3
_PATIENCE_S = 75.0


def run(
    settings: Settings,
    traced: TracedModel,
    store: HeadStore,
    pictures: LabelledFrames,
    answers: Sequence[Answer],
    report: Callable[[float], None] = lambda done: None,
) -> Race:
    """Races over the frames of ``answers``; their positions draw the audits, at the rate of the live heads.

    Where no version was published both sides run the plain model. ``report`` hears the share that is done.
    """
    frames = [_frame(settings.topics.frames, pictures, answer) for answer in answers]
    return against_closed(settings, _live_engine(traced, store), frames, report)


def against_closed(
    settings: Settings,
    with_exits: Engine,
    frames: Sequence[Frame],
    report: Callable[[float], None] = lambda done: None,
    patience_s: float = _PATIENCE_S,
) -> Race:
    """``with_exits`` against the same model without exits, over frames of one topic; audits are drawn at its rate.

    After ``patience_s`` seconds no further round begins, once there are enough for a median.
    """
    torch.set_num_threads(settings.worker.torch_threads or torch.get_num_threads())
    traced = with_exits.traced
    closed = Engine(traced)
    rounds: list[Round] = []
    began = time.monotonic()
    with OfflineWorker(traced, settings.worker, settings.topics.max_record_bytes) as worker:
        for engine in (with_exits, closed):
            engine.warm_up(settings.worker.max_batch)
        while len(rounds) < _ROUNDS:
            rounds.append(_round(_fps(worker, with_exits, frames), _fps(worker, closed, frames)))
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
        speedup=median(one.ratio for one in rounds),
    )


def _live_engine(traced: TracedModel, store: HeadStore) -> Engine:
    live = store.live()
    if live.version is None or live.closed:
        return Engine(traced)
    manifest, tensors = store.load(live.version)
    return Engine(traced, load_heads(manifest, tensors, traced))


def _fps(worker: OfflineWorker, engine: Engine, frames: Sequence[Frame]) -> float:
    began = time.perf_counter()
    worker.answer_frames(engine, frames)
    return len(frames) / (time.perf_counter() - began)


def _round(with_exits_fps: float, closed_fps: float) -> Round:
    return Round(with_exits_fps=with_exits_fps, closed_fps=closed_fps, ratio=with_exits_fps / closed_fps)


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
