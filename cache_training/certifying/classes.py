"""Disagreement by class: which classes can have a test of their own, and the results of the worst."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layercache.cache_training.certifying.binomial import upper_bound
from layercache.schemas.manifest import ClassResult

#: A class has a test of its own if the longest window is expected to hold this many times the frames that a test needs,
#: since a window may hold fewer than expected.
_MARGIN = 1.5
_WORST = 20


@dataclass(frozen=True)
class Grouping:
    """The group of every class: the first for all classes tested together, if any, then one for each other class."""

    group: npt.NDArray[np.int64]
    """``[classes]``"""
    shares: npt.NDArray[np.float64]
    """``[groups]``: the groups' shares of the stream."""
    alone: int
    """How many classes have a test of their own."""


def group_classes(counts: npt.NDArray[np.int64], fewest: int, capacity: int) -> Grouping:
    """Groups classes by how often they were seen before, ``counts`` ``[classes]``, for windows of up to ``capacity``.

    Classes that are too rare in such a window for a test of ``fewest`` frames form one group, with the classes never
    seen; if even together they are too rare, the rarest other class joins them. The counted frames must not be in the
    tested window: so the groups are fixed before the window is read.

    >>> group_classes(np.array([500, 0, 480, 12, 8]), fewest=50, capacity=4000).group.tolist()
    [2, 0, 1, 0, 0]
    >>> group_classes(np.array([500, 500]), fewest=50, capacity=4000).group.tolist()
    [0, 1]
    """
    shares = counts / max(1, counts.sum())
    order = np.argsort(shares, kind="stable")
    enough = _MARGIN * fewest / max(1, capacity)
    together = int((shares < enough).sum())
    if together and shares[order[:together]].sum() < enough:
        together = min(together + 1, len(counts))
    group = np.zeros(len(counts), np.int64)
    group[order[together:]] = np.arange(len(counts) - together) + (together > 0)
    return Grouping(group, np.bincount(group, shares).astype(np.float64), len(counts) - together)


def worst_classes(
    wrong: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64], names: Sequence[str], error: float
) -> tuple[ClassResult, ...]:
    """The up to 20 classes with the most disagreements, the worst first; ``wrong`` and ``labels`` are ``[frames]``."""
    frames = np.bincount(labels, minlength=len(names))
    disagreements = np.bincount(labels[wrong], minlength=len(names))
    worst = [int(label) for label in np.argsort(-disagreements, kind="stable")[:_WORST] if disagreements[label]]
    return tuple(
        ClassResult(
            label=label,
            name=names[label],
            frames=int(frames[label]),
            disagreements=int(disagreements[label]),
            upper_bound=upper_bound(int(disagreements[label]), int(frames[label]), error),
        )
        for label in worst
    )
