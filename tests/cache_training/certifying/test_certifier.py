"""What certifies was never learnt or tuned on and never certifies again; what comes out is told by class and key."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.promise import scenarios as promise
from benchmarks.promise.runs import Simulated, live
from benchmarks.promise.simulated_heads import Flat, OneClass
from layercache.cache_training.certifying.audit_tally import DisagreementCount
from layercache.cache_training.certifying.windows import LeakError
from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.settings import Promise
from tests.cache_training.streams import answered, pictures
from tests.cache_training.trainers import BUDGET, SETTINGS, feed, keyed_record, new_trainer, train_until_published

pytestmark = pytest.mark.usefixtures("steady_times")


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


def test_what_has_certified_tunes_or_teaches_whole_blocks_of_it(model: TracedModel, store: HeadStore) -> None:
    trainer = new_trainer(model, store)
    trainer.ingest(keyed_record(model, np.repeat(np.arange(1, 301), 5), np.ones(1500, np.bool_), first_offset=0))
    windows = trainer.windows
    before = {name: len(window) for name, window in windows.all().items()}
    used = trainer.intake.use_up()
    tuning, learning = windows.tuning.frames(), windows.learning.frames()
    assert tuning is not None
    assert learning is not None
    tunes, teaches = (np.isin(used.block, frames.block) for frames in (tuning, learning))
    assert (tunes ^ teaches).all()
    assert 0.4 < tunes.mean() < 0.6
    assert len(tuning) + len(learning) == before["tuning"] + before["learning"] + len(used)


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
    count = DisagreementCount(1, int((labels == 1).sum()), int(lost.sum()))
    assert at.worst_classes == ((model.classifier.classes[1], count),)
    assert at.worst_keys == (DisagreementCount(-5, int(lost.sum()), int(lost.sum())),)
    again = new_trainer(model, store)
    again.restore(*trainer.snapshot())
    assert again.progress().worst_classes == at.worst_classes


def test_nothing_opens_on_audits_of_less_time_than_promised(
    model: TracedModel, store: HeadStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trainer = OnlineTrainer(model, store, Promise(max_disagreement=BUDGET, min_span_s=3_600), SETTINGS)
    engine = Engine(model)

    def ingest(first: int, frames: int, second: int) -> None:
        batch = answered(engine, pictures(frames, seed=first), first)
        trainer.ingest(replace(batch, timestamp_ms=np.full(frames, second * 1_000)))

    ingest(0, 1500, second=0)
    for _ in range(3):
        trainer.work(0.2)
    assert store.attempts() == 0
    assert "audits span 0 s so far, promise.min_span_s is 3600" in caplog.text
    ingest(2000, 50, second=3_600)
    train_until_published(trainer)
    assert trainer.live is not None
    assert trainer.live.certificate is not None
    assert trainer.live.certificate.span_s == 3_600


def test_every_class_is_held_to_its_cap(model: TracedModel, store: HeadStore) -> None:
    promised = Promise(max_disagreement=BUDGET, max_class_disagreement=0.2)
    trainer = OnlineTrainer(model, store, promised, SETTINGS)
    feed(trainer, Engine(model), 2500)
    train_until_published(trainer)
    manifest, _ = store.load(store.latest() or "")
    assert manifest.certificate is not None
    assert manifest.certificate.max_class_disagreement == 0.2
    assert manifest.certificate.classes_tested == 3
    assert (manifest.certificate.class_upper_bound or 1.0) <= 0.2
    # What was certified for less, or not by class at all, is closed when the promise is stricter.
    OnlineTrainer(model, store, promised.model_copy(update={"max_class_disagreement": 0.1}), SETTINGS)
    assert store.load(store.latest() or "")[0].reason == "unsafe"


def test_heads_that_are_lost_on_one_class_stay_closed_though_they_are_fine_overall() -> None:
    """They answer 2 % otherwise, of 5 % that may; all of these are a fifth of one class, of 10 % that may."""
    lost = replace(promise.ONE_CLASS, heads=lambda: OneClass(0.2, label=2), attempts=1)
    life = live(lost, seed=0)
    assert (life.attempts, life.published) == (1, 0)
    anywhere = replace(lost, promise=lost.promise.model_copy(update={"max_class_disagreement": None}))
    assert live(anywhere, seed=0).published > 0


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


def test_a_version_on_many_near_copies_asks_for_few_audits() -> None:
    """Of 60 frames that a camera sends in a block of time."""
    store = HeadStore("memory://audit-rates", "simulated")
    trainer = Simulated(replace(promise.VIDEOS, heads=lambda: Flat(0.0, honest=True)), seed=1, store=store)
    while trainer.published.live is None:
        trainer.step()
    assert trainer.published.live.exits
    certificate = trainer.published.live.certificate
    assert certificate is not None
    assert (certificate.block_s, certificate.block_frames) == (10.0, 60)
    assert 2 / 60 < trainer.published.live.audit_rate < 16 / 60
