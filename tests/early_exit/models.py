"""Models to be cut, and their pieces run one after another."""

import torch
import torchvision.models
from torch import Tensor, nn

from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.model.loading import Classifier
from layercache.early_exit.model.preprocessing import Preprocessing


def classifier(module: nn.Module, size: tuple[int, int] = (8, 8), channels: int = 3) -> Classifier:
    preprocessing = Preprocessing(size, (0.5,) * channels, (0.25,) * channels)
    module = module.eval().requires_grad_(False)
    cpu, classes = torch.device("cpu"), tuple("abcde")
    return Classifier(module, preprocessing, classes, "mine", "f" * 64, cpu, torch.float32)


def of_torchvision(name: str) -> Classifier:
    torch.manual_seed(0)
    return classifier(torchvision.models.get_model(name, weights=None, num_classes=5), (64, 64))


def chain(traced: TracedModel, names: list[str], frames: Tensor) -> Tensor:
    """The segments one after another; none may change what it was given."""
    value = frames
    for segment in traced.segments(names):
        before = value.clone()
        result = segment(value)
        assert value.equal(before), f"a segment of {names} wrote into its input"
        value = result
    return value


def assert_the_chain_is_the_model(model: Classifier) -> TracedModel:
    """Its pieces give its own output bit for bit: cut at the proposals, everywhere, nowhere; one frame or three."""
    traced = cuts.trace(model)
    every, proposed = ([cut.name for cut in of] for of in (traced.cuts, traced.proposed))
    for batch, chosen in ((1, (proposed, [])), (3, (every, proposed))):
        frames = model.example(batch)
        with torch.inference_mode():
            expected = model.module(frames.clone())
            assert expected.isfinite().all()
            assert expected.std() > 1e-3, "weights that leave nothing to compare"
            for names in chosen:
                assert chain(traced, names, frames).equal(expected)
    return traced
