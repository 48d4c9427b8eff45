"""Misses are held back while something is behind; audits never are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.policy import draw_audits
from layercache.schemas import distillation
from layercache.schemas.distillation import DistillationBatch
from layercache.stream.worker.answering.micro_batch import MicroBatch
from layercache.stream.worker.answering.records import DistillationWriter
from layercache.stream.worker.answering.sampling import FLOOR, KeptShare, Sampler, Waiting, draw
from layercache.stream.worker.answering.trainer_lag import TrainerWatch
from layercache.stream.worker.metrics import Metrics
from tests.stream.builders import engine, micro_batch


class Nobody:
    """Offsets that nobody asks for."""

    def committed(self) -> dict[int, int]:
        raise AssertionError

    def earliest(self) -> dict[int, int]:
        raise AssertionError

    def since(self, timestamp_ms: int) -> dict[int, int | None]:
        raise AssertionError


@pytest.fixture
def watch() -> TrainerWatch:
    """One that has not looked yet."""
    return TrainerWatch(Nobody(), 60.0)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(32)


@pytest.fixture
def sampler(metrics: Metrics, watch: TrainerWatch) -> Sampler:
    """Of a worker whose clock starts at 0."""
    return Sampler(metrics, watch, now=0.0)


def found(watch: TrainerWatch, is_behind: bool) -> None:
    """Lets the watch have looked once more."""
    watch.is_behind = is_behind
    watch.looks += 1


def taught(sampler: Sampler, batch: MicroBatch, by: Engine) -> DistillationBatch | None:
    """The one record that a worker would send of a batch."""
    answered = batch.answer(by)
    kept = sampler.keeps(answered)
    records = list(DistillationWriter("f00d", "me", 10**8).write(answered, kept, sampler.share))
    assert len(records) <= 1
    return distillation.decode(records[0]) if records else None


@given(st.lists(st.booleans(), max_size=200))
def test_a_share_stays_within_its_bounds_and_comes_back(behind: list[bool]) -> None:
    kept = KeptShare()
    for is_behind in behind:
        before = kept.value
        after = kept.adjust(is_behind)
        assert FLOOR <= after <= 1.0
        assert after < before or before == FLOOR if is_behind else after > before or before == 1.0
    assert [kept.adjust(False) for _ in range(20)][-1] == 1.0


def test_one_who_stays_behind_is_at_the_floor_within_six_looks() -> None:
    kept = KeptShare()
    assert [kept.adjust(True) for _ in range(6)] == [0.5, 0.25, 0.125, 0.0625, 0.03125, FLOOR]


def test_a_broker_that_is_merely_far_away_is_not_behind() -> None:
    waiting = Waiting(now=0.0)
    for _ in range(3):
        waiting.committed(0.08)
    assert waiting.share(now=1.0) == 0.0


def test_commits_that_always_take_long_count_beyond_what_plain_ones_may_take() -> None:
    waiting = Waiting(now=0.0)
    for _ in range(2):
        waiting.committed(0.4)
    assert waiting.share(now=1.0) == pytest.approx(0.6)


def test_what_commits_take_by_themselves_is_learnt_anew_after_a_few_hundred() -> None:
    waiting = Waiting(now=0.0)
    waiting.committed(0.001)
    for _ in range(200):
        waiting.committed(0.05)
    assert waiting.share(now=100.0) == pytest.approx(200 * 0.049 / 100)
    for _ in range(200):
        waiting.committed(0.05)
    assert waiting.share(now=200.0) == 0.0


def test_a_full_queue_counts() -> None:
    waiting = Waiting(now=10.0)
    waiting.for_room(0.3)
    assert waiting.share(now=11.0) == pytest.approx(0.3)
    assert waiting.share(now=12.0) == 0.0


def test_all_misses_are_sent_while_all_keep_up(sampler: Sampler, traced: TracedModel) -> None:
    sampler.adjust(now=1.0)
    record = taught(sampler, micro_batch(60, audit_rate=0.2), engine(traced, threshold=1.1, audit_rate=0.2))
    assert record is not None
    assert len(record) == 60
    assert record.header.miss_share == 1.0


def test_a_trainer_that_is_behind_gets_all_audits_and_few_misses(
    sampler: Sampler, watch: TrainerWatch, traced: TracedModel, metrics: Metrics
) -> None:
    for second in range(1, 4):
        found(watch, is_behind=True)
        sampler.adjust(now=float(second))
    assert sampler.share == 0.125
    batch = micro_batch(600, audit_rate=0.2)
    record = taught(sampler, batch, engine(traced, threshold=1.1, audit_rate=0.2))
    assert record is not None
    audits = record.audit == 1
    assert record.offset[audits].tolist() == np.flatnonzero(batch.audits).tolist()
    misses, sent = int((~batch.audits).sum()), int((~audits).sum())
    assert 0.06 * misses < sent < 0.19 * misses
    assert record.header.miss_share == 0.125
    held_back = metrics.registry.get_sample_value("layercache_distillation_held_back_total", {"why": "trainer"})
    assert held_back == misses - sent
    assert metrics.registry.get_sample_value("layercache_distillation_share") == 0.125


def test_a_look_counts_once_however_often_the_worker_turns(sampler: Sampler, watch: TrainerWatch) -> None:
    found(watch, is_behind=True)
    for second in range(1, 5):
        sampler.adjust(now=float(second))
    assert sampler.share == 0.5


def test_a_broker_that_makes_the_worker_wait_halves_the_share_each_second(
    sampler: Sampler, watch: TrainerWatch, traced: TracedModel, metrics: Metrics
) -> None:
    found(watch, is_behind=False)
    for second in (1.0, 2.0):
        sampler.waiting.committed(0.01)
        sampler.waiting.committed(0.8)
        sampler.adjust(now=second)
    assert sampler.share == 0.25
    sampler.adjust(now=2.5)
    assert sampler.share == 0.25
    taught(sampler, micro_batch(60, audit_rate=0.0), engine(traced, threshold=1.1))
    assert metrics.registry.get_sample_value("layercache_distillation_held_back_total", {"why": "producer"}) > 0  # type: ignore[operator]
    for second in range(3, 18):
        sampler.adjust(now=float(second))
    assert sampler.share == 1.0


def test_without_exits_the_audit_rate_falls_and_what_is_drawn_is_sent(
    sampler: Sampler, watch: TrainerWatch, traced: TracedModel
) -> None:
    full = Engine(traced)
    assert sampler.audit_rate(full) == 1.0
    found(watch, is_behind=True)
    sampler.adjust(now=1.0)
    assert sampler.audit_rate(full) == 0.5
    batch = micro_batch(400, sampler.audit_rate(full))
    record = taught(sampler, batch, full)
    assert record is not None
    assert 140 < batch.audits.sum() < 260
    assert record.offset[record.audit == 1].tolist() == np.flatnonzero(batch.audits).tolist()
    assert record.header.audit_rate == 0.5


def test_with_exits_the_audit_rate_is_the_versions(sampler: Sampler, watch: TrainerWatch, traced: TracedModel) -> None:
    found(watch, is_behind=True)
    sampler.adjust(now=1.0)
    assert sampler.audit_rate(engine(traced, audit_rate=0.3)) == 0.3
    assert sampler.audit_rate(engine(traced, "shadow", audit_rate=0.3)) == 0.3


def test_who_teaches_says_nothing_about_who_is_audited() -> None:
    partitions, offsets = np.zeros(100_000, np.int32), np.arange(100_000)
    kept = draw("frames", partitions, offsets, 0.3)
    audits = draw_audits("frames", partitions, offsets, 0.3)
    # Four standard deviations of a share of 30,000 draws.
    assert abs(kept[audits].mean() - 0.3) < 4 * (0.21 / 30_000) ** 0.5
    assert draw("frames", partitions, offsets, 1.0).all()
    assert kept[draw("frames", partitions, offsets, 0.1)].all()
