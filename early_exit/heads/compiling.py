"""Makes a compiled path: cuts the model at its exits, puts each exit's head into the piece before it, and compiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from layercache.early_exit.compiled.byte_maps import ByteRange
from layercache.early_exit.compiled.graphs import CompiledGraph, Graph, convert
from layercache.early_exit.compiled.openvino_runtime import openvino
from layercache.early_exit.compiled.quantising import MOST_FRAMES, quantise
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.compiled_heads import compile_graph
from layercache.early_exit.memory import forget_generated_sources
from layercache.early_exit.model.preprocessing import Normaliser
from layercache.early_exit.store.version_files import GRAPH
from layercache.schemas.manifest import CompiledPath, PathPrecision

#: Maps between two pieces, from which the ranges of the later one come, take at most so much memory; but there are at
#: least so many of them.
_MOST_MAP_BYTES, _FEWEST_MAPS = 256 << 20, 32


@dataclass(frozen=True)
class CompiledPieces:
    """A compiled path, ready to run here and to be stored: a piece to each cut, in order, and one to the end."""

    precision: PathPrecision
    cuts: tuple[str, ...]
    graphs: tuple[Graph, ...]
    chain: tuple[CompiledGraph, ...]
    made_by: str

    @property
    def described(self) -> CompiledPath:
        """As a manifest says it."""
        digests = tuple(graph.digest for graph in self.graphs)
        return CompiledPath(precision=self.precision, graphs=digests, made_by=self.made_by)

    def tensors(self) -> dict[str, Tensor]:
        """The graphs as a version's tensors."""
        return {
            f"{GRAPH}{graph.digest}": torch.frombuffer(bytearray(graph.encoded), dtype=torch.uint8)
            for graph in self.graphs
        }


def compile_path(
    traced: TracedModel, heads: Mapping[str, nn.Module], precision: PathPrecision, frames: npt.NDArray[np.uint8]
) -> CompiledPieces:
    """Compiles the model, with ``heads`` by their cuts, in ``precision``.

    ``frames``, uint8 ``[N, C, h, w]``, set the ranges of int8; they must never certify what this returns. Takes seconds
    to minutes. Raises :class:`layercache.early_exit.compiled.openvino_runtime.CompileError` with the reason.
    """
    cuts = tuple(cut.name for cut in traced.cuts if cut.name in heads)
    pieces = _pieces(traced, cuts, heads)
    graphs, chain = [], []
    values: npt.NDArray[np.generic] = frames[:MOST_FRAMES]
    if precision != "int8":
        values = values[:2]  # for their shape
    taken: ByteRange | None = None  # what a piece takes instead of float32
    for piece, cut in zip(pieces, (*cuts, None), strict=True):
        model = convert(piece, torch.from_numpy(np.ascontiguousarray(values[:2])))
        passed_on = values if cut is None else _values_after(model, values)
        if precision == "int8":
            if taken is not None:
                model, values = taken.take(model), taken.encode(values)
            model = quantise(model, values, is_transformer=_has_tokens(traced))
            taken = ByteRange.of(passed_on) if cut is not None and _is_map(traced, cut) else None
            if taken is not None:
                taken.give(model)
        values = passed_on
        graphs.append(Graph.of(model))
        chain.append(compile_graph(graphs[-1], precision))
    forget_generated_sources()  # of the pieces
    return CompiledPieces(precision, cuts, tuple(graphs), tuple(chain), f"openvino {openvino().__version__}")


def _is_map(traced: TracedModel, cut: str) -> bool:
    """Whether the value there is one of convolutions, which take 8 bits well; the sums of transformers do not."""
    return traced.cut(cut).layout == "chw"


def _has_tokens(traced: TracedModel) -> bool:
    return any(cut.layout == "tokens" for cut in traced.cuts)


def _values_after(model: object, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """What the next piece is given, by this one in float32."""
    runner = CompiledGraph(Graph.of(model), "float32", torch.get_num_threads()).runner()
    wanted = max(_FEWEST_MAPS, _MOST_MAP_BYTES // runner(values[:1])[0].nbytes)
    return np.concatenate([runner(one[None])[0].copy() for one in values[:wanted]])


class _Piece(nn.Module):
    """From pictures, or the value before, to the next value and an exit's logits; the last gives logits alone."""

    def __init__(self, segment: nn.Module, head: nn.Module | None, normaliser: Normaliser | None) -> None:
        super().__init__()
        self.segment = segment
        self.head = head
        self.normaliser = normaliser

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        value: Tensor = self.segment(x if self.normaliser is None else self.normaliser(x))
        return (value,) if self.head is None else (value, self.head(value))


def _pieces(traced: TracedModel, cuts: Sequence[str], heads: Mapping[str, nn.Module]) -> list[nn.Module]:
    segments = traced.segments(cuts)
    normaliser = Normaliser(traced.classifier.preprocessing)
    return [
        _Piece(segment, heads.get(cut), normaliser if number == 0 else None).eval()
        for number, (segment, cut) in enumerate(zip(segments, (*cuts, ""), strict=True))
    ]
