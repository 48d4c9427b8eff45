"""What leads to an engine's exits, piece by piece: the model's own layers with heads on their cuts, or a compiled path.

Both begin with pictures and give, after each piece, the logits of an exit; what no exit answers goes on to the full
model. They differ in what a value between two pieces is, and in where the full model begins: the model's own layers go
on from the last cut, by PyTorch, and past a compiled path the model begins anew, with the picture, by the runtime that
was chosen for it.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from layercache.early_exit.compiled.chains import Chain
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.cache_heads import CacheHeads
from layercache.early_exit.runtimes import full_model

T = TypeVar("T")
Rows = npt.NDArray[np.int64]


class Timed(Protocol):
    """Times a piece's call on ``frames`` frames, under a name."""

    def __call__(self, name: str, frames: int, call: Callable[[], T]) -> T: ...


class Cascade(Protocol):
    """The pieces of one engine. Values are its own matter: the engine hands back what it was given."""

    def enter(self, frames: Tensor) -> Any:
        """The first piece's input, for ``frames`` uint8 ``[N, C, h, w]``."""

    def step(self, index: int, value: Any, timed: Timed) -> tuple[Any, Tensor]:
        """Piece number ``index``: the value after it, and its exit's logits ``[N, classes]``."""

    def keep(self, value: Any, rows: Rows) -> Any:
        """The value of some of its frames."""

    def finish(self, frames: Tensor, rows: Rows, value: Any, timed: Timed) -> Tensor:
        """The full model's logits for the frames that are left: ``rows`` of ``frames``, whose value is ``value``."""


def cascade_of(traced: TracedModel, heads: CacheHeads | None) -> Cascade:
    """The pieces that lead to the exits of ``heads``.

    >>> type(cascade_of(traced, None)).__name__, type(cascade_of(traced, heads)).__name__
    ('LayersCascade', 'LayersCascade')
    """
    if heads is not None and heads.chain is not None:
        return CompiledCascade(traced, heads)
    if traced.classifier.reference.runtime != "torch" and not (heads and heads.manifest.exits):
        return WholeModel(traced)
    return LayersCascade(traced, heads)


class LayersCascade:
    """The model's own layers, cut at the exits, with a head on each cut."""

    def __init__(self, traced: TracedModel, heads: CacheHeads | None) -> None:
        self._classifier = classifier = traced.classifier
        self._cuts = tuple(exit_.cut for exit_ in heads.manifest.exits) if heads else ()
        self._segments = traced.segments(self._cuts)
        self._heads: list[nn.Module] = [
            head.to(classifier.device, classifier.dtype) for head in (heads.modules if heads else ())
        ]
        for module in (*self._segments, *self._heads):
            module.to(memory_format=torch.channels_last)

    def enter(self, frames: Tensor) -> Tensor:
        """See :meth:`Cascade.enter`."""
        return self._classifier.inputs(frames)

    def step(self, index: int, value: Tensor, timed: Timed) -> tuple[Tensor, Tensor]:
        """See :meth:`Cascade.step`."""
        cut, frames = self._cuts[index], len(value)
        value = timed(f"to {cut}", frames, lambda: self._segments[index](value))
        return value, timed(f"head {cut}", frames, lambda: self._heads[index](value))

    def keep(self, value: Tensor, rows: Rows) -> Tensor:
        """See :meth:`Cascade.keep`."""
        # Not index_select: that would lose channels_last, and every later segment would pay for it.
        kept: Tensor = value[torch.from_numpy(rows).to(value.device)]
        return kept

    def finish(self, frames: Tensor, rows: Rows, value: Tensor, timed: Timed) -> Tensor:
        """See :meth:`Cascade.finish`."""
        logits: Tensor = timed("to the end", len(rows), lambda: self._segments[-1](value))
        return logits


class WholeModel:
    """No exits: the full model answers everything, by the runtime that was chosen for it."""

    def __init__(self, traced: TracedModel) -> None:
        self._answer = full_model(traced.classifier)

    def enter(self, frames: Tensor) -> Tensor:
        """See :meth:`Cascade.enter`."""
        return frames

    def step(self, index: int, value: Tensor, timed: Timed) -> tuple[Tensor, Tensor]:
        """See :meth:`Cascade.step`."""
        raise AssertionError("there is no exit to step to")

    def keep(self, value: Tensor, rows: Rows) -> Tensor:
        """See :meth:`Cascade.keep`."""
        raise AssertionError("there is no exit at which frames leave")

    def finish(self, frames: Tensor, rows: Rows, value: Tensor, timed: Timed) -> Tensor:
        """See :meth:`Cascade.finish`."""
        return timed("to the end", len(frames), lambda: self._answer(frames))


class CompiledCascade:
    """A compiled path, whose end is an exit too; the model itself answers what is left, from the picture."""

    def __init__(self, traced: TracedModel, heads: CacheHeads) -> None:
        assert heads.chain is not None
        self._chain = Chain(heads.chain)
        self._exits = tuple(exit_.cut for exit_ in heads.manifest.exits)
        self._answer = full_model(traced.classifier)

    def enter(self, frames: Tensor) -> npt.NDArray[np.generic]:
        """See :meth:`Cascade.enter`."""
        return frames.numpy()

    def step(self, index: int, value: npt.NDArray[np.generic], timed: Timed) -> tuple[npt.NDArray[np.generic], Tensor]:
        """See :meth:`Cascade.step`."""
        return timed(f"to {self._exits[index]}", len(value), lambda: self._chain.step(index, value))

    def keep(self, value: npt.NDArray[np.generic], rows: Rows) -> npt.NDArray[np.generic]:
        """See :meth:`Cascade.keep`."""
        return value[rows]

    def finish(self, frames: Tensor, rows: Rows, value: npt.NDArray[np.generic], timed: Timed) -> Tensor:
        """See :meth:`Cascade.finish`."""
        return timed("to the end", len(rows), lambda: self._answer(frames[torch.from_numpy(rows)]))
