"""The full model runs by OpenVINO where that is quicker and answers alike, else by PyTorch, and says why."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layercache.early_exit import runtimes
from layercache.early_exit.compiled.openvino_runtime import CompileError
from layercache.early_exit.compiled.whole_models import answer_by, convert_whole
from layercache.early_exit.cutting import cuts
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.cache_heads import CacheHeads
from layercache.early_exit.heads.families import build_head
from layercache.early_exit.model import loading
from layercache.early_exit.model.loading import Classifier, ModelError
from layercache.early_exit.model.reference import Reference
from layercache.early_exit.runtimes import TOLERANCE, by_pytorch, with_reference
from layercache.schemas.manifest import Exit, HeadSpec, Manifest
from tests.cache_training.streams import pictures
from tests.early_exit.models import classifier
from tests.support import tiny_model
from tests.support.without_openvino import without_openvino

NONE = np.zeros(40, np.bool_)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """The tiny model, whose reference has not been chosen."""
    settings = tiny_model.write(tmp_path_factory.mktemp("runtimes")).settings
    return loading.load(settings.model_copy(update={"runtime": "auto"}))


@pytest.fixture(scope="module")
def compiled(plain: Classifier) -> Classifier:
    return with_reference(replace(plain, runtime="openvino"))


@pytest.fixture(scope="module")
def whole(plain: Classifier) -> Any:
    """The model, converted."""
    return convert_whole(plain)


@pytest.fixture
def converted_before(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has no test convert the tiny model again, which takes a second."""
    monkeypatch.setattr(runtimes, "convert_whole", lambda _: whole)


@pytest.fixture
def quicker(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has OpenVINO be so many times as quick as PyTorch."""
    return lambda gain: monkeypatch.setattr(runtimes, "_times", lambda *_: (gain, 1.0))


def test_it_answers_like_pytorch_singly_and_together(plain: Classifier, compiled: Classifier) -> None:
    frames = pictures(40, seed=1)
    assert compiled.reference.runtime == "openvino"
    assert compiled.fingerprint == plain.fingerprint
    by_torch, by_openvino = Engine(cuts.trace(plain)), Engine(cuts.trace(compiled))
    for batch in (1, 7, 40):
        expected, found = (one.run(frames[:batch], NONE[:batch]) for one in (by_torch, by_openvino))
        assert (found.labels == expected.labels).all()
        assert np.abs(found.logits - expected.logits).max() <= TOLERANCE * np.abs(expected.logits).max()
    assert by_openvino.exit_names == by_torch.exit_names == ("full",)
    assert {piece: list(times) for piece, times in by_openvino.segment_ms().items()} == {"to the end": [1, 7, 40]}


def test_an_answer_outlives_the_next(compiled: Classifier) -> None:
    answer = runtimes.full_model(compiled)
    first = answer(pictures(3, seed=1))
    before = first.clone()
    answer(pictures(3, seed=2))
    assert first.equal(before)


def test_engines_of_several_threads_share_the_graph_and_nothing_else(compiled: Classifier) -> None:
    traced, frames = cuts.trace(compiled), pictures(64, seed=2)
    expected = Engine(traced).run(frames, np.zeros(64, np.bool_)).logits
    wrong: list[float] = []

    def serve() -> None:
        engine = Engine(traced)
        for start in range(60):
            rows = np.arange(start % 50, start % 50 + 8)
            found = engine.run(frames[torch.from_numpy(rows)], np.zeros(8, np.bool_)).logits
            wrong.append(float(np.abs(found - expected[rows]).max()))

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wrong) == 240
    assert max(wrong) < 1e-3


def version(plain: Classifier, threshold: float) -> CacheHeads:
    torch.manual_seed(0)
    spec = HeadSpec(family="pooled", features=(8, 16, 16), classes=3)
    exit_ = Exit(cut="first", head=spec, temperature=1.0, threshold=threshold, flops_share=0.3, time_share=0.3)
    manifest = Manifest(
        version="v1", model=plain.fingerprint, model_name="tiny", created="", reason="first", predecessor=None,
        exits=(exit_,), audit_rate=0.1, certificate=None, expected=None,
    )  # fmt: skip
    return CacheHeads(manifest, (build_head(spec).eval(),))


def test_past_heads_on_its_own_layers_the_model_goes_on_from_the_cut_by_pytorch(
    plain: Classifier, compiled: Classifier
) -> None:
    frames = pictures(40, seed=3)
    expected, found = (
        Engine(cuts.trace(one), version(plain, threshold=2.0)).run(frames, NONE) for one in (plain, compiled)
    )
    assert found.logits.tobytes() == expected.logits.tobytes()


def test_with_every_exit_closed_the_model_is_run_as_a_whole(compiled: Classifier) -> None:
    calls: list[int] = []
    heads = version(compiled, threshold=0.0)
    closed = CacheHeads(msgspec.structs.replace(heads.manifest, exits=()), ())
    engine = Engine(cuts.trace(counting(compiled, calls)), closed)
    answers = engine.run(pictures(40, seed=4), NONE)
    assert answers.exits.tolist() == [-1] * 40
    assert calls == [40]


def counting(compiled: Classifier, calls: list[int]) -> Classifier:
    """The same, and ``calls`` has the frames of each call of the full model."""
    reference = compiled.reference

    def make_runner() -> Callable[[Tensor], Tensor]:
        answer = runtimes.full_model(compiled)

        def counted(frames: Tensor) -> Tensor:
            calls.append(len(frames))
            return answer(frames)

        return counted

    return replace(compiled, reference=replace(reference, make_runner=make_runner))


@pytest.mark.usefixtures("converted_before")
def test_what_has_been_chosen_is_not_chosen_again(plain: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes._CHOSEN.clear()
    first = with_reference(plain)
    monkeypatch.setattr(runtimes, "convert_whole", lambda _: pytest.fail("converted again"))
    assert with_reference(first) is first
    assert with_reference(plain).reference is first.reference, "the same model, made again"
    assert with_reference(replace(plain, runtime="torch")).reference != first.reference


@pytest.mark.usefixtures("converted_before")
def test_the_quicker_one_is_taken(plain: Classifier, quicker: Callable[[float], None]) -> None:
    quicker(1.25)
    assert chosen(plain).runtime == "openvino"
    assert chosen(plain).described == (
        "the full model runs by OpenVINO: "
        "in batches of 1 1 ms a frame, PyTorch 1.25; in batches of 32 0.0312 ms a frame, PyTorch 0.0391"
    )
    quicker(0.8)
    slower = chosen(plain)
    assert slower == Reference("torch", slower.reason)
    assert slower.described.startswith(
        "the full model runs by PyTorch: OpenVINO is not quicker here (in batches of 1 1 ms a frame, PyTorch 0.8; "
    )
    assert chosen(replace(plain, runtime="openvino")).runtime == "openvino", "the user wants it whatever it costs"


def chosen(one: Classifier) -> Reference:
    """Chosen anew."""
    runtimes._CHOSEN.clear()
    return with_reference(one).reference


@pytest.mark.usefixtures("converted_before")
def test_where_it_answers_otherwise_pytorch_runs_the_model(plain: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = answer_by
    for change, why in (
        (lambda logits: logits * (1 + 2 * TOLERANCE), "by OpenVINO its logits differ by up to 0.0"),
        (lambda logits: logits * float("nan"), "by OpenVINO its logits differ by up to nan in batches of 32"),
        (lambda logits: logits[:, :2], r"by OpenVINO it gives \(32, 2\) logits in batches of 32, by PyTorch \(32, 3\)"),
        (lambda logits: logits if len(logits) > 1 else -logits, "by OpenVINO its logits differ by up to .* singly"),
    ):
        monkeypatch.setattr(
            runtimes, "answer_by", lambda graph, change=change: lambda frames: change(sound(graph)(frames))
        )
        refused(plain, why)


def test_a_tie_that_turns_is_another_answer() -> None:
    expected = torch.tensor([[1.0, 1.0 - 1e-4]])
    with pytest.raises(CompileError, match="gives generated pictures other labels"):
        runtimes._check_alike(expected, expected.flip(1), "singly")


def refused(one: Classifier, why: str) -> None:
    """By ``auto`` PyTorch runs it, and by ``openvino`` nothing does; for that reason."""
    reference = chosen(replace(one, runtime="auto"))
    assert reference.runtime == "torch"
    assert reference.make_runner is None
    runtimes._CHOSEN.clear()
    with pytest.raises(ModelError, match=f"model.runtime is openvino, but {why}"):
        with_reference(replace(one, runtime="openvino"))


def test_a_model_that_does_not_convert_runs_by_pytorch() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = x.mean((2, 3)).repeat(1, 2)[:, :5]
            return logits if x.sum() > 0 else -logits

    refused(classifier(Branches()), "cannot be converted for OpenVINO: ")


def test_other_dtypes_and_devices_stay_with_pytorch(plain: Classifier) -> None:
    refused(replace(plain, dtype=torch.bfloat16), "model.dtype is bfloat16")
    refused(replace(plain, device=torch.device("cuda")), "the model is on cuda, and OpenVINO runs on the processor")


def test_by_torch_nothing_is_compiled(plain: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "convert_whole", lambda _: pytest.fail("converted"))
    assert chosen(replace(plain, runtime="torch")) == Reference("torch", "model.runtime is torch")


def test_without_openvino_it_says_how_to_get_it(plain: Classifier) -> None:
    with without_openvino():
        refused(plain, "openvino is not installed")
        assert "pip install 'layercache[fast]'" in chosen(plain).reason


@pytest.mark.usefixtures("converted_before")
def test_a_model_slow_alone_is_compared_in_smaller_batches(plain: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_times", lambda runs, frames, clock: (120.0 * len(frames), 60.0 * len(frames)))
    assert chosen(plain).reason.endswith("in batches of 4 60 ms a frame, PyTorch 120")


def test_pytorch_as_a_whole_is_the_chain_of_its_layers_bit_for_bit(plain: Classifier) -> None:
    frames = pictures(9, seed=5)
    expected = Engine(cuts.trace(plain)).run(frames, np.zeros(9, np.bool_)).logits
    assert by_pytorch(plain)(frames).numpy().tobytes() == expected.tobytes()
