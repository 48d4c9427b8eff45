"""Exits are judged by the expected time of a micro-batch that shrinks, by the times measured here."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.choosing import ExitChoice, ScoredCandidate
from layercache.cache_training.certifying.threshold_family import Leaving, with_one_doubt
from layercache.cache_training.learning.batch_times import BatchTimes
from layercache.cache_training.learning.candidates import Candidate, Costs
from layercache.cache_training.learning.learner import Learner
from layercache.cache_training.learning.routes import Route
from layercache.early_exit.cutting.costs import TimeTable, expected_ms
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.manifest import HeadSpec
from tests.cache_training.streams import answered, pictures
from tests.cache_training.trainers import new_trainer

TABLE = TimeTable(
    {
        "to a": {1: 2.0, 4: 5.0, 32: 33.0},
        "to b": {1: 1.0, 4: 3.0, 32: 20.0},
        "to the end": {1: 4.0, 4: 7.0, 32: 40.0},
        "head 1": {1: 0.5, 32: 1.5},
        "head 2": {1: 0.25, 32: 2.5},
    }
)


def exit_at(cut: str, name: str) -> Candidate:
    return Candidate(name, cut, HeadSpec(family="pooled", features=(4,), classes=2), Costs(0.01, 0.01), seed=0)


@pytest.mark.parametrize("batch", [1, 2, 8, 32, 64])
def test_shares_are_expected_times_of_every_piece_that_is_run(batch: int) -> None:
    leaving = np.random.default_rng(0).dirichlet([0.4, 0.4, 0.4], 200)
    found = BatchTimes(TABLE, batch).share([exit_at("a", "1"), exit_at("b", "2")], leaving)
    plain = expected_ms(TABLE, {"to a": 1.0, "to b": 1.0, "to the end": 1.0}, batch)
    for share, (first, second, _) in zip(found, leaving, strict=True):
        at_b, at_end = 1 - first, max(0.0, 1 - first - second)
        reached = {"to a": 1.0, "head 1": 1.0, "to b": at_b, "head 2": at_b, "to the end": at_end}
        assert share == pytest.approx(expected_ms(TABLE, reached, batch) / plain, abs=5e-4)


def test_a_cut_without_an_exit_is_passed_by_all_that_are_left() -> None:
    late = BatchTimes(TABLE, 8).share([exit_at("b", "2")], np.array([0.0, 1.0]))
    eight = {piece: float(TABLE.ms(piece, [8])[0]) for piece in TABLE.pieces}
    whole = eight["to a"] + eight["to b"] + eight["to the end"]
    assert late == pytest.approx((whole + eight["head 2"]) / whole)
    assert BatchTimes(TABLE, 8).share([], np.array([1.0])) == pytest.approx(1.0)
    with pytest.raises(KeyError, match="to c"):
        BatchTimes(TABLE, 8).share([exit_at("c", "2")], np.array([0.0, 1.0]))


def test_the_largest_batch_that_workers_report_counts_and_no_absurd_one() -> None:
    times = BatchTimes(TABLE, 32)
    times.take_worker_times({})
    assert times.batch == 32
    for largest, judged_by in ((2, 2), (8, 8), (4, 8), (10**12, 256)):
        times.take_worker_times({"to a": {1: 1.0, largest: 2.0}})
        assert times.batch == judged_by
    half = np.array([0.5, 0.5])
    one = [exit_at("a", "1")]
    assert times.share(one, half) == BatchTimes(TABLE, 256).share(one, half)


def test_past_a_compiled_path_the_whole_model_is_run() -> None:
    path = TimeTable({"to int8": {8: 2.0}, "to the end": {1: 4.0, 8: 8.0}})
    plain = TimeTable({"to a": {8: 2.0}, "to the end": {8: 6.0}})
    times, end = BatchTimes(path, 8, plain), [exit_at("int8", "int8")]
    assert times.share(end, np.array([1.0, 0.0])) == pytest.approx(0.25)
    assert times.share(end, np.array([0.0, 1.0])) == pytest.approx(1.25)
    half = expected_ms(path, {"to the end": 0.5}, 8)
    assert times.share(end, np.array([0.5, 0.5])) == pytest.approx(0.25 + half / 8, abs=1e-3)


def test_a_version_expects_the_time_of_micro_batches_where_they_were_measured() -> None:
    nothing = np.zeros(10)
    one = ScoredCandidate(exit_at("a", "1"), 1.0, nothing.astype(np.float32), nothing.astype(np.bool_))
    exits = np.array([0] * 9 + [-1], np.int32)
    costs = {"a": Costs(0.3, 0.3)}
    family = with_one_doubt([Leaving.of(one.scores, one.wrong)], lambda left: left[:, 1])
    flat, shrunk = (
        versions.expected_savings(ExitChoice(Route(costs, times), (one,), family, target=0), exits)
        for times in (None, BatchTimes(TABLE, 8))
    )
    assert flat.time_saved == pytest.approx(1 - (0.9 * 0.31 + 0.1 * 1.01))
    assert shrunk == msgspec.structs.replace(flat, time_saved=shrunk.time_saved)
    reached = {"to a": 1.0, "head 1": 1.0, "to b": 0.1, "to the end": 0.1}
    plain = expected_ms(TABLE, {"to a": 1.0, "to b": 1.0, "to the end": 1.0}, 8)
    assert shrunk.time_saved == pytest.approx(1 - expected_ms(TABLE, reached, 8) / plain, abs=5e-4)


def test_a_learner_measures_its_model_with_every_candidate(model: TracedModel) -> None:
    cuts = [cut.name for cut in model.proposed]
    learner = Learner(model, cuts, ring_mb=4, seed=0)
    nowhere, here = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    for candidate in learner.candidates:
        passed, left = (float(learner.times.share([candidate], gone)) for gone in (nowhere, here))
        assert passed > 1  # a head that lets nobody go is paid for nothing
        assert 0 < left < passed
        flat = learner.route.reach[candidate.cut].time + candidate.costs.time
        assert passed - left == pytest.approx(1 + candidate.costs.time - flat, abs=0.05)  # both of batches of 32
    assert learner.times.batch == 32


def test_a_trainer_judges_by_the_batches_of_its_workers(model: TracedModel, tmp_path: Path) -> None:
    trainer = new_trainer(model, HeadStore(f"file://{tmp_path}", "tiny"))
    record = answered(Engine(model), pictures(10, seed=0), 0)
    times = {"to the end": {1: 1.0, 10: 4.0}}
    assert trainer.ingest(replace(record, header=msgspec.structs.replace(record.header, segment_ms=times)))
    assert trainer.learner.times.batch == 10
