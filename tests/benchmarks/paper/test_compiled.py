"""Ours where the model may be compiled: what certifies was never learnt from, and what is reported is what serves."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from benchmarks.paper import compiled, ours
from benchmarks.paper.data import Budget, Task
from benchmarks.paper.rows import Truth, measure
from layercache.cache_training.learning import compiled_exits
from layercache.early_exit.cutting import cuts
from layercache.early_exit.heads.compiling import CompiledPieces, compile_path
from layercache.schemas.manifest import HeadSpec, PathPrecision

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("steady_times")]


def heads(task: Task) -> dict[str, tuple[HeadSpec, ...]]:
    cut = task.traced.proposed[0]
    return {cut.name: (HeadSpec(family="pooled", features=cut.shape, classes=3, grid=2, hidden=32),)}


def test_what_is_certified_has_the_models_own_end_and_serves_as_reported(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = []

    def remembered(
        traced: cuts.TracedModel,
        heads: Mapping[str, nn.Module],
        precision: PathPrecision,
        frames: npt.NDArray[np.uint8],
    ) -> CompiledPieces:
        ranges.append((tuple(heads), {frame.tobytes() for frame in frames}))
        return compile_path(traced, heads, precision, frames)

    monkeypatch.setattr(compiled_exits, "compile_path", remembered)
    said: list[str] = []
    found = compiled.learn(task, 1, Budget(), heads(task), 150, said.append)
    assert 0.01 not in found
    assert said[0] == "  1%: nothing was certified"
    outcome = found[0.05]
    cut = next(iter(heads(task)))
    assert [one.cut for one in outcome.exits] == [cut, "int8"]
    assert outcome.upper_bound is not None
    assert outcome.upper_bound <= 0.05

    rows = task.evaluation(1)
    truth = Truth(task.labels[rows], task.labels[rows])
    point = measure(outcome, outcome.certified[0.05], truth)
    frames = task.frames[torch.from_numpy(rows)]
    engine = outcome.engine(outcome.certified[0.05])
    answers = engine.run(frames, np.zeros(len(rows), np.bool_))
    assert np.mean(answers.labels != truth.full) == pytest.approx(point.disagreement, abs=0.002)
    assert point.disagreement <= 0.05
    assert np.mean(answers.exits == 0) == pytest.approx(point.hit_rates[cut], abs=0.01)
    assert point.hit_rates[cut] > 0.2
    assert point.time_saved is not None
    assert 0.5 < point.time_saved < 0.975

    learning, tuning, certification = ours.split(task.learning(1))
    assert [names for names, _ in ranges[:3]] == [(), (), (cut,)]
    taught = {frame.numpy().tobytes() for frame in task.frames[torch.from_numpy(learning)]}
    others = np.concatenate((tuning, certification, rows))
    assert all(frames <= taught for _, frames in ranges)
    assert taught.isdisjoint(frame.numpy().tobytes() for frame in task.frames[torch.from_numpy(others)])


def test_plain_runtimes_bear_the_published_names_and_say_how_often_they_differ(task: Task) -> None:
    rows = task.evaluation(1)
    engines = compiled.plain_runtimes(task, 1)
    assert list(engines) == ["openvino f32", "openvino bf16", "openvino int8"]
    frames = task.frames[torch.from_numpy(rows)]
    truth = Truth(task.labels[rows], np.zeros(len(rows), np.int64))
    points = {name: compiled.whole(engine, frames, truth) for name, engine in engines.items()}
    assert points["openvino f32"].disagreement == 0
    assert points["openvino f32"].accuracy == pytest.approx(np.mean(task.labels[rows] == 0))
    assert 0 < points["openvino int8"].disagreement < 0.15  # the tiny model is often undecided
