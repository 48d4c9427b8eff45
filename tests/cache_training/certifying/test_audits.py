"""What has been seen is remembered exactly, within a bound, in little memory; what certifies was not learnt from."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache_training.certifying import audits
from layercache.cache_training.certifying.audits import AuditIntake, LeakError, SeenNumbers, Windows
from tests.cache_training.builders import frames, record

NUMBERS = st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 40), max_size=12), max_size=40)


def as_array(numbers: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(numbers, np.uint64)


@given(NUMBERS, st.integers(0, 9))
def test_a_number_is_new_once(batches: list[list[int]], latest: int) -> None:
    seen, model = SeenNumbers(), set[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audits, "_LATEST", latest)
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
    monkeypatch.setattr(audits, "_REMEMBERED", 200)
    monkeypatch.setattr(audits, "_LATEST", 10)
    seen = SeenNumbers()
    for start in range(0, 10_000, 5):
        assert seen.new(np.arange(start, start + 5, dtype=np.uint64)).all()
        assert len(seen.array()) <= 200 + 2 * 15
    assert seen.known(np.arange(9_900, 10_000, dtype=np.uint64)).all()
    assert not seen.known(np.arange(0, 9_700, dtype=np.uint64)).any()


def test_a_number_that_comes_again_is_remembered_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "_REMEMBERED", 200)
    monkeypatch.setattr(audits, "_LATEST", 10)
    seen = SeenNumbers()
    seen.new(as_array([7]))
    for start in range(100, 2_000, 50):
        seen.new(np.arange(start, start + 50, dtype=np.uint64))
        assert not seen.new(as_array([7])).any()


def test_frames_of_a_topic_that_was_made_anew_are_others_at_the_same_positions() -> None:
    """What was seen of the old topic, and what has certified, says nothing about them."""
    intake = AuditIntake(Windows(16, 1_000, 1_000, 0), block_s=10)
    inputs, logits = np.zeros((50, 1, 2, 2), np.uint8), np.eye(50, 3, dtype=np.float32)
    for topic_id, again in (("old", False), ("old", True), ("new", False), ("new", True)):
        taken = intake.take(record(inputs, logits, topic_id=topic_id))
        assert taken.audit.tolist() == [not again] * 50
    assert (intake.audits, intake.repeated) == (100, 100)
    blocks = {name: set(intake.take(record(inputs, logits, topic_id=name)).block.tolist()) for name in ("old", "new")}
    assert not blocks["old"] & blocks["new"]


@pytest.mark.parametrize("use", ["learning", "tuning", "misses"])
def test_near_copies_of_frames_that_certify_are_a_leak_in_any_other_window(use: str) -> None:
    """They are other frames, at other positions: what makes them near-copies is the block that they share."""
    windows = Windows(16, 1000, 1000, 0)
    windows.certification.add(frames(5))
    windows.all()[use].add(frames(5, start=100))
    windows.check_apart()
    windows.all()[use].add(replace(frames(1, start=200), block=frames(1, start=3).block))
    with pytest.raises(LeakError, match=f"1 of 5 frames .* {use} window"):
        windows.check_apart()
