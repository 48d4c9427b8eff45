"""A micro-batch is answered one way, whoever brings it, and says what became of each of its frames."""

import numpy as np
import pytest
import torch
from torch import Tensor

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Answers, Engine
from layercache.early_exit.policy import Bools, draw_audits
from layercache.schemas.dead_letter import Reason
from layercache.stream.frames.decoding import Unanswerable
from layercache.stream.worker.answering.culprits import Outcome
from layercache.stream.worker.answering.micro_batch import MicroBatch
from tests.stream.builders import engine, frame, micro_batch, picture
from tests.support.tiny_model import CLASSES

CULPRIT = Unanswerable(Reason.MODEL_FAILED, "the model raised ValueError")


def test_audits_are_drawn_by_position_whether_pictures_were_decoded_or_given() -> None:
    frames = [frame(n, partition=n % 3) for n in range(90)]
    pictures = torch.stack([picture("red", n) for n in range(90)])
    drawn = draw_audits("frames", np.arange(90, dtype=np.int32) % 3, np.arange(90), 0.3)
    assert 10 < drawn.sum() < 50
    given = MicroBatch.of(frames, pictures, 0.3)
    assert np.array_equal(given.audits, drawn)
    assert list(given.decode_ms) == [0.0] * 90
    assert np.array_equal(
        micro_batch(90, 0.3).audits, MicroBatch.of([frame(n) for n in range(90)], pictures, 0.3).audits
    )


def test_each_frame_has_its_exit_and_its_cost(traced: TracedModel) -> None:
    exits = engine(traced, audit_rate=0.3)
    answered = micro_batch(60, 0.3).answer(exits)
    audits = answered.batch.audits
    assert answered.exits == ["full" if audited else exits.exits[0] for audited in audits]
    assert answered.flops_shares.tolist() == [1.0 if audited else 0.3 for audited in audits]
    assert (len(answered), answered.failures, answered.raised) == (60, {}, None)
    assert answered.inference_ms > 0
    assert not answered.misses.any()


def test_misses_are_the_frames_that_no_exit_was_sure_of(traced: TracedModel) -> None:
    answered = micro_batch(60, 0.3).answer(engine(traced, threshold=1.1, audit_rate=0.3))
    assert np.array_equal(answered.misses, ~answered.batch.audits)
    served = micro_batch(60, 0.3).answer(engine(traced, "shadow", audit_rate=0.3))
    assert not served.misses.any(), "in shadow mode a frame that would have left is no miss"


def test_frames_at_which_the_model_fails_are_left_out(traced: TracedModel) -> None:
    def run(by: Engine, pictures: Tensor, audits: Bools) -> Outcome:
        kept = np.array([True, False, True, False])
        return Outcome(by.run(pictures[kept], audits[kept]), {1: CULPRIT, 3: CULPRIT}, "ValueError")

    answered = micro_batch(4, 1.0, first=10).answer(Engine(traced), run)
    assert [one.offset for one in answered.batch.frames] == [10, 12]
    assert [CLASSES[label] for label in answered.answers.labels] == ["red", "blue"]
    assert (sorted(answered.failures), answered.raised) == ([1, 3], "ValueError")
    (last,) = answered.only(np.array([False, True])).batch.frames
    assert last.offset == 12


def test_a_batch_of_which_no_frame_is_answered_has_no_answers(traced: TracedModel) -> None:
    answered = micro_batch(2, 1.0).answer(Engine(traced), lambda *_: Outcome(None, {0: CULPRIT, 1: CULPRIT}))
    assert (len(answered), answered.exits, answered.misses.tolist()) == (0, [], [])
    assert answered.answers.probabilities.shape == answered.answers.logits.shape == (0, len(CLASSES))
    assert len(answered.only(np.empty(0, np.bool_))) == 0


def test_what_the_model_raises_reaches_a_caller_who_looks_for_no_culprits(traced: TracedModel) -> None:
    class Fails(Engine):
        def run(self, frames: Tensor, audits: Bools) -> Answers:
            raise ValueError("the weights are gone")

    with pytest.raises(ValueError, match="the weights are gone"):
        micro_batch(2, 1.0).answer(Fails(traced))
