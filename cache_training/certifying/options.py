"""What may be certified now: the trained heads and the compiled ends, scored on the tuning audits, by route."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from layercache.cache_training.certifying.choosing import (
    ExitChoice,
    Option,
    ScoredCandidate,
    calibrate,
    choose,
    time_saved_alone,
)
from layercache.cache_training.certifying.windows import Windows
from layercache.cache_training.learning.candidates import Candidate
from layercache.cache_training.learning.compiled_exits import CompiledExits
from layercache.cache_training.learning.compiled_routes import CompiledRoutes
from layercache.cache_training.learning.learner import Learner

#: Making a path with heads takes at most this share of the trainer's time, and comes no sooner than after so long.
_MAKING_SHARE, _MAKING_EVERY_S = 0.1, 30.0


class Options:
    """Scores everything that may become an exit, and makes compiled paths with the heads that promise most.

    Making takes seconds to minutes, by ``clock``.
    """

    def __init__(
        self, learner: Learner, compiled: CompiledRoutes, windows: Windows, clock: Callable[[], float]
    ) -> None:
        self._learner = learner
        self._compiled = compiled
        self._windows = windows
        self._clock = clock
        self._next_making = 0.0
        #: Seconds that making paths took.
        self.making_s = 0.0

    def score(self) -> list[Option]:
        """Every route with its candidates' calibrated answers to the tuning audits.

        Empty where there are no tuning audits yet; without heads while they have learnt nothing.
        """
        options = []
        heads = self._heads()
        if heads:
            options.append(Option(self._learner.route, heads))
        if len(self._windows.tuning):
            options += [Option(path.route, self._on_path(path)) for path in self._compiled.made]
        return options

    def of_heads(self, options: Sequence[Option]) -> Option | None:
        """All heads where they save most: on the first compiled path if there is one, as if they were there already.

        Heads are judged by what they answer in float32: only a path that was made tells what they answer in int8. None
        while heads have learnt nothing. ``options`` are those of :meth:`score`.
        """
        heads = next((option for option in options if option.route is self._learner.route), None)
        end = next(
            (option for option in options if self._compiled.ends and option.route is self._compiled.ends[0].route), None
        )
        if heads is None or end is None:
            return heads
        # Both are of the same audits in the same order, but the two windows may hold different numbers of them.
        frames = min(len(option.scored[0].scores) for option in (heads, end))
        route = self._compiled.imagined(heads.route)
        return Option(route, [_latest(one, frames) for one in (*heads.scored, *end.scored)])

    def worth_of_heads(self, of_heads: Option, risk: float) -> Mapping[str, float]:
        """By a head's name: the time saved with it as the only head, at an estimated risk of at most ``risk``."""
        if of_heads.route is self._learner.route:
            return time_saved_alone(of_heads, risk)
        *heads, end = of_heads.scored
        with_end = {one.candidate.name: choose(Option(of_heads.route, [one, end]), risk) for one in heads}
        return {name: choice.time_saved if choice else 0.0 for name, choice in with_end.items()}

    def put_on_path(self, choice: ExitChoice) -> bool:
        """Makes a compiled path with the heads of a choice of :meth:`of_heads`; False where there is nothing to make.

        What is scored from then on has this path, too.
        """
        heads = [one.candidate for one in choice.exits if isinstance(one.candidate, Candidate)]
        if choice.route is self._learner.route or not heads or self._clock() < self._next_making:
            return False
        began = self._clock()
        made = self._compiled.add_heads(self._compiled.ends[0], heads, self._windows.learning)
        spent = self._clock() - began
        self.making_s += spent
        self._next_making = self._clock() + max(_MAKING_EVERY_S, spent / _MAKING_SHARE)
        return made

    def _heads(self) -> list[ScoredCandidate]:
        learner = self._learner
        if not len(learner.tuning) or not learner.views_made:
            return []
        rows = learner.tuning.latest(len(learner.tuning))
        labels = learner.tuning.logits(rows).argmax(1).numpy()
        return [
            calibrate(candidate, learner.tuning_logits(candidate, rows).double().numpy(), labels)
            for candidate in learner.candidates
        ]

    def _on_path(self, path: CompiledExits) -> list[ScoredCandidate]:
        frames = self._windows.tuning.frames()
        assert frames is not None
        logits = path.logits_of(self._windows.tuning).astype(np.float64)
        return [calibrate(exit_, logits[index], frames.labels) for index, exit_ in enumerate(path.exits)]


def _latest(scored: ScoredCandidate, frames: int) -> ScoredCandidate:
    return replace(scored, scores=scored.scores[-frames:], wrong=scored.wrong[-frames:])
