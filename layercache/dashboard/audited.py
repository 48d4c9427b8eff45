"""Counts the audits on the distillation topic, each once, by the version of heads that they audit."""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

import numpy as np

from layercache.cache_training.certifying.binomial import upper_bound
from layercache.cache_training.certifying.dealing import key_blocks
from layercache.cache_training.certifying.seen_numbers import SeenNumbers
from layercache.dashboard.state import ClassDisagreement, Disagreement
from layercache.early_exit.policy import Bools, position_hashes
from layercache.schemas.distillation import DistillationBatch
from layercache.schemas.manifest import Certificate

#: The tally keeps the audits of so many versions: after a rollback, those of the older version are still there.
_VERSIONS = 8
#: The page shows so many classes.
_CLASSES = 50


@dataclass
class AuditCount:
    """Audits for one budget. ``tested`` counts only one of several near-copies, see
    :func:`layercache.cache_training.certifying.dealing.blocks`."""

    audits: int = 0
    disagreements: int = 0
    tested: int = 0
    tested_disagreements: int = 0

    def as_disagreement(
        self, budget: float, confidence: float, certificate: Certificate | None, source: str = "topic"
    ) -> Disagreement:
        """What the page shows, with the bound."""
        return Disagreement(
            budget=budget,
            confidence=confidence,
            audits=self.audits,
            disagreements=self.disagreements,
            tested=self.tested,
            tested_disagreements=self.tested_disagreements,
            upper_bound=upper_bound(self.tested_disagreements, self.tested, 1 - confidence) if self.tested else None,
            certificate=certificate,
            source=source if self.audits else "none",  # type: ignore[arg-type]  # one of the literals
        )


@dataclass
class VersionAudits:
    """The audits of one version."""

    normal: AuditCount = field(default_factory=AuditCount)
    overload: AuditCount = field(default_factory=AuditCount)
    audits_by_class: Counter[int] = field(default_factory=Counter)
    disagreements_by_class: Counter[int] = field(default_factory=Counter)
    seen: SeenNumbers = field(default_factory=SeenNumbers)
    """Positions that were counted; the next field: blocks of near-copies that were counted."""
    seen_blocks: SeenNumbers = field(default_factory=SeenNumbers)

    def classes(self, names: dict[int, str], confidence: float) -> tuple[ClassDisagreement, ...]:
        """The classes with the most disagreements, the worst first; ``names`` holds the known names by label."""
        shown = [
            class_disagreement(
                names.get(label, f"class {label}"), audits, self.disagreements_by_class[label], confidence
            )
            for label, audits in self.audits_by_class.items()
        ]
        return worst_classes(shown)


class AuditTally:
    """Counts audits of open exits, those of the latest few versions.

    A position counts once, however often the dashboard reads it: a reader that sees aborted transactions gets records
    repeatedly, and so does every reader of the embedded broker.
    """

    def __init__(self, block_s: float) -> None:
        self._block_s = block_s
        self._versions: OrderedDict[tuple[str, str], VersionAudits] = OrderedDict()
        """By model and version: audits may arrive before the dashboard knows which model it shows."""

    def add(self, batch: DistillationBatch) -> tuple[int, int]:
        """Counts a record's audits; returns how many were new, and how many of those disagreed."""
        version = batch.header.heads_version
        if version is None or not batch.header.exits:
            return 0, 0  # no exit was open, so nothing was at risk
        key = batch.header.model, version
        found = self._versions.setdefault(key, VersionAudits())
        self._versions.move_to_end(key)
        while len(self._versions) > _VERSIONS:
            self._versions.popitem(last=False)
        identity = position_hashes(batch.header.origin, batch.partition, batch.offset)
        rows = np.flatnonzero(batch.audit)
        rows = rows[found.seen.new(identity[rows])]
        if not len(rows):
            return 0, 0
        labels = batch.logits[rows].argmax(1)
        wrong = batch.live_label[rows] != labels
        counts = found.seen_blocks.new(key_blocks(batch, self._block_s)[rows]) | (batch.key_hash[rows] == 0)
        _count(found.normal, wrong, counts)
        if batch.overload_label is not None:
            _count(found.overload, batch.overload_label[rows] != labels, counts)
        found.audits_by_class.update(labels.tolist())
        found.disagreements_by_class.update(labels[wrong].tolist())
        return len(rows), int(wrong.sum())

    def of_version(self, model: str | None, version: str | None) -> VersionAudits:
        """The audits of a model's version; empty where there were none."""
        found = self._versions.get((model, version)) if model is not None and version is not None else None
        return found or VersionAudits()


def class_disagreement(name: str, audits: int, disagreements: int, confidence: float) -> ClassDisagreement:
    """One class, with its bound."""
    return ClassDisagreement(
        name=name,
        audits=audits,
        disagreements=disagreements,
        upper_bound=upper_bound(disagreements, audits, 1 - confidence),
    )


def worst_classes(classes: list[ClassDisagreement]) -> tuple[ClassDisagreement, ...]:
    """The classes with the most disagreements first, then those with the most audits."""
    return tuple(sorted(classes, key=lambda one: (-one.disagreements, -one.audits, one.name))[:_CLASSES])


def _count(count: AuditCount, wrong: Bools, counts: Bools) -> None:
    count.audits += len(wrong)
    count.disagreements += int(wrong.sum())
    count.tested += int(counts.sum())
    count.tested_disagreements += int(wrong[counts].sum())
