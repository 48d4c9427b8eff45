"""The history of a phase: what was published, answered, read on the way and committed, by whom, where and when.

Columns of numbers, since there are millions of rows. :mod:`.checks` judges it, without a broker or a clock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

#: What an answer is, and so the topic that it stands on.
PREDICTION, DEAD_LETTER = 0, 1
KINDS = ("prediction", "dead letter")

#: In :attr:`Frames.expected`: only a dead letter is right. Labels say which prediction is.
ONLY_DEAD_LETTER = -1
#: Added to a label: that prediction is right, and a dead letter, too.
OR_DEAD_LETTER = 1_000

#: In place of a position that is not known.
UNKNOWN = -1


@dataclass(frozen=True)
class Frames:
    """What was published; row n is frame n."""

    generation: Numbers
    """How often the topic had been made anew by then."""
    partition: Numbers
    offset: Numbers
    """Where the broker said that it put the frame; :data:`UNKNOWN` where it never did."""
    camera: Numbers
    """Frames of one camera are answered in their order."""
    expected: Numbers
    """The right answer: a label, :data:`ONLY_DEAD_LETTER`, or a label plus :data:`OR_DEAD_LETTER`."""

    def __len__(self) -> int:
        return len(self.offset)


#: The columns of :class:`Answers`, in the order in which rows are given to a :class:`Recording`.
COLUMNS = (
    "number", "kind", "label", "life", "partition", "offset", "source_partition", "source_offset", "predicted_ms",
    "read_ms",
)  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """Answers as a reader saw them, a row each, in any order."""

    number: Numbers
    """The frame's."""
    kind: Numbers
    """:data:`PREDICTION` or :data:`DEAD_LETTER`."""
    label: Numbers
    """:data:`UNKNOWN` for dead letters."""
    life: Numbers
    """Who gave it: a place in :attr:`History.lives`."""
    partition: Numbers
    offset: Numbers
    """Where the answer stands on its topic."""
    source_partition: Numbers
    source_offset: Numbers
    """Where the answer says that its frame stood."""
    predicted_ms: Numbers
    """When the worker had it, in milliseconds since the epoch; 0 for dead letters, which do not say."""
    read_ms: Numbers
    """When the reader had it."""

    def __len__(self) -> int:
        return len(self.number)

    @property
    def place(self) -> Numbers:
        """Topic, partition and offset as one number."""
        return ((self.kind << 20) + self.partition << 40) + self.offset


@dataclass(frozen=True)
class Commit:
    """The group's committed offsets, as the broker told them; stable ones, with no transaction open over them."""

    asked_ms: int
    """Before the question was sent: what was committed by then is among the answer."""
    generation: int
    offsets: dict[int, int]
    """By partition; 0 where nothing was committed."""


@dataclass(frozen=True)
class History:
    """A phase, told to its end."""

    frames: Frames
    answers: Answers
    """Committed ones, all of them, by a reader that came when everything was over."""
    live: Answers
    """Those that a ``read_committed`` reader saw while the faults struck."""
    commits: tuple[Commit, ...]
    lives: tuple[str, ...]
    """The workers' processes, by name."""
    is_whole: bool = True
    """False where the last reader did not come to the end, so that :attr:`answers` lacks some."""


@dataclass
class Recording:
    """Collects the rows of :class:`Answers`, and counts the frames that have one.

    >>> recording = Recording()
    >>> recording.take([(0, PREDICTION, 2, recording.life("worker-0-1"), 3, 17, 3, 0, 1_000, 1_050)])
    >>> recording.answered, recording.answers().offset.tolist()
    (1, [17])
    """

    lives: list[str] = field(default_factory=list)
    """Shared by the recordings of one history."""
    _blocks: list[Numbers] = field(default_factory=list)
    _seen: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1 << 16, np.bool_))
    answered: int = 0

    def life(self, name: str) -> int:
        """The number by which rows name that process of a worker."""
        if name not in self.lives:
            self.lives.append(name)
        return self.lives.index(name)

    def take(self, rows: Sequence[tuple[int, ...]]) -> None:
        """Rows as :data:`COLUMNS` says."""
        if not rows:
            return
        block = np.array(rows, np.int64)
        numbers = np.unique(block[:, 0])
        if (largest := int(numbers[-1])) >= len(self._seen):
            more = np.zeros(max(largest + 1, 2 * len(self._seen)) - len(self._seen), np.bool_)
            self._seen = np.concatenate([self._seen, more])
        self.answered += int((~self._seen[numbers]).sum())
        self._seen[numbers] = True
        self._blocks.append(block)

    def answers(self) -> Answers:
        """All rows so far."""
        rows = np.concatenate(self._blocks) if self._blocks else np.zeros((0, len(COLUMNS)), np.int64)
        return Answers(**dict(zip(COLUMNS, rows.T, strict=True)))


def frames_of(rows: Iterable[tuple[int, int, int, int, int]]) -> Frames:
    """Frames 0, 1, 2, …, each as (generation, partition, offset, camera, expected)."""
    columns = np.array(list(rows), np.int64).reshape(-1, 5).T
    return Frames(*columns)
