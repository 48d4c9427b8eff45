"""A trainer that may compile: the model in int8 opens first, heads follow on its path, and all of it is tested."""

from itertools import count

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from layercache.cache_training.learning import compiled_exits
from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.compiled.openvino_runtime import CompileError
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.compiling import CompiledPieces, compile_path
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.model import loading
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.manifest import Manifest
from tests.cache_training.streams import pictures
from tests.cache_training.trainers import BUDGET, feed, new_trainer, train_until_published
from tests.support.compiled import set_path_times
from tests.support.tiny_model import TinyModel

pytestmark = pytest.mark.usefixtures("steady_times", "steady_path_times")

#: Of the tiny model, cut where the trainer cuts it.
SEGMENTS = 5


@pytest.fixture
def model(tiny_model: TinyModel) -> TracedModel:
    """The tiny model, which may be compiled here."""
    torch.set_num_threads(1)
    return cuts.trace(loading.load(tiny_model.settings.model_copy(update={"runtime": "auto"})))


@pytest.fixture
def steady_path_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """See :func:`set_path_times`."""
    set_path_times(monkeypatch, SEGMENTS)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], npt.NDArray[np.uint8]]]:
    """Cuts with heads, and the frames that set the ranges, of every path that is made."""
    made = []

    def remembered(
        traced: TracedModel, heads: dict[str, nn.Module], precision: str, frames: npt.NDArray[np.uint8]
    ) -> CompiledPieces:
        made.append((tuple(heads), frames.copy()))
        return compile_path(traced, heads, precision, frames)  # type: ignore[arg-type]

    monkeypatch.setattr(compiled_exits, "compile_path", remembered)
    return made


def live(store: HeadStore, model: TracedModel) -> tuple[Manifest, Engine]:
    manifest, tensors = store.load(store.latest() or "")
    return manifest, Engine(model, load_heads(manifest, tensors, model))


def assert_promise_is_kept(engine: Engine, model: TracedModel) -> npt.NDArray[np.int16]:
    """On frames never seen; returns where they left."""
    fresh = pictures(2000, seed=10**6)
    answers = engine.run(fresh, np.zeros(2000, np.bool_))
    full = Engine(model).run(fresh, np.ones(2000, np.bool_))
    assert (answers.labels != full.labels).mean() <= BUDGET
    return answers.exits


def bytes_of(frames: npt.NDArray[np.uint8]) -> set[bytes]:
    return {frame.tobytes() for frame in frames}


def test_the_model_in_int8_opens_before_any_head_has_learnt(
    model: TracedModel, store: HeadStore, compiled: list[tuple[tuple[str, ...], npt.NDArray[np.uint8]]]
) -> None:
    trainer = new_trainer(model, store, precisions=["int8"])
    feed(trainer, Engine(model), 1000)
    certifying = trainer.windows.certification.frames()
    assert certifying is not None
    trainer.work(0.0)  # not a step of any head
    manifest, engine = live(store, model)
    assert manifest.reason == "first"
    assert [(one.cut, one.head, one.family) for one in manifest.exits] == [("int8", None, "int8")]
    assert manifest.path is not None
    assert manifest.certificate is not None
    assert manifest.certificate.p_value <= manifest.certificate.error == pytest.approx(0.025)
    assert manifest.expected is not None
    assert 0.5 < manifest.expected.time_saved < 0.75
    assert manifest.full_flops_share == 2.0
    assert manifest.full_time_share == pytest.approx(1.25)
    assert (assert_promise_is_kept(engine, model) == 0).mean() > 0.5
    # What set int8's ranges was learnt from, and certified nothing.
    ((heads, frames),) = compiled
    assert heads == ()
    learning = trainer.windows.learning.frames()
    assert learning is not None
    assert bytes_of(frames) <= bytes_of(learning.inputs)
    assert bytes_of(frames).isdisjoint(bytes_of(certifying.inputs))


def test_heads_follow_on_its_path_and_the_whole_cascade_is_certified_as_it_serves(
    model: TracedModel, store: HeadStore, compiled: list[tuple[tuple[str, ...], npt.NDArray[np.uint8]]]
) -> None:
    trainer = new_trainer(model, store, precisions=["int8"])
    feed(trainer, Engine(model), 1000)
    trainer.work(0.0)
    first, engine = live(store, model)
    feed(trainer, engine, 2000, first_offset=1000)
    for _ in range(60):
        trainer.work(0.3)
        if store.latest() != first.version:
            break
    manifest, engine = live(store, model)
    assert manifest.reason == "better"
    assert manifest.path is not None
    assert len(manifest.path.graphs) == len(manifest.exits) >= 2
    *on_the_way, end = manifest.exits
    assert end.cut == "int8"
    assert {one.family for one in on_the_way} <= {"pooled", "skim", "branch"}
    assert manifest.certificate is not None
    assert manifest.certificate.attempt == 2
    assert manifest.expected is not None
    assert first.expected is not None
    assert manifest.expected.time_saved > first.expected.time_saved
    assert compiled[-1][0] == tuple(one.cut for one in on_the_way)
    exits = assert_promise_is_kept(engine, model)
    assert (exits == 0).mean() > 0.2
    # Heads are in the graphs: the version stores no weights of theirs.
    _, tensors = store.load(manifest.version)
    assert {name.partition("/")[0].partition(".")[0] for name in tensors} == {"graph", "probe"}


def test_a_compiled_version_that_exceeds_its_budget_is_closed_and_another_is_made_of_the_new_stream(
    model: TracedModel, store: HeadStore, compiled: list[tuple[tuple[str, ...], npt.NDArray[np.uint8]]]
) -> None:
    trainer = new_trainer(model, store, precisions=["int8"], clock=count(0.0, 10.0).__next__)
    feed(trainer, Engine(model), 1000)
    trainer.work(0.0)
    _, engine = live(store, model)
    feed(trainer, engine, 600, first_offset=1000, wrong_share=0.3)
    manifest, closed = live(store, model)
    assert (manifest.reason, manifest.exits, manifest.path) == ("unsafe", (), None)
    assert closed.exit_names == ("full",)
    assert len(trainer.windows.tuning) < 100
    assert trainer.compiled.made == ()
    feed(trainer, closed, 1000, first_offset=2000)
    for _ in range(3):  # a round between two choices does nothing
        trainer.work(0.0)
    (_, before), (_, after) = compiled
    learning = trainer.windows.learning.frames()
    assert learning is not None
    assert bytes_of(after) <= bytes_of(learning.inputs)
    assert bytes_of(after).isdisjoint(bytes_of(before))
    again, _ = live(store, model)
    assert [one.cut for one in again.exits] == ["int8"]


def test_a_model_that_does_not_compile_is_taught_as_ever(
    model: TracedModel, store: HeadStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object) -> CompiledPieces:
        raise CompileError("cannot be converted for OpenVINO: an operation of its own")

    monkeypatch.setattr(compiled_exits, "compile_path", refuse)
    trainer: OnlineTrainer = new_trainer(model, store, precisions=["int8", "bfloat16"])
    feed(trainer, Engine(model), 1500)
    train_until_published(trainer)
    manifest, _ = live(store, model)
    assert manifest.path is None
    assert manifest.exits
    assert "no path in int8: cannot be converted for OpenVINO: an operation of its own" in caplog.text
