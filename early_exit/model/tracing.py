"""Traces a module into its graph of operations, each with a readable and stable name."""

import inspect
import math
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torchvision.ops
from torch import fx, nn

#: The most blocks that are taken as one operation; a model that needs more is not worth cutting.
_MAX_OPAQUE = 200


class TraceFailure(ValueError):
    """The model could not be traced; the message says where and why."""


@dataclass(frozen=True)
class Graph:
    """A traced module. ``paths`` names the module that each node ran in. ``outputs`` names, for a node that is a
    module's whole output, the outermost such module. ``composite`` holds the paths of modules made of modules."""

    module: fx.GraphModule
    paths: dict[fx.Node, str]
    outputs: dict[fx.Node, str]
    composite: frozenset[str]

    @property
    def nodes(self) -> list[fx.Node]:
        """In the order of execution."""
        return list(self.module.graph.nodes)

    @property
    def input(self) -> fx.Node:
        """The placeholder of the frames."""
        return next(node for node in self.nodes if node.op == "placeholder")


class _Tracer(fx.Tracer):
    """Notes the module that each node comes from; modules in ``opaque`` are taken as one operation."""

    def __init__(self, opaque: frozenset[str]) -> None:
        timm = sys.modules.get("timm.layers")  # it lists its own blocks and functions that fx cannot trace
        self.leaves: tuple[type[nn.Module], ...] = tuple(timm.get_notrace_modules()) if timm else ()
        functions = tuple(timm.get_notrace_functions()) if timm else ()
        super().__init__(autowrap_modules=(math, torchvision.ops), autowrap_functions=functions)
        self.opaque = opaque
        self.stack: list[str] = [""]
        self.paths: dict[fx.Node, str] = {}
        self.outputs: dict[fx.Node, str] = {}
        self.composite: set[str] = set()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        opaque = module_qualified_name in self.opaque or isinstance(m, self.leaves)
        return opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        self.stack.append(path)  # an exception leaves it there: the top names where tracing failed
        result = super().call_module(m, forward, args, kwargs)
        self.stack.pop()
        if not self.is_leaf_module(m, path):
            self.composite.add(path)
        if isinstance(result, fx.Proxy) and result.node is self._last:
            self.outputs[result.node] = path  # an enclosing module returns later and replaces its child's path
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        self.paths[node] = self.stack[-1]
        self._last = node
        return node


def trace(module: nn.Module) -> Graph:
    """The graph of ``module``, which takes one tensor; other arguments keep their defaults.

    A block that cannot be traced (its control flow depends on values, say) is taken as one operation. Raises
    :class:`TraceFailure` if the outermost module is such a block.

    >>> graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    >>> [str(node) for node in graph.nodes]
    ['input_1', '_0', '_1', 'output']
    """
    opaque: frozenset[str] = frozenset()
    while True:
        tracer = _Tracer(opaque)
        try:
            graph = tracer.trace(module, concrete_args=_defaults(module))
        except Exception as error:  # a model's forward may raise anything
            where = tracer.stack[-1]
            if where == "" or len(opaque) >= _MAX_OPAQUE:
                raise TraceFailure(_explain(module, where, error)) from error
            opaque |= {where}
            continue
        _drop_defaults(graph)
        _ask_early(graph)
        traced = fx.GraphModule(tracer.root, graph)
        traced.eval()
        return Graph(traced, tracer.paths, tracer.outputs, frozenset(tracer.composite))


def _defaults(module: nn.Module) -> dict[str, Any]:
    """All arguments of ``forward`` but the first, at their defaults."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    positional = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: p.default for p in positional[1:] if p.default is not p.empty}


def _drop_defaults(graph: fx.Graph) -> None:
    """Removes what fx leaves of arguments that were set to their defaults."""
    first, *others = [node for node in graph.nodes if node.op == "placeholder"]
    checks = set(others)  # fx only compares such an argument with its default, and computes with the default
    for node in graph.nodes:
        if node is not first and checks.intersection(node.all_input_nodes):
            if node.op == "output":
                raise TraceFailure(f"forward needs {others[0].target!r} besides the frames; a classifier must not")
            checks.add(node)
    for node in reversed(graph.nodes):
        if node in checks:
            graph.erase_node(node)


def _ask_early(graph: fx.Graph) -> None:
    """Moves every read of a shape up to where its tensor is made.

    fx reads ``x.shape`` where the shape is first used, which would keep the tensor itself alive until then.
    """
    for node in list(graph.nodes):
        asks = node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")
        asks = asks or (node.op == "call_method" and node.target in ("size", "dim"))
        if asks and isinstance(source := node.args[0], fx.Node):
            source.append(node)


def _explain(module: nn.Module, where: str, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if not re.search(r"[/\\](torch[/\\]|early_exit[/\\]|fx[/\\])", frame.filename)]
    line = f" at {ours[-1].filename}:{ours[-1].lineno} ({(ours[-1].line or '').strip()})" if ours else ""
    name = type(module).__name__ if where == "" else f"{where} ({type(module.get_submodule(where)).__name__})"
    return (
        f"cannot trace {name}{line}: {error}. Move what depends on values (if, for, int(), print) out of the "
        "outermost forward into a submodule of its own, which is then taken as one operation"
    )
