"""Deals each audit to one use: heads that were learnt or tuned on a frame must not be certified on it."""

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layercache.cache_training.certifying.looks import Looks
from layercache.cache_training.certifying.samples import Sample
from layercache.early_exit.blocks import counted_rate, most_counted
from layercache.early_exit.policy import mixed
from layercache.schemas.distillation import DistillationBatch

_NEVER, _AFTERWARDS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_WITHOUT_KEY = np.uint64(0x165667B19E3779F9)
#: The share of the stream's frames that may have been audited at a lower rate than the window's.
_DIPS = 0.1


class AuditUse(enum.IntEnum):
    """What an audit is for."""

    LEARNING = 0
    TUNING = 1
    CERTIFICATION = 2


#: Certification needs by far the most frames: at a budget of 1 % the size of its window limits how close to the budget
#: exits may go. Learning needs few: heads also learn from misses. Frames that have certified are shared out again.
SHARES = {AuditUse.LEARNING: 0.15, AuditUse.TUNING: 0.12, AuditUse.CERTIFICATION: 0.73}


def key_blocks(batch: DistillationBatch, block_s: float) -> npt.NDArray[np.uint64]:
    """uint64 ``[N]``, for frames with a key: near-copies (of one key within ``block_s`` seconds) share a block."""
    slot = (batch.timestamp_ms // max(1, int(block_s * 1000))).astype(np.uint64)
    return mixed(batch.key_hash.astype(np.uint64) ^ mixed(slot + _NEVER))


def blocks(batch: DistillationBatch, content: npt.NDArray[np.uint64], block_s: float) -> npt.NDArray[np.uint64]:
    """uint64 ``[N]``: :func:`key_blocks`, and for frames without a key a block for each ``content``.

    A picture that comes again without a key, whenever that is, thus has one use.
    """
    return np.where(batch.key_hash == 0, mixed(content ^ _WITHOUT_KEY), key_blocks(batch, block_s))


def deal(block: npt.NDArray[np.uint64]) -> npt.NDArray[np.int8]:
    """int8 ``[N]``: the :class:`AuditUse` of each frame, always the same for all frames of a block."""
    place = mixed(block ^ _NEVER).astype(np.float64) / 2.0**64
    bounds = np.cumsum([SHARES[use] for use in AuditUse])[:-1]
    return np.searchsorted(bounds, place, side="right").astype(np.int8)


def tunes_afterwards(block: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """bool ``[N]``: whether a frame that has certified tunes from then on, as every other block does; else it teaches.

    An attempt is then chosen on three times as many frames as those that were dealt to tuning meanwhile.
    """
    return mixed(block ^ _AFTERWARDS) < np.uint64(2**63)


@dataclass(frozen=True)
class Counted:
    """The frames of a window that enter a test, and which of them belong together."""

    rows: npt.NDArray[np.intp]
    """Their places in the window, in order."""
    block: npt.NDArray[np.intp] | None
    """``[rows]``: the number of each one's block; None where each is a block of its own."""
    most: int
    """How many of one block count at most."""

    @property
    def worth(self) -> int:
        """To how many frames that count singly they are worth, at best."""
        return len(self.rows) // self.most

    def samples(
        self, new: npt.NDArray[np.bool_], expected: npt.NDArray[np.float64], spent: float
    ) -> tuple[Sample, Sample]:
        """For a test on the ``new`` frames among them, bool ``[rows]``, and one on all.

        ``expected``: see there; a share of ``spent`` of their level may be spent by this look.
        """
        whole = Sample(self.block, self.most, expected, Looks((len(self.rows),), (spent,)))
        return whole.rows(new), whole


def counted(block: npt.NDArray[np.uint64], draw: npt.NDArray[np.float64], rate: float, block_frames: int) -> Counted:
    """Which of N frames count, by their ``block`` and their audit ``draw``, both ``[N]``.

    Those that would have been audited at ``rate``, or at :func:`~layercache.early_exit.blocks.counted_rate` where that
    is lower; of one block, at most as many as blocks of ``block_frames`` frames have, and then those with the smallest
    draws. ``block_frames`` is 1 where frames have no keys: then one frame of every block counts.
    """
    rate = min(rate, counted_rate(block_frames))
    most = most_counted(block_frames, rate)
    thinned = np.flatnonzero(draw < rate)
    order = thinned[np.lexsort((draw[thinned], block[thinned]))]
    begins = np.flatnonzero(np.append(True, block[order][1:] != block[order][:-1])) if len(order) else order
    sizes = np.diff(np.append(begins, len(order)))
    place = np.arange(len(order)) - np.repeat(begins, sizes)
    rows = np.sort(order[place < most])
    return Counted(rows, None if most == 1 else np.unique(block[rows], return_inverse=True)[1], most)


def common_rate(rates: npt.NDArray[np.float32]) -> float:
    """The highest rate at which nearly all frames of the stream were audited, by those at which N audits came.

    An audit that came at a low rate stands for more frames. A few that came at a lower rate are under-represented, so
    that a short dip does not cost the others.

    >>> common_rate(np.array([0.5] * 100, np.float32)), common_rate(np.array([0.5] * 99 + [0.1], np.float32))
    (0.5, 0.5)
    >>> round(common_rate(np.array([0.5] * 80 + [0.1] * 10, np.float32)), 2)
    0.1
    """
    if not len(rates):
        return 1.0
    different, counts = np.unique(rates.astype(np.float64), return_counts=True)
    frames = counts / np.maximum(different, 1e-9)
    below = np.append(0.0, frames.cumsum()[:-1]) / frames.sum()
    return float(different[np.flatnonzero(below <= _DIPS)[-1]])


def one_per_block(block: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Rows of the first frame of every block, in order."""
    return np.sort(np.unique(block, return_index=True)[1])
