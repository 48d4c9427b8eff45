"""The tally counts each frame and each audit once, and its window holds the last answers alone."""

import pytest

from layercache.measuring.tally import Audit, Tally
from layercache.schemas.prediction import FULL
from tests.layercache.demo_streams import answer, manifest

HEADS = manifest("v1", {"layer1": 0.3, "layer2": 0.5})


def test_shares_are_those_of_the_window() -> None:
    tally = Tally(frames=8, window=4)
    for frame in range(4):
        tally.add(answer(frame))
    for frame, exit_name in enumerate(("layer1", "layer2", "layer1", FULL), 4):
        tally.add(answer(frame, exit_name, HEADS, audited=exit_name == FULL))
    state = tally.snapshot()
    assert state.answered == 8
    assert state.window == 4
    assert state.hit_rate == 0.75
    assert state.hits_by_exit == {"layer1": 0.5, "layer2": 0.25}
    assert state.flops_saved == pytest.approx(1 - (0.3 + 0.5 + 0.3 + 1.02) / 4)
    assert state.audited == 0.25
    assert (state.version, state.versions) == ("v1", 1)


def test_a_stream_that_has_not_begun_has_a_state_too() -> None:
    state = Tally(frames=10).snapshot()
    assert (state.answered, state.hit_rate, state.flops_saved, state.frames_per_s) == (0, 0.0, 0.0, 0.0)
    assert state.audited_disagreement is None
    assert state.version is None


def test_throughput_is_answers_over_the_time_between_the_windows_first_and_last() -> None:
    tally = Tally(frames=5)
    for frame in range(5):
        tally.add(answer(frame, predicted_ms=1_000 + 20 * frame))
    assert tally.snapshot().frames_per_s == pytest.approx(50.0)


def test_a_frame_answered_twice_counts_once_and_is_remembered() -> None:
    tally = Tally(frames=2)
    assert tally.add(answer(0))
    assert not tally.add(answer(0, "layer1", HEADS))
    assert tally.duplicates == [0]
    assert tally.snapshot().hit_rate == 0.0
    assert not tally.complete
    tally.add(answer(1))
    assert tally.complete


def test_each_audit_counts_once_and_only_where_an_exit_was_open() -> None:
    tally = Tally(frames=4)
    tally.add_audits([Audit(0, 7, True, True), Audit(1, 7, True, False), Audit(2, 7, False, False)])
    tally.add_audits([Audit(0, 7, True, True)])
    state = tally.snapshot()
    assert (state.audits, state.audit_disagreements) == (2, 1)
    assert state.audited_disagreement == 0.5
    assert tally.audits() == {(0, 7): True, (1, 7): False}


def test_answers_come_back_in_the_order_of_the_stream() -> None:
    tally = Tally(frames=3)
    for frame in (2, 0, 1):
        tally.add(answer(frame))
    assert [one.frame for one in tally.answers()] == [0, 1, 2]


def test_the_history_is_the_hit_rate_of_consecutive_slices() -> None:
    tally = Tally(frames=8, slices=4)
    for frame in range(5):
        tally.add(answer(frame, "layer1" if frame >= 3 else FULL, HEADS))
    assert tally.snapshot().history == (0.0, 0.5, 1.0)
