"""Runs a module on shapes alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)


def on_shapes(call: Callable[[Tensor], Any], example: Tensor) -> None:
    """Calls ``call`` with a tensor of ``example``'s shape but no values, which costs next to nothing.

    If the module needs values, calls it again with ``example`` itself.

    >>> on_shapes(lambda frames: print(tuple((frames @ frames.T).shape)), torch.zeros(50_000, 8))
    (50000, 50000)
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the FLOP counter does not know its fused kernel
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            call(fake.from_tensor(example))
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException):
        call(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
