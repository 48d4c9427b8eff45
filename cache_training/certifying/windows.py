"""Where frames wait for their use: windows that are bounded in frames and in bytes."""

import numpy as np
import numpy.typing as npt

from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames, capacity_for


class LeakError(RuntimeError):
    """A frame was about to certify heads that had learnt from it."""


class Windows:
    """The windows in which frames wait for their use, each bounded in frames and in bytes.

    Lessons have no answers, and so a window of their own, for which the misses make room once there are any.
    """

    def __init__(
        self, replay_mb: float, window_frames: int, tuning_frames: int, seed: int, min_span_s: float = 0.0
    ) -> None:
        """With ``min_span_s`` a certification window that is full keeps a sample of the whole time, not the latest."""
        self._megabytes = replay_mb
        self.learning = FrameBuffer(window_frames, "random", seed)
        self.misses = FrameBuffer(window_frames, "random", seed + 1)
        self.lessons = FrameBuffer(window_frames, "random", seed + 2)
        self.certification = FrameBuffer(window_frames, "random" if min_span_s else "oldest", seed + 3)
        self.tuning = FrameBuffer(min(window_frames, tuning_frames), "oldest")
        self._bounded = False
        self._room_for_lessons = False

    def all(self) -> dict[str, FrameBuffer]:
        """The windows by name."""
        return {
            "learning": self.learning,
            "misses": self.misses,
            "certification": self.certification,
            "tuning": self.tuning,
            "lessons": self.lessons,
        }

    def bound(self, like: Frames) -> None:
        """Bounds each window to a quarter of the memory, once the size of a frame is known."""
        if not self._bounded and len(like):
            for window in (self.learning, self.misses, self.certification, self.tuning):
                window.capacity = min(window.capacity, capacity_for(self._megabytes / 4, like))
            self._bounded = True
            if self._room_for_lessons:
                self._halve_misses()

    def make_room_for_lessons(self, like: Frames) -> None:
        """Once there are lessons, they and the misses share a quarter of the memory: together they are hard frames."""
        if not self._room_for_lessons and len(like):
            self._room_for_lessons = True
            self.lessons.capacity = min(self.lessons.capacity, capacity_for(self._megabytes / 8, like))
            if self._bounded:
                self._halve_misses()

    def _halve_misses(self) -> None:
        self.misses.limit(max(1, self.misses.capacity // 2))

    def check_apart(self) -> None:
        """Raises :class:`LeakError` where a frame that waits to certify shares its block with a frame of another use.

        That never happens, since every frame is in one block and dealing keeps blocks together. If it did, the
        certificate would mean nothing.
        """
        apart = ~self.certification.column("repeated")
        for name, window in self.all().items():
            if window is self.certification:
                continue
            shared = np.zeros(len(apart), np.bool_)
            for column in ("block", "position", "content"):
                shared |= np.isin(self.certification.column(column), window.column(column))
            if (shared & apart).any():
                raise LeakError(
                    f"{(shared & apart).sum()} of {apart.sum()} frames that were to certify are near-copies of frames "
                    f"in the {name} window: nothing can be certified on them. This is a bug in Layercache: report it, "
                    "and remove trainer.state_dir to go on with new frames"
                )

    def span_s(self) -> float:
        """The seconds from the first to the last of the frames that are not repeated."""
        window = self.certification
        return span_s(window.column("timestamp_ms")[~window.column("repeated")]) or 0.0

    def mark_known(self, content: npt.NDArray[np.uint64]) -> None:
        """Blocks that wait to certify and show one of these pictures are :attr:`~Frames.repeated` from now on."""
        window = self.certification
        window.mark_repeated(window.column("block")[np.isin(window.column("content"), content)])

    def mark_kept_pictures(self) -> None:
        """The same for the pictures in the other windows: some may be older than what is remembered of pictures.

        A frame that is itself in another window stays as it is: that is a leak.
        """
        for window in self.all().values():
            if window is not self.certification:
                others = ~np.isin(window.column("position"), self.certification.column("position"))
                self.mark_known(window.column("content")[others])

    def clear(self) -> None:
        """Forgets all frames of the old stream."""
        for window in self.all().values():
            window.clear()


def span_s(timestamp_ms: npt.NDArray[np.int64]) -> float | None:
    """The seconds from the first to the last; None where there are none, or not all are known.

    >>> span_s(np.array([5_000, 2_000, 9_500])), span_s(np.array([5_000, -1]))
    (7.5, None)
    """
    if not len(timestamp_ms) or timestamp_ms.min() < 0:
        return None
    return float(timestamp_ms.max() - timestamp_ms.min()) / 1000
