"""The trainer without Kafka: it learns, certifies, publishes, closes what is unsafe, and survives restarts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from layercache.cache_training.service.state import Checkpoints
from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.store.head_store import HeadStore, StoreError
from layercache.schemas.settings import Promise
from tests.cache_training.streams import answered, pictures, traced
from tests.cache_training.trainers import BUDGET, SETTINGS, feed, new_trainer, train_until_published

pytestmark = pytest.mark.usefixtures("steady_times")


def test_it_opens_exits_that_keep_the_promise_on_frames_never_seen(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 1500)
    train_until_published(trainer)
    manifest, tensors = store.load(store.latest() or "")
    assert manifest.reason == "first"
    assert manifest.certificate is not None
    assert manifest.certificate.p_value <= manifest.certificate.error == pytest.approx(0.025)
    assert manifest.certificate.upper_bound <= BUDGET
    engine = Engine(model, load_heads(manifest, tensors, model))
    fresh = pictures(2000, seed=10**6)
    answers = engine.run(fresh, np.zeros(2000, np.bool_))
    full = Engine(model).run(fresh, np.ones(2000, np.bool_))
    assert (answers.exits >= 0).mean() > 0.2
    assert (answers.labels != full.labels).mean() <= BUDGET


def test_nothing_opens_before_there_are_enough_audits(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 100)
    for _ in range(10):
        trainer.work(0.1)
    assert store.latest() is None
    assert store.attempts() == 0


def test_another_models_records_are_left_alone(model: TracedModel, store: HeadStore, tmp_path: Path) -> None:
    from tests.support import tiny_model as tiny

    trainer = new_trainer(model, store)
    other = traced(tiny.write(tmp_path / "other", seed=5))
    assert not trainer.ingest(answered(Engine(other), pictures(50, 0), 0))
    assert trainer.progress().audits == 0


def test_a_record_read_twice_counts_once(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    for _ in range(2):
        feed(trainer, Engine(model), 200)
    assert trainer.progress().audits == 200
    assert trainer.intake.repeated == 200


def test_an_attempt_is_claimed_and_its_frames_are_used_up_before_anyone_looks(
    model: TracedModel, store: HeadStore
) -> None:
    class Killed(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def killed() -> None:
        seen.append((store.attempts(), len(trainer.windows.certification)))
        raise Killed

    trainer = new_trainer(model, store, make_durable=killed)
    feed(trainer, Engine(model), 1500)
    with pytest.raises(Killed):
        train_until_published(trainer)
    assert seen == [(1, 0)]
    assert store.latest() is None


def test_it_closes_every_exit_when_the_live_version_leaves_its_budget(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 1500)
    train_until_published(trainer)
    manifest, tensors = store.load(store.latest() or "")
    engine = Engine(model, load_heads(manifest, tensors, model))
    feed(trainer, engine, 500, first_offset=10_000)
    assert store.latest() == manifest.version
    feed(trainer, engine, 500, first_offset=20_000, wrong_share=0.5)
    closed, _ = store.load(store.latest() or "")
    assert closed.reason == "unsafe"
    assert closed.exits == ()
    assert closed.audit_rate == 1.0
    assert closed.predecessor == manifest.version
    assert trainer.progress().tuning == 0
    trainer.work(0.0)  # nothing to learn from yet
    feed(trainer, Engine(model), 500, first_offset=30_000)
    trainer.work(0.2)
    assert trainer.progress().tuning > 0


def test_what_is_unsafe_is_made_durable_before_it_is_closed(model: TracedModel, store: HeadStore) -> None:
    windows: list[int] = []
    trainer: OnlineTrainer = new_trainer(model, store, make_durable=lambda: windows.append(len(trainer.windows.tuning)))
    feed(trainer, Engine(model), 1500)
    train_until_published(trainer)
    before = trainer.snapshot()
    manifest, tensors = store.load(store.latest() or "")
    feed(trainer, Engine(model, load_heads(manifest, tensors, model)), 500, first_offset=20_000, wrong_share=0.5)
    assert windows[-1] == 0
    # Killed before that checkpoint, a restart finds the store ahead of it and lets the old stream go.
    again = new_trainer(model, store)
    again.restore(*before)
    assert all(len(window) == 0 for window in again.windows.all().values())


def test_a_version_certified_for_less_than_is_promised_now_is_closed(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 1500)
    train_until_published(trainer)
    saved = trainer.snapshot()
    stricter = OnlineTrainer(model, store, Promise(max_disagreement=0.01), SETTINGS)
    closed, _ = store.load(store.latest() or "")
    assert closed.reason == "unsafe"
    assert closed.exits == ()
    stricter.restore(*saved)  # whose drift test watched another budget


def test_records_of_another_shape_are_left_alone(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    batch = answered(Engine(model), pictures(10, 0), 0)
    assert not trainer.ingest(replace(batch, inputs=batch.inputs[:, :, :8]))
    assert not trainer.ingest(replace(batch, logits=batch.logits[:, :2]))
    assert trainer.ingest(batch)


def test_a_store_that_cannot_be_written_delays_a_version_but_does_not_lose_it(
    model: TracedModel, store: HeadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 1500)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StoreError("no space left on device")

        patch.setattr(store, "publish", full)
        with pytest.raises(StoreError):
            train_until_published(trainer)
    assert store.latest() is None
    trainer.work(0.0)
    assert store.latest() is not None
    assert store.attempts() == 1


def test_a_restart_goes_on_where_it_was(model: TracedModel, store: HeadStore, tmp_path: Path) -> None:
    first = new_trainer(model, store)
    feed(first, Engine(model), 600)
    for _ in range(3):
        first.work(0.2)
    checkpoints = Checkpoints(tmp_path / "state")
    checkpoints.save(*first.snapshot())
    second = new_trainer(model, store)
    saved = Checkpoints(tmp_path / "state").load()
    assert saved is not None
    second.restore(*saved)
    assert second.progress().audits == 600
    assert second.intake.lineage == first.intake.lineage  # so that it may spend what attempts of the first passed on
    for name, window in first.windows.all().items():
        mine, theirs = window.frames(), second.windows.all()[name].frames()
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert sorted(mine.position.tolist()) == sorted(theirs.position.tolist())
    for before, after in zip(first.learner.candidates, second.learner.candidates, strict=True):
        assert after.steps == before.steps > 0
        maps = torch.rand(4, *before.spec.features)
        assert torch.equal(before.logits(maps), after.logits(maps))
    feed(second, Engine(model), 600)
    assert second.intake.repeated == 600
    second.work(0.2)
    assert second.progress().tuning == first.progress().tuning


def test_a_small_ring_chooses_coarsely_and_says_so_instead_of_never(
    model: TracedModel, store: HeadStore, caplog: pytest.LogCaptureFixture
) -> None:
    small = SETTINGS.model_copy(update={"ring_mb": 1})
    trainer = OnlineTrainer(model, store, Promise(max_disagreement=BUDGET), small)
    assert trainer.learner.tuning.capacity < 100
    assert "give the trainer more with trainer.ring_mb" in caplog.text
    feed(trainer, Engine(model), 1500)
    train_until_published(trainer)


def test_nothing_is_certified_for_workers_that_compute_otherwise(
    model: TracedModel, store: HeadStore, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 1500)
    trainer.learner.disagreeing_passes = 10
    for _ in range(5):
        trainer.work(0.2)
    assert store.attempts() == 0
    (line,) = [line for line in caplog.messages if "compute otherwise" in line]
    assert trainer.learner.compared_passes > 100
    assert f"different labels to 10 of {trainer.learner.compared_passes} frames" in line
    trainer.learner.disagreeing_passes = 1  # of so many, chance
    train_until_published(trainer)
