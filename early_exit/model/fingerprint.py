"""Which model it is: one hash over what it computes, the same in every process and on every device."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor, fx, nn

from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.early_exit.model.tracing import Graph, TraceFailure, trace

#: Names of modules imported from a model's own file start with this; the rest of the name depends on the file's path.
IMPORTED = "layercache_model_"


def fingerprint(module: nn.Module, preprocessing: Preprocessing) -> str:
    """SHA-256, hexadecimal, over architecture, weights and preprocessing of a float32 model on the CPU.

    The architecture is the traced graph with the settings of the modules in it. Weights that the graph does not use
    (auxiliary classifiers, say) do not count. A model that cannot be traced is described by its printed form.

    >>> fingerprint(traced.classifier.module, traced.classifier.preprocessing)[:12]
    'eb575f920e07'
    """
    digest = hashlib.sha256()
    try:
        graph = trace(module)
    except TraceFailure:
        described, tensors = [repr(module)], _state(module, "")
    else:
        described, tensors = _describe(graph)
    digest.update(json.dumps([described, astuple(preprocessing)]).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), tuple(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _describe(graph: Graph) -> tuple[list[str], dict[str, Tensor]]:
    """The graph as lines of text, and every tensor that it uses."""
    number = {node: index for index, node in enumerate(graph.nodes)}
    lines: list[str] = []
    tensors: dict[str, Tensor] = {}
    for node in graph.nodes:
        target: Any = node.target
        if node.op == "call_function":
            target = _qualified(node.target)
        elif node.op == "call_module":
            module = graph.module.get_submodule(str(node.target))
            target = [node.target, repr(module)]
            tensors |= _state(module, f"{node.target}.")
        elif node.op == "get_attr":
            value = _attribute(graph.module, str(node.target))
            target = node.target if isinstance(value, Tensor) else [node.target, repr(value)]
            if isinstance(value, Tensor):
                tensors[str(node.target)] = value
        elif node.op in ("placeholder", "output"):
            target = node.op
        lines.append(json.dumps([node.op, target, _plain(node.args, number), _plain(node.kwargs, number)]))
    return lines, tensors


def _state(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    state = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    return {prefix + name: tensor for name, tensor in state.items()}


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _qualified(function: Callable[..., Any] | str) -> str:
    if isinstance(function, str):
        return function
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", getattr(function, "__name__", type(function).__qualname__))
    return str(name) if module.startswith(IMPORTED) else f"{module}.{name}"


def _plain(argument: Any, number: dict[fx.Node, int]) -> Any:
    """An operation's argument as JSON; devices are left out, sets are sorted."""
    if isinstance(argument, fx.Node):
        return {"node": number[argument]}
    if isinstance(argument, torch.device):
        return "device"
    if isinstance(argument, dict):
        return {"map": sorted([str(key), _plain(value, number)] for key, value in argument.items())}
    if isinstance(argument, (set, frozenset)):
        return {"set": sorted(str(_plain(value, number)) for value in argument)}
    if isinstance(argument, slice):
        return {"slice": [_plain(part, number) for part in (argument.start, argument.stop, argument.step)]}
    if isinstance(argument, (tuple, list)):
        return [_plain(value, number) for value in argument]
    if isinstance(argument, (type(None), bool, int, float, str)):
        return argument
    if callable(argument):
        return _qualified(argument)
    return str(argument)
