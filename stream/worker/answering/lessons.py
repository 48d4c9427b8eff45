"""Lessons: frames that no head was sure of and that the model's own compiled end answered.

Heads would get next to nothing to learn from where a compiled path's end answers most frames: misses are few then. So a
share of these frames goes to the trainer, without an answer, since the end's is not the full model's. The trainer asks
the full model itself.
"""

import numpy as np
import numpy.typing as npt

from layercache.early_exit.policy import position_hashes
from layercache.stream.worker.answering.micro_batch import AnsweredBatch

Rows = npt.NDArray[np.int64]

#: The share of these frames that is sent while trainer and broker keep up. Without a compiled path all of them would be
#: misses, and sent, about half of the frames. With one the same machine answers four to six times as many, and a tenth
#: of these are about as many pictures a second for trainer and broker as the misses were.
LESSON_SHARE = 0.1
#: Another salt than the audits', the misses' and the trainer's, so that who teaches says nothing about who is audited.
_SALT = b"layercache-lesson-1"
_NONE: Rows = np.empty(0, np.int64)


def lesson_rows(answered: AnsweredBatch, share: float = 1.0) -> Rows:
    """int64 ``[L]``: rows of the frames that are sent as lessons, ``share`` of the usual number; never an audit.

    They are drawn by a seeded hash of their positions: a smaller share's lessons are among a greater share's.
    """
    end = answered.engine.end
    if end is None:
        return _NONE
    left_at = answered.answers.exits.copy()
    # Shadow mode runs all frames to the end, and teaches from those alone that it would have run in earnest.
    left_at[answered.answers.full_rows] = answered.answers.live_exit
    rows = np.flatnonzero((left_at == end) & ~answered.batch.audits)
    if not len(rows):
        return _NONE
    frames = [answered.batch.frames[row] for row in rows.tolist()]
    partitions = np.array([frame.partition for frame in frames], np.int32)
    offsets = np.array([frame.offset for frame in frames], np.int64)
    hashes = position_hashes(frames[0].topic, partitions, offsets, _SALT)
    return rows[hashes.astype(np.float64) < LESSON_SHARE * share * 2.0**64]
