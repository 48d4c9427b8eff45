"""Exits that leave their budget are closed by the worker that serves them, and stay closed."""

from dataclasses import replace

import msgspec
import pytest

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.store.head_store import Live
from layercache.schemas.settings import Promise
from layercache.stream.worker.answering.exit_guard import Audited, ExitGuard
from layercache.stream.worker.answering.heads_watch import HeadWatch
from tests.stream.builders import heads, micro_batch
from tests.stream.worker.answering.stores import StoreInMemory


def serve(watch: HeadWatch, guard: ExitGuard, count: int, first: int) -> int:
    """Answers frames as the worker does; returns how many audits disagreed."""
    engine = guard.choose(watch.serving)
    batch = micro_batch(count, engine.audit_rate, first)
    return int(guard.watch(batch.answer(engine)).disagreed.sum())


def test_the_guard_closes_exits_that_leave_their_budget_until_another_version(
    watch: HeadWatch, store: StoreInMemory, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    store.publish(heads(traced, "v1", label="blue", audit_rate=0.5))
    watch.look()
    guard = ExitGuard(confidence=0.95, block_s=0.001, block_frames=1)
    assert guard.choose(watch.serving).exits
    assert serve(watch, guard, 60, first=0) > 10  # two frames of three are not blue
    assert guard.closed
    assert guard.choose(watch.serving) is watch.serving.closed
    assert "heads v1 exceed their budget of 0.0100" in caplog.text
    answered = micro_batch(60, 0.5, first=60).answer(watch.serving.closed)
    assert (answered.answers.exits == -1).all()
    assert guard.watch(answered).disagreed.sum() > 10  # what the exits would have said is known, for the trainer
    assert guard.closed
    store.publish(heads(traced, "v2", audit_rate=0.5))
    watch.look()
    assert guard.choose(watch.serving).exits
    assert not guard.closed


def test_audits_know_the_full_models_class(watch: HeadWatch, store: StoreInMemory, traced: TracedModel) -> None:
    store.publish(heads(traced, "v1", label="blue", audit_rate=0.5))
    watch.look()
    batch = micro_batch(60, audit_rate=0.5)
    found = Audited.of(batch.answer(watch.serving.engine))
    assert found.rows.tolist() == batch.audits.nonzero()[0].tolist()
    assert found.labels.tolist() == [row % 3 for row in found.rows.tolist()]  # red, green and blue in turn
    assert found.disagreed.tolist() == [label != 2 for label in found.labels.tolist()]  # all but the blue ones


def test_near_copies_of_one_camera_count_once(watch: HeadWatch, store: StoreInMemory, traced: TracedModel) -> None:
    store.publish(heads(traced, "v1", label="blue", audit_rate=0.5))
    watch.look()
    guard = ExitGuard(confidence=0.95, block_s=10, block_frames=1)
    assert serve(watch, guard, 60, first=0) > 10
    assert not guard.closed


def test_near_copies_count_together_as_the_certificate_says_not_as_this_worker_is_set(
    watch: HeadWatch, store: StoreInMemory, traced: TracedModel
) -> None:
    manifest, tensors = heads(traced, "v1", label="blue", audit_rate=0.5)
    assert manifest.certificate is not None
    certificate = msgspec.structs.replace(manifest.certificate, block_s=0.001, block_frames=1)
    store.publish((msgspec.structs.replace(manifest, certificate=certificate), tensors))
    watch.look()
    guard = ExitGuard(confidence=0.95, block_s=10, block_frames=30)
    serve(watch, guard, 60, first=0)
    assert guard.closed


def test_taking_up_the_same_version_again_does_not_open_what_an_alarm_closed(
    watch: HeadWatch, store: StoreInMemory, traced: TracedModel
) -> None:
    store.publish(heads(traced, "v1", label="blue", audit_rate=0.5))
    watch.look()
    guard = ExitGuard(confidence=0.95, block_s=0.001, block_frames=1)
    serve(watch, guard, 60, first=0)
    again = replace(watch.serving)
    assert guard.choose(again) is again.closed


def test_what_alarms_closed_stays_closed_whichever_version_is_rolled_back_to(
    watch: HeadWatch, store: StoreInMemory, traced: TracedModel
) -> None:
    guard = ExitGuard(confidence=0.95, block_s=0.001, block_frames=1)
    for number, version in enumerate(("v1", "v2")):
        store.publish(heads(traced, version, label="blue", audit_rate=0.5))
        watch.look()
        serve(watch, guard, 60, first=60 * number)
        assert guard.closed
    for version in ("v1", "v2"):
        store.state = Live(version, closed=False, pinned=True)
        watch.look()
        assert guard.choose(watch.serving) is watch.serving.closed


def test_in_shadow_mode_the_alarm_is_but_said(
    store: StoreInMemory, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    watch = HeadWatch(store, traced, "shadow", 4, Promise())
    store.publish(heads(traced, "v1", label="blue", audit_rate=0.5))
    watch.look()
    guard = ExitGuard(confidence=0.95, block_s=0.001, block_frames=1)
    serve(watch, guard, 60, first=0)
    assert "heads v1 exceed their budget" in caplog.text
    assert guard.choose(watch.serving).exits == (traced.proposed[0].name,)


def test_the_guard_counts_a_frame_that_is_read_again_once(
    watch: HeadWatch, store: StoreInMemory, traced: TracedModel
) -> None:
    store.publish(heads(traced, "v1", label="blue", audit_rate=1.0))
    watch.look()
    guard = ExitGuard(confidence=0.95, block_s=0.001, block_frames=1)
    guard.choose(watch.serving)
    for _ in range(50):
        serve(watch, guard, 1, first=0)  # a red frame, again and again
    assert not guard.closed
    serve(watch, guard, 2, first=3)  # a red one and a green one
    assert guard.closed
