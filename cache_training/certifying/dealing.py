"""Which use an audit is put to. Nothing learnt or tuned on a frame may certify on it, so every frame has one use."""

import enum

import numpy as np
import numpy.typing as npt

from layercache.early_exit.policy import mixed, position_hashes
from layercache.schemas.distillation import DistillationBatch

_SALT = b"layercache-deal-1"
_NEVER = np.uint64(0x9E3779B97F4A7C15)


class Use(enum.IntEnum):
    """What an audit is for."""

    LEARNING = 0
    TUNING = 1
    CERTIFICATION = 2


#: Certification needs by far the most frames: at a budget of 1 % its window sets how close to the budget exits may go,
#: while heads also learn from the misses, and from frames that have certified.
SHARES = {Use.LEARNING: 0.15, Use.TUNING: 0.12, Use.CERTIFICATION: 0.73}


def blocks(batch: DistillationBatch, block_s: float) -> npt.NDArray[np.uint64]:
    """uint64 ``[N]``: frames that are near-copies of each other, one key within ``block_s`` seconds, share a block.

    A frame without a key is a block of its own.
    """
    own = position_hashes(batch.header.origin, batch.partition, batch.offset, _SALT)
    slot = (batch.timestamp_ms // max(1, int(block_s * 1000))).astype(np.uint64)
    shared = mixed(batch.key_hash.astype(np.uint64) ^ mixed(slot + _NEVER))
    return np.where(batch.key_hash == 0, own, shared)


def deal(block: npt.NDArray[np.uint64]) -> npt.NDArray[np.int8]:
    """int8 ``[N]``: the :class:`Use` of each frame, the same for all frames of a block, now and for ever."""
    place = mixed(block ^ _NEVER).astype(np.float64) / 2.0**64
    bounds = np.cumsum([SHARES[use] for use in Use])[:-1]
    return np.searchsorted(bounds, place, side="right").astype(np.int8)


def one_per_block(block: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Rows of the first frame of every block, in order: what may enter a binomial test together."""
    return np.sort(np.unique(block, return_index=True)[1])
