"""When the audits that wait to certify are enough for an attempt, and why they are not: never by their answers."""

import logging
from functools import lru_cache

import numpy as np

from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.binomial import allowed, enough_frames, fewest_allowing
from layercache.cache_training.certifying.classes import Grouping, group_classes
from layercache.cache_training.certifying.dealing import one_per_block
from layercache.cache_training.certifying.looks import LookPlan
from layercache.cache_training.learning.kept_frames import concatenate
from layercache.schemas.settings import Promise

log = logging.getLogger(__name__)

#: Certificates pay much where keys may send so many times what they do. It takes so many audits to know.
_MUCH_LONGER, _MANY_AUDITS = 2, 1_000
#: An attempt is planned about the window that would tolerate this share of the budget. The first attempt should open
#: exits early; later ones should come near the budget, which takes a larger window.
FIRST_TOLERANCE, _LATER_TOLERANCE = 0.2, 0.5


_enough = lru_cache(enough_frames)


def _tolerance(is_first: bool) -> float:
    return FIRST_TOLERANCE if is_first else _LATER_TOLERANCE


class Readiness:
    """Looks at how many audits wait, of how many classes, and of how long a time."""

    def __init__(self, intake: AuditIntake, promise: Promise, classes: int) -> None:
        self._intake = intake
        self._promise = promise
        self._classes = classes
        self._told_for_error = 0.0  # once for each level
        self._told_span = False
        self._told_scenes = False
        self._told_wait = False
        self._told_repeats_at = 0  # so many audits
        self._told_blocks_at = _MANY_AUDITS

    def is_ready(self, error: float, is_first: bool) -> bool:
        """Whether an attempt that may err with ``error`` can look for the first time; a first version asks for less."""
        frames = self._intake.independent()
        if frames < self.plan(error, is_first, frames).first:
            self._tell_repeats(frames)
            self._tell_long_blocks(frames)
            return False
        wanted = _tolerance(is_first)
        return self._classes_suffice(frames, error, wanted) and self._spans_enough() and self.blocks_are_independent()

    def plan(self, error: float, is_first: bool, waiting: int) -> LookPlan:
        """When such an attempt looks: about the sample that would tolerate enough of the budget at a single look.

        Where even more frames are ``waiting``, later looks are as much farther off.
        """
        budget = self._promise.max_disagreement
        enough = _enough(_tolerance(is_first) * budget, budget, error)
        return LookPlan.of(max(enough, waiting), budget, error)

    def grouping(self, error: float) -> Grouping | None:
        """Which classes have a test of their own; None without a cap.

        The learning and tuning windows decide that, so that no frame that certifies decides how it is counted.
        """
        windows, cap = self._intake.windows, self._promise.max_class_disagreement
        if cap is None:
            return None
        counts = np.zeros(self._classes, np.int64)
        others = concatenate((windows.learning.frames(), windows.tuning.frames()))
        if others is not None:
            counts += np.bincount(others.labels[one_per_block(others.block)], minlength=len(counts))
        waiting = len(windows.certification)
        independent = self._intake.independent() / waiting if waiting else 1.0
        return group_classes(counts, fewest_allowing(0, cap, error), int(windows.certification.capacity * independent))

    def _classes_suffice(self, frames: int, error: float, wanted: float) -> bool:
        """Whether a window of ``frames`` should hold enough of every class, judged by the classes of other frames."""
        cap, window = self._promise.max_class_disagreement, self._intake.windows.certification
        grouping = self.grouping(error)
        if cap is None or grouping is None:
            return True
        fewest = int(frames * grouping.shares.min())
        if len(window) >= window.capacity or allowed(fewest, cap, error) >= max(1.0, wanted * cap * fewest):
            return True
        if error != self._told_for_error:
            log.info(
                "the next attempt waits for more audits of the rarest class, or of the rare ones together "
                "(of %d groups): about %d so far, at least %d are needed",
                len(grouping.shares), fewest, fewest_allowing(0, cap, error),
            )  # fmt: skip
            self._told_for_error = error
        return False

    def _spans_enough(self) -> bool:
        """Whether the window spans as much time as is promised."""
        wanted, span = self._promise.min_span_s, self._intake.windows.span_s()
        if span >= wanted:
            self._told_span = False
            return True
        if not self._told_span:
            log.info("the next attempt waits: its audits span %.0f s so far, promise.min_span_s is %.0f", span, wanted)
            self._told_span = True
        return False

    def blocks_are_independent(self) -> bool:
        """Whether scenes end with their blocks, as far as anyone can tell."""
        scenes = self._intake.scenes
        if not scenes.outlast:
            self._told_scenes = False
            if scenes.is_undecided and not self._told_wait:
                log.info("the next attempt waits to see, by a key's neighbouring blocks, whether scenes outlast blocks")
                self._told_wait = True
            return not scenes.is_undecided
        if not self._told_scenes:
            log.warning(
                "nothing is certified: scenes outlast promise.block_s = %g. A key's neighbouring blocks differ by %.0f "
                "%% of what blocks farther apart do: they count as independent and are not. Set promise.block_s to how "
                "long a scene lasts, for the trainer",
                self._promise.block_s, 100 * (scenes.likeness or 0.0),
            )  # fmt: skip
            self._told_scenes = True
        return False

    def _tell_long_blocks(self, frames: int) -> None:
        """Says, now and then, that keys send fewer frames than may count, for which every certificate pays."""
        audits, allowed_frames = self._intake.audits, self._intake.block_frames
        if allowed_frames is None or audits < self._told_blocks_at:
            return
        longest = self._intake.block_sizes().max(initial=0.0)
        if allowed_frames > _MUCH_LONGER * longest:
            self._told_blocks_at = 2 * audits
            log.info(
                "the next attempt waits for more audits: those that wait count like %d single ones, since a key may "
                "send promise.block_frames = %d frames within %g s, and about %d is the most that one has sent. If "
                "none ever sends more, set that number lower, for the trainer",
                frames, allowed_frames, self._promise.block_s, round(longest),
            )  # fmt: skip

    def _tell_repeats(self, frames: int) -> None:
        """Says, whenever there are twice as many audits, that most of them show pictures that had come before."""
        audits, repeated = self._intake.audits, self._intake.repeated_pictures
        if repeated > audits / 2 and audits >= 2 * self._told_repeats_at:
            self._told_repeats_at = audits
            log.info(
                "the next attempt waits for new pictures, of which it has %d: %d of %d audits show pictures that had "
                "come before, and a picture certifies once", frames, repeated, audits,
            )  # fmt: skip
