"""What has been seen is remembered exactly, within a bound, in little memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache_training.certifying import seen_numbers
from layercache.cache_training.certifying.seen_numbers import SeenNumbers

NUMBERS = st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 40), max_size=12), max_size=40)


def as_array(numbers: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(numbers, np.uint64)


@given(NUMBERS, st.integers(0, 9))
def test_a_number_is_new_once(batches: list[list[int]], latest: int) -> None:
    seen, model = SeenNumbers(), set[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen_numbers, "_LATEST", latest)
        for batch in batches:
            assert seen.known(as_array(batch)).tolist() == [number in model for number in batch]
            expected = [number not in model and number not in batch[:row] for row, number in enumerate(batch)]
            assert seen.new(as_array(batch)).tolist() == expected
            model |= set(batch)
        restored = SeenNumbers()
        restored.restore(seen.array())
    assert seen.array().tolist() == restored.array().tolist() == sorted(model)
    assert not restored.new(as_array(sorted(model))).any()


def test_the_earlier_half_is_forgotten_and_the_latest_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_numbers, "_REMEMBERED", 200)
    monkeypatch.setattr(seen_numbers, "_LATEST", 10)
    seen = SeenNumbers()
    for start in range(0, 10_000, 5):
        assert seen.new(np.arange(start, start + 5, dtype=np.uint64)).all()
        assert len(seen.array()) <= 200 + 2 * 15
    assert seen.known(np.arange(9_900, 10_000, dtype=np.uint64)).all()
    assert not seen.known(np.arange(0, 9_700, dtype=np.uint64)).any()


def test_a_number_that_comes_again_is_remembered_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_numbers, "_REMEMBERED", 200)
    monkeypatch.setattr(seen_numbers, "_LATEST", 10)
    seen = SeenNumbers()
    seen.new(as_array([7]))
    for start in range(100, 2_000, 50):
        seen.new(np.arange(start, start + 50, dtype=np.uint64))
        assert not seen.new(as_array([7])).any()
