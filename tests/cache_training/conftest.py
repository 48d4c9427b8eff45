"""The tiny model and its store, and times that do not depend on what else the machine does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from layercache.cache_training.learning import candidates, learner
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.store.head_store import HeadStore
from tests.cache_training.streams import traced
from tests.support.tiny_model import TinyModel


@pytest.fixture
def steady_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the model's segments takes as long as any other, a head a tenth of that.

    Measured, an exit of the tiny model seems to save nothing once in a while, and is then not opened.
    """

    def segments(
        pieces: Mapping[str, nn.Module], _: object, __: object, batches: Sequence[int], ___: int
    ) -> dict[str, dict[int, float]]:
        return {piece: {batch: 1.0 * batch for batch in batches} for piece in pieces}

    def head(_: object, example: torch.Tensor, __: int) -> float:
        return 0.1 * len(example)

    monkeypatch.setattr(learner, "measure_times", segments)
    monkeypatch.setattr(learner, "measure_ms", head)
    monkeypatch.setattr(candidates, "measure_ms", head)


@pytest.fixture
def model(tiny_model: TinyModel) -> TracedModel:
    """The tiny model, cut; on one thread, so that its numbers are the same in every run."""
    torch.set_num_threads(1)
    return traced(tiny_model)


@pytest.fixture
def store(tmp_path: Path) -> HeadStore:
    """An empty store of the tiny model's heads."""
    return HeadStore(f"file://{tmp_path / 'heads'}", "tiny")
