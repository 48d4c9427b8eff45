"""What is live is watched from its first audit on: near-copies once for drift, all of them by class and key."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from layercache.cache_training.certifying.audit_tally import DisagreementCount
from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.live_version import LiveVersion
from layercache.cache_training.certifying.windows import Windows
from layercache.early_exit.blocks import most_counted
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.distillation import DistillationBatch
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Promise
from tests.cache_training.builders import record
from tests.support.manifests import manifest, name, overload, tensors


@pytest.fixture
def published(tmp_path: Path) -> LiveVersion:
    return LiveVersion(HeadStore(f"file://{tmp_path}", "tiny"), Promise(), classes=3)


def audits(
    n: int,
    wrong: int,
    *,
    version: str,
    first_offset: int = 0,
    keys: np.ndarray | None = None,
    overload_wrong: int | None = None,
    exits: tuple[str, ...] = ("first",),
    second: int = 0,
) -> DistillationBatch:
    """n audits of class 1 in a block of time, at ``second``; the first ``wrong`` were answered 2 by the live exits.

    Of overload's answers, where they are told, ``overload_wrong`` are 2.
    """
    logits = np.tile(np.array([0, 1, 0], np.float32), (n, 1))
    live_label = np.where(np.arange(n) < wrong, 2, 1).astype(np.int32)
    inputs = np.zeros((n, 1, 2, 2), np.uint8)
    bolder = None if overload_wrong is None else np.where(np.arange(n) < overload_wrong, 2, 1).astype(np.int32)
    return record(
        inputs, logits, first_offset=first_offset, live_label=live_label, version=version, keys=keys,
        overload_label=bolder, exits=exits, timestamp_ms=np.full(n, 1000 * second, np.int64),
    )  # fmt: skip


def watch(published: LiveVersion, batch: DistillationBatch) -> bool:
    return published.watch(batch, AuditIntake(Windows(16, 1000, 1000, 0), block_s=10, block_frames=1).take(batch))


def test_near_copies_count_together_for_drift_and_singly_by_class_and_key(published: LiveVersion) -> None:
    version = manifest(1)
    published.publish(version, tensors(1))
    most = most_counted(Promise().block_frames, version.audit_rate)
    keys = np.repeat(np.array([7, 8], np.int64), 200)
    assert not watch(published, audits(400, 200, version=name(1), keys=keys))
    assert published.drift is not None
    assert published.drift.audits == 0, "the blocks may go on"
    assert published.tally.worst_classes() == [DisagreementCount(1, 400, 200)]
    assert published.tally.worst_keys() == [DisagreementCount(7, 200, 200)]
    assert not watch(published, audits(400, 200, version=name(1), first_offset=400, keys=keys, second=9))
    assert published.drift.audits == 0
    assert not watch(published, audits(2, 0, version=name(1), first_offset=800, keys=np.array([7, 8]), second=10))
    assert published.drift.audits == 2 * most, "of one block no more count"
    assert published.drift.disagreements == most, "all of them of one key"


def test_independent_audits_that_disagree_raise_the_alarm_and_another_versions_do_not(published: LiveVersion) -> None:
    published.publish(manifest(1), tensors(1))
    assert not watch(published, audits(100, 50, version=name(0)))
    assert published.tally.worst_classes() == []
    assert watch(published, audits(100, 50, version=name(1)))


def test_audits_of_exits_that_an_operator_keeps_closed_are_no_agreements(published: LiveVersion) -> None:
    published.publish(manifest(1), tensors(1))
    assert not watch(published, audits(10_000, 0, version=name(1), exits=()))
    assert published.drift is not None
    assert published.drift.audits == 0
    assert published.tally.worst_classes() == []
    assert watch(published, audits(100, 50, version=name(1), first_offset=10_000))


def test_a_new_version_is_watched_anew_and_one_without_exits_is_only_counted(published: LiveVersion) -> None:
    published.publish(manifest(1), tensors(1))
    watch(published, audits(100, 50, version=name(1)))
    published.publish(msgspec.structs.replace(manifest(2, 1), exits=()), tensors(2))
    assert published.drift is None
    assert published.time_saved == 0.0
    assert published.tally.worst_classes() == []
    assert not watch(published, audits(100, 1, version=name(2), exits=(), first_offset=100))
    assert published.tally.worst_classes() == [DisagreementCount(1, 100, 1)]


def test_a_store_says_what_is_live_and_whether_it_was_certified_for_enough(published: LiveVersion) -> None:
    assert published.follow()
    published.store.publish(manifest(1), tensors(1))
    assert published.follow()
    assert published.live is not None
    assert published.live.version == name(1)
    assert published.time_saved == 0.35
    for stricter in ({"max_disagreement": 0.009}, {"confidence": 0.96}, {"max_class_disagreement": 0.5}):
        assert not LiveVersion(published.store, Promise(**stricter), classes=3).follow(), stricter


def test_an_alarm_that_a_checkpoint_holds_closes_without_another_audit(published: LiveVersion) -> None:
    published.publish(manifest(1), tensors(1))
    assert watch(published, audits(100, 50, version=name(1)))
    assert published.drift is not None
    restarted = LiveVersion(published.store, Promise(), classes=3)
    restarted.follow()
    restarted.restore(name(1), published.drift.state(), published.tally.tensors())
    assert watch(restarted, audits(0, 0, version=name(1)))


def wider(number: int) -> Manifest:
    return msgspec.structs.replace(manifest(number), overload=overload((0.7,)))


def test_overload_is_watched_at_its_own_budget_and_apart(published: LiveVersion) -> None:
    published.publish(wider(1), tensors(1))
    # 2 in 100 disagree: twice the budget of every day, and well within overload's.
    for first in range(0, 10_000, 100):
        alarm = watch(published, audits(100, 0, version=name(1), first_offset=first, overload_wrong=2))
        assert not alarm
    assert not published.overload_alarmed
    assert published.drift is not None
    assert published.overload_drift is not None
    assert (published.drift.audits, published.drift.disagreements) == (10_000, 0)
    assert (published.overload_drift.audits, published.overload_drift.disagreements) == (10_000, 200)
    assert published.tally.worst_classes() == []  # the tally is of every day's answers
    assert not watch(published, audits(200, 0, version=name(1), first_offset=10_000, overload_wrong=100))
    assert published.overload_alarmed


def test_every_days_alarm_does_not_wait_for_overloads(published: LiveVersion) -> None:
    published.publish(wider(1), tensors(1))
    assert watch(published, audits(100, 10, version=name(1), overload_wrong=0))
    assert not published.overload_alarmed


def test_a_worker_that_tells_nothing_of_overload_leaves_its_test_alone(published: LiveVersion) -> None:
    published.publish(wider(1), tensors(1))
    watch(published, audits(100, 0, version=name(1)))
    assert published.overload_drift is not None
    assert published.overload_drift.audits == 0


def test_the_version_that_but_lacks_overload_goes_on_with_what_was_seen(published: LiveVersion) -> None:
    published.publish(wider(1), tensors(1))
    watch(published, audits(300, 2, version=name(1), overload_wrong=2))
    following = msgspec.structs.replace(
        wider(1), version=name(2), reason="overload-unsafe", predecessor=name(1), overload=None
    )
    published.publish(following, tensors(2))
    assert published.drift is not None
    assert (published.drift.audits, published.drift.disagreements) == (300, 2)
    assert published.overload_drift is None
    assert published.tally.worst_classes() == [DisagreementCount(1, 300, 2)]
    published.publish(manifest(3, 2), tensors(3))
    assert published.drift.audits == 0


def test_a_block_goes_on_where_overloads_thresholds_are_dropped_meanwhile(published: LiveVersion) -> None:
    published.publish(wider(1), tensors(1))
    camera = np.array([7, 7], np.int64)
    watch(published, audits(2, 0, version=name(1), overload_wrong=2, keys=camera))
    following = msgspec.structs.replace(
        wider(1), version=name(2), reason="overload-unsafe", predecessor=name(1), overload=None
    )
    published.publish(following, tensors(2))
    watch(published, audits(2, 1, version=name(2), first_offset=2, keys=camera))
    watch(published, audits(1, 0, version=name(2), first_offset=4, keys=camera[:1], second=10))
    assert published.drift is not None
    assert published.drift.audits == min(4, most_counted(Promise().block_frames, wider(1).audit_rate))


def test_whether_the_live_version_lacks_overload(published: LiveVersion) -> None:
    larger = Promise(overload_max_disagreement=0.03)
    allowed = LiveVersion(published.store, larger, classes=3)
    assert not allowed.lacks_overload  # nothing is live
    allowed.publish(manifest(1), tensors(1))
    assert allowed.lacks_overload
    assert not LiveVersion(published.store, Promise(), classes=3).lacks_overload
    allowed.publish(wider(2), tensors(2))
    assert not allowed.lacks_overload
    for stricter in ({"overload_max_disagreement": 0.02}, {"confidence": 0.99}, {"max_class_disagreement": 0.1}):
        other = LiveVersion(published.store, larger.model_copy(update=stricter), classes=3)
        other.follow()
        assert other.lacks_overload, stricter


def test_overloads_alarm_outlives_a_restart(published: LiveVersion) -> None:
    published.publish(wider(1), tensors(1))
    watch(published, audits(100, 0, version=name(1), overload_wrong=50))
    assert published.drift is not None
    assert published.overload_drift is not None
    restarted = LiveVersion(published.store, Promise(), classes=3)
    restarted.follow()
    states = published.drift.state(), published.tally.tensors(), published.overload_drift.state()
    restarted.restore(name(1), *states)
    assert restarted.overload_alarmed
