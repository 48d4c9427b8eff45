"""Ours where the model may be compiled, by the trainer's own classes; and the whole model by each plain runtime.

As in :mod:`benchmarks.paper.ours` most of the learning half teaches heads, a little tunes, and the rest certifies, for
each budget in one attempt with the whole error. The path's ranges of int8 come from frames that teach.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.paper import ours
from benchmarks.paper.data import Budget, Rows, Task
from benchmarks.paper.latency import one_thread
from benchmarks.paper.records import INT8
from benchmarks.paper.rows import Exit, Outcome, Point, Thresholds, Truth
from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.attempt import Attempt
from layercache.cache_training.certifying.binomial import upper_bound
from layercache.cache_training.certifying.certificate import certify
from layercache.cache_training.certifying.choosing import ExitChoice, choose, choose_among
from layercache.cache_training.certifying.options import Options
from layercache.cache_training.certifying.windows import Windows
from layercache.cache_training.learning.compiled_routes import CompiledRoutes
from layercache.cache_training.learning.learner import Learner
from layercache.early_exit.compiled.allowed import allowed_precisions
from layercache.early_exit.compiled.quantising import MOST_FRAMES
from layercache.early_exit.cutting.cuts import TracedModel, trace
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.runtimes import with_reference
from layercache.measuring.plain_runtimes import PlainRuntimes
from layercache.schemas.manifest import HeadSpec, Manifest

#: The disagreements that are certified.
BUDGETS = (0.01, 0.02, 0.05)
#: Heads are tried at these cuts alone: each cut of a compiled path costs time, since the map leaves as float32.
CUTS = {
    "resnet18": ("relu",),
    "resnet56": ("relu", "layer1.5"),
    "resnet20": ("relu",),
    "mobilefacenet": ("dw_conv1", "blocks.1"),
}
#: Published names of the plain runtimes, by the names of :class:`PlainRuntimes`.
_NAMES = {"OpenVINO float32": "openvino f32", "OpenVINO bfloat16": "openvino bf16", "OpenVINO int8": INT8}
_WINDOW_MB = 1e5  # a benchmark's windows hold all that there is


def proposed(task: Task) -> dict[str, tuple[HeadSpec, ...]]:
    """The heads that are tried on a backbone's compiled path."""
    return {cut: specs for cut, specs in ours.RECIPES[task.backbone].heads(task).items() if cut in CUTS[task.backbone]}


def plain_runtimes(task: Task, seed: int) -> Mapping[str, Engine]:
    """The whole model by each runtime besides PyTorch that there is here, by its published name.

    int8 takes its ranges from the first frames of the learning half, as ours does.
    """
    rows = task.learning(seed)[:MOST_FRAMES]
    plain = PlainRuntimes.compiled(task.traced, task.frames[torch.from_numpy(rows)])
    if plain.note:
        print(f"  not every plain runtime: {plain.note}", flush=True)
    return {_NAMES[name]: engine for name, engine in plain.engines.items()}


def whole(engine: Engine, frames: Tensor, truth: Truth) -> Point:
    """What a plain runtime answers to the evaluation half."""
    labels = np.concatenate([engine.run(part, np.zeros(len(part), np.bool_)).labels for part in frames.split(64)])
    return Point(0.0, float(np.mean(labels != truth.full)), float(np.mean(labels == truth.labels)), {}, ())


def learn(
    task: Task,
    seed: int,
    budget: Budget,
    heads: Mapping[str, Sequence[HeadSpec]],
    steps: int,
    say: Callable[[str], None] = print,
) -> dict[float, Outcome]:
    """Teaches ``heads``, by cut, on the learning half, and scores the other half with what was certified of them.

    By budget; one for which nothing was certified is missing. Whatever is compiled and timed is so for one thread.
    """
    learning, tuning, certification = ours.split(task.learning(seed)[: budget.frames])
    full = Engine(task.traced)
    windows = Windows(_WINDOW_MB, len(task.frames), len(tuning), seed)
    for window, rows in (
        (windows.learning, learning), (windows.tuning, tuning), (windows.certification, certification)
    ):  # fmt: skip
        window.add(ours.answered(task, full, rows))
    taught, tuned = windows.learning.frames(), windows.tuning.frames()
    assert taught is not None
    assert tuned is not None
    learner = ours.taught(task, heads, seed, taught, steps)
    learner.keep_for_tuning(tuned)
    found = {}
    with one_thread():
        served = trace(with_reference(task.traced.classifier))
        precisions = allowed_precisions(served.classifier).precisions
        routes = CompiledRoutes(served, precisions, learner.teacher.times(), learner.head_times)
        while routes.make_end(windows.learning):
            pass
        for limit in BUDGETS:
            choice = choose_exits(learner, routes, windows, ours.aim(limit, len(certification)))
            outcome = _certified(task, served, choice, limit, windows, task.evaluation(seed)) if choice else None
            if outcome is not None:
                found[limit] = outcome
                continue
            say(f"  {limit:.0%}: {'nothing was certified' if choice else 'tuning expects no exit to save time'}")
    return found


def choose_exits(learner: Learner, routes: CompiledRoutes, windows: Windows, risk: float) -> ExitChoice | None:
    """The best exits of any route, as the trainer finds them: a path with heads is made where these promise most."""
    options = Options(learner, routes, windows, time.monotonic)
    scored = options.score()
    of_heads = options.of_heads(scored)
    best = choose(of_heads, risk) if of_heads else None
    if best is not None and options.put_on_path(best):
        scored = options.score()
    return choose_among(scored, risk)


def _certified(
    task: Task, served: TracedModel, choice: ExitChoice, limit: float, windows: Windows, evaluation: Rows
) -> Outcome | None:
    """One attempt with the exits of ``choice``, and their answers to the evaluation half; None where it fails."""
    manifest, tensors = versions.draft(served.classifier, None, choice, 0.0, ours.PAPER_DAY)
    engine = Engine(served, load_heads(manifest, tensors, served))
    tested = windows.certification.frames()
    assert tested is not None
    scores, answers = ours.score(engine, torch.from_numpy(tested.inputs))
    attempt = Attempt.run(1, 1 - ours.ERROR, choice, scores, answers, tested)
    boldest = certify(attempt.wrong, limit, ours.ERROR)
    if boldest is None:
        return None
    index, _ = attempt.settle(range(boldest.index + 1))
    *left, nowhere = choice.route.by_exit([one.candidate for one in choice.exits])
    scores, answers = ours.score(engine, task.frames[torch.from_numpy(evaluation)])
    return Outcome(
        # Heads are part of what it takes to get to an exit: on a compiled path they are in its piece.
        exits=tuple(Exit(one.candidate.cut, costs.flops, 0.0) for one, costs in zip(choice.exits, left, strict=True)),
        scores=scores,
        labels=answers,
        settings=tuple(versions.thresholds(choice, setting) for setting in range(len(choice.family.times))),
        engine=partial(_engine, served, manifest, tensors),
        certified={limit: versions.thresholds(choice, index)},
        nowhere=nowhere.flops,
        upper_bound=upper_bound(int(attempt.wrong[index].sum()), len(tested), ours.ERROR),
        time_saved=lambda exits: versions.expected_savings(choice, exits).time_saved,
    )


def _engine(served: TracedModel, manifest: Manifest, tensors: dict[str, Tensor], thresholds: Thresholds) -> Engine:
    return Engine(served, load_heads(versions.with_thresholds(manifest, thresholds), tensors, served))
