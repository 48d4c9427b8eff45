"""Deals each audit to one use: heads that were learnt or tuned on a frame must not be certified on it."""

import enum

import numpy as np
import numpy.typing as npt

from layercache.early_exit.policy import mixed
from layercache.schemas.distillation import DistillationBatch

_NEVER, _AFTERWARDS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_WITHOUT_KEY = np.uint64(0x165667B19E3779F9)


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


def one_per_block(block: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Rows of the first frame of every block, in order: these may enter a binomial test together."""
    return np.sort(np.unique(block, return_index=True)[1])
