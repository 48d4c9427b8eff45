"""The race runs the worker's path over the frames that it is given, with the live heads and with none."""

import msgspec
import numpy as np
import pytest
import torch

from layercache.demo.settings import build
from layercache.early_exit.compiled.openvino_runtime import CompileError
from layercache.early_exit.cutting.cuts import TracedModel, trace
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads import compiling
from layercache.early_exit.heads.families import build_head
from layercache.early_exit.heads.loading import load_heads, tensor_names
from layercache.early_exit.model.loading import load
from layercache.early_exit.model.reference import UNDECIDED
from layercache.early_exit.store.head_store import HeadStore
from layercache.measuring import plain_runtimes, race
from layercache.measuring.labelled_frames import LabelledFrames
from layercache.measuring.plain_runtimes import PlainRuntimes
from layercache.schemas.manifest import Exit, HeadSpec, Manifest
from layercache.schemas.settings import Settings
from tests.layercache.demo_streams import answer
from tests.support.manifests import manifest
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES, TinyModel

FRAMES = 24
SETTINGS: Settings = build({"worker": {"torch_threads": 1, "decode_threads": 1, "max_batch": 8}})


@pytest.fixture
def traced(tiny_model: TinyModel) -> TracedModel:
    return trace(load(tiny_model.settings))


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> HeadStore:
    return HeadStore(f"file://{tmp_path_factory.mktemp('store')}", "tiny")


@pytest.fixture
def pictures() -> LabelledFrames:
    values = tuple(encode(coloured(CLASSES[index % 3], noise=index), "PNG") for index in range(FRAMES))
    return LabelledFrames(tuple(map(str, range(FRAMES))), values, np.zeros(FRAMES, np.int64))


def publish(store: HeadStore, traced: TracedModel, threshold: float) -> Manifest:
    """A version with one exit at the first cut that has maps."""
    cut = traced.cut("first")
    spec = HeadSpec(family="pooled", features=cut.shape, classes=3)
    exit_ = Exit(cut="first", head=spec, temperature=1.0, threshold=threshold, flops_share=0.4, time_share=0.4)
    version = msgspec.structs.replace(manifest(1, model=traced.classifier.fingerprint), exits=(exit_,), audit_rate=0.25)
    torch.manual_seed(0)
    store.publish(version, tensor_names("first", build_head(spec)))
    return version


def test_with_heads_in_the_store_they_race_at_their_audit_rate(
    traced: TracedModel, store: HeadStore, pictures: LabelledFrames
) -> None:
    version = publish(store, traced, threshold=0.0)
    result = race.run(SETTINGS, traced, store, pictures, [answer(frame) for frame in range(FRAMES)])
    assert (result.heads_version, result.audit_rate) == (version.version, 0.25)
    assert (result.frames, result.max_batch, result.torch_threads) == (FRAMES, 8, 1)
    assert 3 <= len(result.rounds) <= 5
    ratios = sorted(one.ratio for one in result.rounds)
    assert result.speedup in (ratios[len(ratios) // 2], sum(ratios[1:3]) / 2)
    for one in result.rounds:
        assert one.ratio == pytest.approx(one.with_exits_fps / one.closed_fps)
        assert one.ratio_plain == pytest.approx(one.with_exits_fps / one.plain_fps)
    plain = sorted(one.ratio_plain for one in result.rounds)
    assert result.speedup_plain in (plain[len(plain) // 2], sum(plain[1:3]) / 2)


def test_the_best_plain_runtime_is_the_quickest_of_all_that_there_are(
    traced: TracedModel, store: HeadStore, pictures: LabelledFrames
) -> None:
    plain = race.run(SETTINGS, traced, store, pictures, [answer(frame) for frame in range(FRAMES)]).plain
    assert set(plain.heats_fps) == {"PyTorch", "OpenVINO float32", "OpenVINO bfloat16", "OpenVINO int8"}
    assert plain.name == max(plain.heats_fps, key=plain.heats_fps.__getitem__)
    assert plain.note == ""


def test_how_often_a_plain_runtime_differs_is_counted_against_the_model(
    traced: TracedModel, store: HeadStore, pictures: LabelledFrames
) -> None:
    """By one that answers as a head that has learnt nothing."""
    version, tensors = store.load(publish(store, traced, threshold=0.0).version)
    ignorant = Engine(traced, load_heads(msgspec.structs.replace(version, audit_rate=0.0), tensors, traced))
    frames = [race._frame("frames", pictures, answer(frame)) for frame in range(FRAMES)]
    with race._worker(SETTINGS, traced) as worker:
        given, right = (race._lap(worker, engine, frames).labels() for engine in (ignorant, Engine(traced)))
    differ = float((given != right).mean())
    assert 0 < differ < 1
    result = race.against_closed(
        SETTINGS, Engine(traced), Engine(traced), frames, race.Rival("ignorant", ignorant, {}, "")
    )
    assert (result.plain.name, result.plain.disagreement) == ("ignorant", differ)


def test_without_openvino_pytorch_itself_is_the_best_and_the_race_says_why(
    traced: TracedModel, store: HeadStore, pictures: LabelledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_runtimes, "missing", lambda: "openvino is not installed")
    result = race.run(SETTINGS, traced, store, pictures, [answer(frame) for frame in range(FRAMES)])
    assert (result.plain.name, result.plain.note) == ("PyTorch", "openvino is not installed")
    assert (result.plain.heats_fps, result.plain.disagreement) == ({}, 0.0)
    assert (result.plain_fps, result.speedup_plain) == (result.closed_fps, result.speedup)


def test_what_openvino_cannot_convert_races_by_pytorch_and_says_why(
    traced: TracedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CompileError("cannot be quantised: too odd")

    blank = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    monkeypatch.setattr(compiling, "quantise", refuse)
    half = PlainRuntimes.compiled(traced, blank)
    assert (set(half.engines), half.note) == ({"OpenVINO float32", "OpenVINO bfloat16"}, "cannot be quantised: too odd")
    monkeypatch.setattr(compiling, "convert", refuse)
    assert PlainRuntimes.compiled(traced, blank) == PlainRuntimes({}, "cannot be quantised: too odd")


def test_a_plain_runtime_answers_every_frame_at_its_only_exit(traced: TracedModel) -> None:
    pictures = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = PlainRuntimes.compiled(traced, pictures)
    none = np.zeros(16, np.bool_)
    right = Engine(traced).run(pictures, none).labels
    for name, engine in plain.engines.items():
        answers = engine.run(pictures, none)
        assert (answers.exits == 0).all()
        assert engine.audit_rate == 0.0
        if name == "OpenVINO float32":
            assert (answers.labels == right).all()


def test_the_worker_with_exits_runs_the_full_model_as_it_is_served_and_pytorch_the_other(
    traced: TracedModel, store: HeadStore, pictures: LabelledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or audits by OpenVINO would count for PyTorch, whose speed ours is held against."""
    publish(store, traced, threshold=0.0)
    raced: list[tuple[Engine, Engine]] = []

    def note(settings: Settings, with_exits: Engine, closed: Engine, *_: object) -> None:
        raced.append((with_exits, closed))

    monkeypatch.setattr(race, "against_closed", note)
    race.run(SETTINGS, traced, store, pictures, [answer(frame) for frame in range(8)])
    ((with_exits, closed),) = raced
    assert closed.traced.classifier.reference is UNDECIDED
    assert with_exits.traced.classifier.reference is not UNDECIDED
    assert with_exits.version == "v0001"


def test_without_heads_or_with_exits_held_closed_both_sides_run_the_plain_model(
    traced: TracedModel, store: HeadStore, pictures: LabelledFrames
) -> None:
    answers = [answer(frame) for frame in range(FRAMES)]
    assert race.run(SETTINGS, traced, store, pictures, answers).heads_version is None
    publish(store, traced, threshold=0.0)
    store.close("held")
    assert race.run(SETTINGS, traced, store, pictures, answers).heads_version is None


def test_it_tells_how_far_it_is(traced: TracedModel, store: HeadStore, pictures: LabelledFrames) -> None:
    heard: list[float] = []
    race.run(SETTINGS, traced, store, pictures, [answer(frame) for frame in range(8)], heard.append)
    assert heard == [0.2, 0.4, 0.6, 0.8, 1.0]
