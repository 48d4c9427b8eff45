"""Pictures become what the model was trained on."""

import pytest
import torch
import torchvision.models
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import to_pil_image

from layercache.early_exit.model.metadata import of_torchvision
from layercache.early_exit.model.preprocessing import Preprocessing

RGB = Preprocessing(size=(32, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
GREY = Preprocessing(size=(28, 28), mean=(0.25,), std=(0.5,))


def picture(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_b_16", "swin_t"])
def test_does_what_torchvision_did_in_training(name: str) -> None:
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    preprocessing = of_torchvision(weights).preprocessing
    assert preprocessing is not None
    image = picture(3, 300, 411)
    ours = preprocessing.normalise(preprocessing.fit(image)[None])
    theirs = weights.transforms()(to_pil_image(image))[None]  # as in training: PIL, which rounds to uint8 as well
    levels = (ours - theirs).abs() * 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1)
    assert levels.max() < 1.01
    assert levels.mean() < 0.01


@given(
    st.integers(1, 4), st.integers(1, 80), st.integers(1, 80), st.sampled_from([RGB, GREY]), st.sampled_from([None, 40])
)
@settings(max_examples=60, deadline=None)
def test_any_picture_fits(channels: int, height: int, width: int, base: Preprocessing, resize: int | None) -> None:
    preprocessing = Preprocessing(base.size, base.mean, base.std, resize)
    fitted = preprocessing.fit(picture(channels, height, width))
    assert fitted.dtype is torch.uint8
    assert tuple(fitted.shape) == (preprocessing.channels, *preprocessing.size)


def test_leaves_a_picture_of_the_right_size_alone() -> None:
    image = picture(3, 32, 24)
    assert Preprocessing(RGB.size, RGB.mean, RGB.std, resize=40).fit(image) is image


def test_keeps_an_evenly_coloured_picture_as_it_is() -> None:
    fitted = RGB.fit(torch.full((3, 100, 77), 131, dtype=torch.uint8))
    assert fitted.unique().tolist() == [131]


def test_crops_the_centre() -> None:
    image = torch.zeros(1, 40, 80, dtype=torch.uint8)
    image[:, :, 26:54] = 200
    fitted = Preprocessing((28, 28), (0.5,), (0.5,), resize=40, interpolation="nearest").fit(image)
    assert fitted.unique().tolist() == [200]


def test_changes_colours_to_what_the_model_knows() -> None:
    grey = picture(1, 32, 24)
    assert RGB.fit(grey).equal(grey.expand(3, -1, -1))
    with_alpha = picture(4, 32, 24)
    assert RGB.fit(with_alpha).equal(with_alpha[:3])
    white = torch.full((3, 28, 28), 255, dtype=torch.uint8)
    assert GREY.fit(white).min() >= 254


def test_normalises_by_mean_and_std() -> None:
    frames = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 32, 24)
    result = RGB.normalise(frames)
    expected = torch.stack([(frames[:, c] / 255 - RGB.mean[c]) / RGB.std[c] for c in range(3)], 1)
    assert result.dtype is torch.float32
    assert (result - expected).abs().max() < 1e-6
    assert RGB.normalise(frames, torch.bfloat16).dtype is torch.bfloat16


def test_normalises_inside_and_outside_of_inference_mode() -> None:
    once = Preprocessing((2, 2), (0.123,), (0.77,))
    frames = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    with torch.inference_mode():
        inside = once.normalise(frames).tolist()
    scale = torch.ones(1, requires_grad=True)
    (once.normalise(frames) * scale).sum().backward()
    assert once.normalise(frames).tolist() == inside


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 4)}, "size"),
        ({"mean": (0.5, 0.5)}, "mean and std"),
        ({"std": (0.5,)}, "mean and std"),
        ({"std": (0.5, 0.5, 0.0)}, "std above 0"),
        ({"mean": (0.5, 0.5, float("nan"))}, "finite"),
        ({"resize": 20}, "resize"),
        ({"interpolation": "cubic"}, "interpolation"),
    ],
)
def test_refuses_values_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"size": (32, 24), "mean": RGB.mean, "std": RGB.std} | changes
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 4, 4), torch.zeros(5, 4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8)]
)
def test_refuses_what_is_no_picture(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="a picture must be uint8"):
        RGB.fit(image)


@pytest.mark.parametrize("shape", [(3, 30, 6_000), (3, 6_000, 30), (1, 6_000, 30), (3, 40, 50)])
def test_a_picture_keeps_nothing_of_what_was_cropped_away(shape: tuple[int, ...]) -> None:
    preprocessing = Preprocessing(size=(28, 28), mean=(0.5,) * 3, std=(0.25,) * 3, resize=28)
    fitted = preprocessing.fit(torch.zeros(shape, dtype=torch.uint8))
    assert fitted.untyped_storage().nbytes() == 3 * 28 * 28
