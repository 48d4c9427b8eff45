"""Audits are a fair sample that only positions decide, and the cascade takes the first sure exit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layercache.early_exit.policy import cascade, draw_audits, position_hashes


@given(st.integers(0, 2**40), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_rate_audits_a_superset(start: int, one: float, other: float) -> None:
    offsets = np.arange(start, start + 200)
    partitions = (offsets % 3).astype(np.int32)
    low = draw_audits("frames", partitions, offsets, min(one, other))
    high = draw_audits("frames", partitions, offsets, max(one, other))
    assert not (low & ~high).any()


def test_rates_zero_and_one_are_exact() -> None:
    offsets = np.arange(10_000)
    partitions = np.zeros(10_000, np.int32)
    assert not draw_audits("frames", partitions, offsets, 0.0).any()
    assert draw_audits("frames", partitions, offsets, 1.0).all()


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
def test_the_share_is_the_rate_in_every_partition(rate: float) -> None:
    offsets = np.arange(40_000)
    for partition in range(3):
        drawn = draw_audits("frames", np.full(40_000, partition, np.int32), offsets, rate)
        assert drawn.mean() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 40_000) ** 0.5)


def test_neighbours_topics_and_partitions_are_independent() -> None:
    offsets = np.arange(40_000)
    zero, one = np.zeros(40_000, np.int32), np.ones(40_000, np.int32)
    first = draw_audits("frames", zero, offsets, 0.5)
    for other in (
        draw_audits("frames", one, offsets, 0.5),
        draw_audits("other", zero, offsets, 0.5),
        np.roll(first, 1),
    ):
        assert (first == other).mean() == pytest.approx(0.5, abs=0.01)


def test_draws_for_different_ends_are_independent() -> None:
    """By their salts: whether a frame is audited must say nothing about its identity and its use."""
    places = "frames", np.zeros(40_000, np.int32), np.arange(40_000)
    audited, other = (position_hashes(*places, salt) < np.uint64(2**63) for salt in (b"one", b"other"))
    assert (audited == draw_audits(*places, 0.5)).mean() == pytest.approx(0.5, abs=0.01)
    assert (audited == other).mean() == pytest.approx(0.5, abs=0.01)


def test_a_frames_draw_never_changes() -> None:
    """Worker and trainer of different releases must agree; if this fails, change the salt on purpose."""
    drawn = draw_audits("frames", np.zeros(12, np.int32), np.arange(12), 0.5)
    assert "".join(map(str, drawn.astype(int))) == EXPECTED


EXPECTED = "111010011111"


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 20), st.integers(0, 4)), elements=st.floats(0, 1, width=32)),
    st.data(),
)
def test_the_cascade_takes_the_first_exit_that_is_sure(scores: np.ndarray, data: st.DataObject) -> None:
    thresholds = data.draw(hnp.arrays(np.float32, scores.shape[1], elements=st.floats(0, 1, width=32)))
    for row, exit_ in zip(scores, cascade(scores, thresholds), strict=True):
        sure = [index for index in range(len(thresholds)) if row[index] >= thresholds[index]]
        assert exit_ == (sure[0] if sure else -1)
