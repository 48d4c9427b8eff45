"""The version that is live, whoever made it so, and what its audits say of it since."""

import logging

import numpy as np
from torch import Tensor

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.audit_tally import Tally
from layercache.cache_training.certifying.audits import Seen, Taken
from layercache.early_exit.drift import DriftDetector
from layercache.early_exit.store.head_store import HeadStore, StoreError
from layercache.schemas.distillation import DistillationBatch
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Promise

log = logging.getLogger(__name__)

#: Level of the drift test, as a share of 1 - confidence.
_UNSAFE_LEVEL_SHARE = 0.2


class Published:
    """Publishes versions, follows the store, and watches the live version's audits: for drift, by class and by key."""

    def __init__(self, store: HeadStore, promise: Promise, classes: int) -> None:
        self.store = store
        self.promise = promise
        self.live: Manifest | None = None
        self.drift: DriftDetector | None = None
        #: Of the overload thresholds, at their budget: on all audits, whether a worker was behind or not.
        self.overload_drift: DriftDetector | None = None
        self.tally = Tally(classes)
        self._tested_blocks = Seen()
        self._unreadable: str | None = None
        self._unpublished: tuple[Manifest, dict[str, Tensor]] | None = None

    @property
    def time_saved(self) -> float:
        """Expected of the live version; 0 while no exit is open."""
        return self.live.expected.time_saved if self.live and self.live.exits and self.live.expected else 0.0

    @property
    def lacks_overload(self) -> bool:
        """Whether a second budget is promised, and the live version's exits have no thresholds for it."""
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
        """Takes up what the store says is live, whoever put it there: an earlier trainer, or an operator's rollback.

        False where that was certified for less than is promised now.
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
        """Stores a version, which is live from then on; where that fails, :meth:`retry` goes on with it."""
        self._unpublished = manifest, tensors
        manifest = self.store.publish(manifest, tensors)
        self._unpublished = None
        self._take_up(manifest)
        log.info("published %s", versions.described(manifest))

    def retry(self) -> None:
        """Publishes what a store that could not be written to has kept from it: what was certified is not lost."""
        if self._unpublished is not None:
            self.publish(*self._unpublished)

    def watch(self, batch: DistillationBatch, taken: Taken) -> bool:
        """Counts a record's audits of the live version; True where they say that it exceeds its budget.

        Those of a worker whose exits are kept closed by an operator say nothing of them: all its answers agree.
        What the exits would have answered under overload is watched apart, and goes into :attr:`overload_alarmed`.
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
        # Near-copies counted singly would raise false alarms.
        counts = self._tested_blocks.new(taken.block[audits]) | (batch.key_hash[audits] == 0)
        for disagreed in wrong[counts].tolist():
            self.drift.update(disagreed)
        if self.overload_drift is not None and batch.overload_label is not None:
            for disagreed in (batch.overload_label[audits] != labels)[counts].tolist():
                self.overload_drift.update(disagreed)
        return self.drift.alarmed

    def restore(self, live: object, drift: object, tensors: dict[str, Tensor], overload_drift: object = None) -> None:
        """Goes on watching where a checkpoint stopped, if it watched this version; the tally is in its tensors."""
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
        """A new version is watched from its first audit on; one that but lacks overload goes on with what was seen."""
        goes_on = self.live is not None and _same_exits(self.live, manifest)
        self.live = manifest
        level = (1 - self.promise.confidence) * _UNSAFE_LEVEL_SHARE
        overload = manifest.overload
        self.overload_drift = DriftDetector(overload.certificate.max_disagreement, level) if overload else None
        if goes_on:
            return
        self.drift = DriftDetector(self.promise.max_disagreement, level) if manifest.exits else None
        self.tally.clear()
        self._tested_blocks = Seen()


def _same_exits(live: Manifest, following: Manifest) -> bool:
    """Whether the everyday answers of both are the same."""
    return following.reason == "overload-unsafe" and following.predecessor == live.version
