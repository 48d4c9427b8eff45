"""What runs the full model here and why, and what each runtime would take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from layercache.early_exit.compiled.allowed import AllowedPrecisions, allowed_precisions, refusal
from layercache.early_exit.compiled.probes import generated_pictures
from layercache.early_exit.cutting.costs import chain_ms
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.model.reference import Reference
from layercache.early_exit.runtimes import by_pytorch
from layercache.measuring.plain_runtimes import PYTORCH, PlainRuntimes

_REPEATS = 5


@dataclass(frozen=True)
class RuntimeTimes:
    """The whole model by each runtime that there is here."""

    reference: Reference
    """What answers audits, and whatever no exit is sure of."""
    ms: Mapping[str, Mapping[int, float]]
    """Milliseconds of a micro-batch, by runtime and by its frames."""
    note: str
    """Why other runtimes are missing; empty where none is."""
    exits: AllowedPrecisions
    """In what a trainer may compile the model as an exit."""

    @classmethod
    def measure(cls, traced: TracedModel, batches: Sequence[int]) -> "RuntimeTimes":
        """Of a model whose reference has been chosen. int8 takes its ranges from generated pictures: good for its time.

        Takes seconds to minutes where OpenVINO is installed.
        """
        classifier = traced.classifier
        pictures = generated_pictures(classifier.preprocessing.channels, classifier.preprocessing.size)
        why_not = refusal(classifier)
        plain = PlainRuntimes(note=why_not) if why_not else PlainRuntimes.compiled(traced, pictures)
        runs = {PYTORCH: by_pytorch(classifier)} | {name: _whole(engine) for name, engine in plain.engines.items()}
        copies = -(-max(batches) // len(pictures))
        frames = pictures.repeat(copies, 1, 1, 1)
        ms = {
            name: {batch: chain_ms([run], frames[:batch], _REPEATS)[0] for batch in batches}
            for name, run in runs.items()
        }
        return cls(classifier.reference, ms, plain.note, allowed_precisions(classifier))

    @property
    def chosen(self) -> str:
        """The runtime of the full model, as in :attr:`ms`."""
        return PYTORCH if self.reference.runtime == "torch" else "OpenVINO float32"

    @property
    def described(self) -> tuple[str, str]:
        """What runs the full model and why, and what the trainer may compile and why nothing else: a sentence each."""
        precisions = " and in ".join(self.exits.precisions)
        may = f"The trainer may compile it as an exit in {precisions}" if precisions else "The trainer compiles no exit"
        why_not = f": {self.exits.reason}" if self.exits.reason else ""
        return f"The full model runs by {self.chosen}: {self.reference.reason}.", f"{may}{why_not}."


def _whole(engine: Engine) -> Callable[[Tensor], Tensor]:
    def run(frames: Tensor) -> Tensor:
        engine.run(frames, np.zeros(len(frames), np.bool_))
        return frames

    return run
