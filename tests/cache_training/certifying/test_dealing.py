"""Every audit has one use, near-copies have the same one, and the shares are kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache_training.certifying.dealing import (
    SHARES,
    AuditUse,
    blocks,
    deal,
    one_per_block,
    tunes_afterwards,
)
from layercache.cache_training.learning.kept_frames import content_hashes
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
