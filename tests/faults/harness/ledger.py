"""The ledger: what was answered, by frame number, in arrays that hold millions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.faults.harness.frames import BAD_EVERY, KEYS, expected

Numbers = npt.NDArray[np.int64]

DEAD_LETTER = -1


@dataclass(frozen=True)
class Verdict:
    """How the frames up to a number fared."""

    frames: int
    answered: int
    lost: int
    """Frames without any answer."""
    duplicated: int
    """Answers beyond the first of their frame."""
    wrong: int
    """Answers with another label than the picture's, or of the wrong kind (prediction for dead letter)."""
    misplaced: int
    """Answers that name another position of their frame than an earlier answer to it."""
    out_of_order: int
    """Answers (first ones) that stand before an earlier frame's answer of the same camera."""
    unknown: int
    """Answers to frames that were never published."""
    predictions: int
    dead_letters: int


class Ledger:
    """Counts the answers to each frame.

    >>> ledger = Ledger()
    >>> ledger.take(numbers=[1, 2, 3], labels=[1, 2, 0], places=[0, 1, 2], sources=[10, 11, 12])
    >>> ledger.take(numbers=[0], labels=[DEAD_LETTER], places=[0], sources=[9])
    >>> ledger.take(numbers=[3], labels=[0], places=[3], sources=[12])
    >>> verdict = ledger.verdict(published=5)
    >>> verdict.lost, verdict.duplicated, verdict.wrong, verdict.out_of_order
    (1, 1, 0, 0)
    """

    def __init__(self, capacity: int = 1 << 16) -> None:
        self._counts = np.zeros(capacity, np.int32)
        self._places = np.full(capacity, -1, np.int64)
        self._sources = np.full(capacity, -1, np.int64)
        self._wrong = self._misplaced = 0
        self.answers = 0
        self._dead_letters = 0
        self.answered = 0
        """Frames with an answer at least."""

    def take(
        self, numbers: Sequence[int], labels: Sequence[int], places: Sequence[int], sources: Sequence[int]
    ) -> None:
        """Answers in the order in which a topic's partitions hold them.

        ``labels`` are classes or :data:`DEAD_LETTER`; ``places`` the answers' offsets, ``sources`` those of the frames
        that they answer.
        """
        if not len(numbers):
            return
        ids, given = np.asarray(numbers, np.int64), np.asarray(labels, np.int64)
        at, came = np.asarray(places, np.int64), np.asarray(sources, np.int64)
        self._grow(int(ids.max()) + 1)
        self.answers += len(ids)
        self._dead_letters += int((given == DEAD_LETTER).sum())
        self._wrong += int((given != expected(ids)).sum())
        unique, first = np.unique(ids, return_index=True)
        new = self._counts[unique] == 0
        self.answered += int(new.sum())
        self._places[unique[new]] = at[first[new]]
        self._sources[unique[new]] = came[first[new]]
        self._misplaced += int((self._sources[ids] != came).sum())
        np.add.at(self._counts, ids, 1)

    def missing(self, published: int) -> list[int]:
        """Numbers below ``published`` that have no answer; the first hundred."""
        self._grow(published)
        found: list[int] = np.flatnonzero(self._counts[:published] == 0)[:100].tolist()
        return found

    def repeated(self, published: int) -> list[int]:
        """Numbers that were answered more than once; the first hundred."""
        self._grow(published)
        found: list[int] = np.flatnonzero(self._counts[:published] > 1)[:100].tolist()
        return found

    def verdict(self, published: int) -> Verdict:
        """On the frames 0 to ``published`` - 1."""
        self._grow(published)
        counts = self._counts[:published]
        return Verdict(
            frames=published,
            answered=int((counts > 0).sum()),
            lost=int((counts == 0).sum()),
            duplicated=int(np.maximum(counts - 1, 0).sum()),
            wrong=self._wrong,
            misplaced=self._misplaced,
            out_of_order=self._out_of_order(published),
            unknown=int(self._counts[published:].sum()),
            predictions=self.answers - self._dead_letters,
            dead_letters=self._dead_letters,
        )

    def _out_of_order(self, published: int) -> int:
        """Predictions and dead letters are topics of their own: each camera's order is that within its topic."""
        found = 0
        numbers = np.arange(published)
        for is_bad in (False, True):
            answered = numbers[((numbers % BAD_EVERY == 0) == is_bad) & (self._counts[:published] > 0)]
            for camera in range(KEYS):
                places = self._places[answered[answered % KEYS == camera]]
                found += int((np.diff(places) <= 0).sum())
        return found

    def _grow(self, size: int) -> None:
        if size <= len(self._counts):
            return
        more = max(size, 2 * len(self._counts)) - len(self._counts)
        self._counts = np.concatenate([self._counts, np.zeros(more, np.int32)])
        self._places = np.concatenate([self._places, np.full(more, -1, np.int64)])
        self._sources = np.concatenate([self._sources, np.full(more, -1, np.int64)])
