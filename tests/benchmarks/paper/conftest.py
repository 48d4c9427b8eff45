"""A task of the tiny model, on which everything takes the same time."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.paper.data import Task
from layercache.cache_training.learning import learner
from layercache.early_exit.cutting import cuts
from layercache.early_exit.engine import Engine
from layercache.early_exit.model import loading
from tests.cache_training.streams import pictures
from tests.support.compiled import set_path_times
from tests.support.tiny_model import TinyModel


@pytest.fixture
def task(tiny_model: TinyModel) -> Task:
    """1,600 pictures: 496 teach, 64 tune, 240 certify, which is too few for 1 %."""
    torch.set_num_threads(1)
    traced = cuts.trace(loading.load(tiny_model.settings.model_copy(update={"runtime": "auto"})))
    frames = pictures(1600, seed=0)
    labels = Engine(traced).run(frames, np.ones(1600, np.bool_)).labels
    return Task("colours", "tiny", traced, frames, labels)


@pytest.fixture
def steady_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled path takes a quarter of the model's time, a piece before its end a tenth of that, a head nothing."""

    def segments(
        pieces: Mapping[str, nn.Module], _: object, __: object, batches: Sequence[int], ___: int
    ) -> dict[str, dict[int, float]]:
        return {piece: {batch: 1.0 * batch for batch in batches} for piece in pieces}

    monkeypatch.setattr(learner, "measure_times", segments)
    monkeypatch.setattr(learner, "measure_ms", lambda *_: 0.0)
    set_path_times(monkeypatch, segments=2)
