"""A certificate's risk is per frame: whole blocks are bet on, and heavy ones weigh as much as they are heavy."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache_training.certifying.binomial import p_value
from layercache.cache_training.certifying.certificate import ClassCap, certify, verdict_of
from layercache.cache_training.certifying.samples import Sample

Bools = npt.NDArray[np.bool_]


def bursts(seed: int, blocks: int, heavy: float, light: float, size: int = 20) -> tuple[Bools, npt.NDArray[np.intp]]:
    """A tenth of the blocks hold ``size`` frames, the rest one; each with its own risk. Frames, and their blocks."""
    random = np.random.default_rng(seed)
    sizes = np.where(random.random(blocks) < 0.1, size, 1)
    risk = np.where(sizes == 1, light, heavy)
    block = np.repeat(np.arange(blocks), sizes)
    return (random.random(blocks) < risk)[block], block  # a block is wrong throughout, or not at all


def test_bursts_that_are_worse_than_single_frames_weigh_as_much_as_they_are_long() -> None:
    wrong, block = bursts(0, 40_000, heavy=0.04, light=0.004)
    by_block = np.bincount(block, wrong) > 0
    assert 0.006 < by_block.mean() < 0.009, "by blocks it looks fine"
    assert 0.025 < wrong.mean() < 0.035
    first = np.unique(block, return_index=True)[1]
    assert certify(wrong[None, first], 0.01, 0.05) is not None, "as the first frame of each block says"
    samples = (Sample(block, 20, np.array([0.005])),) * 2
    assert certify(wrong[None], 0.01, 0.05, samples=samples) is None
    assert certify(wrong[None], 0.06, 0.05, samples=(Sample(block, 20, np.array([0.03])),) * 2) is not None


@pytest.mark.parametrize("expected", [0.0, 0.02, 0.045, 0.2])
def test_what_is_over_its_budget_passes_no_more_often_than_the_error_says(expected: float) -> None:
    """Per frame, heavy and light blocks together are at 5.05 %, whatever tuning expected of them."""
    heavy, share = 0.07, 20 * 0.1 / (20 * 0.1 + 0.9)
    light = (0.0505 - share * heavy) / (1 - share)
    passed = 0
    for seed in range(400):
        wrong, block = bursts(seed, 300, heavy, light)
        passed += bool(Sample(block, 20, np.array([expected])).p_values(wrong[None], 0.05)[0] <= 0.2)
    assert passed <= 100, "a fifth of them may, and a few more by chance"


def test_what_is_well_within_its_budget_passes() -> None:
    for seed in range(20):
        wrong, block = bursts(seed, 4_000, heavy=0.01, light=0.01)
        assert Sample(block, 20, np.array([0.01])).p_values(wrong[None], 0.05)[0] <= 0.025


@given(st.integers(1, 500), st.data(), st.floats(0.005, 0.3))
def test_of_single_frames_the_exact_test_says_more(frames: int, data: st.DataObject, budget: float) -> None:
    disagreements = data.draw(st.integers(0, frames))
    wrong = np.arange(frames)[None] < disagreements
    bet = Sample(np.arange(frames), 1, np.array([0.3 * budget])).p_values(wrong, budget)[0]
    assert p_value(disagreements, frames, budget) <= bet * (1 + 1e-9)


@given(st.integers(0, 50), st.floats(0.01, 0.2))
def test_the_bound_and_the_test_agree(seed: int, error: float) -> None:
    wrong, block = bursts(seed, 400, heavy=0.05, light=0.01)
    sample = Sample(block, 20, np.array([0.01]))
    bound = sample.upper_bound(wrong, 0.05, error)
    assert wrong.mean() <= bound
    assert sample.p_values(wrong[None], bound + 1e-6)[0] <= error
    assert bound == 1.0 or sample.p_values(wrong[None], bound - 1e-6)[0] > error
    verdict = verdict_of(0, wrong, bound + 1e-6, error, sample)
    assert (verdict.frames, verdict.disagreements) == (len(wrong), wrong.sum())
    assert verdict.p_value <= error


def test_each_class_has_a_test_by_blocks_too() -> None:
    blocks, size = 2_000, 4
    block = np.repeat(np.arange(blocks), size)
    group, wrong = block % 2, np.zeros((1, blocks * size), np.bool_)
    samples = (Sample(block, size),) * 2
    assert certify(wrong, 0.01, 0.05, ClassCap(0.02, group, 2, samples[0]), samples=samples) is not None
    wrong[0, group == 1] = np.arange(blocks * size // 2) % 50 == 0  # 2 % of that class, 1 % in all
    assert certify(wrong, 0.02, 0.05, samples=samples) is not None
    assert certify(wrong, 0.02, 0.05, ClassCap(0.02, group, 2, samples[0]), samples=samples) is None
    assert ClassCap(0.02, group, 2, samples[0]).upper_bound(wrong[0], 0.05) > 0.02


def test_without_frames_nothing_passes() -> None:
    nothing = Sample(np.zeros(0, np.intp), 5)
    assert nothing.p_values(np.zeros((2, 0), np.bool_), 0.01).tolist() == [1.0, 1.0]
