"""Exits open wider for a worker that is behind: where that was certified for what it allows, and while audits agree."""

import msgspec
import pytest

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.store.head_store import Live
from layercache.schemas.distillation import decode
from layercache.schemas.settings import Promise
from layercache.stream.worker.answering.exit_guard import ExitGuard
from layercache.stream.worker.answering.heads_watch import HeadWatch
from layercache.stream.worker.answering.records import DistillationWriter
from tests.stream.builders import heads, micro_batch
from tests.stream.worker.answering.stores import StoreInMemory
from tests.support.manifests import certified, overload
from tests.support.tiny_model import CLASSES

ALLOWED = Promise(overload_max_disagreement=0.03)
NEVER, ALWAYS = 1.1, 0.0


def publish(
    store: StoreInMemory, traced: TracedModel, version: str = "v1", threshold: float = NEVER, bolder: float = ALWAYS
) -> None:
    """A version whose exit answers blue to all frames at ``bolder``, of which two in three are not.

    Its everyday exits are certified for all that any worker here promises.
    """
    manifest, tensors = heads(traced, version, label="blue", audit_rate=0.5, threshold=threshold)
    strict = msgspec.structs.replace(certified(), confidence=0.99, max_class_disagreement=0.05)
    store.publish((msgspec.structs.replace(manifest, certificate=strict, overload=overload((bolder,), 0.03)), tensors))


def watching(store: StoreInMemory, traced: TracedModel, promise: Promise = ALLOWED, mode: str = "serve") -> HeadWatch:
    watch = HeadWatch(store, traced, "shadow" if mode == "shadow" else "serve", 4, promise)
    assert watch.look()
    return watch


def serve(watch: HeadWatch, guard: ExitGuard, count: int, first: int, behind: bool) -> tuple[str, float | None, int]:
    """Answers frames as the worker does; returns the budget, its value, and how many frames left."""
    engine = guard.choose(watch.serving, behind)
    answered = micro_batch(count, engine.audit_rate, first).answer(engine)
    guard.watch(answered)
    return engine.budget, engine.max_disagreement, int((answered.answers.exits >= 0).sum())


def test_only_a_worker_that_is_behind_opens_its_exits_wider(store: StoreInMemory, traced: TracedModel) -> None:
    publish(store, traced)
    watch, guard = watching(store, traced), ExitGuard(confidence=0.95, block_s=10, block_frames=1)
    assert serve(watch, guard, 30, first=0, behind=False) == ("normal", 0.01, 0)
    budget, most, left = serve(watch, guard, 30, first=30, behind=True)
    assert (budget, most) == ("overload", 0.03)
    assert 5 < left < 25  # all but the audits
    assert serve(watch, guard, 30, first=60, behind=False) == ("normal", 0.01, 0)


@pytest.mark.parametrize(
    "promise",
    [
        Promise(),
        Promise(overload_max_disagreement=0.02),
        Promise(overload_max_disagreement=0.03, confidence=0.99),
        Promise(overload_max_disagreement=0.03, max_class_disagreement=0.1),
    ],
)
def test_less_than_the_certified_budget_is_not_enough(
    store: StoreInMemory, traced: TracedModel, promise: Promise
) -> None:
    publish(store, traced)
    watch, guard = watching(store, traced, promise), ExitGuard(confidence=0.95, block_s=10, block_frames=1)
    assert watch.serving.overload is None
    assert serve(watch, guard, 30, first=0, behind=True) == ("normal", 0.01, 0)


def test_neither_in_shadow_mode_nor_with_exits_kept_closed(store: StoreInMemory, traced: TracedModel) -> None:
    publish(store, traced)
    assert watching(store, traced, mode="shadow").serving.overload is None
    store.state = Live(None, closed=True, pinned=True)
    assert watching(store, traced).serving.overload is None


def test_overload_that_leaves_its_budget_is_dropped_and_every_days_exits_stay(
    store: StoreInMemory, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, traced)
    watch, guard = watching(store, traced), ExitGuard(confidence=0.95, block_s=0.001, block_frames=1)
    # Its audits tell although the worker was never behind.
    serve(watch, guard, 60, first=0, behind=False)
    assert guard.overload_closed
    assert not guard.closed
    assert "heads v1 exceed their budget of 0.0300" in caplog.text
    assert "exits open no wider" in caplog.text
    assert serve(watch, guard, 30, first=60, behind=True)[0] == "normal"
    again = watching(store, traced)  # the same version, taken up anew
    assert guard.choose(again.serving, behind=True) is again.serving.engine
    publish(store, traced, "v2")
    watch.look()
    assert guard.choose(watch.serving, behind=True) is watch.serving.overload


def test_overload_that_alarms_closed_stays_closed_whichever_version_is_rolled_back_to(
    store: StoreInMemory, traced: TracedModel
) -> None:
    guard = ExitGuard(confidence=0.95, block_s=0.001, block_frames=1)
    for number, version in enumerate(("v1", "v2")):
        publish(store, traced, version)
        serve(watching(store, traced), guard, 60, first=60 * number, behind=False)
        assert guard.overload_closed
    for version in ("v1", "v2"):
        store.state = Live(version, closed=False, pinned=True)
        serving = watching(store, traced).serving
        assert guard.choose(serving, behind=True) is serving.engine


def test_every_days_alarm_closes_both(store: StoreInMemory, traced: TracedModel) -> None:
    publish(store, traced, threshold=ALWAYS, bolder=NEVER)
    watch, guard = watching(store, traced), ExitGuard(confidence=0.95, block_s=0.001, block_frames=1)
    serve(watch, guard, 60, first=0, behind=True)
    assert guard.closed
    assert not guard.overload_closed
    assert guard.choose(watch.serving, behind=True) is watch.serving.closed


@pytest.mark.parametrize("behind", [False, True])
def test_records_tell_what_either_setting_would_have_answered(
    store: StoreInMemory, traced: TracedModel, behind: bool
) -> None:
    publish(store, traced)
    engine = ExitGuard(confidence=0.95, block_s=10, block_frames=1).choose(watching(store, traced).serving, behind)
    answered = micro_batch(60, 0.5).answer(engine)
    (record,) = map(decode, DistillationWriter("f00d", "me", 10**7).write(answered))
    audits = record.audit == 1
    assert audits.all() == behind  # on other days all frames run the full path, and misses teach as well
    assert (record.live_label == record.logits.argmax(1))[audits].all()
    assert record.overload_label is not None
    assert set(record.overload_label[audits].tolist()) == {CLASSES.index("blue")}


def test_thresholds_that_do_not_fit_the_exits_are_refused(
    store: StoreInMemory, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    for wrong in ((), (0.5, 0.5), (float("nan"),)):
        manifest, tensors = heads(traced, "v1")
        store.publish((msgspec.structs.replace(manifest, overload=overload(wrong)), tensors))
        assert not HeadWatch(store, traced, "serve", 4, ALLOWED).look()
        assert "do not fit the exits" in caplog.text
        caplog.clear()
