"""Near-copies count together: a fair choice of each block, once the block is over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from layercache.early_exit import blocks
from layercache.early_exit.blocks import ClosedBlock, OpenBlocks, counted_rate, most_counted


@given(st.integers(1, 400), st.floats(0.001, 1.0))
def test_of_the_longest_blocks_at_most_one_audit_in_fifty_is_left_out(block_frames: int, rate: float) -> None:
    most, audits = most_counted(block_frames, rate), np.arange(block_frames + 1)
    chances = binom.pmf(audits, block_frames, rate)
    assert 1 <= most <= block_frames
    assert np.maximum(audits - most, 0) @ chances <= 0.02 * rate * block_frames + 1e-9
    if most > 1:
        assert np.maximum(audits - most + 1, 0) @ chances > 0.02 * rate * block_frames - 1e-9, "one less would do"


@pytest.mark.parametrize("block_frames", [1, 10, 16, 300, 100_000])
def test_of_longer_blocks_a_smaller_share_counts(block_frames: int) -> None:
    assert block_frames * counted_rate(block_frames) == pytest.approx(min(16, block_frames))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60, unique_by=lambda one: one[0]))
def test_which_audits_of_a_block_count_is_up_to_their_draws(
    audits: list[tuple[float, bool]],
) -> None:
    open_blocks = OpenBlocks(most=5)
    for draw, wrong in audits:
        assert not list(open_blocks.add(7, 1, draw, (wrong, not wrong)))
    (closed,) = open_blocks.add(7, 2, 0.5, (False, False))
    expected = [wrong for _, wrong in sorted(audits)[:5]]
    assert closed == ClosedBlock(len(expected), (sum(expected), len(expected) - sum(expected)))


def test_keys_are_kept_apart_and_one_that_sends_nothing_more_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "_OPEN_BLOCKS", 3)
    open_blocks = OpenBlocks(most=4)
    given_back = [list(open_blocks.add(key, 1, 0.5, (key == 1,))) for key in (1, 2, 1, 3, 4, 5)]
    assert given_back == [[], [], [], [], [ClosedBlock(2, (2,))], [ClosedBlock(1, (0,))]]


def test_before_any_key_was_seen_frames_count_whole() -> None:
    open_blocks = OpenBlocks(most=4)
    assert list(open_blocks.add(0, 1, 0.5, (True,))) == [ClosedBlock(1, (1,))]
    assert open_blocks.most == 1
    assert not list(open_blocks.add(9, 1, 0.5, (True,)))
    assert open_blocks.most == 4
