"""Near-copies are audited seldom, and what a window gathers of them hardly suffers."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache_training.certifying.audit_rates import OPENING, StreamPace, _worth, next_rate
from layercache.schemas.manifest import Manifest
from tests.support.manifests import manifest

FEW = np.ones(100)


def rate(
    least: float, block_frames: int | None, sizes: np.ndarray, live: Manifest | None = None,
    time_share: float = 1.0, frames_per_s: float = 0.0,
) -> float:  # fmt: skip
    return next_rate(live, least, time_share, StreamPace(block_frames, sizes, frames_per_s))


def test_frames_without_keys_are_audited_often() -> None:
    assert rate(0.02, None, FEW) == OPENING
    assert rate(0.02, None, np.full(100, 300.0)) == OPENING  # equal pictures share a block


def test_keys_that_send_single_frames_are_audited_nearly_as_often() -> None:
    assert rate(0.02, 10, FEW) > 0.8 * OPENING


@pytest.mark.parametrize(("block_frames", "most_audits"), [(300, 16), (10, 6)])
def test_of_a_video_a_few_frames_a_block_are_audited(block_frames: int, most_audits: float) -> None:
    sizes = np.full(100, 300.0)
    assert 2 / 300 < rate(0.001, block_frames, sizes) < most_audits / 300
    assert rate(0.05, block_frames, sizes) == 0.05  # never below the least


def test_a_few_videos_among_single_frames_do_not_decide() -> None:
    sizes = np.append(np.ones(10_000), np.full(10, 300.0))
    assert rate(0.001, 10, sizes) > 0.5 * OPENING


def test_before_any_audit_it_is_as_without_keys() -> None:
    assert rate(0.02, 300, np.empty(0)) == OPENING


OPENED = msgspec.structs.replace(manifest(1), audit_rate=0.6)
CLOSED = msgspec.structs.replace(OPENED, exits=(), audit_rate=1.0)


def test_later_versions_are_audited_less() -> None:
    assert rate(0.001, None, FEW, OPENED) == 0.6 / 30
    assert rate(0.05, None, FEW, OPENED) == 0.05
    assert rate(0.02, None, FEW, CLOSED) == OPENING  # the first one after an alarm


@pytest.mark.parametrize(
    ("time_share", "frames_per_s", "wanted"),
    [
        (0.2, 10_000.0, 0.2 * 0.02),  # audits take a fiftieth of the time
        (0.2, 500.0, 0.01),  # five audits a second
        (0.2, 50.0, 0.02),  # never more than the least
        (0.2, 0.0, 0.02),  # nobody knows how fast it is
        (1.5, 10_000.0, 0.02),
    ],
)
def test_on_a_fast_stream_audits_take_a_share_of_the_time(
    time_share: float, frames_per_s: float, wanted: float
) -> None:
    assert rate(0.02, None, FEW, OPENED, time_share, frames_per_s) == pytest.approx(wanted)


@given(st.lists(st.integers(1, 2_000), min_size=1, max_size=30), st.integers(1, 600), st.sampled_from([0.0001, 0.02]))
def test_a_window_gathers_nearly_as_much_as_at_the_highest_rate(
    sizes: list[int], block_frames: int, least: float
) -> None:
    of_blocks = np.array(sizes, np.float64)
    found = rate(least, block_frames, of_blocks)
    assert least <= found <= OPENING
    assert _worth(found, block_frames, of_blocks) >= 0.85 * _worth(OPENING, block_frames, of_blocks)
