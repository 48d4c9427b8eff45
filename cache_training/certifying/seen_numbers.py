"""Which positions, blocks and pictures have been seen before, in little memory."""

import numpy as np
import numpy.typing as npt

#: How many positions, blocks or pictures are remembered, so that a record that is read twice counts once, and a picture
#: that comes again has one use.
_REMEMBERED = 400_000
#: How many new ones are gathered before they are sorted into the array.
_LATEST = 4_096


class SeenNumbers:
    """The numbers (positions, blocks) that have been taken in; with too many of them the earlier half is forgotten.

    Each takes eight bytes, except the latest few: a Python set of the same numbers takes ten times as much.
    """

    def __init__(self) -> None:
        self._latest: set[int] = set()
        self._recent = np.empty(0, np.uint64)  # sorted, as the next
        self._earlier = np.empty(0, np.uint64)

    def new(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """bool ``[N]``: which numbers have not been seen before; then remembers them all."""
        fresh = ~(_among(self._recent, numbers) | _among(self._earlier, numbers))
        for row, number in enumerate(numbers.tolist()):
            fresh[row] &= number not in self._latest
            self._latest.add(number)
        if len(self._latest) > _LATEST:
            self._recent = np.union1d(self._recent, np.fromiter(self._latest, np.uint64))
            self._latest = set()
        if len(self._recent) > _REMEMBERED // 2:
            self._earlier, self._recent = self._recent, np.empty(0, np.uint64)
        return fresh

    def known(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """bool ``[N]``: which numbers have been seen; remembers none."""
        found = np.fromiter((number in self._latest for number in numbers.tolist()), np.bool_, len(numbers))
        return found | _among(self._recent, numbers) | _among(self._earlier, numbers)

    def array(self) -> npt.NDArray[np.uint64]:
        """For a checkpoint."""
        latest = np.fromiter(self._latest, np.uint64, len(self._latest))
        return np.unique(np.concatenate((latest, self._recent, self._earlier)))

    def restore(self, numbers: npt.NDArray[np.uint64]) -> None:
        """What :meth:`array` gave."""
        self._recent = np.unique(numbers)


def _among(ordered: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """bool ``[N]``: which numbers are in ``ordered``, which is sorted."""
    if not len(ordered):
        return np.zeros(len(numbers), np.bool_)
    places = np.minimum(np.searchsorted(ordered, numbers), len(ordered) - 1)
    found: npt.NDArray[np.bool_] = ordered[places] == numbers
    return found
