"""A cap on every class: which are tested alone, and that none is over its cap when a setting passes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache_training.certifying.certificate import ClassCap, certify
from layercache.cache_training.certifying.classes import group_classes, worst_classes

counts = st.lists(st.integers(0, 5000), min_size=1, max_size=40).map(lambda numbers: np.array(numbers, np.int64))


@given(counts, st.integers(1, 2000), st.integers(100, 20_000))
def test_every_class_is_in_one_group_and_every_group_can_be_tested(
    seen: np.ndarray, fewest: int, capacity: int
) -> None:
    found = group_classes(seen, fewest, capacity)
    groups = np.unique(found.group)
    assert groups.tolist() == list(range(len(found.shares)))
    assert found.shares.sum() == pytest.approx(1.0 if seen.sum() else 0.0)
    alone = [group for group in groups if (found.group == group).sum() == 1]
    assert found.alone <= len(alone)
    if len(groups) > 1:
        assert found.shares.min() * capacity >= 1.5 * fewest * (1 - 1e-9)
    # What is rarer than that is never tested alone, unless it is all there is.
    rare = seen / max(1, seen.sum()) * capacity < 1.5 * fewest
    assert len(np.unique(found.group[rare])) <= 1


def wrong_in(labels: np.ndarray, label: int, n: int) -> np.ndarray:
    """One setting that is wrong about the first n frames of a class."""
    wrong = np.zeros((1, len(labels)), np.bool_)
    wrong[0, np.flatnonzero(labels == label)[:n]] = True
    return wrong


def test_one_lost_class_fails_a_setting_that_is_fine_overall() -> None:
    labels = np.arange(3000) % 30
    cap = ClassCap(0.2, labels, 30)
    lost = wrong_in(labels, 7, 25)
    assert certify(lost, 0.02, 0.025) is not None
    assert certify(lost, 0.02, 0.025, cap) is None
    assert certify(wrong_in(labels, 7, 5), 0.02, 0.025, cap) is not None
    assert cap.upper_bound(lost[0], 0.025) == pytest.approx(0.345, abs=0.02)


def test_classes_need_no_share_of_the_error_as_all_of_them_must_pass() -> None:
    # 72 flawless frames are just enough at the full level, however many classes there are.
    for classes in (1, 10, 100):
        labels = np.arange(72 * classes) % classes
        flawless = np.zeros((1, len(labels)), np.bool_)
        assert certify(flawless, 0.05, 0.025, ClassCap(0.05, labels, classes)) is not None
        assert certify(flawless[:, 1:], 0.05, 0.025, ClassCap(0.05, labels[1:], classes)) is None


def test_a_group_without_frames_cannot_pass() -> None:
    labels = np.zeros(1000, np.int64)
    flawless = np.zeros((1, 1000), np.bool_)
    assert certify(flawless, 0.05, 0.025, ClassCap(0.5, labels, 1)) is not None
    assert certify(flawless, 0.05, 0.025, ClassCap(0.5, labels, 2)) is None


def test_the_worst_classes_come_first_and_are_few() -> None:
    labels = np.repeat(np.arange(1000), 3)
    wrong = np.zeros(3000, np.bool_)
    wrong[labels < 100] = True
    wrong[labels == 50] = [True, True, False]
    found = worst_classes(wrong, labels, [f"class {number}" for number in range(1000)], error=0.05)
    assert len(found) == 20
    assert found[0].name == "class 0"
    assert (found[0].frames, found[0].disagreements, found[0].upper_bound) == (3, 3, 1.0)
    assert worst_classes(np.zeros(3000, np.bool_), labels, [""] * 1000, error=0.05) == ()
