"""The trainer counts frames that another runtime gives another label than the layers that heads learn from."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from layercache.cache_training.learning.kept_frames import Frames
from layercache.cache_training.learning.learner import Learner
from layercache.early_exit.cutting import cuts
from layercache.early_exit.engine import Engine
from layercache.early_exit.model import loading
from layercache.early_exit.model.reference import Reference
from layercache.early_exit.runtimes import by_pytorch
from tests.cache_training.streams import pictures
from tests.support.tiny_model import TinyModel


@pytest.mark.parametrize(("turned", "differ"), [(0, 0), (7, 14)])
def test_labels_of_the_streams_frames_that_the_runtimes_differ_on_are_counted(
    tiny_model: TinyModel, turned: int, differ: int
) -> None:
    plain = loading.load(tiny_model.settings)
    answer = by_pytorch(plain)

    def make_runner() -> Callable[[Tensor], Tensor]:
        def other(frames: Tensor) -> Tensor:
            logits = answer(frames).clone()
            logits[:turned] = logits[:turned].roll(1, 1)
            return logits

        return other

    classifier = replace(plain, reference=Reference("openvino", "for this test", make_runner))
    learner = Learner(cuts.trace(classifier), ["first"], ring_mb=8, seed=0)
    frames = pictures(80, seed=1)
    sent = Engine(cuts.trace(plain)).run(frames, np.ones(80, np.bool_)).logits
    learner.keep_for_tuning(Frames.apart(frames.numpy(), sent, np.arange(80, dtype=np.uint64)))
    assert len(learner.tuning) == 80
    assert learner.disagreeing_runtimes == differ, "7 in each of two passes"
    assert learner.disagreeing_passes == 0, "the worker ran PyTorch, too"
    assert torch.equal(learner.tuning.logits(torch.arange(80)).argmax(1), torch.from_numpy(sent).argmax(1))


def test_where_pytorch_runs_the_model_nothing_is_run_twice(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = cuts.trace(loading.load(tiny_model.settings))
    learner = Learner(traced, ["first"], ring_mb=8, seed=0)
    monkeypatch.setattr(learner.teacher, "full", lambda _: pytest.fail("the full model ran a second time"))
    frames = pictures(8, seed=1)
    sent = Engine(traced).run(frames, np.ones(8, np.bool_)).logits
    learner.keep_for_tuning(Frames.apart(frames.numpy(), sent, np.arange(8, dtype=np.uint64)))
    assert (learner.disagreeing_passes, learner.disagreeing_runtimes) == (0, 0)
