"""Do scenes outlast the blocks of time that count as independent? By what the full model answers to neighbours."""

from collections import OrderedDict, deque

import numpy as np
import numpy.typing as npt

#: Blocks this far apart are compared with neighbours.
LAG = 5
#: Where neighbours differ by less than this share of what blocks :data:`LAG` apart differ by, they show one scene.
_ALIKE = 0.8
#: Where neighbours differ by less than this share of what any two blocks of the stream differ by, their keys stand
#: still: such scenes are so long that blocks :data:`LAG` apart differ by noise alone, too.
_STANDSTILL = 0.1
#: Blocks of the stream that are kept to compare others with.
_SAMPLE = 64
#: So many pairs of either kind are needed to say anything; of more than the second number the earlier ones fade.
_FEWEST_PAIRS, _MOST_PAIRS = 100, 2_000
#: Where at least this share of blocks has a neighbour, there will soon be enough pairs: it is worth waiting for them,
#: though for no more blocks than the second number, since keys that come for a moment have no blocks :data:`LAG` apart.
_WORTH_WAITING, _WAIT_AT_MOST = 0.1, 2_000
#: Keys that are remembered, and to how many numbers an answer is reduced for that.
_KEYS, _NUMBERS = 10_000, 16

Answers = npt.NDArray[np.float32]


class SceneWatch:
    """Compares the answers to the first audits of a key's blocks, one block apart and :data:`LAG` blocks apart.

    If neighbouring blocks are independent, they differ as much as blocks that are farther apart. If scenes outlast
    blocks, neighbours are alike. What changes slowly, such as the light of a day, makes both alike and is not meant
    here, unless nothing else changes: then neighbours are alike beside any two blocks of the stream. Answers are the
    full model's logits, as directions: no exit's answer is looked at, so that what this watch says cannot favour
    attempts that would pass.

    Blocks last ``block_s`` seconds.

    >>> watch = SceneWatch(block_s=10)
    >>> watch.outlast is None
    True
    """

    def __init__(self, block_s: float) -> None:
        self._block_ms = max(1, int(block_s * 1000))
        self._latest: OrderedDict[int, deque[tuple[int, Answers]]] = OrderedDict()
        self._sums, self._pairs = np.zeros(3), np.zeros(3)  # of neighbours, of blocks LAG apart, and of any two
        self._sample: deque[Answers] = deque(maxlen=_SAMPLE)
        self._blocks = 0
        self._random = np.random.default_rng(0)
        self._reduce: Answers | None = None

    def add(
        self, keys: npt.NDArray[np.int64], timestamp_ms: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]
    ) -> None:
        """Takes in N audits in the order of the stream: hashes of their keys, 0 without one, and ``[N, classes]``."""
        keyed = np.flatnonzero(keys)
        if len(keyed):
            answers = self._directions(logits[keyed])
            slots = timestamp_ms[keyed] // self._block_ms
            for key, slot, answer in zip(keys[keyed].tolist(), slots.tolist(), answers, strict=True):
                self._compare(key, slot, answer)

    @property
    def likeness(self) -> float | None:
        """What neighbours differ by, as a share of what blocks :data:`LAG` apart do: about 1 if blocks are independent.

        None while there are too few pairs, 0 where keys stand still.
        """
        near, far, any_two = self._sums / np.maximum(self._pairs, 1)
        neighbours, apart, others = self._pairs >= _FEWEST_PAIRS
        if neighbours and others and near <= _STANDSTILL * any_two:
            return 0.0
        return float(near / far) if neighbours and others and apart else None

    @property
    def is_undecided(self) -> bool:
        """Whether enough pairs will come soon, and have not yet. Not where keys hardly ever come twice in a row."""
        soon = _WORTH_WAITING * self._blocks < self._pairs[0]
        return self.likeness is None and soon and self._blocks < _WAIT_AT_MOST

    @property
    def outlast(self) -> bool | None:
        """Whether scenes outlast blocks; None while nobody can tell."""
        likeness = self.likeness
        return None if likeness is None else likeness < _ALIKE

    def state(self) -> list[list[float]]:
        """For a checkpoint."""
        return [self._sums.tolist(), self._pairs.tolist()]

    def restore(self, state: object) -> None:
        """What :meth:`state` gave; anything else begins anew."""
        try:
            self._sums, self._pairs = np.array(state, np.float64).reshape(2, 3)
        except (TypeError, ValueError):
            self.clear()

    def clear(self) -> None:
        """The stream has changed."""
        self._latest.clear()
        self._sample.clear()
        self._sums[:], self._pairs[:], self._blocks = 0, 0, 0

    def _directions(self, logits: npt.NDArray[np.float32]) -> Answers:
        if self._reduce is None or len(self._reduce) != logits.shape[1]:
            random = np.random.default_rng(logits.shape[1])
            self._reduce = random.standard_normal((logits.shape[1], _NUMBERS)).astype(np.float32)
        reduced = (logits - logits.mean(1, keepdims=True)) @ self._reduce
        directions: Answers = reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-9)
        return directions

    def _compare(self, key: int, slot: int, answer: Answers) -> None:
        blocks = self._latest.setdefault(key, deque(maxlen=LAG))
        self._latest.move_to_end(key)
        if len(self._latest) > _KEYS:
            self._latest.popitem(last=False)
        if blocks and slot <= blocks[-1][0]:
            return  # a later audit of a block, or one that is late
        for earlier, other in blocks:
            if slot - earlier in (1, LAG):
                self._count(0 if slot - earlier == 1 else 1, answer, other)
        if len(self._sample) == _SAMPLE:
            self._count(2, answer, self._sample[int(self._random.integers(_SAMPLE))])
        if self._random.random() < 1 / _SAMPLE or len(self._sample) < _SAMPLE:
            self._sample.append(answer)
        self._blocks += bool(blocks)  # its key has come before
        blocks.append((slot, answer))

    def _count(self, kind: int, answer: Answers, other: Answers) -> None:
        self._sums[kind] += float(((answer - other) ** 2).sum())
        self._pairs[kind] += 1
        if self._pairs[kind] > _MOST_PAIRS:
            self._sums[kind] /= 2
            self._pairs[kind] /= 2
