"""How long a micro-batch takes that shrinks at exits. The trainer chooses exits by this time."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from layercache.cache_training.learning.candidates import ExitCandidate
from layercache.early_exit.cutting.costs import TimeTable, expected_ms

Floats = npt.NDArray[np.float64]

#: Shares of frames at which expected times are computed; in between they are interpolated. Small shares lie close
#: together: there a batch often ends before the piece, and the expected time bends most.
_SHARES = np.linspace(0, 1, 101) ** 2
#: Larger batches are treated as this size: beyond it a frame's share of the time hardly changes.
_LARGEST = 256


class BatchTimes:
    """Expected time of a micro-batch, as a share of the plain model's, by where its frames leave.

    ``table`` has the segments in order, ``to <cut>`` up to the last, and ``head <name>`` for every candidate whose head
    is not in its segment. ``plain`` has the plain model's segments where those of ``table`` are not these.
    Batches are taken to have ``batch`` frames until workers report their own sizes. Frames leave independently, as in
    :func:`layercache.early_exit.cutting.costs.expected_ms`: a piece costs its whole fixed time however few frames get
    there.

    >>> from layercache.cache_training.learning.candidates import Candidate, Costs
    >>> from layercache.schemas.manifest import HeadSpec
    >>> spec = HeadSpec(family="pooled", features=(4,), classes=2)
    >>> exit_ = Candidate("a/pooled", "a", spec, Costs(0.0, 0.0), seed=0)
    >>> table = TimeTable({"to a": {8: 8.0}, "to the end": {1: 10.0, 8: 32.0}, "head a/pooled": {8: 0.8}})
    >>> times = BatchTimes(table, batch=8)
    >>> left = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    >>> [round(share, 3) for share in times.share([exit_], left).tolist()]
    [1.02, 0.705, 0.22]
    """

    def __init__(self, table: TimeTable, batch: int, plain: TimeTable | None = None) -> None:
        self._table = table
        self._plain = plain
        self._reported = False
        self.judge_by(batch)

    def take_worker_times(self, segment_ms: Mapping[str, Mapping[int, float]]) -> None:
        """Uses the largest batch that any worker has reported: piece to frames to milliseconds, as in records."""
        largest = min(_LARGEST, max((frames for by_frames in segment_ms.values() for frames in by_frames), default=0))
        if largest > (self.batch if self._reported else 0):
            self._reported = True
            self.judge_by(largest)

    def share(self, exits: Sequence[ExitCandidate], left: Floats) -> Floats:
        """Time ``[...]`` for the shares of frames that leave at each exit and, last, at none: ``[..., exits + 1]``.

        Raises ``KeyError`` for an exit whose cut was not measured.
        """
        reached = np.ones(left.shape[:-1])
        spent, before = np.zeros(left.shape[:-1]), np.zeros(len(_SHARES))
        for number, one in enumerate(exits):
            until = self._until_piece[f"to {one.cut}"]
            spent += np.interp(reached, _SHARES, until - before + self._heads.get(f"head {one.name}", 0.0))
            reached, before = reached - left[..., number], until
        whole = self._until_piece[self._last]
        spent += np.interp(reached, _SHARES, whole - before)
        shares: Floats = spent / self._whole_plain
        return shares

    def judge_by(self, batch: int) -> None:
        """Takes batches to have so many frames: tabulates every piece's expected time at some shares of frames.

        A segment's time includes that of all segments before it.
        """
        self.batch = batch
        curves = {
            piece: np.array([expected_ms(self._table, {piece: share}, batch) for share in _SHARES.tolist()])
            for piece in self._table.pieces
        }
        segments = [piece for piece in curves if piece.startswith("to ")]
        self._last = segments[-1]
        self._until_piece = dict(zip(segments, np.cumsum([curves[piece] for piece in segments], 0), strict=True))
        self._heads = {piece: curve for piece, curve in curves.items() if piece not in self._until_piece}
        plain = self._plain or self._table
        self._whole_plain = sum(
            expected_ms(plain, {piece: 1.0}, batch) for piece in plain.pieces if piece.startswith("to ")
        )
