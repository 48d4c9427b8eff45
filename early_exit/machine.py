"""Errors of the machine: no memory, or a device that fails. They are never a frame's fault."""

import re

import torch

#: What torch says where it has no class for it: 2.4 to 2.15, its allocators, CUDA, ROCm, XPU, MPS and their libraries.
_SAID = re.compile(
    r"out of memory|not enough memory|can(?:no|')t allocate memory|unable to allocate"
    r"|\b(?:CUDA|HIP|XPU|MPS|cuDNN|cuBLAS|cuSOLVER|NCCL|MIOpen)\b[^\n]{0,40}\b(?:error|failed)"
    r"|\b(?:CUDA|CUDNN|CUBLAS|CUSOLVER|HIPBLAS|MIOPEN)_(?:STATUS|ERROR)_",
    re.IGNORECASE,
)
_KINDS: tuple[type[BaseException], ...] = (
    MemoryError,
    torch.cuda.OutOfMemoryError,
    *filter(None, (getattr(torch, "AcceleratorError", None),)),  # torch 2.8 and later
)


class MachineFailed(RuntimeError):
    """This process cannot go on here; the message says what to do. Nothing is wrong with the frames."""


def is_the_machines(error: BaseException) -> bool:
    """True for out-of-memory and device errors, also where they led to the ``error``.

    >>> is_the_machines(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    >>> is_the_machines(RuntimeError("CUDA error: an illegal memory access was encountered"))
    True
    >>> is_the_machines(ValueError("expected 3 channels, found 4"))
    False
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, _KINDS) or (isinstance(seen, RuntimeError) and _SAID.search(str(seen))):
            return True
        seen = seen.__cause__
    return False
