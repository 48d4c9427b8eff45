"""Counts by slices of time: bounded, without gaps, right whatever the order."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.dashboard.slices import Latencies, Slices

repeatable = settings(derandomize=True, deadline=None, max_examples=60)

NOW_MS = 1_000_000_000

Counted = tuple[int, bool, tuple[float, float] | None, float | None]

frames = st.tuples(
    st.integers(NOW_MS - 120_000, NOW_MS + 30_000),  # some from a clock that is ahead
    st.booleans(),
    st.one_of(st.none(), st.tuples(st.floats(0, 2), st.floats(0, 2))),
    st.one_of(st.none(), st.floats(0, 1e6)),
)


@repeatable
@given(st.lists(frames, max_size=200), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(stream: list[Counted], mix: random.Random) -> None:
    shuffled = list(stream)
    mix.shuffle(shuffled)
    one, other = Slices(5, 36), Slices(5, 36)
    for slices, order in ((one, stream), (other, shuffled)):
        for at_ms, hit, cost, latency_ms in order:
            slices.at(at_ms, NOW_MS).answered(hit, cost, latency_ms)
    later = NOW_MS + 10_000
    for left, right in zip(one.series(later).points, other.series(later).points, strict=True):
        assert (left.at_ms, left.frames, left.hit_rate) == (right.at_ms, right.frames, right.hit_rate)
        assert left.flops_saved == pytest.approx(right.flops_saved)
        assert left.latency_p99_ms == right.latency_p99_ms


@repeatable
@given(st.lists(frames, max_size=200))
def test_every_frame_of_the_window_is_counted_once(stream: list[Counted]) -> None:
    slices = Slices(5, 36)  # three minutes: all are within
    for at_ms, hit, cost, latency_ms in stream:
        slices.at(at_ms, NOW_MS).answered(hit, cost, latency_ms)
    points = slices.series(NOW_MS + 10_000).points
    assert sum(point.frames for point in points) == len(stream)
    assert sum(round((point.hit_rate or 0) * point.frames) for point in points) == sum(hit for _, hit, *_ in stream)
    times = [point.at_ms for point in points]
    assert times == sorted(set(times))
    assert {after - before for before, after in pairwise(times)} <= {5_000}


@repeatable
@given(st.lists(st.integers(0, NOW_MS), min_size=1, max_size=300))
def test_memory_is_bounded_whatever_the_clocks_say(times: list[int]) -> None:
    slices = Slices(5, 20)
    for at_ms in times:
        slices.at(at_ms, NOW_MS).answered(True, None, 1.0)
    assert len(slices) <= 20
    assert len(slices.series(NOW_MS).points) <= 20


def test_what_is_older_than_the_window_is_left_out_and_forgotten() -> None:
    slices = Slices(5, 4)
    slices.at(0, 0).answered(True, None, None)
    slices.at(60_000, 60_000).answered(False, None, None)
    slices.at(1_000, 60_000).answered(True, None, None)
    assert [(point.at_ms, point.frames) for point in slices.series(65_000).points] == [(60_000, 1)]


def test_rates_are_those_of_frames_whose_cost_is_known() -> None:
    slices = Slices(10, 6)
    one = slices.at(1_000, 1_000)
    one.answered(True, (0.4, 0.5), 20)
    one.answered(True, None, 20)  # heads that the store has no more
    one.answered(False, (1.1, 1.1), 20)
    (point,) = slices.series(10_000).points
    assert (point.frames, point.frames_per_s) == (3, 0.3)
    assert point.hit_rate == pytest.approx(2 / 3)
    assert point.flops_saved == pytest.approx(1 - 1.5 / 2)
    assert point.time_saved == pytest.approx(1 - 1.6 / 2)


def test_a_stream_that_has_just_begun_is_not_slow() -> None:
    slices = Slices(5, 180)
    for second in range(10):
        for _ in range(20):
            slices.at(NOW_MS + second * 1_000, NOW_MS + second * 1_000).answered(True, None, None)
    assert slices.latest(60, NOW_MS + 10_000).frames_per_s == pytest.approx(20.0)


def test_answers_that_were_passed_over_count_as_frames_and_nothing_else() -> None:
    slices = Slices(5, 6)
    one = slices.at(1_000, 1_000)
    one.answered(True, None, None)
    one.skipped += 99
    (point,) = slices.series(5_000).points
    assert (point.frames, point.frames_per_s, point.hit_rate) == (100, 20.0, 1.0)


def test_the_series_is_the_same_object_until_a_whole_slice_changes() -> None:
    slices = Slices(5, 6)
    slices.at(1_000, 1_000).answered(True, None, None)
    before = slices.series(6_000)
    slices.at(6_500, 6_500).answered(True, None, None)
    assert slices.series(7_000) is before
    slices.at(2_000, 7_000).answered(True, None, None)
    assert slices.series(7_000).points[0].frames == 2
    assert len(slices.series(10_000).points) == 2


@repeatable
@given(st.lists(st.floats(0.1, 1e8), min_size=1, max_size=100), st.floats(0.01, 1.0))
def test_a_quantile_is_right_to_five_percent(values: list[float], share: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    rank = max(1, -(-round(share * len(values) * 1e9) // 10**9))
    exact = sorted(values)[min(rank, len(values)) - 1]
    assert latencies.quantile(share) == pytest.approx(exact, rel=0.051)


def test_latencies_without_sense_are_taken_as_the_nearest_that_has() -> None:
    latencies = Latencies()
    for value in (-5.0, 0.0, 1e30):
        latencies.add(value)
    assert latencies.quantile(0.5) == pytest.approx(0.1, rel=0.06)
    assert (latencies.quantile(1.0) or 0) < 2e9
    assert Latencies().quantile(0.5) is None
