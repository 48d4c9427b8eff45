"""The live version, published by this trainer, an earlier one or an operator, and its audits since."""

import logging

import numpy as np
from torch import Tensor

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.audit_tally import DisagreementTally
from layercache.cache_training.certifying.audits import DealtRecord
from layercache.early_exit.blocks import OpenBlocks, most_counted, watched_blocks
from layercache.early_exit.drift import DriftDetector
from layercache.early_exit.policy import audit_draws
from layercache.early_exit.store.head_store import HeadStore, StoreError
from layercache.schemas.distillation import DistillationBatch
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Promise

log = logging.getLogger(__name__)

#: Level of the drift test, as a share of 1 - confidence.
_UNSAFE_LEVEL_SHARE = 0.2


class LiveVersion:
    """Publishes versions, follows the store, and watches the live version's audits: for drift, by class and by key."""

    def __init__(self, store: HeadStore, promise: Promise, classes: int) -> None:
        self.store = store
        self.promise = promise
        self.live: Manifest | None = None
        self.drift: DriftDetector | None = None
        #: The same test for the overload thresholds at their budget: on all audits, whether a worker was behind or not.
        self.overload_drift: DriftDetector | None = None
        self.tally = DisagreementTally(classes)
        self._block_ms, self._blocks = 1, OpenBlocks(1)
        self._unreadable: str | None = None
        self._unpublished: tuple[Manifest, dict[str, Tensor]] | None = None

    @property
    def time_saved(self) -> float:
        """The live version's expected share; 0 while no exit is open."""
        return self.live.expected.time_saved if self.live and self.live.exits and self.live.expected else 0.0

    @property
    def lacks_overload(self) -> bool:
        """Whether an overload budget is promised and the live version's exits have no thresholds for it."""
        promise, live = self.promise, self.live
        if promise.overload_max_disagreement is None or live is None or not live.exits:
            return False
        return live.overload is None or not live.overload.certificate.covers(
            promise.overload_max_disagreement, promise.confidence, promise.max_class_disagreement
        )

    @property
    def overload_alarmed(self) -> bool:
        """Whether audits say that the live version's overload thresholds exceed their budget."""
        return self.overload_drift is not None and self.overload_drift.alarmed

    def follow(self) -> bool:
        """Follows the version that the store names as live; an earlier trainer or an operator may have put it there.

        False if it was certified for less than is promised now.
        """
        latest = self.store.latest()
        if latest is not None and (self.live is None or self.live.version != latest):
            try:
                self._take_up(self.store.load(latest)[0])
            except StoreError as error:
                if latest != self._unreadable:
                    log.warning("%s; going on as if there were no such version", error)
                self._unreadable = latest
        certificate, promise = self.live.certificate if self.live else None, self.promise
        return certificate is None or certificate.covers(
            promise.max_disagreement, promise.confidence, promise.max_class_disagreement
        )

    def publish(self, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
        """Stores a version and makes it live; if that fails, :meth:`retry` tries again."""
        self._unpublished = manifest, tensors
        manifest = self.store.publish(manifest, tensors)
        self._unpublished = None
        self._take_up(manifest)
        log.info("published %s", versions.describe_version(manifest))

    def retry(self) -> None:
        """Publishes the version that could not be written before, so that no certified version is lost."""
        if self._unpublished is not None:
            self.publish(*self._unpublished)

    def watch(self, batch: DistillationBatch, taken: DealtRecord) -> bool:
        """Counts a record's audits of the live version; True where they say that it exceeds its budget.

        Audits of a worker whose exits an operator keeps closed do not count: all its answers agree. What the exits
        would have answered under overload is tested separately, see :attr:`overload_alarmed`.
        """
        if self.live is None or batch.header.heads_version != self.live.version:
            return False
        if batch.header.exits != tuple(exit_.cut for exit_ in self.live.exits):
            return False
        audits = np.flatnonzero(taken.audit)
        labels = taken.labels[audits]
        wrong = batch.live_label[audits] != labels
        self.tally.add(labels, batch.key_hash[audits], wrong)
        if self.drift is None:
            return False
        # A block may go on when overload's thresholds are dropped: its audits always tell of both.
        overload = wrong if batch.overload_label is None else batch.overload_label[audits] != labels
        slots = batch.timestamp_ms[audits] // self._block_ms
        draws = audit_draws(batch.header.topic, batch.partition[audits], batch.offset[audits])
        for key, slot, draw, *each in zip(
            batch.key_hash[audits].tolist(), slots.tolist(), draws.tolist(), wrong.tolist(), overload.tolist(),
            strict=True,
        ):  # fmt: skip
            for block in self._blocks.add(key, slot, draw, tuple(each)):
                everyday, bolder = block.disagreements
                self.drift.update_block(everyday, block.audits, self._blocks.most)
                if self.overload_drift is not None and batch.overload_label is not None:
                    self.overload_drift.update_block(bolder, block.audits, self._blocks.most)
        return self.drift.alarmed

    def restore(self, live: object, drift: object, tensors: dict[str, Tensor], overload_drift: object = None) -> None:
        """Continues a checkpoint's drift tests and tally (in ``tensors``) if they are of this version."""
        if self.live is None or live != self.live.version:
            return
        self.tally.restore(tensors)
        for detector, state in ((self.drift, drift), (self.overload_drift, overload_drift)):
            if detector is not None and isinstance(state, dict):
                try:
                    detector.restore(state)
                except ValueError as error:
                    log.warning("watching the live version anew: %s", error)

    def _take_up(self, manifest: Manifest) -> None:
        """Watches a new version from its first audit on; one that only drops overload keeps the tests of the last."""
        goes_on = self.live is not None and _same_exits(self.live, manifest)
        self.live = manifest
        level = (1 - self.promise.confidence) * _UNSAFE_LEVEL_SHARE
        overload = manifest.overload
        self.overload_drift = DriftDetector(overload.certificate.max_disagreement, level) if overload else None
        if goes_on:
            return
        self.drift = DriftDetector(self.promise.max_disagreement, level) if manifest.exits else None
        self.tally.clear()
        self._block_ms, frames = watched_blocks(manifest, self.promise.block_s, self.promise.block_frames)
        self._blocks = OpenBlocks(most_counted(frames, manifest.audit_rate))


def _same_exits(live: Manifest, following: Manifest) -> bool:
    """Whether both versions give the same everyday answers."""
    return following.reason == "overload-unsafe" and following.predecessor == live.version
