"""Exits on a compiled path: the model itself in another precision at its end, and heads on the way there."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.cache_training.learning.batch_times import BatchTimes
from layercache.cache_training.learning.candidates import TIMING_BATCH, Candidate, Costs, ExitCandidate
from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames
from layercache.cache_training.learning.routes import Route
from layercache.early_exit.compiled.chains import Chain
from layercache.early_exit.compiled.probes import Probe
from layercache.early_exit.cutting.costs import TimeTable, chain_ms
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.compiling import compile_path
from layercache.early_exit.heads.families import fuse
from layercache.schemas.manifest import HeadSpec, PathPrecision

_SCORE_BATCH = 64
#: Sizes of micro-batches that pieces are timed with.
TIMED_BATCHES = (1, 4, 8, TIMING_BATCH)
_TIMED_REPEATS = 7

Array = npt.NDArray[np.generic]
#: Milliseconds by the number of frames in a micro-batch.
FrameTimes = Mapping[int, float]
#: The same by piece.
PieceTimes = Mapping[str, FrameTimes]


@dataclass(frozen=True)
class CompiledExit:
    """An exit whose head, if it has one, is part of a graph."""

    name: str
    cut: str
    spec: HeadSpec | None
    """None for the end of the path."""
    costs: Costs
    """Time is 0: it is the piece's."""

    def weights(self) -> dict[str, Tensor]:
        """None: they are in the graph."""
        return {}


class CompiledExits:
    """A compiled path with ``heads`` on the way, as they are now, and the model's own end, named for its precision.

    What no exit is sure of goes to the model as it is. Ranges of int8 come from ``frames``, uint8 ``[N, C, h, w]``,
    which must never certify these exits. ``plain`` are the times of the plain model's segments, ``reference`` those of
    the full model by what runs it where no exit answers. Raises
    :class:`~layercache.early_exit.compiled.openvino_runtime.CompileError` where the model cannot be compiled.
    """

    def __init__(
        self,
        traced: TracedModel,
        precision: PathPrecision,
        heads: Sequence[Candidate],
        frames: npt.NDArray[np.uint8],
        plain: PieceTimes,
        reference: FrameTimes,
    ) -> None:
        self.precision = precision
        frozen = {head.cut: fuse(copy.deepcopy(head.average)) for head in heads}
        pieces = compile_path(traced, frozen, precision, frames)
        by_cut = {head.cut: head for head in heads}
        self.exits: tuple[ExitCandidate, ...] = (
            *(
                CompiledExit(by_cut[cut].name, cut, by_cut[cut].spec, Costs(by_cut[cut].costs.flops, 0.0))
                for cut in pieces.cuts
            ),
            CompiledExit(precision, precision, None, Costs(0.0, 0.0)),
        )
        self._chain = Chain(pieces.chain)
        preprocessing = traced.classifier.preprocessing
        probe = Probe.make(preprocessing.channels, preprocessing.size, self._chain.logits)
        #: Milliseconds of the plain model, by the size of the micro-batch.
        self.plain_ms = {n: sum(by_batch[n] for by_batch in plain.values()) for n in TIMED_BATCHES}
        #: Of each piece.
        self.piece_ms = pieces_ms([graph.runner() for graph in pieces.chain], frames)
        own = {f"to {one.cut}": by_batch for one, by_batch in zip(self.exits, self.piece_ms, strict=True)}
        usual = self.plain_ms[TIMING_BATCH]
        spent = np.cumsum([by_batch[TIMING_BATCH] for by_batch in self.piece_ms]) / usual
        flops = [*(traced.cut(cut).flops_share for cut in pieces.cuts), 1.0]
        #: What a micro-batch takes on this path.
        self.times = BatchTimes(TimeTable({**own, "to the end": reference}), TIMING_BATCH, TimeTable(plain))
        self.route = Route(
            reach={
                one.cut: Costs(share, float(time)) for one, share, time in zip(self.exits, flops, spent, strict=True)
            },
            times=self.times,
            nowhere=Costs(2.0, float(spent[-1]) + reference[TIMING_BATCH] / usual),
            path=pieces.described,
            tensors=pieces.tensors() | probe.tensors(),
        )
        self._logits: npt.NDArray[np.float32] | None = None
        self._seen = 0

    def logits_of(self, window: FrameBuffer) -> npt.NDArray[np.float32]:
        """Logits ``[exits, N, classes]`` for all frames of a window that replaces the oldest, oldest first.

        Frames that were answered at an earlier call are not run again.
        """
        fresh = window.since(self._seen)
        if fresh is not None:
            parts = [self._answer(fresh)] if self._logits is None else [self._logits, self._answer(fresh)]
            self._logits = np.concatenate(parts, 1)[:, -window.capacity :]
        self._seen = window.added
        assert self._logits is not None, "the window must hold some frames"
        return self._logits

    def _answer(self, frames: Frames) -> npt.NDArray[np.float32]:
        parts = torch.from_numpy(frames.inputs).split(_SCORE_BATCH)
        return np.concatenate([torch.stack(self._chain.logits(part)).numpy() for part in parts], 1)


def pieces_ms(pieces: Sequence[Callable[[Array], Sequence[Array]]], frames: npt.NDArray[np.uint8]) -> list[FrameTimes]:
    """Milliseconds of each of several pieces, by the size of the micro-batch: the fastest of some runs on ``frames``.

    The first piece takes pictures, each other one the first output of the one before.
    """
    steps = [lambda x, piece=piece: torch.from_numpy(piece(x.numpy())[0]) for piece in pieces]
    found: list[dict[int, float]] = [{} for _ in pieces]
    for batch in TIMED_BATCHES:
        pictures = torch.from_numpy(np.resize(frames, (batch, *frames.shape[1:])))
        for by_batch, spent in zip(found, chain_ms(steps, pictures, _TIMED_REPEATS), strict=True):
            by_batch[batch] = spent
    return list(found)
