"""The thread that learns: drains the inbox into the trainer, lets it work, and writes checkpoints."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable

import torch

from layercache.cache_training.service.metrics import TrainerMetrics
from layercache.cache_training.service.state import Checkpoints
from layercache.cache_training.trainer import OnlineTrainer, Progress
from layercache.early_exit.store.head_store import StoreError
from layercache.schemas.distillation import DistillationBatch

log = logging.getLogger(__name__)

#: Records between the agent and the trainer, and what they may take up; beyond either the agent waits, and lag grows on
#: the broker, not here.
_INBOX_RECORDS, _INBOX_BYTES = 32, 64 * 2**20
#: A checkpoint may take this share of the time at most; a slow disk makes them rarer.
_CHECKPOINT_SHARE = 0.05
_REPORT_S = 10.0
_TROUBLE_REST_S = 1.0

#: What a record taught (None: nothing, it was no record), its partition, and the offset after it.
ReceivedRecord = tuple[DistillationBatch | None, Hashable, int]


class Inbox(queue.Queue[ReceivedRecord]):
    """A queue that is full at so many records or so many bytes, whichever comes first; it always takes one record."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._bytes = 0

    def _put(self, item: ReceivedRecord) -> None:
        super()._put(item)
        self._bytes += _size(item)

    def _get(self) -> ReceivedRecord:
        item = super()._get()
        self._bytes -= _size(item)
        return item

    def _qsize(self) -> int:
        records = super()._qsize()
        return max(records, self.maxsize) if records and self._bytes >= _INBOX_BYTES else records


def _size(record: ReceivedRecord) -> int:
    batch = record[0]
    return batch.inputs.nbytes + batch.logits.nbytes if batch is not None else 0


class TrainingThread(threading.Thread):
    """Drains the inbox into the trainer, lets it work, writes checkpoints; everything here is off the event loop.

    Without ``checkpoints`` nothing outlives the process but what is published. ``threads`` are torch's, here alone.
    """

    def __init__(
        self,
        trainer: OnlineTrainer,
        checkpoints: Checkpoints | None,
        checkpoint_s: float,
        threads: int,
        inbox_records: int = _INBOX_RECORDS,
    ) -> None:
        super().__init__(name="training", daemon=True)
        self.inbox = Inbox(inbox_records)
        self.metrics = TrainerMetrics()
        self.failure: BaseException | None = None
        self.acknowledge: Callable[[dict[Hashable, int]], None] = lambda offsets: None
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._checkpoint_s = checkpoint_s
        self._threads = threads
        self._stopping = threading.Event()
        self._offsets: dict[Hashable, int] = {}
        self._next_checkpoint = time.monotonic() + checkpoint_s
        self._next_report = 0.0
        self._troubled = False

    def run(self) -> None:
        _limit_this_thread(self._threads)
        try:
            while not self._stopping.is_set():
                self._turn()
            self._finish()
        except BaseException as error:
            self.failure = error
            log.exception("the trainer failed")

    def stop(self) -> None:
        """Ends after the turn under way, with a last checkpoint."""
        self._stopping.set()
        self.join()

    def checkpoint(self) -> None:
        """Writes what has been learnt, then acknowledges the records that taught it. Raises ``OSError``."""
        began = time.monotonic()
        if self._checkpoints is not None:
            self._checkpoints.save(*self._trainer.snapshot())
        self.acknowledge(dict(self._offsets))
        self.metrics.checkpointed()
        spent = time.monotonic() - began
        self._next_checkpoint = time.monotonic() + max(self._checkpoint_s, spent / _CHECKPOINT_SHARE)

    def checkpoint_if_due(self) -> None:
        """:meth:`checkpoint`, once ``checkpoint_s`` seconds have passed since the last."""
        if time.monotonic() >= self._next_checkpoint:
            self.checkpoint()

    def _finish(self) -> None:
        try:
            self._drain()
            self.checkpoint()
        except (StoreError, OSError) as error:
            log.error("%s; what was learnt since the last checkpoint will be learnt again", error)

    def _turn(self) -> None:
        try:
            self._drain()
            rest = self._trainer.work()
            self.checkpoint_if_due()
            self._report()
            self.metrics.turned()
            if self._troubled:
                log.info("the trainer goes on")
            self._troubled = False
            self._rest(rest)
        except (StoreError, OSError) as error:
            # Storage that is away comes back: nothing is acknowledged until then, so nothing is lost by waiting.
            self.metrics.storage_errors.inc()
            if not self._troubled:
                log.error("%s; trying again", error)
            self._troubled = True
            self._next_checkpoint = max(self._next_checkpoint, time.monotonic() + _TROUBLE_REST_S)
            self._stopping.wait(_TROUBLE_REST_S)

    def _rest(self, seconds: float) -> None:
        """Until time is up, only takes in what arrives: learning rests, the watch over drift does not."""
        deadline = time.monotonic() + seconds
        while not self._stopping.is_set() and (left := deadline - time.monotonic()) > 0:
            try:
                self._take(self.inbox.get(timeout=min(left, 0.1)))
            except queue.Empty:
                continue

    def _drain(self) -> None:
        for _ in range(self.inbox.maxsize):
            try:
                self._take(self.inbox.get_nowait())
            except queue.Empty:
                return

    def _take(self, record: ReceivedRecord) -> None:
        batch, partition, offset = record
        self._offsets[partition] = offset
        if batch is not None:
            self._trainer.ingest(batch)

    def _report(self) -> None:
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + _REPORT_S
            at = self._trainer.progress()
            self.metrics.show(at, self._trainer.live)
            log.info(
                "%d audits (%d for tuning, %d wait for certification, %d of pictures that came before), %d misses, "
                "%d lessons, %d views, %d attempts, live %s saves %.0f %% of time; %s",
                at.audits, at.tuning, at.certification, at.repeated, at.misses, at.lessons, at.views, at.attempts,
                at.version, 100 * at.expected_time_saved,
                _agreement(at.disagreeing_passes),
            )  # fmt: skip
            if self._trainer.learner.disagreeing_runtimes:
                log.warning(
                    "OpenVINO and PyTorch differ on %d labels of tuning frames; model.runtime = torch keeps to PyTorch",
                    self._trainer.learner.disagreeing_runtimes,
                )
            if at.worst_classes:
                log.info("audits of the live version disagree most with the full model's %s", _worst(at))


def _agreement(differing: int) -> str:
    """Whether the trainer's own passes gave frames the labels that the workers' did."""
    return (
        "worker and trainer agree on all labels"
        if not differing
        else f"worker and trainer differ on {differing} labels"
    )


def _limit_this_thread(threads: int) -> None:
    """Lets torch use so many threads for what this thread does, and leaves others alone.

    ``torch.set_num_threads`` also sets what threads get that first use torch later on: another one puts that back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    putting_back = threading.Thread(target=torch.set_num_threads, args=(before,))
    putting_back.start()
    putting_back.join()


def _worst(at: Progress) -> str:
    """Classes and keys, each with its disagreements; keys are shown as the hashes that they travel as."""
    classes = [f"{name} ({count.disagreements} of {count.audits})" for name, count in at.worst_classes]
    keys = [f"{count.name & 2**64 - 1:016x} ({count.disagreements} of {count.audits})" for count in at.worst_keys]
    return ", ".join(classes) + (f"; under the keys of hash {', '.join(keys)}" if keys else "")
