"""Near-copies count together: how many audits of a key's block of time count, and when a block is over."""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from layercache.schemas.manifest import Manifest

#: So many audits of the longest block are wanted. Fewer would waste audits, since the most that may count is farther
#: above their mean; more would keep more frames in memory than they tell.
_WANTED = 16
#: The most of the audits of the longest blocks that may be left out because more came than count.
_LEFT_OUT = 0.02
#: Blocks that are open at a time. A key that sends nothing more leaves its block open until so many others are.
_OPEN_BLOCKS = 5000


def watched_blocks(manifest: Manifest | None, block_s: float, block_frames: int) -> tuple[int, int]:
    """A block's length in milliseconds, and how many of its frames count at most, where a version is watched for drift.

    As its certificate says, so that all who watch it do the same; else as their own settings say.

    >>> watched_blocks(None, block_s=10.0, block_frames=30)
    (10000, 30)
    """
    certificate = manifest.certificate if manifest else None
    if certificate and certificate.block_s and certificate.block_frames:
        block_s, block_frames = certificate.block_s, certificate.block_frames
    return max(1, int(block_s * 1000)), block_frames


def counted_rate(block_frames: int) -> float:
    """Audits with a draw below this count, where a block has up to ``block_frames`` frames: busier keys are thinned.

    >>> counted_rate(10), counted_rate(320)
    (1.0, 0.05)
    """
    return min(1.0, _WANTED / block_frames)


def most_counted(block_frames: int, rate: float) -> int:
    """How many audits of one block count at most, where those of ``block_frames`` frames are drawn at ``rate``.

    The fewest at which the longest blocks lose at most one audit in fifty.

    >>> [most_counted(frames, rate) for frames, rate in ((1, 1.0), (30, 0.5), (30, 0.02), (300, 0.05))]
    [1, 18, 3, 20]
    """
    rate = min(1.0, rate)
    if rate <= 0.0:
        return 1
    sizes = np.arange(block_frames + 1)
    factorials = np.array([math.lgamma(n + 1) for n in range(block_frames + 1)])
    ways = factorials[-1] - factorials - factorials[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = ways + np.where(sizes > 0, sizes * np.log(rate), 0.0)
        logs += np.where(sizes < block_frames, (block_frames - sizes) * np.log1p(-rate), 0.0)
    beyond = np.exp(logs)[::-1].cumsum()[::-1]  # P(at least n)
    left_out = np.append(beyond[::-1].cumsum()[::-1][1:], 0.0)  # E(audits beyond n)
    return max(1, int((left_out <= _LEFT_OUT * rate * block_frames).argmax()))


@dataclass(frozen=True)
class ClosedBlock:
    """The audits of a block that count, and on how many of them each kind of answer was wrong."""

    audits: int
    disagreements: tuple[int, ...]


@dataclass
class _OpenBlock:
    slot: int
    drawn: list[tuple[float, tuple[bool, ...]]]


class OpenBlocks:
    """Gathers audits by block until the block is over; of more than ``most`` those with the smallest draws count.

    A block is over once its key shows another one, or once many other blocks have been opened since. A frame without a
    key is a block of its own. While no key has been seen, :attr:`most` is 1: then all blocks weigh the same.

    >>> blocks = OpenBlocks(most=2)
    >>> list(blocks.add(key=0, slot=5, draw=0.1, wrong=(True,))), blocks.most
    ([ClosedBlock(audits=1, disagreements=(1,))], 1)
    >>> for draw in (0.3, 0.1, 0.2):
    ...     assert not list(blocks.add(key=7, slot=5, draw=draw, wrong=(draw == 0.3,)))
    >>> list(blocks.add(key=7, slot=6, draw=0.4, wrong=(True,))), blocks.most
    ([ClosedBlock(audits=2, disagreements=(0,))], 2)
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys_seen = False
        self._open: OrderedDict[int, _OpenBlock] = OrderedDict()

    @property
    def most(self) -> int:
        """How many audits of one block count at most."""
        return self._most if self._keys_seen else 1

    def add(self, key: int, slot: int, draw: float, wrong: tuple[bool, ...]) -> Iterator[ClosedBlock]:
        """Takes in an audit, of a key's hash (0: without a key) and a slot of time; gives the blocks that are over."""
        if not key:
            yield ClosedBlock(1, tuple(map(int, wrong)))
            return
        self._keys_seen = True
        block = self._open.get(key)
        if block is not None and block.slot != slot:
            del self._open[key]
            yield self._close(block)
            block = None
        if block is None:
            block = self._open[key] = _OpenBlock(slot, [])
            if len(self._open) > _OPEN_BLOCKS:
                yield self._close(self._open.popitem(last=False)[1])
        block.drawn.append((draw, wrong))
        if len(block.drawn) > 2 * self._most:
            block.drawn = sorted(block.drawn)[: self._most]

    def _close(self, block: _OpenBlock) -> ClosedBlock:
        counted = sorted(block.drawn)[: self._most]
        return ClosedBlock(len(counted), tuple(map(sum, zip(*(wrong for _, wrong in counted), strict=True))))
