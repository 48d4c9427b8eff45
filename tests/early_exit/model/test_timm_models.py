"""Models of timm are loaded, described and cut like torchvision's."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from layercache.early_exit.model import loading
from layercache.early_exit.model.loading import ModelError
from layercache.schemas.settings import Model
from tests.early_exit.models import assert_the_chain_is_the_model, classifier
from tests.support.cheap_weights import build

pytestmark = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")

#: Name, side of a frame, and the layouts that proposals may have.
FAMILIES = [
    ("convnext_atto", 32, {"chw"}),
    ("vit_tiny_patch16_224", 32, {"tokens"}),
    ("deit_tiny_distilled_patch16_224", 32, {"tokens"}),
    ("mobilenetv4_conv_small", 32, {"chw"}),
    ("efficientnet_lite0", 32, {"chw"}),
    ("resnetv2_50", 32, {"chw"}),
    ("ghostnet_050", 32, {"chw"}),
    ("mixer_s32_224", 64, {"tokens"}),
    ("swin_s3_tiny_224", 56, {"hwc"}),
    ("regnety_002", 32, {"chw"}),
    ("repvgg_a0", 32, {"chw"}),
    ("poolformerv2_s12", 32, {"chw"}),
    ("levit_128s", 64, {"tokens"}),
    ("edgenext_xx_small", 64, {"chw"}),
]


def of_timm(name: str, side: int) -> loading.Classifier:
    import timm

    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    options: dict[str, Any] = {"img_size": side} if fixed else {}
    return classifier(build(lambda: timm.create_model(name, num_classes=5, **options)), (side, side))


@pytest.mark.parametrize(("name", "side", "layouts"), FAMILIES)
def test_the_chain_is_the_model_bit_for_bit(name: str, side: int, layouts: set[str]) -> None:
    traced = assert_the_chain_is_the_model(of_timm(name, side))
    assert len(traced.cuts) >= 10
    assert len(traced.proposed) >= 2
    assert {cut.layout for cut in traced.proposed if cut.flops_share > 0.1} == layouts


def test_preprocessing_and_classes_are_those_of_timms_configuration() -> None:
    model = loading.load(Model(spec="timm:test_resnet.r160_in1k"))
    assert model.name == "timm:test_resnet.r160_in1k"
    assert model.preprocessing.size == (160, 160)
    assert model.preprocessing.resize == int(160 / 0.95)
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)
    assert len(model.classes) == 1000
    assert model.classes[0].startswith("tench")


def test_weights_from_a_file_and_a_size_and_classes_of_ones_own(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    original = timm.create_model("test_vit", num_classes=2, img_size=64).eval()
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "m.toml").write_text('size = 64\nclasses = ["cat", "dog"]\n')
    settings = Model(spec="timm:test_vit", weights=str(tmp_path / "w.safetensors"), metadata=tmp_path / "m.toml")
    model = loading.load(settings)
    frames = model.example(2)
    with torch.no_grad():
        assert model.module(frames).equal(original(frames))
    assert model.classes == ("cat", "dog")
    assert model.preprocessing.size == (64, 64)
    assert loading.load(settings).fingerprint == model.fingerprint


@pytest.mark.parametrize(
    ("spec", "weights", "message"),
    [
        ("timm:resnet18x", None, r"timm has no model 'resnet18x'; did you mean resnet18"),
        ("timm:resnet18.a9_in1k", None, r"timm has no weights 'a9_in1k' for resnet18; there are .*a1_in1k"),
        ("timm:resnet18", "a9_in1k", r"weights 'a9_in1k' of timm:resnet18 are no file, nor one of .*a1_in1k.*DEFAULT"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(spec: str, weights: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        loading.load(Model(spec=spec, weights=weights))


def test_without_timm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"timm:resnet18 needs timm, which is not installed here: pip install timm"):
        loading.load(Model(spec="timm:resnet18"))
