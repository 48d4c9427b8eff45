"""Teaching never slows answering: fewer misses are sent to the trainer while it, or the broker, cannot keep up.

Audits always pass. Of the other frames that would teach, a share is kept, by a seeded hash of their positions. The
share falls by halves while something is behind and rises by steps after that: additive increase, multiplicative
decrease (Chiu and Jain 1989), as TCP does.
"""

import logging

import numpy as np
import numpy.typing as npt

from layercache.early_exit.engine import Engine
from layercache.early_exit.policy import Bools, position_hashes
from layercache.stream.worker.answering.micro_batch import AnsweredBatch
from layercache.stream.worker.answering.trainer_lag import TrainerWatch
from layercache.stream.worker.metrics import Metrics

log = logging.getLogger(__name__)

#: Another salt than the audits' and the trainer's, so that who teaches says nothing about who is audited.
_SALT = b"layercache-sample-1"
#: The share never falls below this: by the frames that it still gets the trainer sees that the stream goes on.
FLOOR = 0.02
_DECREASE, _INCREASE = 0.5, 0.05

#: How often shares are adjusted, the trainer's only when its watch has looked again.
_ADJUST_EVERY_S = 1.0
#: Waiting for the broker may take this share of the hot thread's time, beside what every commit takes.
_MOST_WAITING = 0.2
#: A commit that carries nothing is taken to last this long at most: it waits for rounds of acknowledgements.
_PLAIN_COMMIT_S = 0.1
#: The shortest of this many commits, and of as many before them, says how long they take by themselves.
_COMMITS_COMPARED = 150

PRODUCER, TRAINER = "producer", "trainer"


class KeptShare:
    """A share that is halved while its cause is behind, and regained in steps of five percent.

    >>> kept = KeptShare()
    >>> [kept.adjust(is_behind) for is_behind in (False, True, True, False)]
    [1.0, 0.5, 0.25, 0.3]
    """

    def __init__(self) -> None:
        self.value = 1.0

    def adjust(self, is_behind: bool) -> float:
        """The share from now on, :data:`FLOOR` to 1."""
        changed = self.value * _DECREASE if is_behind else self.value + _INCREASE
        self.value = min(1.0, max(FLOOR, round(changed, 6)))
        return self.value


class Waiting:
    """How much of its time the hot thread waits for the broker, beside what commits take that carry little.

    What a commit takes by itself is the shortest of the latest few hundred (as TCP Vegas does it: Brakmo and Peterson
    1995), and a tenth of a second at most. Times are seconds of any one clock.

    >>> waiting = Waiting(now=0.0)
    >>> for seconds in (0.02, 0.12, 0.12):
    ...     waiting.committed(seconds)
    >>> round(waiting.share(now=1.0), 3), waiting.share(now=2.0)
    (0.2, 0.0)
    """

    def __init__(self, now: float) -> None:
        self._since = now
        self._commits: list[float] = []
        self._for_room_s = 0.0
        self._counted = 0
        self._shortest = self._shortest_before = _PLAIN_COMMIT_S

    def committed(self, seconds: float) -> None:
        """A commit took so long."""
        self._commits.append(seconds)
        self._shortest = min(self._shortest, seconds)
        self._counted += 1
        if self._counted == _COMMITS_COMPARED:
            self._shortest_before, self._shortest, self._counted = self._shortest, _PLAIN_COMMIT_S, 0

    def for_room(self, seconds: float) -> None:
        """Records waited so long for room in the queue: predictions, too, where records for the trainer fill it."""
        self._for_room_s += seconds

    def share(self, now: float) -> float:
        """The share of the time since the last call that was waited."""
        plain = min(self._shortest, self._shortest_before)
        waited = self._for_room_s + sum(max(0.0, seconds - plain) for seconds in self._commits)
        elapsed = now - self._since
        self._since, self._for_room_s = now, 0.0
        self._commits.clear()
        return waited / elapsed if elapsed > 0 else 0.0


class Sampler:
    """Chooses, for one worker, which frames teach; ``watch`` says whether the trainer keeps up."""

    def __init__(self, metrics: Metrics, watch: TrainerWatch, now: float) -> None:
        self._metrics = metrics
        self._watch = watch
        self._looks = watch.looks
        self.waiting = Waiting(now)
        self._next = now + _ADJUST_EVERY_S
        self._kept = {PRODUCER: KeptShare(), TRAINER: KeptShare()}
        self.share = 1.0

    def adjust(self, now: float) -> None:
        """Lowers or raises the share once a second; cheap, for every turn of the loop."""
        if now < self._next:
            return
        self._next = now + _ADJUST_EVERY_S
        self._kept[PRODUCER].adjust(self.waiting.share(now) > _MOST_WAITING)
        if self._watch.looks != self._looks:
            self._looks = self._watch.looks
            self._kept[TRAINER].adjust(self._watch.is_behind)
        before, self.share = self.share, min(kept.value for kept in self._kept.values())
        if (before < 1.0) != (self.share < 1.0):
            log.info("%s", f"teaching less: the {self._why} cannot keep up" if before == 1.0 else "teaching all again")
        self._metrics.distillation_share.set(self.share)

    def audit_rate(self, engine: Engine) -> float:
        """The rate to draw audits at: the live version's, and while no exit is open the share of it.

        Without open exits there is no promise for audits to watch over, and the rate is 1: no trainer could take a
        whole stream. Audits that are drawn at a lower rate are a fair sample still, and each of them is sent.
        """
        return engine.audit_rate if engine.exits else engine.audit_rate * self.share

    def keeps(self, answered: AnsweredBatch) -> Bools | None:
        """bool ``[M]``: which of the frames that ran the full path are in the sample; None for all of them.

        Counts the misses that are held back.
        """
        if self.share >= 1.0:
            return None
        frames = [answered.batch.frames[row] for row in answered.answers.full_rows]
        partitions = np.array([frame.partition for frame in frames], np.int32)
        offsets = np.array([frame.offset for frame in frames], np.int64)
        kept = draw(answered.batch.frames[0].topic, partitions, offsets, self.share)
        held_back = int((answered.misses & ~kept).sum())
        self._metrics.distillation_held_back.labels(self._why).inc(held_back)
        return kept

    @property
    def _why(self) -> str:
        """Which of the two is the most behind."""
        return min(self._kept, key=lambda cause: self._kept[cause].value)


def draw(topic: str, partitions: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], share: float) -> Bools:
    """bool ``[N]``: which frames are in a sample of ``share``; independent of who is audited.

    >>> partitions, offsets = np.zeros(10_000, np.int32), np.arange(10_000)
    >>> int(draw("frames", partitions, offsets, 0.1).sum())
    974
    """
    return position_hashes(topic, partitions, offsets, _SALT).astype(np.float64) < share * 2.0**64
