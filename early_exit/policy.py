"""Which frames are audited and which leave where: pure functions, so that worker, trainer and tests cannot disagree."""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

#: Changing this deals every stream's audits anew; worker and trainer must then be upgraded together.
_AUDIT_SALT = b"layercache-audit-1"
_FULL_RANGE = 2.0**64

Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]


def mixed(words: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit flips every output bit half the time.

    uint64 to uint64, of any shape, one to one.

    >>> [hex(word) for word in mixed(np.array([1, 2], np.uint64)).tolist()]
    ['0x5692161d100b05e5', '0xdbd238973a2b148a']
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def position_hashes(
    topic: str, partitions: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], salt: bytes = _AUDIT_SALT
) -> Words:
    """uint64 ``[N]``, uniform over positions, whatever publishers put into keys, ids and pictures.

    A seed for each topic and partition by BLAKE2b (RFC 7693), then SplitMix64 on the offsets (Steele, Lea, Flood 2014).

    >>> hashes = position_hashes("frames", np.zeros(100_000, np.int32), np.arange(100_000))
    >>> len(np.unique(hashes)), round(float(hashes.mean() / 2.0**64), 2)
    (100000, 0.5)
    """
    hashes = np.empty(len(offsets), np.uint64)
    for partition in np.unique(partitions):
        seed = blake2b(f"{topic}\0{partition}".encode(), digest_size=8, key=salt).digest()
        rows = partitions == partition
        hashes[rows] = mixed(mixed(offsets[rows].astype(np.uint64) + np.uint64(int.from_bytes(seed, "little"))))
    return hashes


def draw_audits(topic: str, partitions: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], rate: float) -> Bools:
    """bool ``[N]``: which frames are audited at ``rate`` (a share); what is audited at one rate is at every higher.

    >>> partitions, offsets = np.zeros(10_000, np.int32), np.arange(10_000)
    >>> tenth, fifth = (draw_audits("frames", partitions, offsets, rate) for rate in (0.1, 0.2))
    >>> int(tenth.sum()), int(fifth.sum()), bool(fifth[tenth].all())
    (1072, 2044, True)
    """
    return audit_draws(topic, partitions, offsets) < rate


def audit_draws(
    topic: str, partitions: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """``[N]``, uniform from 0 to 1: each frame is audited at every rate above its draw.

    So audits that came at several rates can be thinned to what one lower rate would have audited.

    >>> partitions, offsets = np.zeros(10_000, np.int32), np.arange(10_000)
    >>> draws = audit_draws("frames", partitions, offsets)
    >>> bool(((draws < 0.1) == draw_audits("frames", partitions, offsets, 0.1)).all())
    True
    """
    return position_hashes(topic, partitions, offsets).astype(np.float64) / _FULL_RANGE


def cascade(scores: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """int32 ``[N]``: the first exit whose score reaches its threshold, -1 where none does; scores ``[N, exits]``.

    >>> scores = np.array([[0.9, 0.5], [0.2, 0.8], [0.1, 0.1]], np.float32)
    >>> cascade(scores, thresholds=np.array([0.9, 0.7], np.float32)).tolist()
    [0, 1, -1]
    """
    fires = scores >= thresholds
    if not fires.shape[1]:
        return np.full(len(scores), -1, np.int32)
    return np.where(fires.any(1), fires.argmax(1), -1).astype(np.int32)
