"""Compiles a version's path for this machine; refuses one that does not fit the model, or computes otherwise here."""

from collections.abc import Mapping

import torch
from torch import Tensor

from layercache.early_exit.compiled.allowed import refusal
from layercache.early_exit.compiled.chains import Chain
from layercache.early_exit.compiled.graphs import CompiledGraph, Graph, Precision
from layercache.early_exit.compiled.openvino_runtime import CompileError, first_line
from layercache.early_exit.compiled.probes import Probe, ProbeFailed
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.cache_heads import CacheHeads
from layercache.early_exit.heads.families import HeadsError
from layercache.early_exit.store.version_files import GRAPH
from layercache.schemas.manifest import CompiledPath, Manifest, PathPrecision

#: What the layers compute in that are not quantised.
_REST: dict[PathPrecision, Precision] = {"int8": "float32", "bfloat16": "bfloat16"}


def compile_graph(graph: Graph, precision: PathPrecision) -> CompiledGraph:
    """A piece of a path, compiled for as many threads as torch has. Raises :class:`CompileError`."""
    return CompiledGraph(graph, _REST[precision], torch.get_num_threads())


def load_path(manifest: Manifest, path: CompiledPath, tensors: Mapping[str, Tensor], traced: TracedModel) -> CacheHeads:
    """Compiles a version's graphs, and runs its probe.

    Raises :class:`HeadsError` where a graph is missing, damaged or another model's, where nothing here runs it or the
    settings let nothing run it, and where this machine computes otherwise than the one that certified.
    """
    if not manifest.exits:
        return CacheHeads(manifest, ())
    version = f"heads {manifest.version}"
    if len(path.graphs) != len(manifest.exits) or manifest.exits[-1].cut != path.precision:
        raise HeadsError(f"{version}: {len(path.graphs)} graphs do not lead to {len(manifest.exits)} exits")
    try:
        if (why_not := refusal(traced.classifier)) is not None:
            raise CompileError(why_not)
        chain = tuple(compile_graph(_graph(digest, tensors), path.precision) for digest in path.graphs)
        heads = CacheHeads(manifest, (), chain)
        _check_shapes(heads, traced)
        probe = Probe.from_tensors(tensors)
        if probe.logits.shape[1:] != (len(chain), len(traced.classifier.classes)):
            raise CompileError(f"its probe has logits {tuple(probe.logits.shape[1:])}")
        probe.check(Chain(chain).logits)
    except ProbeFailed as error:
        raise HeadsError(f"{version}: this machine computes {path.precision} otherwise: {error}") from error
    # RuntimeError is OpenVINO's own, of pieces that do not fit together.
    except (CompileError, KeyError, ValueError, RuntimeError) as error:
        raise HeadsError(f"{version}: its {path.precision} path does not run here: {first_line(error)}") from error
    return heads


def _graph(digest: str, tensors: Mapping[str, Tensor]) -> Graph:
    encoded = tensors.get(f"{GRAPH}{digest}")
    if encoded is None:
        raise CompileError(f"graph {digest[:12]} is missing")
    graph = Graph.decode(encoded.numpy().tobytes())
    if graph.digest != digest:
        raise CompileError(f"graph {digest[:12]} is damaged")
    return graph


def _check_shapes(heads: CacheHeads, traced: TracedModel) -> None:
    """Runs two blank pictures through: what comes from a file must not fail at a frame."""
    assert heads.chain is not None
    preprocessing, classes = traced.classifier.preprocessing, len(traced.classifier.classes)
    expected = (preprocessing.channels, *preprocessing.size)
    if heads.chain[0].input_shape != expected:
        raise CompileError(f"it takes pictures of {heads.chain[0].input_shape}, the model {expected}")
    for logits in Chain(heads.chain).logits(torch.zeros(2, *expected, dtype=torch.uint8)):
        if tuple(logits.shape) != (2, classes):
            raise CompileError(f"an exit gives {tuple(logits.shape[1:])} logits, the model {classes}")
