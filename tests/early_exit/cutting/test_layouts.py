"""What a cut's axes are is read off the graph, whatever the sizes."""

import pytest
import torch
from torch import Tensor, nn

from layercache.early_exit.cutting import cuts
from tests.early_exit.model.test_torchvision import of_torchvision
from tests.early_exit.models import classifier

SIDE = 8


def layouts(module: nn.Module) -> dict[str, str]:
    torch.manual_seed(0)
    return {cut.name: cut.layout for cut in cuts.trace(classifier(module, (SIDE, SIDE))).cuts}


class Mixed(nn.Module):
    """A cube of 8 × 8 × 8 that is turned about: its sizes say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, SIDE, 3, padding=1)
        self.norm = nn.LayerNorm(SIDE)
        self.windows = nn.Linear(SIDE, SIDE)
        self.back = nn.Conv2d(SIDE, SIDE, 1)
        self.tokens = nn.Linear(SIDE, SIDE)
        self.fc = nn.Linear(SIDE, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).permute(0, 2, 3, 1))
        n, h, w, c = x.shape
        x = x.view(n, 2, h // 2, 2, w // 2, c).transpose(2, 3).reshape(n, 4, 16, c)
        x = self.windows(x)
        x = x.view(n, 2, 2, h // 2, w // 2, c).transpose(2, 3).reshape(n, h, w, c)
        x = self.back(x.permute(0, 3, 1, 2))
        x = self.tokens(x.flatten(2).transpose(1, 2)).relu()
        logits: Tensor = self.fc(x.mean(1))
        return logits


def test_axes_are_followed_through_permutations_and_windows() -> None:
    assert layouts(Mixed()) == {
        "stem": "chw",
        "permute": "hwc",
        "norm": "hwc",
        # cut into windows in between: no head can read those, so there is no cut
        "reshape": "hwc",
        "permute_1": "chw",
        "back": "chw",
        # flatten alone would be tokens with their channels first: no cut either
        "transpose": "tokens",
        "tokens": "tokens",
        "relu": "tokens",
        "mean": "vector",
    }


class Opaque(nn.Module):
    """Cannot be traced, so its insides say nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 1e9 else -x


def test_opaque_blocks_leave_axes_where_they_were() -> None:
    channels_last = nn.Sequential(Permuted(), Opaque(), Opaque(), Pooled())
    assert set(layouts(nn.Sequential(nn.Conv2d(3, SIDE, 1), channels_last)).values()) == {"chw", "hwc", "vector"}
    assert layouts(nn.Sequential(nn.Conv2d(3, SIDE, 1), channels_last))["1.1"] == "hwc"
    plain = nn.Sequential(
        Opaque(), nn.Conv2d(3, 4, 1), Opaque(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    assert layouts(plain)["2"] == "chw"


class Permuted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(SIDE, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.mean((1, 2)))
        return logits


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", {"conv1": "chw", "layer1.0": "chw", "layer4": "chw", "flatten": "vector"}),
        ("convnext_tiny", {"features.0": "chw", "features.1.0": "chw", "features.2.0": "chw", "features": "chw"}),
        ("swin_t", {"features.0.0": "chw", "features.0": "hwc", "features.1.0": "hwc", "permute": "chw"}),
        ("swin_v2_t", {"features.0": "hwc", "features.3": "hwc", "features.5.2": "hwc", "norm": "hwc"}),
        ("vit_b_16", {"conv_proj": "chw", "encoder.layers.encoder_layer_0": "tokens", "encoder": "tokens"}),
        pytest.param(
            "maxvit_t",
            {"stem": "chw", "blocks.0": "chw", "blocks.1.layers.0": "chw", "blocks.3": "chw"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_torchvisions_models(name: str, expected: dict[str, str]) -> None:
    traced = cuts.trace(of_torchvision(name))
    assert {cut: traced.cut(cut).layout for cut in expected} == expected
    kinds = {"swin_t": {"hwc"}, "swin_v2_t": {"hwc"}, "vit_b_16": {"tokens"}}
    assert {cut.layout for cut in traced.proposed if cut.flops_share > 0.1} == kinds.get(name, {"chw"})
