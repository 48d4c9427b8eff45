"""A chain of compiled pieces: each takes the map of the one before and gives the next map and its exit's logits."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.early_exit.compiled.graphs import CompiledGraph


class Chain:
    """The pieces of a compiled path, for one thread at a time: pictures go in, an exit's logits come out of each.

    The first piece takes pictures uint8 ``[N, C, h, w]`` as they are: normalising is in the graph.
    """

    def __init__(self, graphs: Sequence[CompiledGraph]) -> None:
        self._runners = [graph.runner() for graph in graphs]

    def __len__(self) -> int:
        return len(self._runners)

    def step(self, index: int, value: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.generic], Tensor]:
        """What piece number ``index`` makes of the value before it: the next value, and logits ``[N, classes]``.

        The value is overwritten by this piece's next call, and after the last piece it is the logits.
        """
        outputs = self._runners[index](value)
        return outputs[0], torch.from_numpy(outputs[-1].copy())

    def logits(self, pictures: Tensor) -> list[Tensor]:
        """Every exit's logits, ``[N, classes]`` each, for pictures uint8 ``[N, C, h, w]``."""
        value: npt.NDArray[np.generic] = pictures.numpy()
        found = []
        for index in range(len(self)):
            value, logits = self.step(index, value)
            found.append(logits)
        return found
