"""A piece of the model as a graph of OpenVINO: converted, kept as bytes, checked, compiled and run.

What is certified are the graphs as stored. A worker parses them: so they are named by their SHA-256, bounded in size
and made of OpenVINO's own operations alone, which no file can add to.
"""

import logging
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save
from torch import Tensor, nn

from layercache.early_exit.compiled.openvino_runtime import CompileError, first_line, openvino

#: In what the layers of a graph compute; those that are quantised compute in int8 whichever it is.
Precision = Literal["float32", "bfloat16"]
_HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}

#: The largest topology and weights that are parsed.
MAX_TOPOLOGY_BYTES, MAX_WEIGHTS_BYTES = 32 << 20, 1 << 30
#: A batch may have up to so many frames; torch.export wants to hear a limit.
_MOST_FRAMES = 1 << 16
_CONVERTING = threading.Lock()


@dataclass(frozen=True)
class Graph:
    """A graph in OpenVINO's own format."""

    topology: bytes
    """XML: operations, shapes, and where the weights lie."""
    weights: bytes

    @cached_property
    def encoded(self) -> bytes:
        """Both as one file, safetensors."""
        parts = {"topology": self.topology, "weights": self.weights}
        return save({name: np.frombuffer(part, np.uint8) for name, part in parts.items()})

    @property
    def digest(self) -> str:
        """SHA-256 of :attr:`encoded`, hexadecimal: the graph's name."""
        return sha256(self.encoded).hexdigest()

    @classmethod
    def decode(cls, encoded: bytes) -> "Graph":
        """What :attr:`encoded` gave. Raises :class:`CompileError` for anything else, and for what is too large."""
        try:
            parts = dict(deserialize(encoded))
            graph = cls(bytes(parts["topology"]["data"]), bytes(parts["weights"]["data"]))
        except (SafetensorError, KeyError, ValueError) as error:
            raise CompileError(f"not a compiled graph: {error}") from error
        if len(graph.topology) > MAX_TOPOLOGY_BYTES or len(graph.weights) > MAX_WEIGHTS_BYTES:
            raise CompileError("a compiled graph larger than any of ours")
        return graph

    @classmethod
    def of(cls, model: Any) -> "Graph":
        """An ``openvino.Model`` as bytes."""
        with tempfile.TemporaryDirectory(prefix="layercache-graph-") as folder:
            topology = Path(folder) / "graph.xml"
            openvino().save_model(model, topology, compress_to_fp16=False)
            return cls(topology.read_bytes(), topology.with_suffix(".bin").read_bytes())


def convert(module: nn.Module, example: Tensor) -> Any:
    """``module`` as an ``openvino.Model`` that takes any number of frames; it must be in eval mode.

    ``example`` is its input, ``[N, ...]`` with N of at least 2. Raises :class:`CompileError`, with the reason, where
    ``torch.export`` or OpenVINO cannot convert it.
    """
    frames = torch.export.Dim("frames", min=1, max=_MOST_FRAMES)
    try:
        with _one_conversion(), torch.no_grad():
            exported = torch.export.export(module, (example,), dynamic_shapes=({0: frames},), strict=False)
            model = openvino().convert_model(exported)
            model.reshape([-1, *example.shape[1:]])
    except Exception as error:  # exporters complain in many ways
        raise CompileError(f"cannot be converted for OpenVINO: {first_line(error)}") from error
    return model


@contextmanager
def _one_conversion() -> Iterator[None]:
    """One at a time, and with logging as it is.

    ``convert_model`` sets the root logger to ERROR, for all threads, and leaves it so where it fails: warnings of a
    worker would be lost from then on. The level that it finds is ours meanwhile.
    """
    root, ours = logging.getLogger(), logging.getLogger("layercache")
    with _CONVERTING:
        level, filters, handlers, own = root.level, [*root.filters], [*root.handlers], ours.level
        ours.setLevel(own or level)
        try:
            yield
        finally:
            root.setLevel(level)
            root.filters[:], root.handlers[:] = filters, handlers
            ours.setLevel(own)


class CompiledGraph:
    """A graph, compiled for this machine's processor.

    Whoever runs frames needs a :meth:`runner` of its own; any number of them share the compiled graph.
    """

    def __init__(self, graph: Graph, precision: Precision, threads: int) -> None:
        """Raises :class:`CompileError` for bytes that are no graph, and where this machine cannot run it."""
        wanted: dict[str, Any] = {
            # Set one by one: left to itself, OpenVINO takes bfloat16 where the processor has it, and all cores.
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # worker and trainer would be pinned to the same core
        }
        try:
            model = _core().read_model(graph.topology, graph.weights)
            self._check_operations(model)
            self._compiled = _core().compile_model(model, "CPU", wanted)
            found = {name: self._compiled.get_property(name) for name in wanted}
        except CompileError:
            raise
        except Exception as error:
            raise CompileError(f"a graph does not compile here: {first_line(error)}") from error
        found["INFERENCE_PRECISION_HINT"] = found["INFERENCE_PRECISION_HINT"].get_type_name()
        if {name: str(value) for name, value in found.items()} != {name: str(value) for name, value in wanted.items()}:
            raise CompileError(f"OpenVINO does not take {wanted}: it runs with {found}")
        self.precision = precision
        self.outputs = len(self._compiled.outputs)

    @staticmethod
    def _check_operations(model: Any) -> None:
        kinds = {(node.get_type_info().version_id or "", node.get_type_name()) for node in model.get_ops()}
        foreign = sorted(name for version, name in kinds if not version.startswith("opset"))
        if foreign or len(model.inputs) != 1:
            raise CompileError(f"a graph is none of ours: {', '.join(foreign) or f'{len(model.inputs)} inputs'}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one frame. Raises :class:`CompileError` where the graph leaves it open."""
        shape = self._compiled.inputs[0].get_partial_shape()
        if shape.rank.is_dynamic or any(shape[axis].is_dynamic for axis in range(1, len(shape))):
            raise CompileError(f"a graph takes {shape}, which says too little")
        return tuple(shape[axis].get_length() for axis in range(1, len(shape)))

    def runner(self) -> "GraphRunner":
        """Runs the graph; for one thread at a time."""
        return GraphRunner(self._compiled.create_infer_request(), self.outputs)


class GraphRunner:
    """Runs a compiled graph, for one thread at a time."""

    def __init__(self, request: Any, outputs: int) -> None:
        self._request = request
        self._outputs = outputs

    def __call__(self, x: npt.NDArray[np.generic]) -> Sequence[npt.NDArray[np.float32]]:
        """Every output, for ``[N, ...]`` frames or maps. The arrays are overwritten by the next call."""
        found = self._request.infer([np.ascontiguousarray(x)], share_inputs=True, share_outputs=True)
        return [found[index] for index in range(self._outputs)]


@cache
def _core() -> Any:
    return openvino().Core()
