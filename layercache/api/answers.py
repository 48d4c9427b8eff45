"""What a model with exits answers in one's own loop."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from layercache.schemas.distillation import DistillationBatch


@dataclass(frozen=True)
class ModelAnswer:
    """The answer to one frame; the names are those of a prediction's fields."""

    label: int
    class_name: str
    confidence: float
    exit: str
    """The exit where the frame left, or ``full``."""
    audited: bool
    """True where the frame was drawn as an audit: it ran the full path, and its answer is the full model's."""


@dataclass(frozen=True)
class ModelAnswers:
    """The answers to N frames, as columns; iterating gives a :class:`ModelAnswer` each."""

    labels: npt.NDArray[np.int64]
    """``[N]``: the most probable class."""
    class_names: tuple[str, ...]
    """N names."""
    confidences: npt.NDArray[np.float32]
    """``[N]``: the label's probability."""
    probabilities: npt.NDArray[np.float32]
    """``[N, classes]``: by the exit's head where a frame left, else by the model."""
    exits: tuple[str, ...]
    """N names of exits, ``full`` for the full path."""
    audited: npt.NDArray[np.bool_]
    """``[N]``: which frames were audited."""
    heads_version: str | None
    """The version of the heads in force, None where no heads were."""
    _records: list[DistillationBatch] = field(default_factory=list, repr=False, compare=False)
    """What a trainer that was made for the model can learn from them; taken out by :meth:`take_records`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> ModelAnswer:
        return ModelAnswer(
            label=int(self.labels[row]),
            class_name=self.class_names[row],
            confidence=float(self.confidences[row]),
            exit=self.exits[row],
            audited=bool(self.audited[row]),
        )

    def __iter__(self) -> Iterator[ModelAnswer]:
        return (self[row] for row in range(len(self)))

    def take_records(self) -> list[DistillationBatch]:
        """What these answers teach, once: pictures are not kept for as long as the caller keeps the answers."""
        records = self._records.copy()
        self._records.clear()
        return records
