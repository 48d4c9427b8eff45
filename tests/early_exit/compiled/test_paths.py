"""A compiled path answers by its own numerics, the reference answers the rest, and what does not fit is refused."""

import logging
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layercache.early_exit.compiled.chains import Chain
from layercache.early_exit.compiled.graphs import CompiledGraph, Graph, convert
from layercache.early_exit.compiled.openvino_runtime import CompileError, missing, openvino
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads import compiling
from layercache.early_exit.heads.compiling import CompiledPieces, compile_path
from layercache.early_exit.heads.families import HeadsError, build_head
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.model import loading
from layercache.schemas.manifest import Exit, Manifest
from tests.cache_training.streams import pictures
from tests.support import tiny_model
from tests.support.compiled import compiled_version, head_spec
from tests.support.without_openvino import without_openvino


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> TracedModel:
    settings = tiny_model.write(tmp_path_factory.mktemp("compiled")).settings
    return cuts.trace(loading.load(settings.model_copy(update={"runtime": "auto"})))


@pytest.fixture(scope="module")
def int8(traced: TracedModel) -> CompiledPieces:
    return compile_path(traced, {}, "int8", pictures(100, seed=1).numpy())


@pytest.fixture(scope="module")
def with_head(traced: TracedModel) -> CompiledPieces:
    return compile_path(traced, {"first": head(traced)}, "bfloat16", pictures(100, seed=1).numpy())


def head(traced: TracedModel) -> nn.Module:
    torch.manual_seed(0)
    return build_head(head_spec(traced, "first")).eval()


def test_its_end_answers_what_it_is_sure_of_and_the_model_itself_the_rest(
    traced: TracedModel, int8: CompiledPieces
) -> None:
    frames = pictures(64, seed=2)
    heads = load_heads(*compiled_version(traced, int8), traced)
    engine, full = Engine(traced, heads), Engine(traced).run(frames, np.zeros(64, np.bool_))
    audits = np.arange(64) % 4 == 0
    answers = engine.run(frames, audits)
    scores, labels = engine.score(frames)
    sure = scores[:, 0] >= np.float32(0.7)
    assert engine.exit_names == ("int8", "full")
    assert 0 < (sure & ~audits).sum() < 48, "some frames leave and some do not, or this says nothing"
    assert (answers.exits == np.where(sure & ~audits, 0, -1)).all()
    assert (answers.labels == np.where(answers.exits == 0, labels[:, 0], full.labels)).all()
    np.testing.assert_allclose(answers.logits, full.logits[answers.full_rows], rtol=1e-4, atol=1e-4)
    assert (answers.live_exit == np.where(sure, 0, -1)[answers.full_rows]).all()
    assert engine.flops_shares.tolist() == [1.0, 2.0]
    assert set(engine.segment_ms()) == {"to int8", "to the end"}


def test_a_head_is_part_of_the_piece_before_it(traced: TracedModel, with_head: CompiledPieces) -> None:
    frames = pictures(32, seed=3)
    first, _ = traced.segments(["first"])
    normalise = traced.classifier.preprocessing.normalise
    with torch.inference_mode():
        expected = head(traced)(first(normalise(frames))).softmax(1)
        whole = traced.classifier.module(normalise(frames)).softmax(1)
    half = float(expected.max(1).values.median())
    engine = Engine(traced, load_heads(*compiled_version(traced, with_head, (half, 0.9)), traced))
    scores, labels = engine.score(frames)
    assert engine.exits == ("first", "bfloat16")
    np.testing.assert_allclose(scores[:, 0], expected.max(1).values, atol=0.02)
    np.testing.assert_allclose(scores[:, 1], whole.max(1).values, atol=0.02)
    assert (labels[:, 1] == whole.argmax(1).numpy()).mean() > 0.9
    answers = engine.run(frames, np.zeros(32, np.bool_))
    left = answers.exits == 0
    assert 0 < left.sum() < 32
    near = np.abs(scores[:, 0] - half) < 1e-5  # another batch size may round to the other side
    assert (left == (scores[:, 0] >= np.float32(half)))[~near].all()
    assert (answers.labels[left] == labels[left, 0]).all()
    assert len(answers.full_rows) == ((answers.exits == -1).sum())


def test_the_maps_that_set_ranges_take_bounded_memory(traced: TracedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def note(model: Any, values: np.ndarray, is_transformer: bool) -> Any:
        given.append(len(values))
        return model

    monkeypatch.setattr(compiling, "quantise", note)
    for most, maps in ((compiling._MOST_MAP_BYTES, 100), (50 * 8 * 16 * 16 * 4, 50), (1, 32)):
        given.clear()
        monkeypatch.setattr(compiling, "_MOST_MAP_BYTES", most)
        compile_path(traced, {"first": head(traced)}, "int8", pictures(100, seed=1).numpy())
        assert given == [100, maps]


def test_between_pieces_maps_are_bytes_and_the_path_answers_as_in_one_piece(
    traced: TracedModel, int8: CompiledPieces
) -> None:
    frames = pictures(200, seed=6)
    heads = {name: build_head(head_spec(traced, name)).eval() for name in ("first", "second")}
    cut_twice = compile_path(traced, heads, "int8", pictures(100, seed=1).numpy())
    value: np.ndarray = frames.numpy()
    for graph, taken in zip(cut_twice.chain, (np.uint8, np.uint8, np.uint8), strict=True):
        assert value.dtype == taken
        value = graph.runner()(value)[0].copy()
    assert value.dtype == np.float32
    (expected,) = Chain(int8.chain).logits(frames)
    np.testing.assert_allclose(value, expected, atol=0.02 * float(expected.abs().max()))


def test_pieces_in_another_order_are_refused(traced: TracedModel) -> None:
    heads = {name: build_head(head_spec(traced, name)).eval() for name in ("first", "second")}
    path = compile_path(traced, heads, "int8", pictures(100, seed=1).numpy())
    manifest, tensors = compiled_version(traced, path, (0.7, 0.7, 0.7))
    assert manifest.path is not None
    for order in ((0, 2, 1), (1, 0, 2), (0, 0, 2)):
        graphs = tuple(manifest.path.graphs[place] for place in order)
        named = msgspec.structs.replace(manifest, path=msgspec.structs.replace(manifest.path, graphs=graphs))
        refused(traced, named, tensors, "heads v1: its int8 path does not run here")


def test_shadow_mode_serves_the_model(traced: TracedModel, int8: CompiledPieces) -> None:
    frames, none = pictures(16, seed=4), np.zeros(16, np.bool_)
    heads = load_heads(*compiled_version(traced, int8, (0.0,)), traced)
    shadow = Engine(traced, heads, "shadow").run(frames, none)
    assert (shadow.exits == -1).all()
    assert (shadow.labels == Engine(traced).run(frames, none).labels).all()
    assert (shadow.live_exit == 0).all()
    assert (shadow.live_label == Engine(traced, heads).run(frames, none).labels).all()


def test_precision_threads_and_streams_are_what_was_set(traced: TracedModel) -> None:
    frames = pictures(2, seed=0).float()
    graph = Graph.of(convert(traced.classifier.module, frames))
    for precision, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        compiled = CompiledGraph(graph, precision, threads=1)._compiled  # type: ignore[arg-type]
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == hint
        assert (compiled.get_property("INFERENCE_NUM_THREADS"), compiled.get_property("NUM_STREAMS")) == (1, 1)


def test_a_graph_in_float32_gives_the_models_logits(traced: TracedModel) -> None:
    frames = pictures(40, seed=5).float() / 255
    run = CompiledGraph(Graph.of(convert(traced.classifier.module, frames[:2])), "float32", 1).runner()
    with torch.inference_mode():
        for batch in (1, 7, 40):
            expected = traced.classifier.module(frames[:batch])
            np.testing.assert_allclose(run(frames[:batch].numpy())[0], expected, rtol=1e-4, atol=1e-4)


def refused(traced: TracedModel, manifest: Manifest, tensors: dict[str, Tensor], why: str) -> None:
    with pytest.raises(HeadsError, match=why):
        load_heads(manifest, tensors, traced)


def test_damaged_missing_and_foreign_graphs_are_refused(
    traced: TracedModel, int8: CompiledPieces, tmp_path: Path
) -> None:
    manifest, tensors = compiled_version(traced, int8)
    digest = int8.graphs[0].digest
    name = f"graph/{digest}"
    refused(traced, manifest, {one: t for one, t in tensors.items() if one != name}, f"{digest[:12]} is missing")
    for place in (0, len(tensors[name]) // 2, -1):
        damaged = tensors[name].clone()
        damaged[place] ^= 255
        refused(traced, manifest, tensors | {name: damaged}, "heads v1: its int8 path does not run here")
    refused(traced, manifest, tensors | {name: tensors[name][:100]}, "not a compiled graph")
    # Another model's graph, under a name of its own.
    for module, frames, why in (
        (nn.Flatten(), torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "768.* logits, the model 3"),
        (nn.Flatten(), torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"pictures of \(1, 8, 8\), the model \(3, 16, 16\)"),
    ):
        other = Graph.of(convert(module, frames))
        assert manifest.path is not None
        named = msgspec.structs.replace(manifest, path=msgspec.structs.replace(manifest.path, graphs=(other.digest,)))
        foreign = torch.frombuffer(bytearray(other.encoded), dtype=torch.uint8)
        refused(traced, named, tensors | {f"graph/{other.digest}": foreign}, why)
    more = msgspec.structs.replace(manifest, exits=(*manifest.exits, *manifest.exits))
    refused(traced, more, tensors, "1 graphs do not lead to 2 exits")


def test_operations_of_no_opset_are_refused(traced: TracedModel, int8: CompiledPieces) -> None:
    topology = int8.graphs[0].topology
    assert topology.count(b'version="opset1"') > 1
    for other in (b'version="extension"', b'version="mine"'):
        graph = replace(int8.graphs[0], topology=topology.replace(b'version="opset1"', other))
        with pytest.raises(CompileError):
            CompiledGraph(graph, "float32", 1)


def test_a_machine_that_computes_otherwise_keeps_the_exits_closed(traced: TracedModel, int8: CompiledPieces) -> None:
    manifest, tensors = compiled_version(traced, int8)
    logits = tensors["probe.logits"]
    refused(
        traced, manifest, tensors | {"probe.logits": logits + 0.1}, "computes int8 otherwise: logits differ by up to"
    )
    refused(traced, manifest, tensors | {"probe.logits": logits.roll(1, dims=2)}, "pictures get another label")
    for wrong in (logits.double(), logits[:0], logits[:3]):
        refused(traced, manifest, tensors | {"probe.logits": wrong}, "no probe has")
    refused(traced, manifest, tensors | {"probe.logits": logits[..., :2]}, "its probe has logits")
    del tensors["probe.pictures"]
    refused(traced, manifest, tensors, "probe.pictures")


def test_closed_exits_need_no_graphs(traced: TracedModel, int8: CompiledPieces) -> None:
    manifest, _ = compiled_version(traced, int8)
    heads = load_heads(msgspec.structs.replace(manifest, exits=()), {}, traced)
    answers = Engine(traced, heads).run(pictures(3, seed=0), np.zeros(3, np.bool_))
    assert answers.exits.tolist() == [-1] * 3


def test_without_openvino_the_path_is_refused_with_the_way_out(traced: TracedModel, int8: CompiledPieces) -> None:
    described, tensors = int8.described, int8.tensors()
    exit_ = Exit(cut="int8", head=None, temperature=1.0, threshold=0.7, flops_share=1.0, time_share=0.3)
    whole = Manifest(
        version="v1", model=traced.classifier.fingerprint, model_name="tiny", created="", reason="first",
        predecessor=None, exits=(exit_,), path=described, audit_rate=0.1, certificate=None, expected=None,
    )  # fmt: skip
    with without_openvino():
        assert "layercache[fast]" in (missing() or "")
        refused(
            traced, whole, tensors, r"its int8 path does not run here: openvino is not installed.*layercache\[fast\]"
        )


def test_a_path_is_refused_where_nothing_may_be_compiled(traced: TracedModel, int8: CompiledPieces) -> None:
    manifest, tensors = compiled_version(traced, int8)
    torch_alone = cuts.trace(replace(traced.classifier, runtime="torch"))
    assert torch_alone.classifier.fingerprint == traced.classifier.fingerprint
    refused(torch_alone, manifest, tensors, "heads v1: its int8 path does not run here: model.runtime is torch")


def test_telemetry_cannot_be_sent() -> None:
    openvino()
    assert sys.modules["openvino_telemetry"] is None


def test_what_cannot_be_converted_says_why() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CompileError, match="cannot be converted for OpenVINO: "):
        convert(Branches(), torch.zeros(2, 3))


@pytest.mark.parametrize("fails", [False, True])
def test_a_conversion_leaves_logging_as_it_is(
    fails: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from openvino.tools.ovc import convert_impl

    def halfway(*arguments: object, **options: object) -> object:
        assert root.level == logging.ERROR, "OpenVINO no longer touches it, and neither need we"
        logging.getLogger("layercache.stream").warning("a frame is late")
        if fails:
            raise RuntimeError("no rule for aten::foo")
        return check_model_object(*arguments, **options)

    root = logging.getLogger()
    before = (root.level, [*root.filters], [*root.handlers], logging.getLogger("layercache").level)
    check_model_object = convert_impl.check_model_object
    monkeypatch.setattr(convert_impl, "check_model_object", halfway)
    with pytest.raises(CompileError, match="no rule for aten::foo") if fails else nullcontext():
        convert(nn.Linear(3, 2).eval(), torch.zeros(2, 3))
    assert (root.level, root.filters, root.handlers, logging.getLogger("layercache").level) == before
    assert "a frame is late" in caplog.messages
