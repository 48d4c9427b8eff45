"""Deals each audit to one use: heads that were learnt or tuned on a frame must not be certified on it."""

import enum

import numpy as np
import numpy.typing as npt

from layercache.early_exit.policy import mixed, position_hashes
from layercache.schemas.distillation import DistillationBatch

_SALT = b"layercache-deal-1"
_NEVER = np.uint64(0x9E3779B97F4A7C15)


class AuditUse(enum.IntEnum):
    """What an audit is for."""

    LEARNING = 0
    TUNING = 1
    CERTIFICATION = 2


#: Certification needs by far the most frames: at a budget of 1 % the size of its window limits how close to the budget
#: exits may go. Learning needs few: heads also learn from misses, and from frames that have certified.
SHARES = {AuditUse.LEARNING: 0.15, AuditUse.TUNING: 0.12, AuditUse.CERTIFICATION: 0.73}


def blocks(batch: DistillationBatch, block_s: float) -> npt.NDArray[np.uint64]:
    """uint64 ``[N]``: near-copies (frames of one key within ``block_s`` seconds) share a block.

    A frame without a key is a block of its own.
    """
    own = position_hashes(batch.header.origin, batch.partition, batch.offset, _SALT)
    slot = (batch.timestamp_ms // max(1, int(block_s * 1000))).astype(np.uint64)
    shared = mixed(batch.key_hash.astype(np.uint64) ^ mixed(slot + _NEVER))
    return np.where(batch.key_hash == 0, own, shared)


def deal(block: npt.NDArray[np.uint64]) -> npt.NDArray[np.int8]:
    """int8 ``[N]``: the :class:`AuditUse` of each frame, always the same for all frames of a block."""
    place = mixed(block ^ _NEVER).astype(np.float64) / 2.0**64
    bounds = np.cumsum([SHARES[use] for use in AuditUse])[:-1]
    return np.searchsorted(bounds, place, side="right").astype(np.int8)


def one_per_block(block: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Rows of the first frame of every block, in order: these may enter a binomial test together."""
    return np.sort(np.unique(block, return_index=True)[1])
