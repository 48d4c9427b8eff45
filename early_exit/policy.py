"""Who is audited and who leaves where: pure functions, so that worker, trainer and tests cannot disagree."""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

#: Changing this deals every stream's audits anew; worker and trainer must then be upgraded together.
_AUDIT_SALT = b"layercache-audit-1"
_FULL_RANGE = 2.0**64

Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]


def mixed(words: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit flips every output bit half the time."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def position_hashes(
    topic: str, partitions: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], salt: bytes = _AUDIT_SALT
) -> Words:
    """uint64 ``[N]``, uniform over positions, whatever publishers put into keys, ids and pictures."""
    hashes = np.empty(len(offsets), np.uint64)
    for partition in np.unique(partitions):
        seed = blake2b(f"{topic}\0{partition}".encode(), digest_size=8, key=salt).digest()
        rows = partitions == partition
        hashes[rows] = mixed(mixed(offsets[rows].astype(np.uint64) + np.uint64(int.from_bytes(seed, "little"))))
    return hashes


def draw_audits(topic: str, partitions: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], rate: float) -> Bools:
    """bool ``[N]``: which frames are audited at ``rate`` (a share); what is audited at one rate is at every higher."""
    return position_hashes(topic, partitions, offsets).astype(np.float64) < rate * _FULL_RANGE


def cascade(scores: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """int32 ``[N]``: the first exit whose score reaches its threshold, -1 where none does; scores ``[N, exits]``."""
    fires = scores >= thresholds
    if not fires.shape[1]:
        return np.full(len(scores), -1, np.int32)
    return np.where(fires.any(1), fires.argmax(1), -1).astype(np.int32)
