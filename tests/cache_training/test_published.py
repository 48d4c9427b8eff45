"""What is live is watched from its first audit on: near-copies once for drift, all of them by class and key."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from cache_training.audits import Intake, Windows
from cache_training.published import Published
from cache_training.tally import Count
from early_exit.store import HeadStore
from schemas.distillation import DistillationBatch
from schemas.settings import Promise
from tests.cache_training.builders import record
from tests.support.manifests import manifest, name, tensors


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return Published(HeadStore(f"file://{tmp_path}", "tiny"), Promise(), classes=3)


def audits(
    n: int, wrong: int, *, version: str, first_offset: int = 0, keys: np.ndarray | None = None
) -> DistillationBatch:
    """n audits of class 1 in one block of time, of which the first ``wrong`` were answered 2 by the live exits."""
    logits = np.tile(np.array([0, 1, 0], np.float32), (n, 1))
    live_label = np.where(np.arange(n) < wrong, 2, 1).astype(np.int32)
    inputs = np.zeros((n, 1, 2, 2), np.uint8)
    return record(inputs, logits, first_offset=first_offset, live_label=live_label, version=version, keys=keys)


def watch(published: Published, batch: DistillationBatch) -> bool:
    return published.watch(batch, Intake(Windows(16, 1000, 1000, 0), block_s=10).take(batch))


def test_near_copies_count_once_for_drift_and_all_by_class_and_key(published: Published) -> None:
    published.publish(manifest(1), tensors(1))
    keys = np.repeat(np.array([7, 8], np.int64), 200)
    assert not watch(published, audits(400, 200, version=name(1), keys=keys))
    assert published.drift is not None
    assert (published.drift.audits, published.drift.disagreements) == (2, 1)
    assert published.tally.worst_classes() == [Count(1, 400, 200)]
    assert published.tally.worst_keys() == [Count(7, 200, 200)]
    assert not watch(published, audits(400, 400, version=name(1), first_offset=400, keys=keys))  # the block goes on
    assert published.drift.audits == 2


def test_independent_audits_that_disagree_raise_the_alarm_and_another_versions_do_not(published: Published) -> None:
    published.publish(manifest(1), tensors(1))
    assert not watch(published, audits(100, 50, version=name(0)))
    assert published.tally.worst_classes() == []
    assert watch(published, audits(100, 50, version=name(1)))


def test_a_new_version_is_watched_anew_and_one_without_exits_is_only_counted(published: Published) -> None:
    published.publish(manifest(1), tensors(1))
    watch(published, audits(100, 50, version=name(1)))
    published.publish(msgspec.structs.replace(manifest(2, 1), exits=()), tensors(2))
    assert published.drift is None
    assert published.time_saved == 0.0
    assert published.tally.worst_classes() == []


def test_a_store_says_what_is_live_and_whether_it_was_certified_for_enough(published: Published) -> None:
    assert published.follow()
    published.store.publish(manifest(1), tensors(1))
    assert published.follow()
    assert published.live is not None
    assert published.live.version == name(1)
    assert published.time_saved == 0.35
    for stricter in ({"max_disagreement": 0.009}, {"confidence": 0.96}, {"max_class_disagreement": 0.5}):
        assert not Published(published.store, Promise(**stricter), classes=3).follow(), stricter


def test_an_alarm_that_a_checkpoint_holds_closes_without_another_audit(published: Published) -> None:
    published.publish(manifest(1), tensors(1))
    assert watch(published, audits(100, 50, version=name(1)))
    assert published.drift is not None
    restarted = Published(published.store, Promise(), classes=3)
    restarted.follow()
    restarted.restore(name(1), published.drift.state(), published.tally.tensors())
    assert watch(restarted, audits(0, 0, version=name(1)))
