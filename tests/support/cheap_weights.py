"""Random weights at the price of a copy, for models whose own initialisation takes longer than a test may."""

from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import torch
from torch import nn

_INITIALISERS = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]


def build(builder: Callable[[], nn.Module]) -> nn.Module:
    """What ``builder`` returns, in eval mode, its weights and buffers replaced by :func:`fill`'s."""
    # Not by skipping the draws below them: an initialiser that draws again until it likes the result would never end.
    with ExitStack() as patches:
        for name in _INITIALISERS:
            patches.enter_context(mock.patch.object(nn.init, name, lambda tensor, *_, **__: tensor))
        module = builder()
    fill(module)
    return module.eval().requires_grad_(False)


def fill(module: nn.Module) -> None:
    """Fills weights and statistics with values that keep signals alive through any depth, the same each time.

    Weights have the variance 1 / fan-in; every vector (norms' scales and shifts, biases, layer scales) lies between
    0.5 and 1.5 or around 0, so that no block is near to nothing or to identity, as fresh ones can be.
    """
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(1 << 16, generator=generator)
    with torch.no_grad():
        for index, (name, tensor) in enumerate(module.state_dict().items()):
            if not tensor.is_floating_point():
                continue
            values = pool.roll(index * 977).repeat(-(-tensor.numel() // len(pool)))[: tensor.numel()].view(tensor.shape)
            if tensor.ndim > 1:
                tensor.copy_(values * (tensor[0].numel() ** -0.5))
            elif name.endswith(("bias", "running_mean")):
                tensor.copy_(values * 0.1)
            else:
                tensor.copy_(values.abs().clamp(max=1) + 0.5)
