"""Disagreement by class and key is counted, bounded, and survives a checkpoint."""

import numpy as np

from layercache.cache_training.certifying.audit_tally import DisagreementCount, DisagreementTally


def test_counts_by_class_and_key_name_the_worst_first() -> None:
    tally = DisagreementTally(classes=4)
    labels = np.array([0, 1, 1, 1, 3, 3])
    keys = np.array([5, 5, -9, -9, -9, 0])
    wrong = np.array([False, True, True, False, True, True])
    for _ in range(2):
        tally.add(labels, keys, wrong)
    assert tally.worst_classes() == [DisagreementCount(1, 6, 4), DisagreementCount(3, 4, 4)]
    assert tally.worst_keys() == [DisagreementCount(-9, 6, 4), DisagreementCount(5, 4, 2)]
    assert tally.worst_classes(1)[0].share == 4 / 6
    again = DisagreementTally(classes=4)
    again.restore(tally.tensors())
    assert again.worst_classes() == tally.worst_classes()
    assert again.by_key == tally.by_key
    tally.clear()
    assert tally.worst_classes() == tally.worst_keys() == []
    assert again.worst_keys() == [DisagreementCount(-9, 6, 4), DisagreementCount(5, 4, 2)]


def test_keys_are_bounded_and_those_that_disagree_are_kept() -> None:
    tally = DisagreementTally(classes=1)
    for start in range(0, 60_000, 1000):
        keys = np.arange(start + 1, start + 1001)
        tally.add(np.zeros(1000, np.int64), keys, keys % 1000 == 0)
    assert len(tally.by_key) <= 10_000
    assert len(tally.worst_keys(100)) == 60


def test_an_empty_tally_survives_a_checkpoint() -> None:
    tally = DisagreementTally(classes=3)
    tally.restore(DisagreementTally(classes=3).tensors())
    assert tally.worst_classes() == tally.worst_keys() == []
