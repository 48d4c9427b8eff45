"""The teacher's values at every cut, kept in a ring of bounded bytes from which all heads train."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class FeatureRing:
    """Maps at the cuts (bfloat16) and the teacher's logits (float32) of the latest pictures; new replace old."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], classes: int, max_bytes: float) -> None:
        each = 4 * classes + sum(2 * torch.Size(shape).numel() for shape in shapes.values())
        self.capacity = max(64, int(max_bytes / each))
        # Untouched pages of an empty tensor take no memory, so the ring grows as it fills.
        self._maps = {cut: self._room(shape) for cut, shape in shapes.items()}
        self._logits = torch.empty(self.capacity, classes)
        self.added = 0

    def _room(self, shape: Sequence[int]) -> Tensor:
        # In the memory layout that heads take: otherwise drawing rows would shuffle every pixel.
        layout = torch.channels_last if len(shape) == 3 else torch.contiguous_format
        return torch.empty(self.capacity, *shape, dtype=torch.bfloat16, memory_format=layout)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, maps: Mapping[str, Tensor], logits: Tensor) -> None:
        """Takes in a batch: maps ``[N, *shape]`` by cut, logits ``[N, classes]``."""
        slots = (self.added + torch.arange(len(logits))) % self.capacity
        for cut, store in self._maps.items():
            store[slots] = maps[cut].to(torch.bfloat16).cpu()
        self._logits[slots] = logits.float().cpu()
        self.added += len(logits)

    def at(self, cut: str, rows: Tensor) -> Tensor:
        """bfloat16 ``[len(rows), *shape]``: maps at a cut."""
        return self._maps[cut][rows]

    def logits(self, rows: Tensor) -> Tensor:
        """float32 ``[len(rows), classes]``."""
        return self._logits[rows]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n rows at random, with replacement."""
        return torch.randint(0, len(self), (n,), generator=generator)

    def latest(self, n: int) -> Tensor:
        """Rows of the n that were added last, oldest first."""
        return (self.added - n + torch.arange(n)) % self.capacity

    def clear(self) -> None:
        """Forgets everything."""
        self.added = 0
