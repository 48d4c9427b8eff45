"""Every audit has one use, near-copies have the same one, and the shares are kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache_training.certifying.dealing import (
    SHARES,
    AuditUse,
    blocks,
    common_rate,
    counted,
    deal,
    one_per_block,
    tunes_afterwards,
)
from layercache.cache_training.learning.kept_frames import content_hashes
from layercache.early_exit.blocks import most_counted
from tests.cache_training.builders import numbered, record


def block_of(n: int, *, keyed: bool, seconds_apart: float = 0.0) -> np.ndarray:
    keys = np.full(n, 77, np.int64) if keyed else None
    stamps = (np.arange(n) * seconds_apart * 1000).astype(np.int64)
    inputs, logits = numbered(n), np.zeros((n, 3), np.float32)
    return blocks(record(inputs, logits, keys=keys, timestamp_ms=stamps), content_hashes(inputs), block_s=10)


def test_different_pictures_without_a_key_are_independent_and_the_same_one_has_one_block() -> None:
    assert len(np.unique(block_of(5000, keyed=False))) == 5000
    twice = np.concatenate((numbered(20), numbered(20)))
    block = blocks(record(twice, np.zeros((40, 3), np.float32)), content_hashes(twice), block_s=10)
    assert block[:20].tolist() == block[20:].tolist()
    assert len(set(block.tolist())) == 20


def test_frames_of_one_key_share_a_block_for_its_time() -> None:
    block = block_of(100, keyed=True, seconds_apart=1.0)
    assert len(np.unique(block)) == 10
    assert len(np.unique(deal(block)[:10])) == 1


def test_the_shares_are_kept() -> None:
    use = deal(block_of(20_000, keyed=False))
    for each in AuditUse:
        assert (use == each).mean() == pytest.approx(SHARES[each], abs=0.015)


def test_of_what_has_certified_half_the_blocks_tune() -> None:
    block = block_of(20_000, keyed=False)
    certified = block[deal(block) == AuditUse.CERTIFICATION]
    assert tunes_afterwards(certified).mean() == pytest.approx(0.5, abs=0.015)
    assert len(np.unique(tunes_afterwards(block_of(9, keyed=True)))) == 1


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_a_block_has_one_use_for_ever_and_one_frame_in_a_test(numbers: list[int]) -> None:
    block = np.array(numbers, np.uint64)
    assert (deal(block) == np.array([deal(np.array([one], np.uint64))[0] for one in numbers], np.int8)).all()
    chosen = one_per_block(block)
    assert sorted(set(numbers)) == sorted(block[chosen].tolist())


def test_without_keys_one_frame_of_each_block_counts() -> None:
    block, draw = np.array([5, 7, 5, 9], np.uint64), np.array([0.6, 0.5, 0.1, 0.2])
    found = counted(block, draw, rate=1.0, block_frames=1)
    assert (found.rows.tolist(), found.block, found.most, found.worth) == ([1, 2, 3], None, 1, 3)


@given(st.integers(0, 100), st.integers(2, 400), st.floats(0.01, 1.0))
def test_of_a_block_a_fair_choice_counts_and_no_more_than_bets_are_made_for(
    seed: int, block_frames: int, rate: float
) -> None:
    random = np.random.default_rng(seed)
    block, draw = random.integers(0, 5, 3_000).astype(np.uint64), random.random(3_000)
    found = counted(block, draw, rate, block_frames)
    limit = min(rate, 16 / block_frames)
    assert found.most == most_counted(block_frames, limit)
    for number in range(5):
        here = np.flatnonzero((block == number) & (draw < limit))
        expected = here[np.argsort(draw[here])][: found.most]
        assert sorted(expected.tolist()) == [row for row in found.rows.tolist() if block[row] == number]
    if found.block is not None:
        assert (np.unique(found.block, return_counts=True)[1] <= found.most).all()
        assert len(set(zip(found.block.tolist(), block[found.rows].tolist(), strict=True))) <= 5


def test_a_short_dip_of_the_audit_rate_costs_nothing_and_long_ones_are_made_up_for() -> None:
    fast, slow = np.full(500, 0.5, np.float32), np.full(8, 0.1, np.float32)
    assert common_rate(np.concatenate((fast, slow))) == 0.5, "1,000 frames and 80"
    assert common_rate(np.concatenate((fast, slow, slow))) == pytest.approx(0.1), "1,000 frames and 160"
    assert common_rate(np.empty(0, np.float32)) == 1.0
