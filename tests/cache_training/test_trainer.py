"""The trainer without Kafka: it learns, certifies, publishes, closes what is unsafe, and survives restarts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_training.audits import LeakError
from cache_training.state import Checkpoints
from cache_training.tally import Count
from cache_training.trainer import OnlineTrainer
from early_exit.cuts import TracedModel
from early_exit.engine import Engine
from early_exit.heads import load_heads
from early_exit.store import HeadStore, StoreError
from schemas.distillation import DistillationBatch
from schemas.settings import Promise, Trainer
from tests.cache_training.streams import answered, pictures, traced
from tests.support.tiny_model import TinyModel

BUDGET = 0.05
SETTINGS = Trainer(replay_mb=64, ring_mb=64)


@pytest.fixture
def model(tiny_model: TinyModel) -> TracedModel:
    torch.set_num_threads(1)
    return traced(tiny_model)


@pytest.fixture
def store(tmp_path: Path) -> HeadStore:
    return HeadStore(f"file://{tmp_path / 'heads'}", "tiny")


def new_trainer(model: TracedModel, store: HeadStore, **more: object) -> OnlineTrainer:
    return OnlineTrainer(model, store, Promise(max_disagreement=BUDGET), SETTINGS, **more)  # type: ignore[arg-type]


def feed(trainer: OnlineTrainer, engine: Engine, n: int, first_offset: int = 0, wrong_share: float = 0.0) -> None:
    for start in range(first_offset, first_offset + n, 50):
        assert trainer.ingest(answered(engine, pictures(50, seed=start), start, wrong_share))


def keyed_record(model: TracedModel, keys: np.ndarray, audited: np.ndarray, first_offset: int) -> DistillationBatch:
    """One block of time of many cameras, some of whose frames are audits."""
    n = len(keys)
    batch = answered(Engine(model), pictures(n, seed=first_offset), first_offset)
    return replace(batch, key_hash=keys.astype(np.int64), audit=audited.astype(np.uint8))


def train_until_published(trainer: OnlineTrainer, rounds: int = 60) -> None:
    for _ in range(rounds):
        trainer.work(0.2)
        if trainer.live is not None:
            return
    raise AssertionError(f"nothing was certified: {trainer.progress()}")


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


def test_no_frame_certifies_that_was_learnt_or_tuned_on(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 1500)
    used: list[set[int]] = []
    certifying = trainer.windows.certification.frames()
    assert certifying is not None
    certifying_positions = set(certifying.position.tolist())
    sample = trainer.windows.learning.sample

    def spy(n: int) -> object:
        drawn = sample(n)
        if drawn is not None:
            used.append(set(drawn.position.tolist()))
        return drawn

    trainer.windows.learning.sample = spy  # type: ignore[assignment,method-assign]
    tuned = trainer.windows.tuning.frames()
    assert tuned is not None
    train_until_published(trainer)
    assert used
    assert not certifying_positions & set().union(*used, tuned.position.tolist())
    # What has certified never does so again.
    assert len(trainer.windows.certification) == 0
    feed(trainer, Engine(model), 1500)  # the same positions again
    assert len(trainer.windows.certification) == 0


@pytest.mark.parametrize("use", ["learning", "tuning", "misses"])
def test_an_attempt_on_frames_that_were_learnt_or_tuned_on_is_refused(
    model: TracedModel, store: HeadStore, use: str
) -> None:
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 1500)
    certifying = trainer.windows.certification.frames()
    assert certifying is not None
    trainer.windows.check_apart()
    trainer.windows.all()[use].add(certifying.rows(slice(7, 8)))  # what no dealing would ever do
    with pytest.raises(LeakError, match=f"1 of {len(certifying)} frames .* {use} window"):
        train_until_published(trainer)
    assert store.latest() is None


def test_what_has_certified_is_known_for_more_than_one_attempt(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    keys = np.repeat(np.arange(1, 201), 5)
    audited = np.ones(1000, np.bool_)
    trainer.ingest(keyed_record(model, keys, audited, first_offset=0))
    trainer.intake.use_up()
    trainer.ingest(keyed_record(model, keys + 200, audited, first_offset=1000))
    trainer.intake.use_up()
    trainer.ingest(keyed_record(model, keys, audited, first_offset=2000))  # the first block of time still goes on
    assert len(trainer.windows.certification) == 0
    again = new_trainer(model, store)
    again.restore(*trainer.snapshot())
    again.ingest(keyed_record(model, keys + 200, audited, first_offset=3000))
    assert len(again.windows.certification) == 0


def test_disagreement_is_reported_by_class_and_key(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 1500)
    train_until_published(trainer)
    manifest, tensors = store.load(store.latest() or "")
    assert manifest.certificate is not None
    assert sum(one.disagreements for one in manifest.certificate.worst_classes) == manifest.certificate.disagreements
    engine = Engine(model, load_heads(manifest, tensors, model))
    batch = answered(engine, pictures(200, seed=1), first_offset=50_000)
    labels = batch.logits.argmax(1)
    lost = (labels == 1) & (np.arange(200) % 4 == 0)
    live_label = np.where(lost, 2, labels).astype(np.int32)
    trainer.ingest(replace(batch, live_label=live_label, key_hash=np.where(lost, -5, 9).astype(np.int64)))
    at = trainer.progress()
    count = Count(1, int((labels == 1).sum()), int(lost.sum()))
    assert at.worst_classes == ((model.classifier.classes[1], count),)
    assert at.worst_keys == (Count(-5, int(lost.sum()), int(lost.sum())),)
    again = new_trainer(model, store)
    again.restore(*trainer.snapshot())
    assert again.progress().worst_classes == at.worst_classes


def test_every_class_is_held_to_its_cap(model: TracedModel, store: HeadStore) -> None:
    promise = Promise(max_disagreement=BUDGET, max_class_disagreement=0.2)
    trainer = OnlineTrainer(model, store, promise, SETTINGS)
    feed(trainer, Engine(model), 2500)
    train_until_published(trainer)
    manifest, _ = store.load(store.latest() or "")
    assert manifest.certificate is not None
    assert manifest.certificate.max_class_disagreement == 0.2
    assert manifest.certificate.classes_tested == 3
    assert (manifest.certificate.class_upper_bound or 1.0) <= 0.2
    # What was certified for less, or not by class at all, is closed when the promise is stricter.
    OnlineTrainer(model, store, promise.model_copy(update={"max_class_disagreement": 0.1}), SETTINGS)
    assert store.load(store.latest() or "")[0].reason == "unsafe"


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


def test_a_checkpoint_from_before_an_attempt_certifies_nothing_any_more(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 600)
    before = trainer.snapshot()
    store.claim_attempt()
    again = new_trainer(model, store)
    again.restore(*before)
    assert len(trainer.windows.certification) > 300
    assert len(again.windows.certification) == 0
    assert len(again.windows.learning) == len(trainer.windows.learning)


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


def test_near_copies_are_dealt_together_and_used_up_together(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    keys = np.repeat(np.arange(1, 201), 5)
    first = keyed_record(model, keys, audited=np.arange(1000) % 5 == 0, first_offset=0)
    trainer.ingest(first)
    certifying, misses = trainer.windows.certification.frames(), trainer.windows.misses.frames()
    assert certifying is not None
    assert misses is not None
    assert len(certifying) > 100
    assert not set(certifying.block.tolist()) & set(misses.block.tolist())
    trainer.intake.use_up()  # as an attempt does
    trainer.ingest(keyed_record(model, keys, audited=np.arange(1000) % 5 == 0, first_offset=5000))
    assert len(trainer.windows.certification) == 0


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
