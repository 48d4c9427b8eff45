"""Whether the trainer keeps up with the distillation topic: asked of the broker in a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException

from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import consumer_config
from layercache.stream.kafka.offsets import GroupOffsets, TopicOffsets, is_waiting

log = logging.getLogger(__name__)

#: Looks for each span of the greatest lag, and the longest time between two.
_LOOKS_PER_LAG, _LOOK_EVERY_S = 4, 5.0
#: The trainer acknowledges what a checkpoint holds, so it is never less behind than the time between two of them.
_CHECKPOINTS = 2


class TrainerWatch:
    """Says whether the trainer has been more than ``max_lag_s`` seconds behind for as many seconds in all.

    By offsets alone it may look so when the first record comes after a pause: between that record and the last one
    before it are the markers of transactions, and those of aborted ones, which no reader acknowledges. Until the next
    checkpoint nothing tells them from records that wait; it comes well within the time. Time counts from the latest
    look that found the trainer less behind; pauses in which nothing came do not count.

    A trainer that has never been there counts as one that stands still: the topic's retention bounds what waits for
    it. Where the broker does not answer, or may not be asked, the trainer counts as keeping up.
    """

    def __init__(self, offsets: GroupOffsets, max_lag_s: float, clock: Callable[[], float] = time.time) -> None:
        self._offsets = offsets
        self._max_lag_s = max_lag_s
        self._clock = clock
        self._trouble: str | None = None
        #: By partition: for how long it has looked as if records had waited too long, and when it last did.
        self._seems_behind_s: dict[int, float] = {}
        self._seemed_at: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_behind = False
        #: How often it has looked: a new number says that ``is_behind`` is news.
        self.looks = 0

    def look(self) -> None:
        """Asks once."""
        try:
            is_behind = self._asked()
            self._trouble = None
        except KafkaException as error:
            is_behind = False
            self._seemed_at.clear()  # without its broker the trainer can acknowledge nothing
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("cannot see whether the trainer keeps up: %s", error.args[0].str())
        if is_behind != self.is_behind:
            log.info("the trainer %s", "is behind" if is_behind else "keeps up again")
        self.is_behind = is_behind
        self.looks += 1

    def start(self) -> None:
        """Looks every few seconds, more often where little lag is allowed."""
        self._thread = threading.Thread(target=self._run, name="trainer-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; one that waits for a broker is left behind."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.wait(min(_LOOK_EVERY_S, self._max_lag_s / _LOOKS_PER_LAG)):
            self.look()

    def _asked(self) -> bool:
        now = self._clock()
        waiting = is_waiting(self._offsets, int((now - self._max_lag_s) * 1000))
        return any([self._is_behind(partition, waits, now) for partition, waits in waiting.items()])

    def _is_behind(self, partition: int, waits: bool | None, now: float) -> bool:
        """``waits`` says whether a record that came of late waits for the trainer; None where none came."""
        if waits is None:  # where no record came of late, the trainer cannot be behind
            self._seemed_at.pop(partition, None)
            return False
        if not waits:
            self._seemed_at.pop(partition, None)
            self._seems_behind_s.pop(partition, None)
            return False
        lasted = max(0.0, now - self._seemed_at.get(partition, now))
        self._seems_behind_s[partition] = self._seems_behind_s.get(partition, 0.0) + lasted
        self._seemed_at[partition] = now
        return self._seems_behind_s[partition] >= self._max_lag_s


def trainer_patience_s(settings: Settings) -> float:
    """For how many seconds a record may wait for a trainer that keeps up."""
    return max(settings.worker.distillation_max_lag_s, _CHECKPOINTS * settings.trainer.checkpoint_s)


def trainer_watch(settings: Settings) -> TrainerWatch:
    """A watch over the trainer that the settings name."""
    consumer = Consumer(consumer_config(settings, settings.trainer.group_id) | {"log_level": 0})
    return TrainerWatch(TopicOffsets(consumer, settings.topics.distillation), trainer_patience_s(settings))
