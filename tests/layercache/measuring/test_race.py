"""The race runs the worker's path over the frames that it is given, with the live heads and with none."""

import msgspec
import numpy as np
import pytest
import torch

from layercache.demo.settings import build
from layercache.early_exit.cutting.cuts import TracedModel, trace
from layercache.early_exit.heads.families import build_head
from layercache.early_exit.heads.loading import tensor_names
from layercache.early_exit.model.loading import load
from layercache.early_exit.store.head_store import HeadStore
from layercache.measuring import race
from layercache.measuring.labelled_frames import LabelledFrames
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
