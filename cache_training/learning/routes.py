"""A way through the model on which exits stand: the model's own layers, or a compiled path, and what each costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt
from torch import Tensor

from layercache.cache_training.learning.batch_times import BatchTimes
from layercache.cache_training.learning.candidates import Costs, ExitCandidate
from layercache.schemas.manifest import CompiledPath

Floats = npt.NDArray[np.float64]


#: The plain model's.
PLAIN = Costs(1.0, 1.0)


@dataclass(frozen=True)
class Route:
    """What frames cost on a way through the model, by where they leave it; 1 is the plain model."""

    reach: Mapping[str, Costs]
    """What it costs to get to each exit, by its name, in order; heads on the way do not count."""
    times: BatchTimes | None = None
    """A shrinking micro-batch's time; without it each piece costs every frame that passes it the same."""
    nowhere: Costs = PLAIN
    """What a frame costs that no exit answers; heads do not count."""
    path: CompiledPath | None = None
    """A compiled path that was made; its exits are all served or none, though some may be closed. None on the model's
    own layers, and for a path that is only imagined."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """What a version on this route stores beside its heads: graphs, and a probe."""

    def by_exit(self, exits: Sequence[ExitCandidate]) -> list[Costs]:
        """What a frame costs that leaves at each exit and, last, nowhere; heads that it passed are included."""
        heads = [Costs(0.0, 0.0), *accumulate((one.costs for one in exits), _sum)]
        reached = [self.reach[one.cut] for one in exits]
        return [*map(_sum, reached, heads[1:]), _sum(self.nowhere, heads[-1])]

    def time(self, exits: Sequence[ExitCandidate], left: Floats) -> Floats:
        """Time ``[...]`` for the shares of frames that leave at each exit and, last, at none: ``[..., exits + 1]``."""
        if self.times is not None:
            return self.times.share(exits, left)
        spent: Floats = left @ np.array([costs.time for costs in self.by_exit(exits)])
        return spent

    def flops(self, exits: Sequence[ExitCandidate], left: Floats) -> Floats:
        """The same for FLOPs."""
        spent: Floats = left @ np.array([costs.flops for costs in self.by_exit(exits)])
        return spent


def _sum(one: Costs, other: Costs) -> Costs:
    return Costs(one.flops + other.flops, one.time + other.time)
