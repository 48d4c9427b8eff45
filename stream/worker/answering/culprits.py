"""Frames at which the model fails: found by halving the micro-batch, so that all others are answered."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.early_exit.engine import Answers, Engine
from layercache.early_exit.machine import MachineFailed, is_the_machines
from layercache.schemas.dead_letter import Reason
from layercache.stream.frames.decoding import Unanswerable

#: Of what a model says when it raises; it comes into headers and logs.
_SAID_CHARACTERS = 200
_NOISE_SEED = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a micro-batch of N frames."""

    answers: Answers | None
    """To the frames that the model answered, in their order; None where there are none."""
    failures: dict[int, Unanswerable]
    """Row of the frame to why the model did not answer it."""
    raised: str | None = None
    """The last error of the model, also where it answered the same frames in smaller batches."""

    def answered(self, count: int) -> npt.NDArray[np.bool_]:
        """bool ``[count]``, of all N rows: which frames the answers are to."""
        rows = np.ones(count, np.bool_)
        rows[list(self.failures)] = False
        return rows


class ModelFails(RuntimeError):
    """The model fails at every frame of a micro-batch, and at pictures that these frames cannot have spoiled."""


class Culprits:
    """Runs micro-batches; a frame at which the model raises, or gives logits that are not finite, spoils no other.

    Where the model raises at a batch, its halves are run, and the halves of each half at which it raises again: finding
    one culprit among N frames takes about 2 log2(N) runs more. Where the model answers no frame, it is tried at the
    latest picture that it has answered, and at noise, before the frames are blamed.

    >>> frames, audits = torch.zeros(3, 1, 28, 28, dtype=torch.uint8), np.ones(3, np.bool_)
    >>> Culprits().run(Engine(traced), frames, audits).failures
    {}
    """

    def __init__(self) -> None:
        self._answered_before: Tensor | None = None

    def run(self, engine: Engine, pictures: Tensor, audits: npt.NDArray[np.bool_]) -> Outcome:
        """As :meth:`Engine.run`. Raises :class:`ModelFails`, and :class:`MachineFailed` at a device's errors."""
        outcome = _in_halves(engine, pictures, audits)
        if outcome.answers is None:
            self._try_others(engine, pictures, next(iter(outcome.failures.values())))
        elif outcome.failures or self._answered_before is None:
            # While the model answers all frames, any earlier picture will do: it is kept, not copied anew each time.
            row = int(outcome.answered(len(pictures)).argmax())
            self._answered_before = pictures[row : row + 1].clone()
        return outcome

    def _try_others(self, engine: Engine, pictures: Tensor, failure: Unanswerable) -> None:
        """Raises :class:`ModelFails` unless the model answers at least one of them."""
        noise = torch.randint(
            0, 256, (1, *pictures.shape[1:]), dtype=torch.uint8, generator=torch.Generator().manual_seed(_NOISE_SEED)
        )
        others = [one for one in (self._answered_before, noise) if one is not None]
        if all(_in_halves(engine, one, np.ones(1, np.bool_)).answers is None for one in others):
            known = "a picture that it had answered before" if len(others) > 1 else "noise"
            raise ModelFails(f"the model fails at all of {len(pictures)} frames, and at {known} too: {failure}")


def _in_halves(engine: Engine, pictures: Tensor, audits: npt.NDArray[np.bool_]) -> Outcome:
    parts: list[Answers] = []
    failures: dict[int, Unanswerable] = {}
    raised: str | None = None
    spans = [(0, len(pictures))]
    while spans:
        begin, end = spans.pop()
        try:
            answers = engine.run(pictures[begin:end], audits[begin:end])
        except Exception as error:
            if is_the_machines(error):
                raise MachineFailed(
                    f"{_said(error)}; this worker cannot answer frames {end - begin} at a time: give it more memory or "
                    "lower worker.max_batch, or look after its device"
                ) from error
            raised = _said(error)
            if end - begin == 1:
                failures[begin] = Unanswerable(Reason.MODEL_FAILED, f"the model raised {raised}")
            else:
                middle = (begin + end) // 2
                spans += [(middle, end), (begin, middle)]
            continue
        finite = answers.finite
        for row in np.flatnonzero(~finite).tolist():
            failures[begin + row] = _not_finite(answers, row)
        if finite.any():
            parts.append(answers if finite.all() else answers.only(finite))
    answers_to_all = None if not parts else parts[0] if len(parts) == 1 else Answers.joined(parts)
    return Outcome(answers_to_all, failures, raised)


def _not_finite(answers: Answers, row: int) -> Unanswerable:
    logits = answers.logits[answers.full_rows == row]
    return Unanswerable(
        Reason.NOT_FINITE,
        f"{int((~np.isfinite(logits)).sum())} of the model's {logits.size} logits are not finite (NaN or infinite)",
    )


def _said(error: Exception) -> str:
    said = str(error).partition("\n")[0]
    said = said if len(said) <= _SAID_CHARACTERS else f"{said[:_SAID_CHARACTERS]}…"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
