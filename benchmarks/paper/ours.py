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
from layercache.cache_training.certifying.certificate import allowed, certify
from layercache.cache_training.certifying.certifier import AIM
from layercache.cache_training.certifying.choosing import DOUBTS, ExitChoice, ScoredCandidate, calibrate, choose
from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames
from layercache.cache_training.learning.learner import Learner
from layercache.cache_training.learning.proposals import fit_skim
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.policy import cascade
from layercache.schemas.manifest import HeadSpec, Manifest

#: Shares of the learning half: the rest certifies.
_LEARNING, _TUNING = 0.62, 0.08
_ERROR = 0.05
_RING_MB = 1500
_SCORE_BATCH = 64
#: No score reaches this.
_CLOSED = 2.0
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
    rows = task.learning(seed)[: budget.frames]
    full = Engine(task.traced)
    learning, tuning, certification = np.split(
        rows, (np.array((_LEARNING, _LEARNING + _TUNING)) * len(rows)).astype(int)
    )
    recipe = RECIPES[task.backbone]
    learner = _taught(task, recipe, seed, _answered(task, full, learning), recipe.steps // (2 if budget.quick else 1))
    scored = _scored(learner, _answered(task, full, tuning))
    everything = ExitChoice(scored, 0.0, 0.0)
    paper_day = datetime(2022, 9, 18, tzinfo=UTC)
    manifest, tensors = versions.draft(task.traced.classifier, None, everything, learner.cut_costs, 0.0, paper_day)
    engine = _engine(task, manifest, tensors, (_CLOSED,) * len(scored))
    families = {
        budget: _family(scored, choose(scored, learner.cut_costs, _aim(budget, len(certification))))
        for budget in DISAGREEMENTS
    }
    scores, labels = _scores(engine, task, task.evaluation(seed))
    return Outcome(
        exits=tuple(
            Exit(one.candidate.cut, learner.cut_costs[one.candidate.cut].flops, one.candidate.costs.flops)
            for one in scored
        ),
        scores=scores,
        labels=labels,
        settings=tuple(dict.fromkeys(setting for family in families.values() for setting in family)),
        engine=lambda thresholds: _engine(task, manifest, tensors, thresholds),
        certified=_certified(engine, task, full, certification, families),
    )


def _aim(budget: float, frames: int) -> float:
    """The risk for which exits are chosen: somewhat less than what ``frames`` certify, as the trainer does."""
    return AIM * max(0, allowed(frames, budget, _ERROR)) / frames or budget


def _family(scored: Sequence[ScoredCandidate], choice: ExitChoice | None) -> list[Thresholds]:
    """From safest to boldest, with the exits of a choice open; empty where tuning expects no exit to be worth it."""
    opened = [choice is not None and one in choice.exits for one in scored]
    return [
        tuple(float(np.float32(1 - doubt)) if one else inf for one in opened) for doubt in (DOUBTS if choice else ())
    ]


def _taught(task: Task, recipe: SkimRecipe, seed: int, frames: Frames, steps: int) -> Learner:
    heads = recipe.heads(task)
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


def _answered(task: Task, full: Engine, rows: Rows) -> Frames:
    """Frames of the stream with the full model's logits, as a worker sends them."""
    inputs = task.frames[torch.from_numpy(rows)]
    logits = [full.run(part, np.ones(len(part), np.bool_)).logits for part in inputs.split(_SCORE_BATCH)]
    identity = rows.astype(np.uint64)
    return Frames(inputs.numpy(), np.concatenate(logits), identity, identity)


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
    return Engine(task.traced, load_heads(msgspec.structs.replace(manifest, exits=exits), tensors, task.traced))


def _scores(engine: Engine, task: Task, rows: Rows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    parts = [engine.score(part) for part in task.frames[torch.from_numpy(rows)].split(_SCORE_BATCH)]
    return np.concatenate([scores for scores, _ in parts]), np.concatenate([labels for _, labels in parts])


def _certified(
    engine: Engine, task: Task, full: Engine, rows: Rows, families: Mapping[float, Sequence[Thresholds]]
) -> dict[float, Thresholds]:
    """By budget: the boldest setting of its family that passes, every exit closed where none does."""
    scores, labels = _scores(engine, task, rows)
    truth = _answered(task, full, rows).labels
    found = {}
    for budget, family in families.items():
        found[budget] = (inf,) * scores.shape[1]
        exits = [cascade(scores, np.array(setting, np.float32)) for setting in family]
        answers = [np.where(e >= 0, labels[np.arange(len(e)), e], truth) for e in exits]
        verdict = certify(np.stack([answer != truth for answer in answers]), budget, _ERROR) if family else None
        if verdict is not None:
            found[budget] = family[verdict.index]
    return found
