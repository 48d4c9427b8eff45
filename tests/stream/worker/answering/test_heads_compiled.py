"""A worker takes up compiled paths, and serves as before where it cannot vouch for one."""

from contextlib import nullcontext
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.compiling import CompiledPieces, compile_path
from layercache.early_exit.model import loading
from layercache.schemas.settings import Promise
from layercache.stream.worker.answering.exit_guard import ExitGuard
from layercache.stream.worker.answering.heads_watch import HeadWatch
from layercache.stream.worker.answering.records import DistillationWriter
from tests.cache_training.streams import pictures
from tests.stream.builders import heads, micro_batch
from tests.stream.worker.answering.stores import StoreInMemory
from tests.support import tiny_model
from tests.support.compiled import compiled_version
from tests.support.manifests import overload
from tests.support.without_openvino import without_openvino


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> TracedModel:
    torch.set_num_threads(1)
    settings = tiny_model.write(tmp_path_factory.mktemp("compiled")).settings
    return cuts.trace(loading.load(settings.model_copy(update={"runtime": "auto"})))


@pytest.fixture(scope="module")
def int8(traced: TracedModel) -> CompiledPieces:
    return compile_path(traced, {}, "int8", pictures(100, seed=1).numpy())


def test_the_end_answers_audits_run_the_model_and_the_trainer_hears_of_both(
    store: StoreInMemory, traced: TracedModel, int8: CompiledPieces
) -> None:
    store.publish(compiled_version(traced, int8, (0.0,)))
    watch = HeadWatch(store, traced, "serve", 4, Promise())
    assert watch.look()
    guard = ExitGuard(confidence=0.95, block_s=10, block_frames=1)
    answered = micro_batch(60, audit_rate=0.5).answer(guard.choose(watch.serving))
    audits = answered.batch.audits
    assert answered.exits == ["full" if audited else "int8" for audited in audits]
    record = DistillationWriter("tiny", "worker", 10**7).record(answered)
    assert record is not None
    assert record.header.exits == ("int8",)
    assert set(record.header.segment_ms) == {"to int8", "to the end"}
    assert (record.audit == 1).all()
    assert len(record) == audits.sum() > 10
    assert (record.live_exit == 0).all()
    assert len(guard.watch(answered).rows) == audits.sum()


def test_a_tenth_of_what_the_end_answered_is_sent_to_learn_from(
    store: StoreInMemory, traced: TracedModel, int8: CompiledPieces
) -> None:
    store.publish(compiled_version(traced, int8, (0.0,)))
    watch = HeadWatch(store, traced, "serve", 4, Promise())
    assert watch.look()
    answered = micro_batch(600, audit_rate=0.5).answer(watch.serving.engine)
    assert answered.engine.end == 0
    audits, lessons = DistillationWriter("tiny", "worker", 10**7).records(answered)
    assert (audits.of_lessons, lessons.of_lessons) == (False, True)
    assert not answered.batch.audits[lessons.offset].any()
    assert 10 < len(lessons) < 60


def test_its_alarm_closes_it(store: StoreInMemory, traced: TracedModel, int8: CompiledPieces) -> None:
    store.publish(compiled_version(traced, int8, (0.0,)))
    watch, guard = (
        HeadWatch(store, traced, "serve", 4, Promise()),
        ExitGuard(confidence=0.95, block_s=0.001, block_frames=1),
    )
    watch.look()
    first = 0
    while not guard.closed:
        answered = micro_batch(60, 1.0, first).answer(guard.choose(watch.serving))
        others = (answered.answers.labels[answered.answers.full_rows] + 1) % 3
        wrong = replace(answered.answers, live_label=others.astype(np.int32))
        guard.watch(replace(answered, answers=wrong))
        first += 60
        assert first < 6000
    assert micro_batch(60, 0.0, first).answer(guard.choose(watch.serving)).exits == ["full"] * 60


def test_its_thresholds_for_overload_serve_a_worker_that_is_behind(
    store: StoreInMemory, traced: TracedModel, int8: CompiledPieces
) -> None:
    manifest, tensors = compiled_version(traced, int8, (1.1,))
    store.publish((msgspec.structs.replace(manifest, overload=overload((0.0,), 0.03)), tensors))
    watch = HeadWatch(store, traced, "serve", 4, Promise(overload_max_disagreement=0.03))
    assert watch.look()
    guard = ExitGuard(confidence=0.95, block_s=10, block_frames=1)
    for behind, exits in ((False, {"full"}), (True, {"int8"})):
        answered = micro_batch(30, 0.0).answer(guard.choose(watch.serving, behind))
        assert set(answered.exits) == exits


@pytest.mark.parametrize("why", ["no OpenVINO", "another machine", "a damaged graph"])
def test_a_worker_that_cannot_vouch_for_a_path_serves_as_before(
    why: str, store: StoreInMemory, traced: TracedModel, int8: CompiledPieces, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, tensors = compiled_version(traced, int8, version="v2")
    if why == "another machine":
        tensors["probe.logits"] = tensors["probe.logits"] + 1
    if why == "a damaged graph":
        name = f"graph/{int8.graphs[0].digest}"
        tensors[name] = tensors[name][: len(tensors[name]) // 2]
    refused: list[bool] = []
    with without_openvino() if why == "no OpenVINO" else nullcontext():
        for before in ([], [heads(traced, "v1")]):
            for version in before:
                store.publish(version)
            watch = HeadWatch(store, traced, "serve", 4, Promise(), on_refused=lambda: refused.append(True))
            watch.look()
            serving = watch.serving
            store.publish((manifest, tensors))
            assert not watch.look()
            assert watch.serving is serving
            assert serving.version == ("v1" if before else None)
            store.versions.clear()
            store.state = type(store.state)(None, closed=False, pinned=False)
    assert len(refused) == 2
    said = {
        "no OpenVINO": "heads v2: its int8 path does not run here: openvino is not installed",
        "another machine": "heads v2: this machine computes int8 otherwise",
        "a damaged graph": "heads v2: its int8 path does not run here: not a compiled graph",
    }
    assert said[why] in caplog.text
    assert "still serving the full path, without heads" in caplog.text
    assert "still serving heads v1" in caplog.text
