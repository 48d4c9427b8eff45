"""Which heads are served: those that the store names, if they are this model's and whole; else those before."""

import logging
from typing import Literal

import msgspec
import pytest
import torch
from torch import Tensor

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.store.head_store import Live, SignatureError, StoreError
from layercache.schemas.distillation import decode
from layercache.schemas.manifest import Certificate
from layercache.schemas.settings import Promise
from layercache.stream.worker.answering.heads_watch import HeadWatch
from layercache.stream.worker.answering.records import DistillationWriter
from testbed.waiting import wait_until
from tests.stream.builders import heads, micro_batch
from tests.stream.worker.answering.stores import StoreInMemory
from tests.support.manifests import certified


def test_without_heads_the_full_path_is_served(watch: HeadWatch) -> None:
    assert watch.look()
    assert (watch.serving.version, watch.serving.engine.exits, watch.serving.engine.audit_rate) == (None, (), 1.0)


def test_new_heads_are_taken_up_warm(watch: HeadWatch, store: StoreInMemory, traced: TracedModel) -> None:
    store.publish(heads(traced, "v1", audit_rate=0.2))
    assert watch.look()
    serving = watch.serving
    assert (serving.version, serving.engine.exits, serving.engine.audit_rate) == ("v1", (traced.proposed[0].name,), 0.2)
    assert (serving.closed.version, serving.closed.mode, serving.closed.audit_rate) == ("v1", "shadow", 0.2)
    assert watch.look()
    assert watch.serving is serving  # nothing new: nothing is built


def test_an_operator_closes_and_reopens_all_exits(watch: HeadWatch, store: StoreInMemory, traced: TracedModel) -> None:
    store.publish(heads(traced, "v1", audit_rate=0.2))
    store.state = Live(None, closed=True, pinned=True)
    assert watch.look()
    assert (watch.serving.version, watch.serving.engine.exits, watch.serving.engine.audit_rate) == ("v1", (), 0.2)
    store.state = Live("v1", closed=False, pinned=False)
    assert watch.look()
    assert watch.serving.engine.exits == (traced.proposed[0].name,)


def test_heads_of_another_model_mean_the_full_path(
    watch: HeadWatch, store: StoreInMemory, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    store.publish(heads(traced, "v1"))
    watch.look()
    manifest, tensors = heads(traced, "v2")
    store.publish((msgspec.structs.replace(manifest, model="f00d" * 16), tensors))
    watch.look()
    assert watch.serving.version is None
    assert "heads v2 were trained for model f00df00df00d" in caplog.text
    assert "serving the full path" in caplog.text


def test_damaged_heads_leave_the_version_before(
    watch: HeadWatch, store: StoreInMemory, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    store.publish(heads(traced, "v1"))
    watch.look()
    manifest, tensors = heads(traced, "v2")
    damaged: list[dict[str, Tensor]] = [
        {},
        {name: torch.full_like(value, torch.nan) for name, value in tensors.items() if value.is_floating_point()},
        {name: value[..., :1] if value.ndim else value for name, value in tensors.items()},
    ]
    for broken in damaged:
        store.publish((manifest, broken))
        assert not watch.look()
        assert watch.serving.version == "v1"
    assert "still serving heads v1" in caplog.text
    store.publish((manifest, tensors))
    assert watch.look()
    assert watch.serving.version == "v2"


def test_heads_without_a_right_signature_mean_the_full_path_until_there_are_others(
    store: StoreInMemory, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    refused: list[int] = []
    watch = HeadWatch(store, traced, "serve", 4, Promise(), on_refused=lambda: refused.append(1))
    store.publish(heads(traced, "v1"))
    watch.look()
    store.error = SignatureError("v2 is not signed")
    assert [watch.look() for _ in range(3)] == [False] * 3
    assert watch.serving.version is None
    assert len(refused) == 1
    assert "v2 is not signed; still serving the full path" in caplog.text
    store.error = None
    assert watch.look()
    assert watch.serving.version == "v1"


def test_a_store_that_fails_is_reported_once_and_counted(
    store: StoreInMemory, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[int] = []
    watch = HeadWatch(store, traced, "serve", 4, Promise(), on_error=lambda: errors.append(1))
    store.publish(heads(traced, "v1"))
    watch.look()
    store.error = StoreError("the store is away")
    with caplog.at_level(logging.INFO):
        assert [watch.look() for _ in range(3)] == [False] * 3
        assert (caplog.text.count("the store is away"), len(errors)) == (1, 3)
        assert watch.serving.version == "v1"
        store.error = None
        assert watch.look()
    assert "answers again" in caplog.text


def test_the_thread_looks_by_itself(watch: HeadWatch, store: StoreInMemory, traced: TracedModel) -> None:
    watch.start(poll_s=0.01)
    try:
        store.publish(heads(traced, "v1"))
        wait_until(lambda: watch.serving.version == "v1", "the new version in force")
    finally:
        watch.stop()
    looks = store.looks
    assert looks > 0


def test_an_unforeseen_error_does_not_end_the_thread(
    watch: HeadWatch, store: StoreInMemory, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    store.state = Live("missing", closed=False, pinned=False)  # load() raises KeyError
    watch.start(poll_s=0.01)
    try:
        wait_until(lambda: "looking for heads failed" in caplog.text, "the error in the log")
        store.publish(heads(traced, "v1"))
        wait_until(lambda: watch.serving.version == "v1", "the new version in force")
    finally:
        watch.stop()


@pytest.mark.parametrize("closed_by_operator", [False, True])
@pytest.mark.parametrize("mode", ["serve", "shadow"])
def test_records_name_the_exits_that_were_watched(
    store: StoreInMemory, traced: TracedModel, mode: Literal["serve", "shadow"], closed_by_operator: bool
) -> None:
    """The trainer counts audits of the live version's exits only: of those that an alarm closed too."""
    watch = HeadWatch(store, traced, mode, 4, Promise())
    manifest, tensors = heads(traced, "v1", audit_rate=1.0)
    store.publish((manifest, tensors))
    if closed_by_operator:
        store.state = Live(None, closed=True, pinned=True)
    watch.look()
    batch = micro_batch(4, 1.0)
    for engine in (watch.serving.engine, watch.serving.closed):
        (record,) = map(decode, DistillationWriter("f00d", "me", 10**7).write(batch.answer(engine)))
        assert record.header.heads_version == "v1"
        assert record.header.exits == (() if closed_by_operator else tuple(exit_.cut for exit_ in manifest.exits))


def test_the_budget_is_the_certificates(watch: HeadWatch, store: StoreInMemory, traced: TracedModel) -> None:
    manifest, tensors = heads(traced, "v1")
    store.publish((msgspec.structs.replace(manifest, certificate=certified(0.002)), tensors))
    watch.look()
    assert watch.serving.budget == 0.002


@pytest.mark.parametrize(
    ("certificate", "stands_for"),
    [
        (certified(0.05), "certified for at most 5.00% disagreement, 95% sure"),
        (msgspec.structs.replace(certified(), confidence=0.9), "certified for at most 1.00% disagreement, 90% sure"),
        (None, "not certified"),
    ],
    ids=["a larger budget", "less confidence", "none"],
)
def test_exits_certified_for_less_than_this_worker_promises_stay_closed(
    store: StoreInMemory,
    traced: TracedModel,
    certificate: Certificate | None,
    stands_for: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused: list[int] = []
    manifest, tensors = heads(traced, "v1", audit_rate=0.2)
    less = msgspec.structs.replace(manifest, certificate=certificate), tensors
    store.publish(less)
    watch = HeadWatch(store, traced, "serve", 4, Promise(), on_refused=lambda: refused.append(1))
    assert [watch.look() for _ in range(2)] == [True, True]
    assert (watch.serving.version, watch.serving.engine.exits, watch.serving.closed.exits) == ("v1", (), ())
    assert (watch.serving.engine.audit_rate, watch.serving.overload, refused) == (0.2, None, [1])
    assert f"heads v1 are {stands_for}, and this worker's settings promise at most 1.00%" in caplog.text
    store.publish(heads(traced, "v2"))
    watch.look()
    assert watch.serving.engine.exits == (traced.proposed[0].name,)


def test_a_cap_on_classes_that_only_the_worker_promises_keeps_exits_closed(
    store: StoreInMemory, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    store.publish(heads(traced, "v1"))
    watch = HeadWatch(store, traced, "serve", 4, Promise(max_class_disagreement=0.05))
    watch.look()
    assert watch.serving.engine.exits == ()
    assert "promise at most 1.00% disagreement, 5.00% within a class, 95% sure" in caplog.text


def test_a_shadow_scores_exits_that_it_may_not_open(store: StoreInMemory, traced: TracedModel) -> None:
    manifest, tensors = heads(traced, "v1")
    store.publish((msgspec.structs.replace(manifest, certificate=certified(0.05)), tensors))
    watch = HeadWatch(store, traced, "shadow", 4, Promise())
    watch.look()
    assert watch.serving.engine.exits == (traced.proposed[0].name,)  # none of its answers is served


def test_shares_of_flops(watch: HeadWatch, store: StoreInMemory, traced: TracedModel) -> None:
    assert watch.serving.engine.flops_shares.tolist() == [1.0]
    manifest, tensors = heads(traced, "v1")
    store.publish((msgspec.structs.replace(manifest, full_flops_share=1.02), tensors))
    watch.look()
    assert watch.serving.engine.flops_shares.tolist() == [0.3, 1.02]
    store.state = Live(None, closed=True, pinned=True)
    watch.look()
    assert watch.serving.engine.flops_shares.tolist() == [1.0]
