"""Draws streams of scored frames, on whose tuning audits the trainer's own code chooses exits and thresholds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.alternatives.scored import TORCH, ScoredFrames, ScoredRoute
from layercache.cache_training.certifying.certifier import AIM
from layercache.cache_training.certifying.choosing import ExitChoice, Option, ScoredCandidate, calibrate, choose
from layercache.cache_training.learning.candidates import Costs
from layercache.cache_training.learning.compiled_exits import CompiledExit
from layercache.cache_training.learning.routes import Route
from layercache.early_exit.policy import cascade
from layercache.schemas.manifest import CompiledPath

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
#: An exit's logits ``[N, classes]`` and the full model's labels ``[N]`` to a calibrated candidate.
Calibrate = Callable[[CompiledExit, Floats, Rows], ScoredCandidate]
#: Logits and a temperature to scores ``[N]``.
Scores = Callable[[Floats, float], Floats]


def largest_probability(logits: Floats, temperature: float) -> Floats:
    """What exits go by: of softmax."""
    raised = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    result: Floats = raised.max(1) / raised.sum(1)
    return result


@dataclass(frozen=True)
class Judged:
    """A choice's settings on all N frames."""

    choice: ExitChoice
    wrong: Bools
    """``[settings, N]``"""
    leaves: npt.NDArray[np.int32]
    """``[settings, N]``: the exit, -1 for none."""
    doubt: Floats
    """``[settings, N]``: of the exit at which a frame leaves; 0 where it leaves nowhere."""
    saved: Floats
    """``[settings]``: time."""


class Streams:
    """Draws from N scored frames, by ``seed``."""

    def __init__(self, frames: ScoredFrames, seed: int) -> None:
        self.frames = frames
        self.random = np.random.default_rng(seed)
        self._routes = {name: _route(scored, name != TORCH) for name, scored in frames.routes.items()}

    def deal(self, tuning: int, certification: int) -> tuple[Rows, Rows]:
        """Tuning audits, and certification audits that are none of these."""
        order = self.random.permutation(len(self.frames.labels))
        return order[:tuning], self.random.choice(order[tuning:], certification)

    def option(self, name: str, rows: Rows, fit: Calibrate = calibrate) -> Option:
        """A route's exits, calibrated on the tuning audits of ``rows``."""
        scored = self.frames.routes[name]
        exits = zip(_candidates(scored), scored.logits, strict=True)
        labels = self.frames.labels[rows]
        return Option(self._routes[name], [fit(one, logits[rows].astype(np.float64), labels) for one, logits in exits])

    def choose(self, names: Sequence[str], rows: Rows, tolerated: float, fit: Calibrate = calibrate) -> Judged | None:
        """The choice that saves most, as the trainer would, where a test tolerates that share; None for none."""
        choices = [choose(self.option(name, rows, fit), AIM * tolerated) for name in names]
        best = max(filter(None, choices), key=lambda choice: choice.time_saved, default=None)
        return self.judge(best) if best else None

    def judge(self, choice: ExitChoice, scores_of: Scores = largest_probability) -> Judged:
        """What it does to all frames."""
        name = next(name for name, route in self._routes.items() if route is choice.route)
        scored, labels = self.frames.routes[name], self.frames.labels
        places = [[one.cut for one in scored.exits].index(one.candidate.cut) for one in choice.exits]
        logits = [scored.logits[place].astype(np.float64) for place in places]
        scores = np.stack([scores_of(z, e.temperature) for z, e in zip(logits, choice.exits, strict=True)], 1)
        answers = np.stack([z.argmax(1) for z in logits], 1)
        frame = np.arange(len(labels))
        leaves = np.stack([cascade(scores.astype(np.float32), each) for each in choice.family.thresholds])
        wrong = (leaves >= 0) & (answers[frame, np.maximum(leaves, 0)] != labels)
        doubt = np.where(leaves >= 0, 1 - scores[frame, np.maximum(leaves, 0)], 0.0)
        count = len(choice.exits)
        left = np.stack([np.bincount(np.where(e < 0, count, e), minlength=count + 1) / len(e) for e in leaves])
        time = choice.route.time([one.candidate for one in choice.exits], left)
        return Judged(choice, wrong, leaves, doubt, 1 - time)


def _candidates(scored: ScoredRoute) -> list[CompiledExit]:
    return [CompiledExit(one.cut, one.cut, None, Costs(0.0, one.head_time)) for one in scored.exits]


def _route(scored: ScoredRoute, is_compiled: bool) -> Route:
    reach = {one.cut: Costs(0.0, one.time) for one in scored.exits}
    path = CompiledPath(precision="int8", graphs=(), made_by="scored") if is_compiled else None
    return Route(reach, nowhere=Costs(1.0, scored.nowhere_time), path=path)
