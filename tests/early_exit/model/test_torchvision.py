"""Every classification builder of torchvision is cut, and its pieces make the model again, bit for bit."""

import re
from itertools import pairwise
from typing import Any

import pytest
import torchvision.models

from layercache.early_exit.cutting import cuts
from layercache.early_exit.model.loading import Classifier
from tests.early_exit.models import assert_the_chain_is_the_model, classifier
from tests.support.cheap_weights import build

#: Frames are of 32 × 32, or about the least that a model can take.
SIZES = {"alexnet": 64, "inception_v3": 80, "maxvit_t": 224, "vit_h_14": 28}
#: One of each family, and of each way in which a family's members differ: blocks, norms, squeezing, attention.
QUICK = {
    "alexnet", "convnext_tiny", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "vgg11", "vgg11_bn", "vit_b_32",
}  # fmt: skip
#: The smallest of the families that have no quick member. All other builders are more of the same layers.
FURTHER = {"densenet121", "maxvit_t", "swin_v2_t"}


def marks(quick: bool, exhaustive: bool) -> list[pytest.MarkDecorator]:
    """When a builder is tried: always, with the slow tests, or by ``make exhaustive`` alone."""
    if quick:
        return []
    return [pytest.mark.slow, pytest.mark.exhaustive] if exhaustive else [pytest.mark.slow]


def builders() -> list[Any]:
    names = torchvision.models.list_models(module=torchvision.models)
    return [pytest.param(name, marks=marks(name in QUICK, name not in FURTHER)) for name in names]


def of_torchvision(name: str) -> Classifier:
    size = SIZES.get(name, 32)
    options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
    options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module = build(lambda: torchvision.models.get_model(name, weights=None, num_classes=5, **options))
    return classifier(module, (size, size))


def test_there_are_all_the_builders_that_we_know_of() -> None:
    assert len(builders()) >= 80
    assert {*torchvision.models.list_models(module=torchvision.models)} > QUICK | FURTHER


@pytest.mark.parametrize("name", builders())
def test_the_chain_is_the_model_bit_for_bit(name: str) -> None:
    assert_sensible(assert_the_chain_is_the_model(of_torchvision(name)))


def assert_sensible(traced: cuts.TracedModel) -> None:
    """Many cuts with good names in order of cost, and a few proposals, apart, neither too early nor too late."""
    names = [cut.name for cut in traced.cuts]
    shares = [cut.flops_share for cut in traced.cuts]
    assert len(names) >= 15
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)
    assert shares == sorted(shares)
    assert 0 <= shares[0] < 0.5 < shares[-1] <= 1
    ranks = {"vector": 1, "tokens": 2, "chw": 3, "hwc": 3}
    assert all(len(cut.shape) == ranks[cut.layout] for cut in traced.cuts)
    proposed = [cut.flops_share for cut in traced.proposed]
    assert 2 <= len(proposed) <= 4
    early = [share for share in proposed if share < 0.1]
    assert len(early) == min(1, sum(share < 0.1 for share in shares if share)), "one near the start, where there is one"
    assert max(proposed) <= 0.8
    assert all(later - earlier >= 0.06 for earlier, later in pairwise(proposed))
