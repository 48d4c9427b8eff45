"""What audits say: counted once, by version, by class, near-copies once in the bound."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from layercache.cache_training.certifying.binomial import upper_bound
from layercache.dashboard.audited import AuditTally
from layercache.schemas.distillation import DistillationBatch
from tests.cache_training.builders import as_lessons, record


def audits(
    count: int,
    wrong: int,
    version: str | None = "v1",
    first: int = 0,
    key: int = 0,
    exits: tuple[str, ...] = ("a",),
    topic_id: str = "",
) -> DistillationBatch:
    """Of classes 0, 1, 2 in turn; the first ``wrong`` of them would have been answered otherwise."""
    labels = np.arange(count) % 3
    live = np.where(np.arange(count) < wrong, (labels + 1) % 3, labels).astype(np.int32)
    return record(
        np.zeros((count, 1, 2, 2), np.uint8),
        np.eye(3, dtype=np.float32)[labels],
        version=version,
        exits=exits,
        first_offset=first,
        topic_id=topic_id,
        live_label=live,
        keys=np.full(count, key, np.int64),
        timestamp_ms=np.full(count, 1_000, np.int64),
        overload_label=np.where(np.arange(count) < 2 * wrong, (labels + 1) % 3, labels).astype(np.int32),
    )


def test_counts_by_version_and_budget() -> None:
    tally = AuditTally(block_s=10)
    assert tally.add(audits(100, 3)) == (100, 3)
    assert tally.add(audits(50, 0, "v2", first=100)) == (50, 0)
    normal = tally.of_version("m", "v1").normal.as_disagreement(0.01, 0.95, None)
    assert (normal.audits, normal.disagreements, normal.rate) == (100, 3, 0.03)
    assert normal.upper_bound == upper_bound(3, 100, 1 - 0.95)
    assert normal.source == "topic"
    assert tally.of_version("m", "v1").overload.disagreements == 6
    assert tally.of_version("m", "v2").normal.audits == 50
    assert (
        tally.of_version("m", "v3").normal.as_disagreement(0.01, 0.95, None).source
        == tally.of_version("m", None).normal.as_disagreement(0.01, 0.95, None).source
    )


def test_lessons_are_no_audits() -> None:
    tally = AuditTally(block_s=10)
    assert tally.add(as_lessons(audits(100, 3))) == (0, 0)
    assert tally.of_version("m", "v1").normal.audits == 0


def test_a_record_that_is_read_twice_counts_once() -> None:
    tally = AuditTally(block_s=10)
    assert tally.add(audits(100, 3)) == (100, 3)
    assert tally.add(audits(100, 3)) == (0, 0)
    assert tally.add(audits(120, 3)) == (20, 0)
    assert tally.of_version("m", "v1").normal.audits == 120


def test_near_copies_enter_the_bound_once() -> None:
    tally = AuditTally(block_s=10)
    tally.add(audits(100, 10, key=7))
    normal = tally.of_version("m", "v1").normal.as_disagreement(0.01, 0.95, None)
    assert (normal.audits, normal.disagreements) == (100, 10)
    assert (normal.tested, normal.tested_disagreements) == (1, 1)
    assert normal.upper_bound == 1.0


@pytest.mark.parametrize("batch", [audits(10, 1, version=None), audits(10, 0, exits=())])
def test_audits_of_closed_exits_say_nothing(batch: DistillationBatch) -> None:
    tally = AuditTally(block_s=10)
    assert tally.add(batch) == (0, 0)
    assert tally.of_version("m", "v1").normal.audits == 0


def test_misses_are_no_audits() -> None:
    tally = AuditTally(block_s=10)
    tally.add(record(np.zeros((4, 1, 2, 2), np.uint8), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], audit=False,
                     version="v1", exits=("a",)))  # fmt: skip
    assert tally.of_version("m", "v1").normal.audits == 0


def test_classes_with_the_most_disagreements_come_first() -> None:
    tally = AuditTally(block_s=10)
    tally.add(audits(30, 2))
    tally.add(audits(30, 1, first=30))
    classes = tally.of_version("m", "v1").classes({0: "red", 1: "green"}, 0.95)
    assert [(one.name, one.audits, one.disagreements) for one in classes] == [
        ("red", 20, 2), ("green", 20, 1), ("class 2", 20, 0)
    ]  # fmt: skip
    assert classes[0].upper_bound == upper_bound(2, 20, 1 - 0.95)


def test_two_models_may_audit_the_same_frames() -> None:
    tally, batch = AuditTally(block_s=10), audits(30, 2)
    other = replace(batch, header=msgspec.structs.replace(batch.header, model="other"))
    assert (tally.add(batch), tally.add(other)) == ((30, 2), (30, 2))
    assert [tally.of_version(model, "v1").normal.audits for model in ("m", "other", None)] == [30, 30, 0]


def test_only_the_latest_versions_are_kept() -> None:
    tally = AuditTally(block_s=10)
    for number in range(20):
        tally.add(audits(1, 0, f"v{number}", first=number))
    assert tally.of_version("m", "v0").normal.audits == 0
    assert tally.of_version("m", "v19").normal.audits == 1


def test_audits_of_a_topic_that_was_made_anew_are_others_at_the_same_positions() -> None:
    tally = AuditTally(block_s=10)
    assert [tally.add(audits(10, 1, topic_id=name)) for name in ("old", "old", "new")] == [(10, 1), (0, 0), (10, 1)]
