"""What one would run without exits: the whole model compiled, in float32, bfloat16 and int8, with no certificate."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from layercache.early_exit.compiled.graphs import CompiledGraph
from layercache.early_exit.compiled.openvino_runtime import CompileError, missing
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.cache_heads import CacheHeads
from layercache.early_exit.heads.compiling import compile_path
from layercache.schemas.manifest import Exit, Manifest, PathPrecision

#: The model as it was loaded, by the runtime that answers where every exit is closed.
PYTORCH = "PyTorch"


@dataclass(frozen=True)
class PlainRuntimes:
    """The runtimes that there are here besides PyTorch."""

    engines: Mapping[str, Engine] = field(default_factory=dict)
    """By name. Each answers every frame at its only exit, which is the whole model."""
    note: str = ""
    """Why there are not all three; empty where there are."""

    @classmethod
    def compiled(cls, traced: TracedModel, pictures: Tensor) -> "PlainRuntimes":
        """OpenVINO's, for as many threads as torch has; ``pictures``, uint8 ``[N, C, h, w]``, set the ranges of int8.

        Takes seconds to minutes.
        """
        if why := missing():
            return cls(note=why)
        if traced.classifier.device.type != "cpu":
            return cls(note=f"OpenVINO is for processors, and the model is on {traced.classifier.device.type}")
        found: dict[str, Engine] = {}
        precisions: tuple[PathPrecision, ...] = ("bfloat16", "int8")
        for precision in precisions:
            try:
                pieces = compile_path(traced, {}, precision, pictures.numpy())
                if precision == "bfloat16":  # its graph holds float32, and says so little about what computes it
                    graph = CompiledGraph(pieces.graphs[0], "float32", torch.get_num_threads())
                    found["OpenVINO float32"] = _engine(traced, graph, "float32")
                found[f"OpenVINO {precision}"] = _engine(traced, pieces.chain[0], precision)
            except CompileError as error:
                return cls(found, str(error))
        return cls(found)


def _engine(traced: TracedModel, graph: CompiledGraph, name: str) -> Engine:
    """Answers all frames by ``graph``; only what it gives no numbers for goes to the model itself."""
    exit_ = Exit(cut=name, head=None, temperature=1.0, threshold=0.0, flops_share=1.0, time_share=1.0)
    manifest = Manifest(
        version="plain", model=traced.classifier.fingerprint, model_name=traced.classifier.name, created="",
        reason="operator", predecessor=None, exits=(exit_,), audit_rate=0.0, certificate=None, expected=None,
    )  # fmt: skip
    return Engine(traced, CacheHeads(manifest, (), (graph,)))
