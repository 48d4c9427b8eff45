"""Ours without a compiled path: an engine has the exits of a setting, and those alone."""

from math import inf

import pytest
import torch

from benchmarks.paper import ours
from benchmarks.paper.data import Budget, Task
from layercache.schemas.manifest import HeadSpec


class Recipe:
    """Two pooled heads, and hardly any steps."""

    steps = 4

    def heads(self, task: Task) -> dict[str, tuple[HeadSpec, ...]]:
        return {
            cut.name: (HeadSpec(family="pooled", features=cut.shape, classes=3, hidden=8),)
            for cut in task.traced.proposed[:2]
        }


@pytest.mark.usefixtures("steady_times")
def test_an_engine_runs_the_heads_of_the_exits_that_are_open(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "RECIPES", {"tiny": Recipe()})
    outcome = ours.learn(task, 1, Budget(None, quick=True))
    first, second = (cut.name for cut in task.traced.proposed[:2])
    for thresholds, exits in {(inf, 0.0): (second,), (0.0, inf): (first,), (0.0, 0.0): (first, second)}.items():
        engine = outcome.engine(thresholds)
        assert engine.exits == exits
        assert set(engine.run(task.frames[:8], torch.zeros(8, dtype=torch.bool).numpy()).exits.tolist()) == {0}
    assert outcome.engine((inf, inf)).exits == ()
