"""Skims are copies of the model's later layers: the whole of them is the model, and less of them is cheaper."""

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import torch
import torchvision.models
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.costs import count_flops
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.families import HeadsError, SkimHead, build_head, fuse
from layercache.early_exit.heads.loading import load_heads, tensor_names
from layercache.early_exit.heads.skims import END, path_flops_share, skim_path
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.manifest import Exit, HeadSpec, Manifest
from tests.early_exit.models import classifier


@pytest.fixture(scope="module")
def resnet() -> TracedModel:
    torch.manual_seed(0)
    return cuts.trace(classifier(torchvision.models.resnet18(num_classes=5), (64, 64)))


def skim(traced: TracedModel, cut: str, path: tuple[tuple[str, str], ...], stride: int = 1) -> HeadSpec:
    classes = len(traced.classifier.classes)
    return HeadSpec(family="skim", features=traced.cut(cut).shape, classes=classes, path=path, stride=stride)


def test_a_skim_leaves_out_blocks_that_keep_the_values_shape(resnet: TracedModel) -> None:
    assert skim_path(resnet, "layer1") == (
        ("layer1", "layer2.0"), ("layer2", "layer3.0"), ("layer3", "layer4.0"), ("layer4", "flatten"), ("flatten", END),
    )  # fmt: skip
    assert skim_path(resnet, "layer1", keep=1) == (("layer1", "flatten"), ("flatten", END))
    assert skim_path(resnet, "maxpool", keep=1, keep_here=1) == (("layer1.0", "flatten"), ("flatten", END))


@given(
    cut=st.sampled_from(["maxpool", "layer1.0", "layer2", "layer3.0"]), keep=st.integers(0, 3), here=st.integers(0, 3)
)
@settings(max_examples=20, deadline=None)
def test_pieces_fit_together_and_keeping_more_costs_more(resnet: TracedModel, cut: str, keep: int, here: int) -> None:
    path = skim_path(resnet, cut, keep, here)
    shapes = {one.name: one.shape for one in resnet.cuts}
    assert path[-1][1] == END
    assert shapes[path[0][0]] == shapes[cut]
    for (_, stop), (start, _) in pairwise(path):
        assert shapes[stop] == shapes[start]
    share = path_flops_share(resnet, path)
    assert share <= path_flops_share(resnet, skim_path(resnet, cut, keep + 1, here)) + 1e-9
    assert 0 < share <= 1 - resnet.cut(cut).flops_share + 1e-9
    counted = count_flops(build_head(skim(resnet, cut, path), resnet).eval(), torch.zeros(1, *resnet.cut(cut).shape))
    assert counted / resnet.flops == pytest.approx(share)


def test_a_skim_of_all_that_is_left_is_the_model_until_it_is_trained(resnet: TracedModel) -> None:
    head = build_head(skim(resnet, "layer2", (("layer2", END),)), resnet).eval()
    frames = resnet.classifier.example(3)
    before = resnet.segments(["layer2"])[0]
    with torch.inference_mode():
        assert head(before(frames)).equal(resnet.classifier.module(frames))
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    head(before(frames)).sum().backward()
    optimizer.step()
    with torch.inference_mode():
        assert not head(before(frames)).equal(resnet.classifier.module(frames))
        assert resnet.segments(["layer2"])[1](before(frames)).equal(resnet.classifier.module(frames))


def test_half_the_resolution_costs_a_quarter(resnet: TracedModel) -> None:
    path = skim_path(resnet, "layer1")
    x = torch.zeros(1, *resnet.cut("layer1").shape)
    whole, half = (count_flops(build_head(skim(resnet, "layer1", path, stride), resnet).eval(), x) for stride in (1, 2))
    assert half == pytest.approx(whole / 4, rel=0.01)


def test_the_values_inside_have_the_shapes_of_the_models_at_half_the_size(resnet: TracedModel) -> None:
    path = skim_path(resnet, "layer1")
    head = build_head(skim(resnet, "layer1", path, 2), resnet).eval()
    assert isinstance(head, SkimHead)
    values = head.values(torch.zeros(2, *resnet.cut("layer1").shape))
    assert [tuple(value.shape[1:]) for value in values] == [(128, 4, 4), (256, 2, 2), (512, 1, 1), (512,), (5,)]


class Rigid(torch.nn.Module):
    """Its last layer takes a map of one size only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.down = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.last = torch.nn.Linear(16 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.down(self.stem(x)).flatten(1))
        return logits


def test_a_map_is_brought_back_to_its_size_where_later_layers_need_it() -> None:
    torch.manual_seed(0)
    traced = cuts.trace(classifier(Rigid()))
    spec = skim(traced, "stem", (("stem", "down"), ("down", END)), stride=2)
    with pytest.raises(RuntimeError):
        build_head(spec, traced)(torch.zeros(2, 8, 8, 8))
    restored = build_head(msgspec.structs.replace(spec, restore="down"), traced)
    assert restored(torch.zeros(2, 8, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(("name", "size"), [("swin_t", 64), ("vit_b_16", 64)])
def test_values_with_channels_last_and_tokens_have_skims_too(name: str, size: int) -> None:
    torch.manual_seed(0)
    options = {"image_size": size} if name == "vit_b_16" else {}
    module = torchvision.models.get_model(name, num_classes=5, **options)
    traced = cuts.trace(classifier(module, (size, size)))
    cut = traced.proposed[0]
    path = skim_path(traced, cut.name, keep=1, keep_here=1)
    head = build_head(msgspec.structs.replace(skim(traced, cut.name, path), channels_last=cut.layout == "hwc"), traced)
    assert head(torch.zeros(2, *cut.shape)).shape == (2, 5)
    assert path_flops_share(traced, path) < 1 - cut.flops_share


def test_a_stored_skim_answers_as_the_one_that_was_trained(resnet: TracedModel, tmp_path: Path) -> None:
    spec = skim(resnet, "layer1", skim_path(resnet, "layer1"), 2)
    head = build_head(spec, resnet)
    x = torch.randn(8, *spec.features)
    head(x).square().sum().backward()
    torch.optim.SGD(head.parameters(), 1e-4).step()
    head.eval()
    exit_ = Exit(cut="layer1", head=spec, temperature=1.0, threshold=0.9, flops_share=0.3, time_share=0.3)
    manifest = Manifest(
        version="1", model=resnet.classifier.fingerprint, model_name="resnet", created="", reason="first",
        predecessor=None, exits=(exit_,), audit_rate=0.1, certificate=None, expected=None,
    )  # fmt: skip
    store = HeadStore(f"file://{tmp_path}", resnet.classifier.fingerprint)
    store.publish(manifest, tensor_names("layer1", head))
    served = load_heads(*store.load("1"), resnet).modules[0]
    with torch.inference_mode():
        expected = head(x)
        assert served(x) == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(expected.abs().max()))
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in served.modules())
        assert fuse(head)(x) == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(expected.abs().max()))


def test_a_skim_needs_its_model_and_a_path_through_it(resnet: TracedModel) -> None:
    spec = skim(resnet, "layer1", (("layer1", END),))
    with pytest.raises(HeadsError, match="needs the model"):
        build_head(spec)
    with pytest.raises(HeadsError, match="does not fit the model"):
        build_head(msgspec.structs.replace(spec, path=(("layer1", "layer9"), ("layer9", END))), resnet)


def stored(resnet: TracedModel, spec: HeadSpec) -> tuple[Manifest, dict[str, torch.Tensor]]:
    whole = skim(resnet, "layer1", (("layer1", END),))
    exit_ = Exit(cut="layer1", head=spec, temperature=1.0, threshold=0.9, flops_share=0.3, time_share=0.3)
    manifest = Manifest(
        version="1", model=resnet.classifier.fingerprint, model_name="resnet", created="", reason="first",
        predecessor=None, exits=(exit_,), audit_rate=0.1, certificate=None, expected=None,
    )  # fmt: skip
    return manifest, tensor_names("layer1", build_head(whole, resnet))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"path": (("layer1", "flatten"),)}, "to its end"),
        ({"path": (("layer1", END),) * 101}, "to its end"),
        ({"stride": 0}, "to its end"),
        ({"stride": 1000}, "does not run"),
        ({"restore": "flatten"}, "at a map on its path"),
        ({"path": (("layer2", END),)}, "does not run|does not load"),
    ],
)
def test_a_manifest_whose_skim_does_not_fit_is_refused(
    resnet: TracedModel, change: dict[str, object], complaint: str
) -> None:
    spec = msgspec.structs.replace(skim(resnet, "layer1", (("layer1", END),)), **change)
    with pytest.raises(HeadsError, match=complaint):
        load_heads(*stored(resnet, spec), resnet)


def test_a_convolution_that_is_called_twice_keeps_its_norm_to_itself() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(4)
            self.last = torch.nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = self.norm(self.conv(self.conv(x)))
            logits: torch.Tensor = self.last(x.mean((2, 3)))
            return logits

    torch.manual_seed(0)
    module = Twice()
    module(torch.randn(32, 3, 8, 8) * 3)  # statistics that are not those of doing nothing
    traced = cuts.trace(classifier(module))
    head = build_head(skim(traced, "stem", (("stem", END),)), traced).eval()
    x = torch.randn(4, 4, 8, 8)
    expected = head(x).detach()
    assert fuse(head)(x).detach() == pytest.approx(expected, abs=1e-5)
