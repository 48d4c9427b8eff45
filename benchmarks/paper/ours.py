"""Ours on the paper's tasks, with the trainer's own classes: heads taught on views that the full model answers anew.

The learning half is used up as a user's stream is: most of it teaches heads, a little fits temperatures, and the rest,
which nothing was learnt or fitted on, certifies: one attempt with the whole error of 5 %. Where heads sit and how large
they are (:data:`RECIPES`) was searched on seed 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf, isfinite
from time import perf_counter

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.paper.data import Budget, Rows, Task
from benchmarks.paper.rows import DISAGREEMENTS, Exit, Outcome, Thresholds
from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.binomial import allowed
from layercache.cache_training.certifying.certificate import certify
from layercache.cache_training.certifying.certifier import AIM
from layercache.cache_training.certifying.choosing import ExitChoice, Option, ScoredCandidate, calibrate, choose
from layercache.cache_training.certifying.threshold_family import CLOSED, ThresholdFamily
from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames
from layercache.cache_training.learning.learner import Learner
from layercache.cache_training.learning.proposals import fit_skim
from layercache.cache_training.learning.routes import Route
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.policy import cascade
from layercache.schemas.manifest import HeadSpec, Manifest

#: Shares of the learning half: the rest certifies.
_LEARNING, _TUNING = 0.62, 0.08
ERROR = 0.05
PAPER_DAY = datetime(2022, 9, 18, tzinfo=UTC)
_RING_MB = 1500
_SCORE_BATCH = 64
_REPORT_S = 30.0


@dataclass(frozen=True)
class SkimRecipe:
    """What was found best on seed 0: ``skims`` by cut, as stride, ``keep`` and ``keep_here`` of a skim's path."""

    skims: Mapping[str, tuple[int, int, int]]
    steps: int

    def heads(self, task: Task) -> dict[str, tuple[HeadSpec, ...]]:
        """The heads by cut, in the model's order."""
        traced = task.traced
        return {cut: (fit_skim(traced.cut(cut), traced, *how),) for cut, how in self.skims.items()}


RECIPES = {
    "resnet18": SkimRecipe({"relu": (2, 0, 1), "layer1": (2, 0, 0), "layer2": (2, 0, 0), "layer3": (2, 0, 0)}, 900),
    "resnet56": SkimRecipe({"relu": (2, 3, 3), "layer1.5": (2, 4, 0), "layer2.3": (2, 4, 0)}, 1000),
    "resnet20": SkimRecipe({"relu": (2, 1, 1), "layer1": (2, 1, 0), "layer2": (2, 1, 0)}, 1500),
    "mobilefacenet": SkimRecipe({"dw_conv1": (2, 0, 0), "blocks.1": (2, 0, 0), "blocks.6": (2, 0, 0)}, 700),
}


def learn(task: Task, seed: int, budget: Budget) -> Outcome:
    """Teaches heads on the learning half (its first ``budget.frames``), certifies them, and scores the other half."""
    full = Engine(task.traced)
    learning, tuning, certification = split(task.learning(seed)[: budget.frames])
    recipe = RECIPES[task.backbone]
    steps = recipe.steps // (2 if budget.quick else 1)
    learner = taught(task, recipe.heads(task), seed, answered(task, full, learning), steps)
    scored = _scored(learner, answered(task, full, tuning))
    untested = ThresholdFamily(np.empty((0, len(scored)), np.float32), np.empty(0), np.empty(0))
    everything = ExitChoice(learner.route, scored, untested, target=-1)
    manifest, tensors = versions.draft(task.traced.classifier, None, everything, 0.0, PAPER_DAY)
    engine = _engine(task, manifest, tensors, (CLOSED,) * len(scored))
    option = Option(Route(learner.route.reach), scored)
    families = {budget: _family(scored, choose(option, aim(budget, len(certification)))) for budget in DISAGREEMENTS}
    scores, labels = score(engine, task.frames[torch.from_numpy(task.evaluation(seed))])
    return Outcome(
        exits=tuple(
            Exit(one.candidate.cut, learner.route.reach[one.candidate.cut].flops, one.candidate.costs.flops)
            for one in scored
        ),
        scores=scores,
        labels=labels,
        settings=tuple(dict.fromkeys(setting for family in families.values() for setting in family)),
        engine=lambda thresholds: _engine(task, manifest, tensors, thresholds),
        certified=_certified(engine, task, full, certification, families),
    )


def split(rows: Rows) -> tuple[Rows, Rows, Rows]:
    """A learning half's rows that teach, that tune, and that certify."""
    learning, tuning, certification = np.split(
        rows, (np.array((_LEARNING, _LEARNING + _TUNING)) * len(rows)).astype(int)
    )
    return learning, tuning, certification


def aim(budget: float, frames: int) -> float:
    """The risk for which exits are chosen: somewhat less than what ``frames`` certify, as the trainer does."""
    return AIM * max(0, allowed(frames, budget, ERROR)) / frames or budget


def _family(scored: Sequence[ScoredCandidate], choice: ExitChoice | None) -> list[Thresholds]:
    """From safest to boldest, with the exits of a choice open; empty where tuning expects no exit to be worth it."""
    if choice is None:
        return []
    names = [one.candidate.name for one in choice.exits]
    settings = [dict(zip(names, thresholds, strict=True)) for thresholds in choice.family.thresholds.tolist()]
    return [tuple(_open(setting.get(one.candidate.name, CLOSED)) for one in scored) for setting in settings]


def _open(threshold: float) -> float:
    """The same, ``inf`` for an exit that is closed."""
    return inf if threshold == CLOSED else threshold


def taught(task: Task, heads: Mapping[str, Sequence[HeadSpec]], seed: int, frames: Frames, steps: int) -> Learner:
    """The learner of ``heads``, by cut, after so many steps on ``frames``."""
    learner = Learner(task.traced, list(heads), _RING_MB, seed, heads, steps)
    buffer, nothing = FrameBuffer(len(frames), "oldest", seed), FrameBuffer(1, "oldest")
    buffer.add(frames)
    began = reported = perf_counter()
    for step in range(steps):
        learner.learn(buffer, nothing)
        if perf_counter() - reported > _REPORT_S:
            reported = perf_counter()
            print(f"  step {step + 1:,} of {steps:,}, {reported - began:.0f} s", flush=True)
    return learner


def answered(task: Task, full: Engine, rows: Rows) -> Frames:
    """Frames of the stream with the full model's logits, as a worker sends them."""
    inputs = task.frames[torch.from_numpy(rows)]
    logits = [full.run(part, np.ones(len(part), np.bool_)).logits for part in inputs.split(_SCORE_BATCH)]
    return Frames.apart(inputs.numpy(), np.concatenate(logits), rows.astype(np.uint64))


def _scored(learner: Learner, tuning: Frames) -> tuple[ScoredCandidate, ...]:
    """Every head, with the temperature that fits the tuning frames."""
    learner.keep_for_tuning(tuning)
    rows = torch.arange(len(learner.tuning))
    targets = learner.tuning.logits(rows).argmax(1).numpy()
    return tuple(
        calibrate(one, learner.tuning_logits(one, rows).double().numpy(), targets) for one in learner.candidates
    )


def _engine(task: Task, manifest: Manifest, tensors: dict[str, torch.Tensor], thresholds: Thresholds) -> Engine:
    """The engine that serves with the exits that are open in this setting."""
    exits = tuple(
        msgspec.structs.replace(exit_, threshold=threshold)
        for exit_, threshold in zip(manifest.exits, thresholds, strict=True)
        if isfinite(threshold)
    )
    open_cuts = {exit_.cut for exit_ in exits}
    cuts = sorted((exit_.cut for exit_ in manifest.exits), key=len, reverse=True)  # one may begin with another's name
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if next(cut for cut in cuts if name.startswith(f"{cut}.")) in open_cuts
    }
    return Engine(task.traced, load_heads(msgspec.structs.replace(manifest, exits=exits), kept, task.traced))


def score(engine: Engine, frames: torch.Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Every exit's scores and labels, ``[N, exits]`` each."""
    parts = [engine.score(part) for part in frames.split(_SCORE_BATCH)]
    return np.concatenate([scores for scores, _ in parts]), np.concatenate([labels for _, labels in parts])


def _certified(
    engine: Engine, task: Task, full: Engine, rows: Rows, families: Mapping[float, Sequence[Thresholds]]
) -> dict[float, Thresholds]:
    """By budget: the boldest setting of its family that passes, every exit closed where none does."""
    scores, labels = score(engine, task.frames[torch.from_numpy(rows)])
    truth = answered(task, full, rows).labels
    found = {}
    for budget, family in families.items():
        found[budget] = (inf,) * scores.shape[1]
        exits = [cascade(scores, np.array(setting, np.float32)) for setting in family]
        answers = [np.where(e >= 0, labels[np.arange(len(e)), e], truth) for e in exits]
        verdict = certify(np.stack([answer != truth for answer in answers]), budget, ERROR) if family else None
        if verdict is not None:
            found[budget] = family[verdict.index]
    return found
