"""Models are cut where one value is alive, and the pieces make the model again, bit for bit."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.costs import count_flops
from layercache.early_exit.cutting.cuts import CutError
from layercache.early_exit.model import loading
from layercache.schemas.settings import Model
from tests.early_exit.model.test_loading import write_model
from tests.early_exit.models import chain, classifier, of_torchvision
from tests.support.tiny_model import TinyModel


def test_proposals_for_resnet18_are_ends_of_blocks_spread_over_the_model() -> None:
    traced = cuts.trace(of_torchvision("resnet18"))
    assert [cut.name for cut in traced.proposed] == ["maxpool", "layer1", "layer2", "layer3"]
    assert [cut.name for cut in cuts.trace(of_torchvision("resnet18"), 2).proposed] == ["layer2.0", "layer3"]


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5"])
def test_flops_and_shapes_are_those_of_the_segments(name: str) -> None:
    model = of_torchvision(name)
    traced = cuts.trace(model)
    frame = model.example(1)
    assert traced.flops == count_flops(model.module, frame)
    for cut in traced.proposed:
        head, tail = traced.segments([cut.name])
        with torch.inference_mode():
            assert tuple(head(frame).shape) == (1, *cut.shape)
        before = count_flops(head, frame)
        assert cut.flops_share == pytest.approx(before / traced.flops)
        assert before + count_flops(tail, torch.zeros(1, *cut.shape)) == traced.flops


def test_segments_share_the_models_weights() -> None:
    model = of_torchvision("squeezenet1_1")
    own = {parameter.data_ptr() for parameter in model.module.parameters()}
    traced = cuts.trace(model)
    segments = traced.segments([cut.name for cut in traced.proposed])
    shared = [{parameter.data_ptr() for parameter in segment.parameters()} for segment in segments]
    assert set.union(*shared) == own
    assert sum(map(len, shared)) == len(own)
    assert not any(module.training for segment in segments for module in segment.modules())


def test_names_are_the_same_each_time() -> None:
    first, second = (cuts.trace(of_torchvision("mobilenet_v3_small")) for _ in range(2))
    assert first.cuts == second.cuts
    assert first.proposed == second.proposed


class Awkward(nn.Module):
    """Everything that real forwards do and tracing must cope with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList([Deciding() for _ in range(3)])
        self.fc = nn.Linear(4 * 8 * 8, 5)
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor, mask: Tensor | None = None, factor: float = 2.0) -> Tensor:
        batch, _, _, width = x.shape
        size = x.shape
        y = self.stem(x)
        factors = self.scale.exp().view(1, 4, 1, 1)
        for block in self.blocks:
            y = block(y)
        y = (y * factors * factor).view(batch, 4, size[2], width)
        if mask is not None:
            y = y * mask
        logits: Tensor = self.fc(y.reshape(batch, -1))
        return logits


class Deciding(nn.Module):
    """A block whose control flow depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 100:
            return x
        y: Tensor = self.conv(x).relu_() + x
        return y


def test_a_model_is_cut_around_blocks_that_cannot_be_traced() -> None:
    torch.manual_seed(0)
    model = classifier(Awkward())
    traced = cuts.trace(model, 3)
    names = [cut.name for cut in traced.cuts]
    assert names[:4] == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert [cut.name for cut in traced.proposed] == ["stem", "blocks.0", "blocks.1"]
    for batch in (1, 2, 5):
        frames = model.example(batch)
        assert chain(traced, names, frames).equal(model.module(frames))


class Overwriting(nn.Module):
    """Writes into values that were alive on their own before: directly, and through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4 * 6 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv(x))
        flat = y.flatten(1)
        flat.add_(1.0)
        logits: Tensor = self.fc(flat)
        return logits


def test_a_value_at_a_cut_is_never_overwritten_by_the_next_segment() -> None:
    torch.manual_seed(0)
    model = classifier(Overwriting())
    traced = cuts.trace(model)
    names = [cut.name for cut in traced.cuts]
    assert names == ["conv", "relu", "flatten"]
    frames = model.example(3)
    expected = model.module(frames)
    for name in names:
        head, tail = traced.segments([name])
        value = head(frames)
        kept = value.clone()
        assert tail(value).equal(expected)
        assert value.equal(kept)
    assert chain(traced, names, frames).equal(expected)
    assert "conv" not in [cut.name for cut in traced.proposed]


class Residual(nn.Module):
    """A random small network: each number chooses a layer."""

    def __init__(self, plan: list[tuple[int, bool]], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.plan = plan
        self.layers = nn.ModuleList(self._layer(kind) for kind, _ in plan)
        self.fc = nn.Linear(4, 5)

    @staticmethod
    def _layer(kind: int) -> nn.Module:
        convolution = nn.Conv2d(4, 4, 3, padding=1)
        return [
            convolution,
            nn.Sequential(convolution, nn.ReLU(inplace=True)),
            nn.Sequential(nn.BatchNorm2d(4), nn.Hardswish(inplace=True), convolution),
            nn.Sequential(nn.Dropout(0.5, inplace=True), convolution),
            nn.Identity(),
            nn.ReLU(inplace=True),
        ][kind]

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat((x, x[:, :1]), 1)
        for layer, (_, skips) in zip(self.layers, self.plan, strict=True):
            y = layer(y.clone()) + y if skips else layer(y)
        logits: Tensor = self.fc(y.mean((2, 3)))
        return logits


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=7), st.integers(0, 99), st.data())
@settings(max_examples=40, deadline=None)
def test_any_network_any_cuts(plan: list[tuple[int, bool]], seed: int, data: st.DataObject) -> None:
    model = classifier(Residual(plan, seed))
    traced = cuts.trace(model)
    names = [cut.name for cut in traced.cuts if data.draw(st.booleans())]
    frames = model.example(data.draw(st.integers(1, 4)))
    with torch.no_grad():
        assert chain(traced, names, frames).equal(model.module(frames.clone()))


def test_models_that_return_more_than_logits_are_cut_too(tmp_path: Path) -> None:
    spec = write_model(tmp_path, "return {'features': features, 'logits': self.fc(features)}")
    model = loading.load(Model(spec=spec))
    traced = cuts.trace(model)
    frames = model.example(2)
    assert chain(traced, [cut.name for cut in traced.cuts], frames).equal(model.module(frames))


def test_a_reduced_dtype_is_cut_the_same_way(tiny_model: TinyModel) -> None:
    half = loading.load(tiny_model.settings.model_copy(update={"dtype": "bfloat16"}))
    traced = cuts.trace(half)
    assert traced.cuts == cuts.trace(loading.load(tiny_model.settings)).cuts
    frames = half.example(2)
    assert chain(traced, [cut.name for cut in traced.proposed], frames).equal(half.module(frames))


class TestRefuses:
    def test_an_unknown_cut_and_names_near_ones(self, tiny_model: TinyModel) -> None:
        traced = cuts.trace(loading.load(tiny_model.settings))
        with pytest.raises(CutError, match=r"tiny has no cut 'secnd'; near ones: second"):
            traced.cut("secnd")

    @pytest.mark.parametrize("names", [["second", "first"], ["first", "first"]])
    def test_cuts_out_of_order(self, names: list[str], tiny_model: TinyModel) -> None:
        traced = cuts.trace(loading.load(tiny_model.settings))
        with pytest.raises(CutError, match="in the model's order"):
            traced.segments(names)

    def test_a_forward_that_decides_by_values_and_names_the_line(self, tmp_path: Path) -> None:
        spec = write_model(tmp_path, "return self.fc(features) if features.sum() > 0 else self.fc(-features)")
        with pytest.raises(CutError, match=r"net cannot be cut: cannot trace Model at .*net\.py:\d+ \(return self\.fc"):
            cuts.trace(loading.load(Model(spec=spec)))

    def test_a_forward_that_is_not_a_function_of_the_frames(self, tmp_path: Path) -> None:
        forward = "self.calls = getattr(self, 'calls', 0) + 1; return self.fc(features) * self.calls"
        with pytest.raises(CutError, match="other logits than the model"):
            cuts.trace(loading.load(Model(spec=write_model(tmp_path, forward))))
