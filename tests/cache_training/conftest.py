"""Times that do not depend on what else the machine does."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import nn

from layercache.cache_training.learning import candidates, learner


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
