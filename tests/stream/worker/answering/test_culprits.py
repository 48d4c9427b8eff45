"""Frames at which the model fails are found, and cost the others nothing but time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Answers, Engine
from layercache.early_exit.machine import MachineFailed, is_the_machines
from layercache.schemas.dead_letter import Reason
from layercache.stream.worker.answering.culprits import Culprits, ModelFails
from tests.cache_training.streams import pictures
from tests.stream.builders import all_audits

Raises = Callable[[Tensor], Exception | None]


class Picky(Engine):
    """An engine whose model raises what ``raises`` says of a batch; white pictures become NaN."""

    def __init__(self, traced: TracedModel, raises: Raises = lambda frames: None) -> None:
        super().__init__(traced)
        self.raises = raises
        self.sizes: list[int] = []

    def run(self, frames: Tensor, audits: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Answers:
        self.sizes.append(len(frames))
        if (error := self.raises(frames)) is not None:
            raise error
        return super().run(frames, audits)

    def _enter(self, frames: Tensor) -> Tensor:
        x: Tensor = super()._enter(frames)
        x[(frames == 255).all((1, 2, 3))] = torch.nan
        return x


def black(frames: Tensor) -> Exception | None:
    return ValueError("no light\nat all") if (frames == 0).flatten(1).all(1).any() else None


def always(frames: Tensor) -> Exception | None:
    return ValueError("the weights are gone")


def batch(n: int, dark: tuple[int, ...] = (), white: tuple[int, ...] = ()) -> Tensor:
    frames = pictures(n, seed=1)
    frames[list(dark)], frames[list(white)] = 0, 255
    return frames


@pytest.mark.parametrize("dark", [(0,), (31,), (13, 14), (0, 5, 31)])
def test_the_frames_at_which_the_model_raises_are_found_and_the_others_answered(
    traced: TracedModel, dark: tuple[int, ...]
) -> None:
    frames = batch(32, dark)
    engine = Picky(traced, black)
    outcome = Culprits().run(engine, frames, all_audits(32))
    assert {row: (error.reason, str(error)) for row, error in outcome.failures.items()} == dict.fromkeys(
        dark, (Reason.MODEL_FAILED, "the model raised ValueError: no light")
    )
    kept = outcome.answered(32)
    assert np.flatnonzero(~kept).tolist() == list(dark)
    assert outcome.answers is not None
    np.testing.assert_allclose(
        outcome.answers.logits, Engine(traced).run(frames[torch.from_numpy(kept)], all_audits(kept.sum())).logits,
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    assert outcome.answers.full_rows.tolist() == list(range(32 - len(dark)))
    assert len(engine.sizes) <= 1 + 10 * len(dark)


def test_frames_without_finite_logits_are_told_by_how_many(traced: TracedModel) -> None:
    outcome = Culprits().run(Picky(traced), batch(4, white=(2,)), all_audits(4))
    assert outcome.failures[2].reason is Reason.NOT_FINITE
    assert str(outcome.failures[2]) == "3 of the model's 3 logits are not finite (NaN or infinite)"
    assert outcome.answered(4).tolist() == [True, True, False, True]


def test_both_kinds_of_culprits_in_one_batch(traced: TracedModel) -> None:
    outcome = Culprits().run(Picky(traced, black), batch(9, dark=(4,), white=(0, 5, 8)), all_audits(9))
    assert {row: error.reason.value for row, error in sorted(outcome.failures.items())} == {
        0: "not-finite", 4: "model-failed", 5: "not-finite", 8: "not-finite"
    }  # fmt: skip
    assert outcome.answers is not None
    assert len(outcome.answers.labels) == 5


def test_a_model_that_takes_few_at_a_time_answers_all_and_says_what_it_raised(traced: TracedModel) -> None:
    engine = Picky(traced, lambda frames: RuntimeError("one at a time") if len(frames) > 1 else None)
    outcome = Culprits().run(engine, batch(5), all_audits(5))
    assert (outcome.failures, outcome.raised) == ({}, "RuntimeError: one at a time")
    assert outcome.answers is not None
    assert (outcome.answers.labels == Engine(traced).run(batch(5), all_audits(5)).labels).all()


def test_a_batch_of_culprits_alone_is_blamed_where_the_model_answers_anything_else(traced: TracedModel) -> None:
    culprits = Culprits()
    for frames, raises in ((batch(3, dark=(0, 1, 2)), black), (batch(3, white=(0, 1, 2)), lambda frames: None)):
        outcome = culprits.run(Picky(traced, raises), frames, all_audits(3))
        assert sorted(outcome.failures) == [0, 1, 2]
        assert outcome.answers is None


def test_a_picture_that_was_answered_before_speaks_for_a_model_that_fails_at_noise(traced: TracedModel) -> None:
    kind = batch(1)

    def all_but_one_kind(frames: Tensor) -> Exception | None:
        return None if (frames == kind).all() else ValueError("not of my kind")

    culprits, engine = Culprits(), Picky(traced, all_but_one_kind)
    with pytest.raises(ModelFails, match="at all of 2 frames, and at noise too: the model raised ValueError: not of"):
        culprits.run(engine, batch(2, dark=(0, 1)), all_audits(2))
    assert not culprits.run(engine, kind, all_audits(1)).failures
    assert sorted(culprits.run(engine, batch(2, dark=(0, 1)), all_audits(2)).failures) == [0, 1]
    with pytest.raises(ModelFails, match="at a picture that it had answered before too"):
        culprits.run(Picky(traced, always), kind, all_audits(1))


def test_a_model_that_gives_nothing_finite_fails(traced: TracedModel) -> None:
    engine = Picky(traced)
    engine._enter = lambda frames: torch.full((len(frames), 3, 16, 16), torch.nan)  # type: ignore[method-assign]
    with pytest.raises(ModelFails, match="3 of the model's 3 logits are not finite"):
        Culprits().run(engine, batch(3), all_audits(3))


def chained() -> Exception:
    error = RuntimeError("while compiling")
    error.__cause__ = MemoryError()
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        chained(),
    ],
)
def test_errors_of_the_machine_are_no_frames(traced: TracedModel, error: Exception) -> None:
    engine = Picky(traced, lambda frames: error)
    with pytest.raises(MachineFailed, match="cannot answer frames 4 at a time: give it more memory or lower worker"):
        Culprits().run(engine, batch(4), all_audits(4))
    assert engine.sizes == [4], "no frame is looked for"


@pytest.mark.parametrize(
    "said",
    [
        "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)",
        "shape '[2, 3]' is invalid for input of size 5",
    ],
)
def test_errors_of_a_model_are_not_the_machines(said: str) -> None:
    assert not is_the_machines(RuntimeError(said))
